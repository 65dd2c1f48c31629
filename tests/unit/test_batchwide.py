"""Layers that look at, or draw for, a whole batch: caught where torch is called, they give torch's own numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional

from featprobe.heads.batchwide import WholeBatch
from featprobe.heads.objective import Objective
from featprobe.heads.team import SOLO, Team

ROWS = np.arange(6, dtype=np.int64)


def inputs(*shape: int, last: bool = False) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 3 + 50
    return made.contiguous(memory_format=torch.channels_last) if last else made


def slopes(layer: nn.Module, x: Tensor, mode: Any) -> tuple[Tensor, list[Tensor]]:
    """(outputs, gradients of inputs and parameters) of a sum with unequal weights."""
    x = x.clone().requires_grad_()
    with mode:
        y = layer(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return y.detach(), list(torch.autograd.grad((y.float() * weights).sum(), [x, *layer.parameters()]))


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.BatchNorm2d(4), inputs(6, 4, 5, 5)),
        (nn.BatchNorm2d(4, momentum=0.3), inputs(6, 4, 5, 5, last=True)),
        (nn.BatchNorm2d(4, momentum=None), inputs(6, 4, 5, 5)),
        (nn.BatchNorm2d(4, affine=False), inputs(6, 4, 5, 5)),
        (nn.BatchNorm2d(4, track_running_stats=False), inputs(6, 4, 5, 5)),
        (nn.BatchNorm1d(4), inputs(6, 4)),
        (nn.BatchNorm2d(4), inputs(11, 4, 5, 5)),  # rows of several images each, not of equally many
        (nn.BatchNorm3d(4), inputs(6, 4, 2, 3, 3)),
    ],
)
def test_batchnorm_is_torchs(layer: Any, x: Tensor) -> None:
    import copy

    other = copy.deepcopy(layer)
    for one in (layer, other):
        if one.affine:
            nn.init.normal_(one.weight, generator=torch.Generator().manual_seed(2))
    for _ in range(2):
        ours, ours_back = slopes(layer, x, WholeBatch(SOLO, ROWS, 6, live=True))
        theirs, theirs_back = slopes(other, x, torch.enable_grad())
        assert torch.allclose(ours, theirs, atol=2e-5)
        for one, two in zip(ours_back, theirs_back, strict=True):
            assert torch.allclose(one, two, atol=2e-5, rtol=1e-4)
    for name, value in layer.state_dict().items():
        assert torch.allclose(value, other.state_dict()[name], rtol=1e-5), name
    layer.eval()
    other.eval()
    with WholeBatch(SOLO, ROWS, 6, live=True):
        judged = layer(x)
    assert torch.allclose(judged, other(x), atol=1e-5)


def test_half_precision_stays_half_and_sums_in_single() -> None:
    x = inputs(6, 4, 5, 5).bfloat16()
    layer = nn.BatchNorm2d(4)
    with WholeBatch(SOLO, ROWS, 6, live=True):
        made = layer(x)
    assert made.dtype == torch.bfloat16
    assert torch.allclose(made.float(), nn.BatchNorm2d(4)(x).float(), atol=2e-2)


class Halves(Team):
    """A process that hears of the other one what `other` says."""

    size = 2

    def __init__(self, other: list[Tensor]) -> None:
        self.other = other

    def total(self, values: Tensor) -> Tensor:
        return values + self.other.pop(0)


def test_a_row_that_does_not_count_gives_and_gets_nothing() -> None:
    heard = torch.cat([torch.tensor([6.0]), torch.full((4,), 6 * 2.0), torch.full((4,), 6 * 5.0)]).double()
    layer = nn.BatchNorm1d(4)
    x = inputs(1, 4).requires_grad_()
    with WholeBatch(Halves([heard, torch.ones(8).double()]), ROWS[:1], 6, live=False):
        y = layer(x)
    (back,) = torch.autograd.grad(y.sum(), [x])
    assert torch.equal(back, torch.zeros_like(x))
    # Mean 2 and variance 5 - 4 = 1 are the others'; 0.1 of them, the latter times 6 / 5, is the running part.
    assert torch.allclose(layer.running_mean, torch.full((4,), 0.2))
    assert torch.allclose(layer.running_var, torch.full((4,), 0.9 + 0.1 * 6 / 5))
    assert torch.allclose(y.detach(), (x.detach() - 2) / np.sqrt(1 + 1e-5))


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.4), nn.Dropout(0.4, inplace=True), nn.Dropout2d(0.4), DropPath(0.4)]
)
@pytest.mark.parametrize("last", [False, True])
def test_a_share_keeps_of_a_draw_what_its_rows_get_in_the_whole_batch(layer: nn.Module, last: bool) -> None:
    layer.train()
    x = inputs(6, 3, 4, 4, last=last)

    def drawn(own: np.ndarray, mode: Any) -> Tensor:
        torch.manual_seed(7)
        with mode:
            first = layer(x[torch.from_numpy(own)].clone(memory_format=torch.preserve_format))
            return torch.cat([first, layer(first.clone())])

    with torch.random.fork_rng(devices=[]):
        whole = drawn(ROWS, torch.enable_grad()).view(2, 6, 3, 4, 4)
        assert (whole == 0).any()
        for own in (np.array([0, 2, 4]), np.array([1, 3]), np.array([5])):
            share = drawn(own, WholeBatch(SOLO, own, 6, live=True)).view(2, len(own), 3, 4, 4)
            assert torch.equal(share, whole[:, torch.from_numpy(own)])


def test_windows_of_an_image_are_drawn_with_it_and_what_is_no_batch_is_left_alone() -> None:
    own = np.array([1, 4], dtype=np.int64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        whole = functional.dropout(torch.ones(6 * 4, 5), 0.5)
        torch.manual_seed(3)
        with WholeBatch(SOLO, own, 6, live=True):
            share = functional.dropout(torch.ones(2 * 4, 5), 0.5)
        assert torch.equal(share, whole.view(6, 4, 5)[[1, 4]].flatten(0, 1))
        torch.manual_seed(3)
        plain = functional.dropout(torch.ones(3, 5), 0.5)
        torch.manual_seed(3)
        with WholeBatch(SOLO, own, 6, live=True):
            assert torch.equal(functional.dropout(torch.ones(3, 5), 0.5), plain)
            assert torch.equal(functional.dropout(plain, 0.5, training=False), plain)


@pytest.mark.parametrize("link", ["softmax", "mixed", "corn", "sigmoid", "number"])
def test_no_row_at_all_costs_nothing_and_pulls_nowhere(link: str) -> None:
    plain = "softmax" if link == "mixed" else link
    objective = Objective(plain, 3, 3, torch.ones(3) if plain == "softmax" else None, 0.1)
    truth = {"softmax": torch.tensor([1, 2]), "corn": torch.tensor([1, 2])}.get(link, torch.ones(2, 3))
    scores = torch.randn(2, 3, requires_grad=True)
    loss = objective.total(scores[:0], truth[:0])
    (slope,) = torch.autograd.grad(loss, [scores])
    assert loss.item() == 0
    assert torch.equal(slope, torch.zeros(2, 3))
