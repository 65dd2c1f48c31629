"""Every backbone family keeps the same promises, shown on small members with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featprobe import backbones
from featprobe.backbones import Backbone
from featprobe.backbones.core.survey import survey
from featprobe.records import POOLINGS, Preprocessing, Recipe
from featprobe.registry import BACKBONES

# Family -> (member, image size); the smallest that show each way of pooling and of adapting to a size.
REPRESENTATIVES = {
    "canaries": (("image_stats", 64),),
    "dinov2": (("dinov2_vits14", 28), ("dinov2_vits14_reg", 42), ("dinov2_vits14_lc", 28)),
    "dinov3": (("dinov3_vits16", 32), ("dinov3_convnext_tiny", 64)),
    "huggingface": (("rad_dino", 28), ("phikon", 32)),
    "imagenet": (("efficientnet_lite0", 64), ("resnet18", 64), ("densenet121", 64)),
    "lvmmed": (("lvmmed_resnet50", 64),),
    "monai": (("medicalnet_resnet10", 32),),
    "openclip": (("clip_vitb32", 64), ("openclip:PE-Core-T-16-384/meta", 32)),
    "timm": (
        ("vit_tiny_patch16_224", 32),
        ("swin_tiny_patch4_window7_224", 56),
        ("convnext_atto", 64),
    ),
    "xrayvision": (("xrv_densenet121_all", 64),),
}
MEMBERS = [member for members in REPRESENTATIVES.values() for member in members]
# Too large to be laid out in a test, even without memory: known by name, and by timm having the architecture.
LARGE = ("vitl", "vitg", "vith", "vit7b", "convnext_base", "convnext_large")

# Stated bound for promise 4: largest distance between embeddings of one image in another batch, relative to
# the embedding's length, in float32 on a CPU. Measured below 2e-6.
NEIGHBOUR_BOUND = 2e-5


@pytest.fixture(scope="module", params=MEMBERS, ids=[name for name, _ in MEMBERS])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    name, size = request.param
    return backbones.load(name, weights="random", seed=3, image_size=size)


@pytest.fixture(scope="module")
def images(backbone: Backbone) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rule = backbone.preprocessing()
    shape = (3, *rule.image_size) if rule.depth is None else (1, rule.depth, *rule.image_size)
    return torch.randn(5, *shape, generator=generator)


def embed(backbone: Backbone, images: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return backbone(images, backbone.poolings)


def test_each_family_has_a_representative() -> None:
    assert set(REPRESENTATIVES) == set(BACKBONES.names())
    for family, members in REPRESENTATIVES.items():
        assert members
        assert {backbones.resolve(name)[0] for name, _ in members} == {family}


def test_shape_dtype_and_repetition(backbone: Backbone, images: torch.Tensor) -> None:
    first, second = embed(backbone, images), embed(backbone, images)
    assert list(first) == list(backbone.poolings) == list(backbone.info.poolings)
    for pooling, values in first.items():
        assert values.shape == (5, *backbone.row_shape(pooling, tuple(images.shape[-2:])))
        assert values.shape[-1] == backbone.dim(pooling)
        assert values.dtype == torch.float32
        assert torch.isfinite(values).all()
        assert torch.equal(values, second[pooling])
        assert values.std(dim=0).max() > 0, "the embedding does not depend on the image"


def test_neither_batch_size_nor_neighbours_matter(backbone: Backbone, images: torch.Tensor) -> None:
    together, alone = embed(backbone, images), embed(backbone, images[2:3])
    shuffled = embed(backbone, images[[2, 0]] * torch.tensor([1.0, 9.0]).reshape(2, *[1] * (images.ndim - 1)))
    for pooling, values in together.items():
        length = values[2].norm()
        assert (values[2] - alone[pooling][0]).norm() <= NEIGHBOUR_BOUND * length
        assert (values[2] - shuffled[pooling][0]).norm() <= NEIGHBOUR_BOUND * length


def test_frozen_in_eval_mode_and_differentiable(backbone: Backbone, images: torch.Tensor) -> None:
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    leaf = images[:1].clone().requires_grad_()
    pooling = backbone.info.default_pooling
    backbone(leaf, [pooling])[pooling].square().sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() > 0
    assert not backbone(images[:1], [pooling])[pooling].requires_grad
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_a_seed_names_random_weights_and_disturbs_nothing(backbone: Backbone) -> None:
    size = backbone.preprocessing().image_size[0]
    torch.manual_seed(11)
    untouched = torch.rand(1)
    torch.manual_seed(11)
    again = backbones.load(backbone.name, weights="random", seed=3, image_size=size)
    assert torch.equal(torch.rand(1), untouched), "loading disturbed the global random state"
    assert again.weights_sha256 == backbone.weights_sha256
    assert backbone.weights_label == ("none" if backbone.name == "image_stats" else "random")


def test_its_preprocessing_survives_the_recipe(backbone: Backbone) -> None:
    for rule in backbone.info.rules:
        resolved = backbone.preprocessing(rule)
        recipe = Recipe(
            images="0" * 64,
            backbone=backbone.name,
            architecture=backbone.architecture,
            weights=backbone.weights_sha256,
            preprocessing=resolved,
            numerics={"family": backbone.numerics},
        )
        assert Recipe.from_json(recipe.to_json()) == recipe
        assert Preprocessing.from_dict(resolved.to_dict()) == resolved


@pytest.mark.parametrize("name", [info.name for info in backbones.list_backbones()])
def test_what_is_said_of_a_registered_name_is_true(name: str) -> None:
    import timm

    info = backbones.describe(name)
    assert info.name == name
    assert backbones.resolve(name) == (info.family, name)
    if info.family in {"dinov2", "imagenet"}:
        architecture = info.architecture.rpartition(":")[2]
        assert timm.is_model(architecture.partition(".")[0])
        assert timm.models.get_pretrained_cfg(architecture, allow_unregistered=False) is not None
    assert {"native", "common", info.default_rule} <= set(info.rules)
    assert set(info.poolings) <= set(POOLINGS)
    assert info.default_pooling == info.poolings[0]
    assert info.licence
    assert info.citation
    assert info.weights_source
    if not any(mark in name for mark in LARGE):
        facts = survey(info.architecture)
        assert set(info.poolings) <= set(facts.poolings)
        assert info.default_pooling in {facts.default_pooling, "logits", "pre_logits"}


@pytest.mark.parametrize(
    "name", [info.name for info in backbones.list_backbones() if info.family in {"dinov2", "imagenet"}]
)
def test_the_stated_native_rule_is_timms(name: str) -> None:
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    info = backbones.describe(name)
    config = resolve_data_config(
        pretrained_cfg=get_pretrained_cfg(info.architecture.rpartition(":")[2]).to_dict(), use_test_size=True
    )
    resize, crop, _, normalise = create_transform(**config, is_training=False).transforms
    rule = info.rules["native"]
    assert (resize.size, resize.interpolation.value) == (rule.resize, rule.interpolation)
    assert tuple(crop.size) == rule.image_size
    assert np.allclose(normalise.mean.tolist(), rule.mean)
    assert np.allclose(normalise.std.tolist(), rule.std)
