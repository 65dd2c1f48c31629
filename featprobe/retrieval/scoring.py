"""What a ranking is worth to the one who asked: each query gets a value, so that queries can be resampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from featprobe.records import FloatArray, IntArray

KINDS: Final = {
    "ACC": "share of queries with an image of their own class among the k nearest",
    "precision": "mean share of the k nearest that are of the query's class",
    "mAP": (
        "mean over queries of the precision at each hit among the k nearest, averaged over those hits; 0 without a hit"
    ),
    "mMV": (
        "share of queries whose class is the most frequent among the k nearest; "
        "where several are equally frequent, one of them is enough"
    ),
}
"""Kind of measure -> its definition in words."""

FIRST: Final = (1, 3, 5)


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure of the `k` nearest; `kind` of KINDS."""

    kind: str
    k: int

    @property
    def name(self) -> str:
        """Such as `mAP@5`."""
        return f"{self.kind}@{self.k}"


def measures(top: int) -> tuple[Measure, ...]:
    """What is scored of the `top` nearest: ACC and precision at 1, 3, 5 and `top`, mAP and mMV at 5 and `top`.

    Precision@1 is ACC@1 and is not repeated.
    """
    steps = sorted({*(k for k in FIRST if k <= top), top})
    late = sorted({*(k for k in FIRST[-1:] if k <= top), top})
    return (
        *(Measure("ACC", k) for k in steps),
        *(Measure("precision", k) for k in steps if k > 1),
        *(Measure("mAP", k) for k in late),
        *(Measure("mMV", k) for k in late),
    )


def scores(truth: IntArray, found: IntArray, wanted: Sequence[Measure]) -> FloatArray:
    """Value of each query under each measure, float64 [Q, M] in [0, 1].

    `truth`: int [Q], the queries' classes; `found`: int [Q, K], the classes of their neighbours, nearest first,
    -1 where there is none (a miss, and no vote). ValueError where a measure needs more than K.
    """
    if any(measure.k > found.shape[1] for measure in wanted):
        raise ValueError(f"{found.shape[1]} neighbours are too few for {[m.name for m in wanted]}")
    result = np.empty((len(truth), len(wanted)))
    for column, measure in enumerate(wanted):
        result[:, column] = _KINDS[measure.kind](truth, found[:, : measure.k])
    return result


def _accuracy(truth: IntArray, found: IntArray) -> npt.NDArray[np.bool_]:
    return np.asarray((found == truth[:, None]).any(axis=1))


def _precision(truth: IntArray, found: IntArray) -> FloatArray:
    return np.asarray((found == truth[:, None]).mean(axis=1))


def _average_precision(truth: IntArray, found: IntArray) -> FloatArray:
    hit = found == truth[:, None]
    precision = np.cumsum(hit, axis=1) / np.arange(1, found.shape[1] + 1)
    return np.asarray((precision * hit).sum(axis=1) / np.maximum(hit.sum(axis=1), 1))


def _majority(truth: IntArray, found: IntArray) -> npt.NDArray[np.bool_]:
    # Votes of each neighbour's class, counted at the neighbour: K is small, classes may be many.
    there = found >= 0
    votes = ((found[:, :, None] == found[:, None, :]) & there[:, None, :]).sum(axis=2) * there
    most = votes.max(axis=1, keepdims=True)
    return np.asarray(((votes == most) & (most > 0) & (found == truth[:, None])).any(axis=1))


_KINDS: Final = {
    "ACC": _accuracy,
    "precision": _precision,
    "mAP": _average_precision,
    "mMV": _majority,
}
