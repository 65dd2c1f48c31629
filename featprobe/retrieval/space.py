"""A distance is a pure function of two rows: whatever is computed in blocks, it is the same number to the last bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from featprobe.errors import ConfigError, ResultsError, nearest
from featprobe.records import AnyArray, FloatArray, IntArray

DISTANCES: Final = ("cosine", "euclidean")

_ROWS: Final = 4096
"""Rows that are held in float64 at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Rows as points between which the squared Euclidean distance E orders alike to the distance asked for.

    "euclidean": the rows themselves, the distance is the root of E. "cosine": the rows at length 1, the distance
    1 - cos is E / 2, which, other than 1 - a.b, keeps its digits between near copies. A row of zeros has no
    direction: it gets one of its own (two further coordinates, one for the index, one for the queries), so its
    cosine distance to every row is 1, as in scikit-learn.

    `rows`: [N, D], any float dtype, finite, of single precision's range; `length`: float64 [N], for cosine alone.
    """

    rows: AnyArray
    distance: str
    length: FloatArray
    spare: int

    @classmethod
    def of(cls, rows: AnyArray, distance: str, *, queries: bool, what: str) -> Space:
        """The space of `rows`; ConfigError for an unknown distance, ResultsError (naming rows) where they aren't finite."""
        if distance not in DISTANCES:
            raise ConfigError(
                f"unknown distance {distance!r}",
                nearest(distance, DISTANCES) or f"known: {', '.join(DISTANCES)}",
                f"type --distance {DISTANCES[0]}",
            )
        if rows.ndim != 2 or rows.dtype.kind != "f":
            raise ValueError(f"{what} embeddings are {rows.dtype} {rows.shape}, not float [N, D]")
        _need_finite(rows, what)
        return cls(rows, distance, _lengths(rows) if distance == "cosine" else np.ones(0), int(queries))

    @property
    def width(self) -> int:
        """Coordinates of a point."""
        columns: int = self.rows.shape[1]
        return columns + 2 if self.distance == "cosine" else columns

    def points(self, at: IntArray | slice) -> FloatArray:
        """The points of the rows at `at` (int of any shape, or a slice), float64 [..., width]."""
        values: FloatArray = np.asarray(self.rows[at], dtype=np.float64)
        if self.distance == "euclidean":
            return np.ascontiguousarray(values)
        length = self.length[at][..., None]
        result = np.zeros((*values.shape[:-1], self.width))
        np.divide(values, length, out=result[..., : values.shape[-1]], where=length > 0)
        result[..., values.shape[-1] + self.spare] = length[..., 0] == 0
        return result

    def squared(self, distance: FloatArray) -> FloatArray:
        """The squared distance of points that are `distance` apart, but for rounding."""
        return np.square(distance) if self.distance == "euclidean" else 2 * distance


def distances(base: Space, at: IntArray, asked: Space, queries: IntArray) -> FloatArray:
    """Distances of the rows `at` of `base` from the rows `queries` of `asked` (shapes that broadcast), float64.

    By differences, summed along the contiguous last axis alone: a pair's number does not depend on what else is
    computed. Exactly 1 (cosine) where one of the two is a row of zeros.
    """
    difference = np.ascontiguousarray(base.points(at) - asked.points(queries))
    np.square(difference, out=difference)
    squared: FloatArray = np.add.reduce(difference, axis=-1)
    if base.distance == "euclidean":
        return np.sqrt(squared)
    return np.where((base.length[at] == 0) | (asked.length[queries] == 0), 1.0, squared / 2)


def _lengths(rows: AnyArray) -> FloatArray:
    """Euclidean length of each row, float64 [N]."""
    length = np.empty(len(rows))
    for start in range(0, len(rows), _ROWS):
        part = np.ascontiguousarray(rows[start : start + _ROWS], dtype=np.float64)
        length[start : start + _ROWS] = np.sqrt(np.add.reduce(part * part, axis=-1))
    return length


def _need_finite(rows: AnyArray, what: str) -> None:
    bad = [
        start + row
        for start in range(0, len(rows), _ROWS)
        for row in np.flatnonzero(~np.isfinite(rows[start : start + _ROWS]).all(axis=1)).tolist()
    ]
    if bad:
        shown = ", ".join(map(str, bad[:5]))
        raise ResultsError(
            f"{len(bad)} of {len(rows)} {what} embeddings hold values that are not finite",
            f"rows {shown}{' ...' if len(bad) > 5 else ''}",
            "type featprobe cache verify, or extract again with --precision fp32",
        )
