"""The nearest rows, exactly: blocks of single precision find candidates, double precision ranks them, a bound proves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from featprobe.records import AnyArray, FloatArray, IntArray
from featprobe.retrieval.screening import BLOCK, Candidates, Screen
from featprobe.retrieval.space import Space, distances

FAISS_ROWS: Final = 1_000_000
"""Index rows beyond which FAISS looks for the candidates, where it is installed."""

_PAIRS: Final = 2_000_000
"""Coordinates of pairs that are held in float64 at a time: 16 MB."""

_CELLS: Final = 8_000_000
"""Index rows times queries that are looked at again at a time, where the bound did not prove enough."""

_MARGIN: Final = 1e-9
"""Relative width beyond float64's rounding in which a squared distance counts as undecided."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The K nearest index rows of each of Q queries, nearest first, equal distances in the order of the index.

    `neighbour`: int64 [Q, K], rows of the index, -1 where there is none. `distance`: float64 [Q, K], NaN there.
    `own_group`: int64 [Q], index rows of the query's own group. `again`: queries whose candidates did not
    suffice, so that the whole index was looked at in double precision.
    """

    neighbour: IntArray
    distance: FloatArray
    own_group: IntArray
    again: int


def rank(
    index: AnyArray,
    queries: AnyArray,
    *,
    distance: str,
    k: int,
    index_group: AnyArray | None = None,
    query_group: AnyArray | None = None,
    exclude: bool = True,
    block: int = BLOCK,
    faiss: bool | None = None,
) -> Ranking:
    """The `k` rows of `index` [N, D] nearest to each row of `queries` [Q, D] by "cosine" or "euclidean" distance.

    With the groups of both ([N] and [Q], any sortable values) and `exclude`, rows of a query's own group are left
    out; then one table may be both. Products of float32 blocks (`block` rows of each side; 70 MB of memory
    beyond the inputs and the candidates) give candidates, whose distances are then computed in float64 by
    differences. By the bound on the products' rounding error (gamma_n of Higham, Accuracy and Stability of Numerical
    Algorithms, 2002, section 3.1) no other row can be as near; where the bound does not show that (many near ties)
    every row within it is computed. So neither `block` nor the processor's products change the answer. `faiss`:
    whether FAISS finds the candidates (default: beyond FAISS_ROWS, where it is installed and no group stands on
    both sides); the answer is the same. Raises ResultsError for values that are not finite, ConfigError for another
    distance.
    """
    base = Space.of(index, distance, queries=False, what="index")
    asked = Space.of(queries, distance, queries=True, what="query")
    own = _Groups.of(index_group, query_group, len(index), len(queries), exclude=exclude)
    screen = Screen(base, asked, own.index, own.query, block=block)
    by_faiss = faiss if faiss is not None else len(index) > FAISS_ROWS and screen.has_faiss()
    neighbour = np.full((len(queries), k), -1, dtype=np.int64)
    length = np.full((len(queries), k), np.nan)
    again = 0
    same: IntArray | None = None
    for found in screen.candidates(k, by_faiss=by_faiss and not own.query.any()):
        rows, values, proven = _refined(base, asked, found, k)
        at = slice(found.start, found.start + len(rows))
        neighbour[at], length[at] = rows, values
        left = found.start + np.flatnonzero(~proven)
        again += len(left)
        if len(left):
            same = _same_rows(base.rows) if same is None else same
            for part in np.array_split(left, -(-len(left) * len(index) // _CELLS)):
                _look_again(base, asked, screen, part, same, neighbour, length)
    length[neighbour < 0] = np.nan
    return Ranking(neighbour, length, own.count, again)


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """Whose rows a query may not find: codes > 0 of groups on both sides, 0 for all others; `count` [Q] regardless."""

    index: IntArray
    query: IntArray
    count: IntArray

    @classmethod
    def of(cls, index: AnyArray | None, query: AnyArray | None, n: int, q: int, *, exclude: bool) -> _Groups:
        none = cls(np.zeros(n, dtype=np.int64), np.zeros(q, dtype=np.int64), np.zeros(q, dtype=np.int64))
        if index is None or query is None:
            return none
        codes = np.unique(np.concatenate([index, query]), return_inverse=True)[1].reshape(-1)
        left, right = codes[:n], codes[n:]
        held = np.bincount(left, minlength=codes.max(initial=-1) + 1)
        count = held[right].astype(np.int64)
        if not exclude or not count.any():
            return cls(none.index, none.query, count)
        shared = np.isin(left, right)
        return cls(np.where(shared, left + 1, 0), np.where(count > 0, right + 1, 0), count)


def _refined(base: Space, asked: Space, found: Candidates, k: int) -> tuple[IntArray, FloatArray, AnyArray]:
    """(rows [b, k], distances [b, k], bool [b] whether no other row can be among them) of a block of queries."""
    rows = np.sort(np.where(found.row < 0, np.iinfo(np.int64).max, found.row), axis=1)
    there = rows < np.iinfo(np.int64).max
    values = np.full(rows.shape, np.inf)
    step = max(1, _PAIRS // max(1, rows.shape[1] * base.width))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        pairs = np.where(there[part], rows[part], 0)
        query = np.arange(found.start + start, found.start + start + len(pairs))
        values[part] = distances(base, pairs, asked, query[:, None])
    values[~there] = np.inf
    # Rows ascend, so the stable order puts equal distances in the order of the index.
    order = np.argsort(values, axis=1, kind="stable")[:, :k]
    last = base.squared(np.take_along_axis(values, order, axis=1)[:, -1])
    proven = np.isinf(found.beyond) | (last * (1 + _MARGIN) < found.beyond)
    kept = np.take_along_axis(np.where(there, rows, -1), order, axis=1)
    return _padded(kept, k, -1), _padded(np.take_along_axis(values, order, axis=1), k, np.nan), proven


def _padded(values: AnyArray, k: int, fill: float) -> AnyArray:
    missing = k - values.shape[1]
    return np.pad(values, ((0, 0), (0, missing)), constant_values=fill) if missing > 0 else values


def _look_again(
    base: Space,
    asked: Space,
    screen: Screen,
    queries: IntArray,
    same: IntArray,
    neighbour: IntArray,
    length: FloatArray,
) -> None:
    """Rank every index row that may be as near as the k-th candidate, for the rows `queries`, in place."""
    k = neighbour.shape[1]
    worst = base.squared(length[queries, -1])
    for query, rows in zip(queries, screen.within(queries, worst * (1 + _MARGIN)), strict=True):
        # Copies of one row are computed once.
        _, first, back = np.unique(same[rows], return_index=True, return_inverse=True)
        step = max(1, _PAIRS // base.width)
        parts = [
            distances(base, rows[first[start : start + step]], asked, np.array([query]))
            for start in range(0, len(first), step)
        ]
        values = np.concatenate(parts)[back.reshape(-1)]
        near = np.flatnonzero(values <= np.partition(values, k - 1)[k - 1])
        order = near[np.argsort(values[near], kind="stable")][:k]
        neighbour[query], length[query] = rows[order], values[order]


def _same_rows(rows: AnyArray) -> IntArray:
    """A number for each row, int64 [N], equal for rows of equal bytes."""
    import hashlib

    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)
    return np.unique(np.frombuffer(digests, dtype="V16"), return_inverse=True)[1].reshape(-1).astype(np.int64)
