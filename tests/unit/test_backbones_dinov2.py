"""DINOv2's position embedding, as its authors interpolate it, and their checkpoint files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file

from featprobe import backbones
from featprobe.backbones import Backbone
from featprobe.backbones.dinov2 import resample_positions
from featprobe.errors import BackboneError

Table = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def small() -> Backbone:
    return backbones.load("dinov2_vits14", weights="random", seed=1, image_size=28)


def cubic(distance: Table, a: float) -> Table:
    """Keys' convolution kernel (1981)."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def plain_weights(source: int, target: int) -> Table:
    """[target, source]: four taps, edges repeated, sampled with the step source / (target + 0.1)."""
    step = source / (target + 0.1)
    weights = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) * step - 0.5
        first = math.floor(centre) - 1
        for tap in range(first, first + 4):
            weights[row, min(max(tap, 0), source - 1)] += cubic(np.array(centre - tap), -0.75)
    return weights


def antialiased_weights(source: int, target: int) -> Table:
    """[target, source]: the kernel widened by the step, cut at the edges and normalised."""
    step = source / target
    centres = (np.arange(target) + 0.5) * step
    weights = cubic((np.arange(source) + 0.5 - centres[:, None]) / step, -0.5)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("grid", [(16, 16), (7, 9), (36, 36)])
@pytest.mark.parametrize("registers", [False, True])
def test_positions_are_resampled_as_published(grid: tuple[int, int], registers: bool) -> None:
    prefix = 0 if registers else 1
    stored = torch.randn(1, prefix + 37 * 37, 5, generator=torch.Generator().manual_seed(0))
    given = resample_positions(
        stored, grid, prefix=prefix, antialias=registers, offset=0.0 if registers else 0.1
    )
    table = stored[0, prefix:].double().numpy().reshape(37, 37, 5)
    matrix = antialiased_weights if registers else plain_weights
    rows, columns = matrix(37, grid[0]), matrix(37, grid[1])
    expected = np.einsum("ir,jc,rcd->ijd", rows, columns, table).reshape(-1, 5)
    assert given.shape == (1, prefix + grid[0] * grid[1], 5)
    assert torch.equal(given[:, :prefix], stored[:, :prefix])
    assert np.abs(given[0, prefix:].numpy() - expected).max() < 2e-5
    if not registers:
        plainer = resample_positions(stored, grid, prefix=prefix, antialias=False, offset=0.0)
        assert (given - plainer).abs().max() > 1e-3, "the offset makes no difference"


def test_at_its_own_518_nothing_is_resampled() -> None:
    stored = torch.randn(1, 1 + 37 * 37, 5)
    assert resample_positions(stored, (37, 37), prefix=1, antialias=False, offset=0.1) is stored
    import timm

    network = backbones.load("dinov2_vits14", weights="random", seed=1, image_size=518)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        reference = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    assert torch.equal(network.model.pos_embed, reference.pos_embed)
    assert network.model.pos_embed.shape == (1, 1370, 384)


def test_the_models_name_the_published_interpolation() -> None:
    for name, offset, antialias, prefix in (
        ("dinov2_vits14", 0.1, False, 1),
        ("dinov2_vits14_reg", 0.0, True, 0),
    ):
        own = backbones.load(name, weights="random", seed=1, image_size=518).model.pos_embed
        at_98 = backbones.load(name, weights="random", seed=1, image_size=98).model.pos_embed
        expected = resample_positions(own, (7, 7), prefix=prefix, antialias=antialias, offset=offset)
        assert torch.equal(at_98, expected)


def test_the_weights_hash_does_not_depend_on_the_image_size(small: Backbone) -> None:
    other = backbones.load("dinov2_vits14", weights="random", seed=1, image_size=56)
    assert other.weights_sha256 == small.weights_sha256
    assert other.image_size == (56, 56) != small.image_size


def test_sizes_leave_no_trace_on_each_other(small: Backbone) -> None:
    images = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = small(images, ["cls"])["cls"]
        small(torch.zeros(1, 3, 70, 56), ["cls"])
        assert small.image_size == (70, 56)
        after = small(images, ["cls"])["cls"]
    assert torch.equal(before, after)
    assert not small.model.pos_embed.is_inference(), "it could not be trained any more"


def test_a_trained_backbone_keeps_its_image_size() -> None:
    network = backbones.load("dinov2_vits14", weights="random", seed=1, image_size=28)
    network.requires_grad_(requires_grad=True)
    network(torch.zeros(1, 3, 28, 28), ["cls"])["cls"].sum().backward()
    assert network.model.pos_embed.grad is not None
    network.requires_grad_(requires_grad=False)
    with pytest.raises(BackboneError, match="was trained at 28 x 28"):
        network(torch.zeros(1, 3, 42, 42), ["cls"])
    loaded = backbones.load("dinov2_vits14", weights="random", seed=1, image_size=28)
    loaded.load_state_dict(network.state_dict())
    with pytest.raises(BackboneError, match="was trained at 28 x 28"):
        loaded(torch.zeros(1, 3, 42, 42), ["cls"])


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vits14_reg"])
def test_the_authors_own_files_are_read(name: str, tmp_path: Path) -> None:
    ours = backbones.load(name, weights="random", seed=5, image_size=518)
    theirs = {key: tensor.clone() for key, tensor in ours.model.state_dict().items()}
    theirs["mask_token"] = torch.zeros(1, 384)
    if name.endswith("_reg"):
        theirs["register_tokens"] = theirs.pop("reg_token")
        class_position = torch.full((1, 1, 384), 0.25)
        theirs["cls_token"] -= class_position
        theirs["pos_embed"] = torch.cat([class_position, theirs["pos_embed"]], dim=1)
    torch.save(theirs, tmp_path / "official.pth")
    read = backbones.load(name, weights=str(tmp_path / "official.pth"), image_size=518)
    for key, tensor in ours.model.state_dict().items():
        assert torch.allclose(read.model.state_dict()[key], tensor, atol=1e-7), key
    assert read.missing == ()


def test_a_file_with_another_grid_is_refused_not_resampled(small: Backbone, tmp_path: Path) -> None:
    tensors = {key: tensor.clone() for key, tensor in small.model.state_dict().items()}
    assert tensors["pos_embed"].shape[1] == 1 + 4
    save_file(tensors, tmp_path / "small.safetensors")
    with pytest.raises(BackboneError, match="1 have another shape") as raised:
        backbones.load("dinov2_vits14", weights=str(tmp_path / "small.safetensors"))
    assert "pos_embed 1x5x384 for 1x1370x384" in str(raised.value)
