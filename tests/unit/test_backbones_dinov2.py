"""DINOv2's position embedding, as its authors interpolate it, and their checkpoint files."""

from __future__ import annotations

import copy
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


@pytest.fixture(scope="module", params=["dinov2_vits14", "dinov2_vits14_reg"])
def full(request: pytest.FixtureRequest) -> Backbone:
    return backbones.load(request.param, weights="random", seed=1, image_size=518)


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


def test_at_its_own_518_nothing_is_resampled(full: Backbone) -> None:
    stored = full.model.pos_embed
    prefix = 0 if full.name.endswith("_reg") else 1
    assert stored.shape == (1, prefix + 37 * 37, 384)
    assert resample_positions(stored, (37, 37), prefix=prefix, antialias=False, offset=0.1) is stored


def test_the_models_name_the_published_interpolation(full: Backbone) -> None:
    registers = full.name.endswith("_reg")
    own = full.model.pos_embed.clone()
    full.set_image_size((98, 98))
    expected = resample_positions(
        own, (7, 7), prefix=0 if registers else 1, antialias=registers, offset=0.0 if registers else 0.1
    )
    assert torch.equal(full.model.pos_embed, expected)
    full.set_image_size((518, 518))
    assert torch.equal(full.model.pos_embed, own)


def test_the_weights_hash_does_not_depend_on_the_image_size(small: Backbone, full: Backbone) -> None:
    assert (small.image_size, full.image_size) == ((28, 28), (518, 518))
    assert (full.weights_sha256 == small.weights_sha256) == (full.name == small.name)


def test_sizes_leave_no_trace_on_each_other(small: Backbone) -> None:
    images = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = small(images, ["cls"])["cls"]
        small(torch.zeros(1, 3, 70, 56), ["cls"])
        assert small.image_size == (70, 56)
        after = small(images, ["cls"])["cls"]
    assert torch.equal(before, after)
    assert not small.model.pos_embed.is_inference(), "it could not be trained any more"


def test_a_trained_backbone_keeps_its_image_size(small: Backbone) -> None:
    network, loaded = copy.deepcopy(small), copy.deepcopy(small)
    network.requires_grad_(requires_grad=True)
    network(torch.zeros(1, 3, 28, 28), ["cls"])["cls"].sum().backward()
    assert network.model.pos_embed.grad is not None
    network.requires_grad_(requires_grad=False)
    loaded.load_state_dict(network.state_dict())
    for trained in (network, loaded):
        with pytest.raises(BackboneError, match="was trained at 28 x 28"):
            trained(torch.zeros(1, 3, 42, 42), ["cls"])


def test_the_authors_own_files_are_read(full: Backbone, tmp_path: Path) -> None:
    theirs = {key: tensor.clone() for key, tensor in full.model.state_dict().items()}
    theirs["mask_token"] = torch.zeros(1, 384)
    if full.name.endswith("_reg"):
        theirs["register_tokens"] = theirs.pop("reg_token")
        class_position = torch.full((1, 1, 384), 0.25)
        theirs["cls_token"] -= class_position
        theirs["pos_embed"] = torch.cat([class_position, theirs["pos_embed"]], dim=1)
    torch.save(theirs, tmp_path / "official.pth")
    read = backbones.load(full.name, weights=str(tmp_path / "official.pth"), image_size=518)
    for key, tensor in full.model.state_dict().items():
        assert torch.allclose(read.model.state_dict()[key], tensor, atol=1e-7), key
    assert read.missing == ()


@pytest.mark.parametrize("authors", [False, True])
def test_a_file_with_another_grid_is_refused_not_resampled(
    authors: bool, small: Backbone, tmp_path: Path
) -> None:
    tensors = {key: tensor.clone() for key, tensor in small.model.state_dict().items()}
    assert tensors["pos_embed"].shape[1] == 1 + 4
    if authors:
        # With names that need converting, timm's converter runs, and would resample the positions.
        tensors |= {"mask_token": torch.zeros(1, 384)}
    save_file(tensors, tmp_path / "small.safetensors")
    with pytest.raises(BackboneError, match="1 has another shape") as raised:
        backbones.load("dinov2_vits14", weights=str(tmp_path / "small.safetensors"))
    assert "pos_embed 1x5x384 for 1x1370x384" in str(raised.value)
