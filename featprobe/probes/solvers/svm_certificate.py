"""What proves a margin optimal: the best intercept, and a duality gap that is a sum of terms none of which is negative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from featprobe.records import FloatArray

Loss = Literal["hinge", "squared_hinge"]

TIE: Final = 1e-12
"""Sums of weights nearer than this share are equal: then a whole interval of intercepts is optimal."""

STRETCH: Final = 1e-6
ROUNDING: Final = 1e-15


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Two classes and their weights.

    `rows` float64 [N, D], centred; `sign` float64 [N], 1 or -1, both present; `weight` float64 [N], all positive. With f_i = w.x_i + b and c_i = C weight_i, the objective is
    1/2 |w|^2 + sum_i c_i max(0, 1 - sign_i f_i) (hinge), or its square (squared hinge); b is free.
    """

    rows: FloatArray
    sign: FloatArray
    weight: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """A margin for one C: `coef` [D] and `intercept` for the centred rows, `objective`, `gap` (a share of it)."""

    coef: FloatArray
    intercept: float
    objective: float
    gap: float


def certify(problem: Problem, C: float, loss: Loss, coef: FloatArray, dual: FloatArray | None) -> Solution:
    """`coef` [D] with its best intercept, and how far it can be from the optimum.

    `dual` [N]: a feasible point of the dual, that which `coef` was made of or nearly; for "squared_hinge" None takes
    that of the residuals.
    """
    cost, sign = C * problem.weight, problem.sign
    score = problem.rows @ coef
    if loss == "hinge":
        assert dual is not None
        intercept = hinge_intercept(score, sign, problem.weight)
        apart = float(np.linalg.norm(coef - (dual * sign) @ problem.rows))
        judged = judge(1 - sign * (score + intercept), dual, cost, float(coef @ coef), apart)
        return Solution(judged.stretch * coef, judged.stretch * intercept, judged.objective, judged.gap)
    intercept = squared_intercept(score, sign, problem.weight)
    slack = 1 - sign * (score + intercept)
    over = np.maximum(slack, 0)
    dual = balanced(2 * cost * over if dual is None else dual, sign)
    apart = float(np.linalg.norm(coef - (dual * sign) @ problem.rows))
    objective = 0.5 * float(coef @ coef) + float(cost @ np.square(over))
    gap = 0.5 * apart**2 + complementarity(slack, dual, cost, loss)
    return Solution(coef, intercept, objective, gap / objective)


@dataclass(frozen=True, slots=True)
class Judged:
    """Of (w, b) times `stretch`: the objective, and the duality gap as a share of it."""

    objective: float
    gap: float
    stretch: float


def judge(slack: FloatArray, dual: FloatArray, cost: FloatArray, square: float, apart: float = 0.0) -> Judged:
    """The hinge's gap of w, |w|^2 = `square`, that lies `apart` from sum dual sign x; `slack` [N] = 1 - sign f.

    At a huge C rounding alone costs C 1e-16 for each row on the margin. Where no row lies further inside it than
    STRETCH, (w, b) is also tried a little longer, so that none does.
    """
    best = _stretched(1.0, slack, dual, cost, square, apart)
    top = float(slack.max())
    if not 0 < top < STRETCH:
        return best
    longer = _stretched((1 + ROUNDING) / (1 - top), slack, dual, cost, square, apart)
    return min(best, longer, key=lambda one: one.objective)


def _stretched(
    times: float, slack: FloatArray, dual: FloatArray, cost: FloatArray, square: float, apart: float
) -> Judged:
    slack = slack if times == 1 else 1 - times * (1 - slack)
    objective = 0.5 * times**2 * square + float(cost @ np.maximum(slack, 0))
    away = apart + abs(times - 1) * np.sqrt(max(square, 0.0))  # no less than the distance of times w
    gap = 0.5 * away**2 + complementarity(slack, dual, cost, "hinge")
    return Judged(objective, float(gap / objective), times)


