"""3-D backbones: MedicalNet as its authors' code runs it, Swin UNETR's encoder in its authors' frame."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch.nn import functional

from featprobe import backbones
from featprobe.backbones import monai_models
from featprobe.backbones.core.create import create
from featprobe.datasets.decoding import decode
from featprobe.datasets.stacks import SliceRule, read_part
from featprobe.errors import BackboneError, MissingExtraError
from tests.conftest import Command

NAMES = ("medicalnet_resnet10", "medicalnet_resnet18", "medicalnet_resnet34", "medicalnet_resnet50")
SWIN = "swinunetr_swinvit"
State = dict[str, torch.Tensor]

needs_monai = pytest.mark.skipif(find_spec("monai") is None, reason="the extra monai is not installed")
needs_einops = pytest.mark.skipif(
    find_spec("monai") is None or find_spec("einops") is None,
    reason="the extra monai (MONAI and einops) is not installed",
)


def loaded(name: str, **options: Any) -> Any:
    return backbones.load(name, **{"weights": "random", "announce": lambda _: None, **options})


def volumes(count: int = 1, sides: tuple[int, int, int] = (16, 24, 32), seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, *sides, generator=torch.Generator().manual_seed(seed))


def test_names_and_facts_need_neither_monai_nor_weights() -> None:
    listed = [info.name for info in backbones.list_backbones() if info.family == "monai"]
    assert listed == [*NAMES, SWIN]
    info = backbones.describe("monai:medicalnet_resnet10")
    assert info == backbones.describe("medicalnet_resnet10")
    assert info.poolings == ("gap", "mean", "gem", "pre_logits")
    assert (info.rules["native"].depth, info.rules["native"].image_size) == (56, (448, 448))
    assert {name: (rule.depth, rule.fit) for name, rule in info.rules.items()}["common"] == (96, "squash")
    (place,) = info.files[0].places
    assert (place.where, place.files) == (
        "TencentMedicalNet/MedicalNet-Resnet10",
        ("resnet_10_23dataset.pth",),
    )
    for name in (*NAMES, SWIN):
        for rule in backbones.describe(name).rules.values():
            assert (len(rule.mean), len(rule.std), rule.interpolation) == (1, 1, "trilinear")


def test_without_monai_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "monai"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "monai", None)
    for name in ("medicalnet_resnet10", SWIN):
        with pytest.raises(MissingExtraError, match=r"monai.*pip install 'featprobe\[monai\]'"):
            create(f"monai:{name}")
    with pytest.raises(BackboneError, match="none of the known 3-D backbones"):
        create("monai:unet")


def convolved(state: State, name: str, values: torch.Tensor, stride: int, dilation: int) -> torch.Tensor:
    weight = state[f"{name}.weight"]
    padding = dilation * (weight.shape[-1] // 2)
    values = functional.conv3d(values, weight, stride=stride, dilation=dilation, padding=padding)
    return (
        values if state.get(f"{name}.bias") is None else values + state[f"{name}.bias"][:, None, None, None]
    )


def normed(state: State, name: str, values: torch.Tensor) -> torch.Tensor:
    mean, var, weight, bias = (
        state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return functional.batch_norm(values, mean, var, weight, bias)


def block(state: State, name: str, values: torch.Tensor, stride: int, dilation: int) -> torch.Tensor:
    """A residual block, basic or with a bottleneck, its shortcut a projection or padded channels."""
    deep = f"{name}.conv3.weight" in state
    strides, dilations = ((1, stride, 1), (1, dilation, 1)) if deep else ((stride, 1), (dilation, dilation))
    result = values
    for number, (step, spread) in enumerate(zip(strides, dilations, strict=True), 1):
        result = convolved(state, f"{name}.conv{number}", result, step, spread)
        result = normed(state, f"{name}.bn{number}", result)
        result = functional.relu(result) if number < len(strides) else result
    shortcut = values[:, :, ::stride, ::stride, ::stride]
    if f"{name}.downsample.0.weight" in state:
        shortcut = convolved(state, f"{name}.downsample.0", values, stride, 1)
        shortcut = normed(state, f"{name}.downsample.1", shortcut)
    elif shortcut.shape[1] < result.shape[1]:
        lacking = result.shape[1] - shortcut.shape[1]
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, 0, 0, lacking))
    return functional.relu(result + shortcut)


def medicalnet(state: State, values: torch.Tensor) -> torch.Tensor:
    """The authors' network as published: strides 2, 2, 1, 2, 1, 1 and dilations 2 and 4 in the last two stages."""
    values = functional.relu(normed(state, "bn1", convolved(state, "conv1", values, 2, 1)))
    values = functional.max_pool3d(values, kernel_size=3, stride=2, padding=1)
    for stage, (stride, dilation) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4)), 1):
        number = 0
        while f"layer{stage}.{number}.conv1.weight" in state:
            values = block(state, f"layer{stage}.{number}", values, stride if number == 0 else 1, dilation)
            number += 1
    return values


