"""Most rows are plainly too far: single-precision products say which, with a bound on what they may be wrong by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from featprobe.records import AnyArray, FloatArray, IntArray
from featprobe.retrieval.space import Space

BLOCK: Final = 2048
"""Rows of each side in one product."""

_SPARE: Final = 24
"""Candidates beyond twice those asked for, so that near ties seldom need a second look."""

_UNIT: Final = 2.0**-24
"""Rounding unit of float32."""

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """For a block of b queries from row `start` on: `row` int64 [b, m], -1 where there is none.

    `beyond`: float64 [b], below which the squared distance of no other index row lies (inf where there is none).
    """

    start: int
    row: IntArray
    beyond: FloatArray


class Screen:
    """Screens `base` [N] for `asked` [Q]; rows whose codes > 0 in `index_group` and `query_group` are equal are passed over.

    Points are moved to the index's mean, so that no digits are lost to it, and scaled to length 1 at most.
    """

    def __init__(
        self, base: Space, asked: Space, index_group: IntArray, query_group: IntArray, *, block: int
    ) -> None:
        self.base, self.asked, self.block = base, asked, block
        self.index_group, self.query_group = index_group, query_group
        self.centre = np.zeros(base.width)
        for rows in _slices(len(base.rows), BLOCK):
            self.centre += base.points(rows).sum(axis=0) / len(base.rows)
        self.scale = 1.0
        self.reach = self._longest(base)
        self.scale = max(self.reach, self._longest(asked)) or 1.0
        self.reach /= self.scale

    def _longest(self, space: Space) -> float:
        lengths = [
            np.linalg.norm(space.points(rows) - self.centre, axis=1).max()
            for rows in _slices(len(space.rows), BLOCK)
        ]
        return float(max(lengths, default=0.0))

    def _moved(self, space: Space, rows: slice | IntArray) -> FloatArray:
        return (space.points(rows) - self.centre) / self.scale

    def _index_block(self, rows: slice) -> Singles:
        """[n, width + 1]: the points, times -2, and their squared lengths."""
        points = self._moved(self.base, rows)
        own = np.square(points).sum(axis=1, keepdims=True)
        return np.hstack([-2 * points, own]).astype(np.float32)

    def _query_block(self, rows: slice | IntArray) -> tuple[Singles, FloatArray, FloatArray]:
        """([b, width + 1]: the points and ones, their squared lengths [b], the products' error at most [b])."""
        points = self._moved(self.asked, rows)
        own = np.square(points).sum(axis=1)
        # n terms, each factor rounded once: gamma_(n + 2) of the sum of the terms' sizes; doubled to be sure.
        terms = 2 * np.sqrt(own) * self.reach + self.reach**2
        error = 2 * (points.shape[1] + 8) * _UNIT * terms + 1e-30
        singles = np.hstack([points, np.ones((len(points), 1))]).astype(np.float32)
        return singles, own, error

    def _blocked_out(self, product: Singles, queries: IntArray, rows: slice) -> None:
        """Infinity for rows of the query's own group, in place."""
        concerned = np.flatnonzero(self.query_group[queries])
        if len(concerned):
            own = self.query_group[queries[concerned], None] == self.index_group[rows]
            product[concerned] = np.where(own, np.float32(np.inf), product[concerned])

    def candidates(self, k: int, *, by_faiss: bool) -> Iterator[Candidates]:
        """At least `k` candidates of each query (all rows that it may find, where there are fewer)."""
        count = min(len(self.base.rows), 2 * k + _SPARE)
        index = self._faiss_index() if by_faiss else None
        for rows in _slices(len(self.asked.rows), self.block):
            singles, own, error = self._query_block(rows)
            if index is None:
                product, found = self._smallest(singles, np.arange(rows.start, rows.stop), count)
                squared = product + own[:, None]
            else:
                product, found = index.search(np.ascontiguousarray(singles[:, :-1]), count)
                squared = product.astype(np.float64)
                # FAISS adds the query's own length in float32.
                error = error + 4 * (singles.shape[1] + 8) * _UNIT * own
            whole = count == len(self.base.rows)
            worst = squared.max(axis=1, initial=-np.inf)
            beyond = np.full(len(worst), np.inf) if whole else (worst - error) * self.scale**2
            yield Candidates(rows.start, found, beyond)

    def _smallest(self, singles: Singles, queries: IntArray, count: int) -> tuple[Singles, IntArray]:
        """(values, rows) [b, count] of the smallest products; infinity and -1 where there are fewer."""
        values = np.full((len(singles), count), np.inf, dtype=np.float32)
        found = np.full((len(singles), count), -1, dtype=np.int64)
        for rows in _slices(len(self.base.rows), self.block):
            product = singles @ self._index_block(rows).T
            self._blocked_out(product, queries, rows)
            near, at = _narrowed(product, values.max(axis=1), count)
            at = np.where(at >= 0, at + rows.start, -1)
            values, found = _kept(np.hstack([values, near]), np.hstack([found, at]), count)
        return values, found

    def within(self, queries: IntArray, squared: FloatArray) -> list[IntArray]:
        """For each of a few `queries` the index rows, ascending, whose squared distance may be up to `squared` [b]."""
        singles, own, error = self._query_block(queries)
        limit = squared / self.scale**2 * (1 + 1e-12) - own + error
        parts: list[list[IntArray]] = [[] for _ in queries]
        for rows in _slices(len(self.base.rows), self.block):
            product = singles @ self._index_block(rows).T
            self._blocked_out(product, queries, rows)
            for part, line, most in zip(parts, product, limit, strict=True):
                part.append(rows.start + np.flatnonzero(line <= most))
        return [np.concatenate(part) for part in parts]

    @staticmethod
    def has_faiss() -> bool:
        """Whether FAISS is installed."""
        from importlib.util import find_spec

        return find_spec("faiss") is not None

    def _faiss_index(self) -> Any:
        """The moved points in a flat FAISS index."""
        from featprobe.retrieval.indexing import faiss_module

        index = faiss_module().IndexFlatL2(self.base.width)
        for rows in _slices(len(self.base.rows), BLOCK):
            index.add(self._moved(self.base, rows).astype(np.float32))
        return index


def _narrowed(product: Singles, worst: Singles, count: int) -> tuple[Singles, IntArray]:
    """(values, columns) [b, c] of what is smaller than the row's `worst` [b], the `count` smallest of it at least."""
    if product.shape[1] <= count:
        return product, np.broadcast_to(np.arange(product.shape[1]), product.shape)
    if np.isinf(worst).any():
        return _kept(product, np.broadcast_to(np.arange(product.shape[1]), product.shape), count)
    row, column = np.nonzero(product < worst[:, None])
    sizes = np.bincount(row, minlength=len(product))
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(row)) - starts[row]
    values = np.full((len(product), sizes.max(initial=0)), np.inf, dtype=np.float32)
    at = np.full(values.shape, -1, dtype=np.int64)
    values[row, place], at[row, place] = product[row, column], column
    return values, at


def _kept(values: Singles, rows: AnyArray, count: int) -> tuple[Singles, IntArray]:
    """The `count` smallest of each line; -1 where the value is infinite."""
    if values.shape[1] > count:
        chosen = np.argpartition(values, count - 1, axis=1)[:, :count]
        values, rows = np.take_along_axis(values, chosen, axis=1), np.take_along_axis(rows, chosen, axis=1)
    return values, np.where(np.isinf(values), -1, rows)


def _slices(total: int, step: int) -> Iterator[slice]:
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))