def complementarity(slack: FloatArray, dual: FloatArray, cost: FloatArray, loss: Loss) -> float:
    """The duality gap where coef = v, the coefficients of the dual point.

    Let u_i = 1 - sign_i f_i (`slack`), xi = max(0, u), v = sum_i dual_i sign_i x_i, and sum_i dual_i sign_i = 0, so
    that w.v = sum_i dual_i sign_i (f_i - b) = sum_i dual_i (1 - u_i).

    Hinge: primal P = |w|^2/2 + sum c xi; dual D = sum dual - |v|^2/2 for 0 <= dual <= c. Hence
    P - D = |w - v|^2/2 + w.v - sum dual + sum c xi = |w - v|^2/2 + sum (c xi - dual u), and since u = xi - max(0, -u),
    P - D = |w - v|^2/2 + sum [(c - dual) xi + dual max(0, -u)].

    Squared hinge: P = |w|^2/2 + sum c xi^2; D = sum dual - sum dual^2/(4 c) - |v|^2/2 for dual >= 0. Likewise
    P - D = |w - v|^2/2 + sum [c xi^2 + dual^2/(4 c) - dual u]
          = |w - v|^2/2 + sum [c (xi - dual/(2 c))^2 + dual max(0, -u)],
    which with dual = 2 c xi (feasible where b is optimal: that is dP/db = 0) is |w - v|^2/2 alone.

    No term is negative and nothing cancels, so the gap keeps its digits where P - D would lose them.
    """
    over = np.maximum(slack, 0)
    beyond = float(dual @ np.maximum(-slack, 0))
    if loss == "hinge":
        return float((cost - dual) @ over) + beyond
    return float(cost @ np.square(over - dual / (2 * cost))) + beyond


def balanced(dual: FloatArray, sign: FloatArray) -> FloatArray:
    """`dual` [N] with equal sums in both classes: the heavier is scaled down, which keeps every bound."""
    up, down = float(dual[sign > 0].sum()), float(dual[sign < 0].sum())
    least = min(up, down)
    return dual * np.where(sign > 0, least / up if up else 0.0, least / down if down else 0.0)


def hinge_intercept(score: FloatArray, sign: FloatArray, weight: FloatArray) -> float:
    """The b that minimises sum weight max(0, 1 - sign (score + b)), exactly; of an interval the middle, as libsvm.

    The slope is minus the weight of positive rows, and grows by a row's weight as b passes sign - score.
    """
    turn = sign - score
    order = np.argsort(turn)
    reached = np.cumsum(weight[order])
    needed = float(weight[sign > 0].sum())
    slip = TIE * reached[-1]
    first = int(np.searchsorted(reached, needed - slip))
    last = min(int(np.searchsorted(reached, needed + slip, side="right")), len(order) - 1)
    return 0.5 * float(turn[order[first]] + turn[order[last]])


def squared_intercept(score: FloatArray, sign: FloatArray, weight: FloatArray) -> float:
    """The b that minimises sum weight max(0, 1 - sign (score + b))^2, exactly.

    Half of minus the slope is the sum of weight (t - b), t = sign - score, over positive rows with t > b and negative
    ones with t < b. It falls with b and is linear between the t; between the two where it changes its sign b is the
    mean of those rows' t.
    """
    turn = sign - score
    order = np.argsort(turn)
    t, w, up = turn[order], weight[order], sign[order] > 0
    above, below = np.where(up, w, 0.0), np.where(up, 0.0, w)
    slopes = _after(above * t) - t * _after(above) + np.cumsum(below * t) - t * np.cumsum(below)
    place = int(np.argmax(slopes <= 0)) if slopes[-1] <= 0 else len(t)
    held = up.copy()
    held[:place] = ~up[:place]
    total = float(w[held].sum())
    return float(w[held] @ t[held]) / total if total else float(t[min(place, len(t) - 1)])


def _after(values: FloatArray) -> FloatArray:
    """The sum from each place on."""
    return np.asarray(np.cumsum(values[::-1])[::-1])
