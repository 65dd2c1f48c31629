"""DINOv3's features are those of its authors' code, for weights that anybody can draw again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from featprobe import backbones
from featprobe.backbones import dinov3
from featprobe.backbones.core.survey import survey
from featprobe.errors import BackboneError

# Norm of the difference relative to the reference's norm, in float32.
BOUND = 1e-5
SIZES = ("224x224", "256x256", "160x160", "192x256")
KEYS = ("cls", "mean", "cls+mean", "patches")
MODELS = ("dinov3_vits16", "dinov3_vits16plus", "dinov3_convnext_tiny")


@pytest.fixture(scope="module")
def reference(authors):
    return authors("dinov3")


def checkpoint(reference, name):
    """The authors' state dict: the rotary periods rounded to bfloat16, as in what they publish."""
    tensors = reference.tensors(name)
    if "vit" in name:
        tensors["rope_embed.periods"] = torch.from_numpy(reference(f"{name}/periods")).bfloat16()
    return tensors


@pytest.fixture(scope="module")
def backbone(request, reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("authors") / "pretrain.pth"
    torch.save(checkpoint(reference, request.param), path)
    return backbones.load(request.param, weights=str(path), image_size=224)


@pytest.fixture
def distances(reference, distance):
    """Key -> distance from the authors' features at `size`."""

    def measure(backbone, size, keys, part=""):
        with torch.inference_mode():
            given = backbone(reference.images(size), keys)
        at = f"{backbone.name}/{part}{size}"
        cls, mean = reference(f"{at}/cls"), reference(f"{at}/mean")
        wanted = {"cls": (cls,), "mean": (mean,), "cls+mean": (cls, mean)}
        if "patches" in given:
            given["patches"] = reference.patches(given["patches"], f"{at}/patches")
            wanted["patches"] = (reference(f"{at}/patches"),)
        if f"{at}/last4" in reference.arrays:
            last4 = reference(f"{at}/last4")
            wanted |= {"last4/cls": (last4,), "last4/cls+mean": (last4, mean)}
        return {key: distance(given[key], *wanted[key]) for key in keys}

    return measure


# One size is enough for what is special about S+: gated feed-forward layers.
@pytest.mark.parametrize(
    ("backbone", "size"),
    [(name, size) for name in MODELS for size in (SIZES[:1] if name == "dinov3_vits16plus" else SIZES)],
    indirect=["backbone"],
)
def test_features_are_the_authors(backbone, distances, size):
    assert backbone.missing == ()
    blocks = ("last4/cls", "last4/cls+mean") if "vit" in backbone.name else ()
    found = distances(backbone, size, (*KEYS, *blocks))
    assert max(found.values()) <= BOUND, found


def test_the_periods_of_the_file_are_used(reference, distances, tmp_path):
    name = "dinov3_vits16"
    tensors = reference.tensors(name)
    tensors["rope_embed.periods"] = torch.from_numpy(reference(f"{name}/unrounded_periods"))
    torch.save(tensors, tmp_path / "float32_periods.pth")
    backbone = backbones.load(name, weights=str(tmp_path / "float32_periods.pth"))
    assert max(distances(backbone, "224x224", ("cls", "mean"), "unrounded/").values()) <= BOUND
    # Had they been rounded, it would be seen: what timm computes anew does not give the published features.
    assert min(distances(backbone, "224x224", ("cls", "mean")).values()) > 3 * BOUND


def test_files_without_periods_or_biases_get_the_published_ones(reference, tmp_path):
    name = "dinov3_vits16"
    assert np.array_equal(dinov3.periods(64).numpy(), reference(f"{name}/periods"))
    theirs = checkpoint(reference, name)
    zeros = {key: torch.zeros_like(value) for key, value in theirs.items() if key.endswith("qkv.bias")}
    torch.save(theirs | zeros, tmp_path / "authors.pth")
    whole = backbones.load(name, weights=str(tmp_path / "authors.pth"))
    ours = whole.model.state_dict()
    left_out = ("rope.periods", "q_bias", "v_bias")
    save_file({k: v for k, v in ours.items() if not k.endswith(left_out)}, tmp_path / "timm.safetensors")
    lean = backbones.load(name, weights=str(tmp_path / "timm.safetensors"))
    assert lean.weights_sha256 == whole.weights_sha256
    assert lean.missing == whole.missing == lean.unexpected == ()
    assert whole.unexpected == ("mask_token",)


def test_a_bias_of_keys_that_counts_is_not_dropped_unsaid(reference, tmp_path):
    name = "dinov3_vits16"
    tensors = {k: v for k, v in checkpoint(reference, name).items() if not k.endswith("bias_mask")}
    torch.save(tensors, tmp_path / "unmasked.pth")
    with pytest.raises(BackboneError, match="12 belong to another architecture"):
        backbones.load(name, weights=str(tmp_path / "unmasked.pth"))


def test_timms_own_files_of_a_convnext_are_read(reference, tmp_path):
    name = "dinov3_convnext_tiny"
    torch.save(checkpoint(reference, name), tmp_path / "authors.pth")
    theirs = backbones.load(name, weights=str(tmp_path / "authors.pth"))
    save_file(theirs.model.trunk.state_dict(), tmp_path / "timm.safetensors")
    ours = backbones.load(name, weights=str(tmp_path / "timm.safetensors"))
    assert ours.weights_sha256 == theirs.weights_sha256


@pytest.mark.parametrize(
    "name",
    [
        "dinov3_vitb16",
        "dinov3_vitl16",
        "dinov3_vith16plus",
        "dinov3_vit7b16",
        "dinov3_convnext_large",
    ],
)
def test_every_tensor_of_the_large_models_finds_its_place(reference, name):
    theirs = {
        key: torch.ones(shape) if len(shape) == 1 else torch.empty(shape, device="meta")
        for key, shape in reference.shapes(name).items()
    }
    for key in [key for key in theirs if key.endswith("bias_mask")]:
        theirs[key] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(len(theirs[key]) // 3)
    rename = dinov3._convnext_tensors if "convnext" in name else dinov3._vit_tensors
    renamed = rename(theirs) if "convnext" in name else rename(theirs, name=name)
    wanted = survey(backbones.describe(name).architecture).shapes
    assert {key: tuple(tensor.shape) for key, tensor in renamed.items()} == dict(wanted)


def test_the_licence_is_shown_before_use():
    infos = [info for info in backbones.list_backbones() if info.family == "dinov3"]
    assert len(infos) == 10
    for info in infos:
        assert "DINOv3 License" in info.terms
        assert "https://" in info.terms
        assert {place.kind for file in info.files for place in file.places} == {"hub"}
