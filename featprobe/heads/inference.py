"""Turns a trained model into predictions, the record in which it meets the frozen probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from featprobe.errors import ProbeError
from featprobe.heads.arithmetic import autocast, check_precision, machine
from featprobe.heads.memory import Portions
from featprobe.heads.model import Classifier
from featprobe.heads.objective import Objective
from featprobe.heads.recipe import TrainingRecipe
from featprobe.heads.sources import BatchSource
from featprobe.heads.team import SOLO, Team
from featprobe.records import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class FittedHead:
    """A trained model with the best epoch's weights, in evaluation mode.

    `history`: one row per epoch as in `Progress.metrics`; `best_epoch` counts from 1. `trained` is False
    where a finished checkpoint was taken over. `seconds`: spent training, resumed parts included.
    `checkpoint`: best.safetensors; `notes`: what the console must say. `objective`: what its scores mean.
    """

    model: Classifier
    objective: Objective
    recipe: TrainingRecipe
    best_epoch: int
    history: tuple[Mapping[str, float], ...]
    stopped_early: bool
    trained: bool
    seconds: float
    checkpoint: Path
    notes: tuple[str, ...]


def predict(
    fitted: FittedHead,
    test: BatchSource,
    *,
    device: torch.device | str,
    precision: str | None = None,
    batch_size: int | None = None,
    team: Team = SOLO,
) -> FloatArray:
    """Predictions in the order of `test`, float64: probabilities of classes [N, C], whose rows sum to 1, of labels
    [N, L], or numbers [N, 1].

    `precision` and `batch_size` are the recipe's where None; the batch size changes nothing beyond
    floating-point noise. The processes of `team` share the rows, and each gets all predictions. Raises ProbeError where a score is not finite or an image is missing.
    """  # noqa: D205 - what it gives by kind of target does not fit a first line
    where = torch.device(device)
    arithmetic = fitted.recipe.precision if precision is None else precision
    size = fitted.recipe.batch_size if batch_size is None else batch_size
    check_precision(where, arithmetic)
    model = fitted.model.to(where).eval()
    with team.agreeing(), machine(where, arithmetic, size):
        scores = run_batches(model, test, where, precision=arithmetic, batch_size=size, team=team)
    if not bool(torch.isfinite(scores).all()):
        raise ProbeError(
            "the trained model gives scores that are not finite",
            f"precision {arithmetic}",
            "type --precision fp32",
        )
    return fitted.objective.predictions(scores)


def run_batches(
    function: Callable[[Tensor], Tensor],
    source: BatchSource,
    device: torch.device,
    *,
    precision: str,
    batch_size: int,
    team: Team = SOLO,
) -> Tensor:
    """`function` over all of `source` in its order, without augmentation or gradient: float32 [N, ...], CPU.

    Batches that do not fit into memory are passed in halves. Each process of `team` passes one block of the rows.
    """
    # Rows of several images each say how many of them fit at a time.
    batch_size = min(batch_size, getattr(source, "at_once", batch_size))
    portions = Portions(batch_size)

    def passed(images: Tensor) -> Tensor:
        made = []
        for (part,) in portions.parts(images):
            with autocast(device, precision):
                made.append(function(part.to(device, non_blocking=True)).float())
        return torch.cat(made)

    count = len(source.labels)
    order = np.arange(*team.block(count), dtype=np.int64)
    results = []
    with torch.no_grad():
        for images, _ in paired(source, order, batch_size, augment_seed=None):
            results.append(portions.run(partial(passed, images), undo=_nothing, rows=len(images)))
    return team.rows(torch.cat(results).cpu() if results else torch.empty(0), count)


def _nothing() -> None:
    """Nothing is left behind by a forward pass that failed."""


def paired(
    source: BatchSource, order: IntArray, batch_size: int, *, augment_seed: int | None
) -> Iterator[tuple[Tensor, IntArray]]:
    """(images, positions) per batch; ProbeError where the source gives other counts than asked for."""
    given = 0
    for images in source.batches(order, batch_size, augment_seed=augment_seed):
        positions = order[given : given + batch_size]
        if len(images) != len(positions):
            break
        yield images, positions
        given += len(positions)
    if given != len(order):
        raise ProbeError(
            f"an image after the first {given} of {len(order)} can't be read any more",
            "every image could be read when this run began",
            "see which it is with: featprobe inspect --data SPEC",
        )
