"""Prediction sets that hold the true class as often as they say: split conformal prediction by group.

The promise is for groups: calibration and new groups must be exchangeable (as if drawn in random order from one
population), rows of one group may depend on each other in any way. Then a row drawn from a new group has its true
class in its set with at least the nominal probability, over the draws of the calibration groups and the new one.
Nothing is promised for one class, one site or one calibration set, nor for groups of another population.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from featprobe.records import FloatArray, IntArray

SLACK: Final = 1e-12
"""Rounding that a sum of weights may lack to its level."""


def lac(probability: FloatArray, draw: FloatArray) -> FloatArray:
    """Least ambiguous sets (Sadinle, Lei and Wasserman, JASA 114, 2019): 1 - p of each class, [N, C]."""
    del draw
    return 1 - probability


def aps(probability: FloatArray, draw: FloatArray) -> FloatArray:
    """Adaptive sets (Romano, Sesia and Candes, NeurIPS 2020): the sum of the probabilities of all more probable classes
    and a random share of the class's own, [N, C]. Large for rows that the model is unsure of. `draw`: uniform in
    [0, 1), float64 [N], one for each row: without it (0) sets hold far more than they must.
    """  # noqa: D205 - the rule does not fit a first line
    order = np.argsort(-probability, axis=1, kind="stable")
    ranked = np.take_along_axis(probability, order, axis=1)
    result = np.empty_like(probability)
    np.put_along_axis(result, order, np.cumsum(ranked, axis=1) - draw[:, None] * ranked, axis=1)
    return result


SCORES: Final[dict[str, Callable[[FloatArray, FloatArray], FloatArray]]] = {"LAC": lac, "APS": aps}
"""How strange each class would be for a row, higher is stranger. Sets of both may be empty."""


def threshold(strangeness: FloatArray, unit: IntArray, level: float) -> float:
    """How strange a class may be to stand in a set at `level`; infinity where there are too few groups.

    `strangeness` [M] of the true classes of the calibration rows, `unit` int [M] their groups. The level quantile of
    the distribution that gives each of K groups the mass 1 / (K + 1), split evenly among its rows, and the rest to
    infinity (Lee, Barber and Willett 2023, arXiv 2306.06342; see Dunn, Wasserman and Ramdas, JASA 118, 2023). With
    one row in each group it is the ceil((K + 1) level)-th smallest of K.
    """
    codes, sizes = np.unique(unit, return_inverse=True, return_counts=True)[1:]
    weight = 1 / (sizes[codes.reshape(-1)] * (len(sizes) + 1))
    order = np.argsort(strangeness, kind="stable")
    return _at(strangeness[order], np.cumsum(weight[order]), level)


def _at(ranked: FloatArray, mass: FloatArray, level: float) -> float:
    """The smallest of `ranked` with at least the mass `level` up to it."""
    place = int(np.searchsorted(mass, level - SLACK, side="left"))
    return float(ranked[place]) if place < len(ranked) else float("inf")


def sets(strangeness: FloatArray, limit: float) -> npt.NDArray[np.bool_]:
    """Which classes stand in each row's set, bool [N, C], of `strangeness` [N, C]."""
    return np.asarray(strangeness <= limit)


@dataclass(frozen=True, slots=True, eq=False)
class Halves:
    """What became of each row over all splits, at each of A levels: float64 [A, N].

    `covered`: share of splits in which its set held the true class; `size`: mean number of classes in its set;
    `empty`: share of splits in which its set was empty. `least`: groups of the smallest half that calibrated;
    `unlimited` [A]: share of thresholds that are infinite, which put every class into every set.
    """

    covered: FloatArray
    size: FloatArray
    empty: FloatArray
    least: int
    unlimited: FloatArray


def halves(
    strangeness: FloatArray, y: IntArray, unit: IntArray, levels: Sequence[float], *, splits: int, seed: int
) -> Halves:
    """Sets calibrated on one random half of the groups and judged on the other, both ways, `splits` times.

    `strangeness` [N, C], `y` int [N] (all labelled), `unit` int [N]. The halves are drawn without regard to labels
    or scores, as exchangeability asks. The mean over groups of `covered` estimates what is promised. Raises
    ValueError for fewer than 2 groups.
    """
    codes, sizes = np.unique(unit, return_inverse=True, return_counts=True)[1:]
    codes, groups = codes.reshape(-1), len(sizes)
    if groups < 2:
        raise ValueError("one half of the groups calibrates, the other is judged: there must be 2")
    own = strangeness[np.arange(len(y)), y]
    order = np.argsort(own, kind="stable")
    shape = (len(levels), len(y))
    covered, size, empty = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    unlimited = np.zeros(len(levels))
    rng = np.random.default_rng([seed, 0xC0F])
    for _ in range(splits):
        first = np.zeros(groups, dtype=np.bool_)
        first[rng.permutation(groups)[: groups // 2]] = True
        for calibrating in (first, ~first):
            rows = order[calibrating[codes[order]]]
            mass = np.cumsum(1 / (sizes[codes[rows]] * (int(calibrating.sum()) + 1)))
            judged = np.flatnonzero(~calibrating[codes])
            for a, level in enumerate(levels):
                limit = _at(own[rows], mass, level)
                count = sets(strangeness[judged], limit).sum(axis=1)
                covered[a, judged] += own[judged] <= limit
                size[a, judged] += count
                empty[a, judged] += count == 0
                unlimited[a] += not np.isfinite(limit)
    return Halves(covered / splits, size / splits, empty / splits, groups // 2, unlimited / (2 * splits))
