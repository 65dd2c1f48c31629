"""Real weights: the packaged EfficientNet-Lite0 against an independent rendering, and the shared files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_sample_image
from torch.nn import functional
from torchvision import transforms

from featprobe import backbones
from featprobe.backbones import Backbone
from featprobe.backbones.core.files import read_checkpoint
from featprobe.backbones.imagenet import packaged_file, timm_names
from featprobe.errors import BackboneError
from featprobe.records import Preprocessing

SHARED: Final = Path(__file__).resolve().parents[2].parent / "shared" / "weights"
# kernel, stride, repeats of the stages of EfficientNet-B0 (arXiv 1905.11946, table 1).
STAGES: Final = ((3, 1, 1), (3, 2, 2), (5, 2, 2), (3, 2, 3), (5, 1, 3), (5, 2, 4), (3, 1, 1))
PALACE, DAISY = 698, 985


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return backbones.load("efficientnet_lite0", offline=True)


@pytest.fixture(scope="module")
def packaged() -> dict[str, torch.Tensor]:
    return read_checkpoint(packaged_file()).tensors


def prepared(name: str, rule: Preprocessing) -> torch.Tensor:
    assert rule.resize is not None
    steps = transforms.Compose(
        [
            transforms.Resize(rule.resize, transforms.InterpolationMode(rule.interpolation)),
            transforms.CenterCrop(list(rule.image_size)),
            transforms.ToTensor(),
            transforms.Normalize(rule.mean, rule.std),
        ]
    )
    tensor: torch.Tensor = steps(Image.fromarray(load_sample_image(f"{name}.jpg")))
    return tensor[None]


def same_convolution(x: torch.Tensor, weight: torch.Tensor, stride: int, groups: int = 1) -> torch.Tensor:
    """TensorFlow's SAME padding: as much as is needed, the odd pixel at the bottom and right."""
    pads: list[int] = []
    for side in (x.shape[3], x.shape[2]):
        needed = max((-(-side // stride) - 1) * stride + weight.shape[2] - side, 0)
        pads += [needed // 2, needed - needed // 2]
    return functional.conv2d(functional.pad(x, pads), weight, stride=stride, groups=groups)


def render(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Global average of EfficientNet-Lite0's last map, written from the paper and the file's own names."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (
            tensors[f"{name}.{part}"].reshape(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-3) * weight + bias

    x = functional.relu6(norm(same_convolution(x, tensors["_conv_stem.weight"], 2), "_bn0"))
    numbers = itertools.count()
    for kernel, first_stride, repeats in STAGES:
        for repeat in range(repeats):
            block = f"_blocks.{next(numbers)}"
            inner = x
            if f"{block}._expand_conv.weight" in tensors:
                inner = functional.conv2d(x, tensors[f"{block}._expand_conv.weight"])
                inner = functional.relu6(norm(inner, f"{block}._bn0"))
            weight = tensors[f"{block}._depthwise_conv.weight"]
            assert weight.shape[2] == kernel
            inner = same_convolution(inner, weight, 1 if repeat else first_stride, groups=inner.shape[1])
            inner = functional.relu6(norm(inner, f"{block}._bn1"))
            inner = norm(functional.conv2d(inner, tensors[f"{block}._project_conv.weight"]), f"{block}._bn2")
            x = x + inner if repeat else inner
    x = functional.relu6(norm(functional.conv2d(x, tensors["_conv_head.weight"]), "_bn1"))
    return x.mean(dim=(2, 3))


def test_every_packaged_tensor_has_its_place(lite0: Backbone, packaged: dict[str, torch.Tensor]) -> None:
    renamed = timm_names(packaged)
    state = lite0.model.state_dict()
    assert len(packaged) == len(renamed) == 296
    assert set(state) == set(renamed)
    assert all(torch.equal(state[name], renamed[name]) for name in state)
    assert lite0.missing == ()
    assert lite0.weights_label == "pretrained"


def test_features_equal_an_independent_rendering(lite0: Backbone, packaged: dict[str, torch.Tensor]) -> None:
    for size in (224, 97):
        images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            ours, theirs = lite0(images, ["gap"])["gap"], render(packaged, images)
        assert ((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).max() < 1e-5


def test_photographs_are_recognised_best_under_the_stated_normalisation(
    lite0: Backbone, packaged: dict[str, torch.Tensor]
) -> None:
    imagenet = backbones.describe("resnet50").rules["native"]
    for photograph, label in (("china", PALACE), ("flower", DAISY)):
        chances = []
        for mean, std in (
            (lite0.preprocessing().mean, lite0.preprocessing().std),
            (imagenet.mean, imagenet.std),
        ):
            rule = Preprocessing((224, 224), "crop", 256, "bicubic", mean, std)
            with torch.inference_mode():
                features = lite0(prepared(photograph, rule), ["gap"])["gap"]
            logits = features @ packaged["_fc.weight"].T + packaged["_fc.bias"]
            with torch.inference_mode():
                assert torch.allclose(
                    lite0(prepared(photograph, rule), ["logits"])["logits"], logits, atol=1e-4
                )
            chances.append(logits.softmax(dim=1)[0])
        assert int(chances[0].argmax()) == label
        assert chances[0][label] > 0.25, "a thousand classes would give 0.001"
        assert chances[0][label] > chances[1][label]


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        pytest.skip("the shared folder of real weights is missing")
    return path


@pytest.mark.shared
def test_vgg16_convolutions_work_under_gap() -> None:
    path = shared("vgg16_features.fp16.safetensors")
    network = backbones.load("vgg16", weights=str(path), image_size=64)
    layers = ("head.fc", "pre_logits.fc1", "pre_logits.fc2")
    assert network.missing == tuple(f"{layer}.{part}" for layer in layers for part in ("bias", "weight"))
    assert network.poolings == ("gap", "mean", "gem", "patches")
    with safe_open(path, framework="pt") as file:
        names, state = set(file.keys()), network.model.state_dict()
        assert len(names) == 26
        assert all(torch.equal(state[name], file.get_tensor(name).float()) for name in names)
    with pytest.raises(BackboneError, match="don't reach 'pre_logits'"):
        network(torch.zeros(1, 3, 64, 64), ["pre_logits"])
    with pytest.raises(BackboneError, match="26 of the 30 tensors that pre_logits needs fit") as error:
        backbones.load("vgg16", weights=str(path), poolings=["pre_logits"])
    assert "type --pooling gap" in str(error.value)


@pytest.mark.shared
def test_the_derived_dinov2_uses_every_tensor() -> None:
    path = shared("dinov2_vits14_derived.fp16.safetensors")
    network = backbones.load("dinov2_vits14", weights=str(path))
    assert (network.missing, network.unexpected) == ((), ())
    with safe_open(path, framework="pt") as file:
        names, state = set(file.keys()), network.model.state_dict()
        assert len(names) == len(state) == 174
        for name in names - {"pos_embed"}:
            assert torch.equal(state[name], file.get_tensor(name).float()), name
    assert state["pos_embed"].shape == (1, 1 + 16 * 16, 384)
    with torch.inference_mode():
        pictures = torch.cat([prepared(name, network.preprocessing()) for name in ("china", "flower")])
        values = network(torch.cat([pictures, pictures.flip(3)]), ["cls"])["cls"]
    close = functional.cosine_similarity(values[:2], values[2:])
    far = functional.cosine_similarity(values[0:1], values[1:2])
    assert close.min() > 0.9, "a mirrored photograph is nearly the same"
    assert far.max() < 0.7, "another photograph is far"


@pytest.mark.shared
def test_a_file_of_another_size_names_the_one_it_fits() -> None:
    path = shared("dinov2_vits14_derived.fp16.safetensors")
    with pytest.raises(BackboneError, match="0 of the 174 tensors that cls needs fit") as error:
        backbones.load("dinov2_vitb14", weights=str(path))
    assert f"--weights dinov2_vits14={path}" in str(error.value)
