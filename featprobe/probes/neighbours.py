"""The nearest training rows of many new ones, exactly: float32 products find candidates, float64 puts them in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from featprobe.errors import MissingExtraError
from featprobe.records import FloatArray, IntArray

METRICS: Final = ("cosine", "euclidean")

FAISS_ROWS: Final = 1_000_000
"""Training rows beyond which FAISS looks for the candidates."""

_QUERIES: Final = 256
_ROWS: Final = 32_768
"""Sides of a block of float32 products: 32 MB, and 64 MB for the order within it."""

_NUMBERS: Final = 1 << 22
"""Coordinates that are compared in float64 at a time: 32 MB."""

_SPARE: Final = 24
"""Candidates beyond k: rows that rounding may have put among the nearest."""

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """The k nearest training rows of M new ones, nearest first, equally near ones in the order of the rows.

    `rows`: int64 [M, k]. `nearness`: float64 [M, k], inner products, or minus the squared Euclidean distances.
    """

    rows: IntArray
    nearness: FloatArray


def nearest_rows(
    table: FloatArray, new: FloatArray, k: int, metric: str, *, queries: int = _QUERIES, rows: int = _ROWS
) -> Nearest:
    """The `k` rows of `table` [N, D] nearest to each row of `new` [M, D], k <= N, by METRICS.

    "cosine" takes inner products: both tables hold rows of length 1 (or 0). The answer follows from the tables
    alone: every nearness is a float64 sum over the columns in one order, and a bound on the rounding of the float32
    products (gamma_n of Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1) shows that no
    row outside the candidates is as near; where it can't, all rows within the bound are compared. So neither the
    sides of a block (`queries`, `rows`) nor FAISS change it. Memory: about 150 MB beyond the tables, their float32
    copy and the result. Raises MissingExtraError beyond FAISS_ROWS rows without FAISS.
    """
    screen = _Screen.of(table, metric)
    place, near = np.empty((len(new), k), dtype=np.int64), np.empty((len(new), k))
    for at, (asked, error), floor, candidates in screen.candidates(
        new, min(k + _SPARE, len(table)), queries, rows
    ):
        candidates.sort(axis=1)
        found = _nearness(table, candidates, new[at], metric)
        order = np.argsort(-found, axis=1, kind="stable")[:, :k]
        place[at] = np.take_along_axis(candidates, order, axis=1)
        near[at] = np.take_along_axis(found, order, axis=1)
        if candidates.shape[1] == len(table):
            continue
        certain = np.isfinite(floor) & (screen.product(near[at, -1], new[at]) > floor + error)
        for row in np.flatnonzero(~certain).tolist():
            one = at.start + row
            place[one], near[one] = screen.all_within(table, new[one], asked[row], error[row], k, metric)
    return Nearest(place, near)


def _nearness(table: FloatArray, candidates: IntArray, new: FloatArray, metric: str) -> FloatArray:
    """float64 [B, C] of the candidates [B, C] of each new row [B, D]: sums over the columns, not products of matrices."""
    result = np.empty(candidates.shape)
    step = max(1, _NUMBERS // max(1, candidates.shape[1] * table.shape[1]))
    for start in range(0, len(candidates), step):
        part = slice(start, start + step)
        pairs = table[candidates[part]]
        if metric == "cosine":
            pairs *= new[part, None]
            result[part] = pairs.sum(axis=2)
        else:
            pairs -= new[part, None]
            result[part] = -np.square(pairs, out=pairs).sum(axis=2)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Screen:
    """The table in float32, such that a larger product means nearer.

    Euclidean: |x - q|^2 = |q|^2 - 2 (x q - |x|^2 / 2), of rows moved to their mean and divided by the greatest
    length, with - |x|^2 / 2 as one more column (and 1 in the new rows). The unit of all is the row's length.
    """

    rows: Singles
    centre: FloatArray
    size: float
    euclidean: bool

    @classmethod
    def of(cls, table: FloatArray, metric: str) -> _Screen:
        if metric == "cosine":
            return cls(table.astype(np.float32), np.zeros(table.shape[1]), 1.0, euclidean=False)
        centre = table.mean(axis=0)
        moved = table - centre
        size = float(np.sqrt(np.square(moved).sum(axis=1).max())) or 1.0
        moved /= size
        half = -np.square(moved).sum(axis=1) / 2
        return cls(np.column_stack([moved, half]).astype(np.float32), centre, size, euclidean=True)

    def place(self, new: FloatArray) -> tuple[Singles, FloatArray]:
        """(new rows as the table's, [B, D or D + 1], the most that rounding can change a product of theirs, [B])."""
        moved = (new - self.centre) / self.size
        length = np.sqrt(np.square(moved).sum(axis=1))
        width = self.rows.shape[1]
        single, double = (float(np.finfo(kind).eps) / 2 for kind in (np.float32, np.float64))
        gamma = 1.01 * (width + 4) * single  # of the sum, and one rounding of each factor
        if self.euclidean:
            moved = np.column_stack([moved, np.ones(len(moved))])
        with np.errstate(over="ignore"):  # a row far beyond float32 is not certain, and is compared with all
            asked = moved.astype(np.float32)
        return asked, gamma * (length + 0.5 * self.euclidean) + 4 * width * double * np.square(length) + 1e-30

    def product(self, nearness: FloatArray, new: FloatArray) -> FloatArray:
        """The exact product of which float32 gave a rounding, [B], from the nearness [B] of one row of the table."""
        if not self.euclidean:
            return nearness
        moved = np.square((new - self.centre) / self.size).sum(axis=1)
        return np.asarray((nearness / self.size**2 + moved) / 2)

    def candidates(
        self, new: FloatArray, count: int, queries: int, rows: int
    ) -> Iterator[tuple[slice, tuple[Singles, FloatArray], Singles, IntArray]]:
        """For each block of new rows: (its place, `place` of it, the least product [B] and the rows [B, count] found)."""
        index = self._faiss() if len(self.rows) > FAISS_ROWS else None
        for start in range(0, len(new), queries):
            at = slice(start, min(start + queries, len(new)))
            asked, error = self.place(new[at])
            with np.errstate(over="ignore", invalid="ignore"):
                if index is not None:
                    products, found = index.search(asked, count)
                    floor = products[:, -1]
                    floor[(found < 0).any(axis=1)] = np.nan
                    found = np.maximum(found, 0)
                else:
                    floor, found = self._largest(asked, count, rows)
            yield at, (asked, error), floor, found

    def _largest(self, asked: Singles, count: int, rows: int) -> tuple[Singles, IntArray]:
        """(the least, [B]) and the rows, [B, count], of the `count` largest products, block by block."""
        values = np.empty((len(asked), 0), dtype=np.float32)
        found = np.empty((len(asked), 0), dtype=np.int64)
        for start in range(0, len(self.rows), rows):
            products = asked @ self.rows[start : start + rows].T
            own = np.arange(start, start + products.shape[1])
            if products.shape[1] > count:
                own = products.argpartition(-count, axis=1)[:, -count:]
                products = np.take_along_axis(products, own, axis=1)
                own += start
            values = np.concatenate([values, products], axis=1)
            found = np.concatenate([found, np.broadcast_to(own, products.shape)], axis=1)
            if values.shape[1] > count:
                kept = values.argpartition(-count, axis=1)[:, -count:]
                values = np.take_along_axis(values, kept, axis=1)
                found = np.take_along_axis(found, kept, axis=1)
        return values.min(axis=1), found

    def all_within(
        self, table: FloatArray, new: FloatArray, asked: Singles, error: float, k: int, metric: str
    ) -> tuple[IntArray, FloatArray]:
        """(rows [k], nearness [k]) of one new row, from every row whose product lies within the bound of the k-th."""
        with np.errstate(over="ignore", invalid="ignore"):
            products = self.rows @ asked
            least = np.partition(products, -k)[-k] - 2 * error if np.isfinite(products).all() else -np.inf
            rows = np.flatnonzero(~(products < least))
        step = max(1, _NUMBERS // max(1, table.shape[1]))
        parts = [
            _nearness(table, rows[None, start : start + step], new[None], metric)[0]
            for start in range(0, len(rows), step)
        ]
        found = np.concatenate(parts)
        order = np.argsort(-found, kind="stable")[:k]
        return rows[order], found[order]

    def _faiss(self) -> Any:
        if find_spec("faiss") is None:
            raise MissingExtraError(f"a search among more than {FAISS_ROWS:,} rows", "faiss-cpu", "faiss")
        import faiss

        index = faiss.IndexFlatIP(self.rows.shape[1])
        index.add(self.rows)
        return index
