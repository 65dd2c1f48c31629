"""Where the next C of a path starts: the minimum over the span of the solutions before, which costs no product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from featprobe.probes.solvers.logistic_losses import Floats, Loss
from featprobe.records import FloatArray


@dataclass(slots=True, eq=False)
class Point:
    """Where a regression stands: its vector, logits [k, n], loss(es), probabilities and the loss's gradient."""

    vector: FloatArray
    logits: FloatArray
    losses: FloatArray
    probabilities: Floats
    slope: FloatArray


def predicted(
    loss: Loss, gap: float, held: int, C: float, recent: list[Point]
) -> tuple[FloatArray, FloatArray]:
    """(vector, logits) of the minimum over the span of the solutions before, by Newton's method."""
    vectors = _differences([point.vector for point in recent])
    logits = _differences([point.logits for point in recent])
    square = np.array([[float(a[:held] @ b[:held]) for b in vectors] for a in vectors])
    at = np.zeros(len(vectors))
    at[:2] = 1.0  # on a path of equal steps in log C: as far again as the last step went
    best, value, length = at, np.inf, 1.0
    step = np.zeros(len(vectors))
    for _ in range(10):
        losses, probabilities = loss.value(_mixed(at, logits))
        found = C * float(losses.sum()) + float(at @ square @ at) / 2
        if found > value:  # too far: Newton's step is shortened
            length /= 4
            at = best + length * step
            continue
        best, value, length = at, found, 1.0
        slope = square @ at + np.array([C * float(np.vdot(loss.residual(probabilities), d)) for d in logits])
        bent = [loss.bend(probabilities, moved) for moved in logits]
        bend = C * np.array([[float(np.vdot(a, b)) for b in bent] for a in logits]) + square
        # Differences shrink with their order: only scaled to one length does their rank show.
        root = np.sqrt(np.maximum(np.diag(bend), 1e-300))
        step = -np.linalg.lstsq(bend / np.outer(root, root), slope / root, rcond=1e-8)[0] / root
        if -float(slope @ step) < 0.1 * gap * value:
            break
        at = best + step
    return _mixed(best, vectors), _mixed(best, logits)


def _mixed(shares: FloatArray, parts: Sequence[FloatArray]) -> FloatArray:
    found: FloatArray = shares[0] * parts[0]
    for share, part in zip(shares[1:], parts[1:], strict=True):
        found += share * part
    return found


def _differences(points: list[FloatArray]) -> list[FloatArray]:
    """The last, and the differences of first, second, ... order that end there."""
    found = [points[-1]]
    while len(points) > 1:
        points = [after - before for before, after in pairwise(points)]
        found.append(points[-1])
    return found