@needs_monai
@pytest.mark.parametrize("name", NAMES)
def test_medicalnet_is_the_authors_network(name: str) -> None:
    backbone = loaded(name)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor_name, tensor in backbone.model.state_dict().items():
            if "running_mean" in tensor_name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.2 - 0.1)
            elif "running_var" in tensor_name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        expected = medicalnet(backbone.model.state_dict(), volumes(2))
        found = backbone.model.forward_features(volumes(2))
        pooled = backbone(volumes(2), ("gap", "gem", "pre_logits"))
    assert found.shape == (2, backbone.dim("gap"), 2, 3, 4)
    assert float(expected.std()) > 1e-3
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    torch.testing.assert_close(pooled["gap"], expected.mean(dim=(2, 3, 4)), rtol=1e-4, atol=1e-5)
    assert torch.equal(pooled["gap"], pooled["pre_logits"])
    assert pooled["gem"].shape == pooled["gap"].shape
    assert not torch.allclose(pooled["gem"], pooled["gap"])


@needs_monai
def test_a_volume_is_embedded_alike_alone_and_in_company() -> None:
    backbone = loaded("medicalnet_resnet10")
    images = volumes(3, (16, 16, 16))
    with torch.no_grad():
        together = backbone(images, ("gap",))["gap"]
        again = backbone(images, ("gap",))["gap"]
        alone = torch.cat([backbone(images[row : row + 1], ("gap",))["gap"] for row in range(3)])
    assert torch.equal(together, again)
    assert float((alone - together).norm() / together.norm()) < 1e-5
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert loaded("medicalnet_resnet10").weights_sha256 == backbone.weights_sha256
    assert loaded("medicalnet_resnet10", seed=1).weights_sha256 != backbone.weights_sha256


@needs_monai
def test_the_published_form_of_medicalnets_weights_is_read(tmp_path: Path) -> None:
    original = loaded("medicalnet_resnet10", seed=3)
    state = {f"module.{name}": value for name, value in original.model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "resnet_10_23dataset.pth")
    backbone = loaded("medicalnet_resnet10", weights=str(tmp_path / "resnet_10_23dataset.pth"))
    assert backbone.weights_sha256 == original.weights_sha256
    assert (backbone.missing, backbone.unexpected) == ((), ())
    with pytest.raises(BackboneError, match="does not fit medicalnet_resnet18"):
        loaded("medicalnet_resnet18", weights=str(tmp_path / "resnet_10_23dataset.pth"))


@needs_monai
def test_layers_and_another_size_are_served() -> None:
    backbone = loaded("medicalnet_resnet10", image_size=32)
    rule = backbone.preprocessing("common", image_size=32)
    assert rule.image_size == (32, 32)
    with torch.no_grad():
        found = backbone(volumes(1, (8, 16, 16)), ("layer2/gap", "gap"))
    assert found["layer2/gap"].shape == (1, 128)
    assert backbones.describe("medicalnet_resnet10", deep=True).parameters == 14_355_520


