"""Newton's method for the values of C that L-BFGS does not certify: where rows bend the loss very differently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from featprobe.probes.solvers.logistic_curvature import Blocks
from featprobe.records import FloatArray

if TYPE_CHECKING:
    from featprobe.probes.solvers.logistic_descent import Asking, Descent
    from featprobe.probes.solvers.logistic_prediction import Point

NEWTONS: Final = 50
"""Newton steps at one C."""

INNER: Final = 400
"""Products with the Hessian that one of them may take."""

FORCING: Final = 0.2
"""How much of the gradient (of its square: FORCING^2) a step may leave, far from the optimum; near it less."""

DULL: Final = 25
"""Products with the Hessian after which the blocks of an earlier place are no longer worth keeping."""


def newton(walk: Descent, C: float, point: Point) -> Asking:
    """(the point, steps): truncated Newton (Nocedal and Wright 2006, 7.1), for a `walk` in double precision.

    Each step's equation is solved by conjugate gradients, which start from the inverse of the Hessian's blocks near
    the point (`Blocks`) where these have room, else from the whitening. It ends at `walk.gap`, or where two steps in
    a row neither halve the gap nor lower the objective by more than it: then the digits are used up.
    """
    best, nearest, idle, steps = point, walk.distance(C, point), 0, 0
    lowest = float(walk.objectives(C, point).sum())
    blocks = walk.blocks(C)
    while nearest > walk.gap and steps < NEWTONS and idle < 2:
        if blocks is None and walk.roomy:
            blocks = yield from walk.factor(C, point)
        walk.measure_classes(point)
        gradient = walk.gradient(C, point)
        share = min(FORCING, np.sqrt(nearest))
        direction, count = yield from _solved(walk, C, point, blocks, gradient, share)
        if count > DULL:
            blocks = None
        moved = yield from walk.moved(C, point, direction, float(gradient @ direction))
        steps += 1
        if moved is None:
            break
        point = moved
        distance = walk.distance(C, point)
        value = float(walk.objectives(C, point).sum())
        # Far from the optimum a step lowers the objective, and its gap only later.
        idle = 0 if distance < nearest / 2 or lowest - value > walk.gap * lowest else idle + 1
        lowest = min(lowest, value)
        if distance < nearest:
            best, nearest = point, distance
    return best, steps


def _solved(
    walk: Descent, C: float, point: Point, blocks: Blocks | None, gradient: FloatArray, share: float
) -> Asking:
    """(d, products): H d = -gradient, to what is left of `share` of it or a tenth of what the gap allows."""
    aim = max(share**2 * walk.measured(C, point, gradient), walk.gap / 10)
    held = walk.weights
    found, left = np.zeros_like(gradient), -gradient
    if walk.loss.coupled:
        left[held:] -= left[held:].mean()  # what rounding left there, the Hessian does not know
    along = yield from walk.whitened(C, left, blocks)
    product, count = float(left @ along), 0
    while product > 0 and count < INNER:
        count += 1
        bent = yield from walk.bent(C, point, along)
        step = product / float(along @ bent)
        found += step * along
        left -= step * bent
        if walk.measured(C, point, left) <= aim:
            break
        turned = yield from walk.whitened(C, left, blocks)
        after = float(left @ turned)
        along, product = turned + (after / product) * along, after
    return found, count