def test_the_authors_frame_is_right_anterior_superior(tmp_path: Path) -> None:
    canonical = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(canonical, np.eye(4)), tmp_path / "a.nii")
    raster = decode(read_part(tmp_path / "a.nii", 0, SliceRule("axial", "volume")))
    volume = torch.tensor(raster.values)[None, None]
    turned = monai_models._right_anterior_superior(volume)
    assert np.array_equal(turned[0, 0], canonical)
    assert torch.equal(monai_models._as_slices(turned), volume)


@needs_einops
def test_the_encoder_of_swin_unetr_is_monais(tmp_path: Path) -> None:
    from monai.networks.nets.swin_unetr import SwinUNETR

    backbone = loaded(SWIN)
    theirs = SwinUNETR(in_channels=1, out_channels=2, feature_size=48).eval()
    names = {name: f"module.{name.replace('mlp.linear', 'mlp.fc')}" for name in theirs.swinViT.state_dict()}
    state = {names[name]: value for name, value in theirs.swinViT.state_dict().items()}
    for head in (
        "norm",
        "rotation_head",
        "contrastive_head",
        "convTrans3d",
    ):  # of the self-supervised training
        state |= {f"module.{head}.weight": torch.zeros(4), f"module.{head}.bias": torch.zeros(4)}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "model_swinvit.pt")
    theirs.load_from({"state_dict": state})
    backbone = loaded(SWIN, weights=str(tmp_path / "model_swinvit.pt"))
    assert backbone.missing == ()
    images = volumes(1, (32, 64, 32))
    with torch.no_grad():
        expected = theirs.swinViT(monai_models._right_anterior_superior(images), normalize=True)[4]
        found = backbone.model.forward_features(images)
        pooled = backbone(images, ("gap",))["gap"]
    assert found.shape == (1, 768, 1, 2, 1)
    assert float((found - monai_models._as_slices(expected)).norm() / expected.norm()) < 1e-5
    torch.testing.assert_close(pooled, expected.mean(dim=(2, 3, 4)), rtol=1e-5, atol=1e-6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(8):
        label = "benign" if number % 2 else "malignant"
        values = rng.normal(100, 10, (10 + number, 12, 9)).astype(np.float32)
        values[2:6, 2:6, 2:6] += 40 * (number % 2)
        (tmp_path / "scans" / label).mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(values, np.diag([1, 1, 2, 1]))
        nibabel.save(image, tmp_path / "scans" / label / f"p{number}.nii.gz")
    return tmp_path / "scans"


@needs_monai
def test_volumes_go_the_whole_way(folder: Path, quick_featprobe: Command) -> None:
    whole = ("--data", folder, "--slices", "volume")
    three = ("--backbone", "medicalnet_resnet10", "--weights", "random", "--image-size", "16")
    done: subprocess.CompletedProcess[str] = quick_featprobe("extract", *whole, *three)
    assert done.returncode == 0, done.stderr
    assert "8 volumes of " in done.stdout
    assert "8 images in" in done.stdout
    wrong = quick_featprobe("extract", *whole, "--backbone", "efficientnet_lite0", "--cache", "other")
    assert wrong.returncode == 2
    assert "--slices all" in wrong.stderr
    wrong = quick_featprobe("extract", "--data", folder, *three, "--cache", "third")
    assert wrong.returncode == 2
    assert "--slices volume" in wrong.stderr


def test_a_side_smaller_than_a_place_of_the_output_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"can't take volumes of 5 x 5 pixels.*covers 8.*at least 8"):
        backbones.preprocessing("medicalnet_resnet10", image_size=5)
    assert backbones.preprocessing("medicalnet_resnet10", image_size=8).image_size == (8, 8)
