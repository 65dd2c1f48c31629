"""Near copies: one image re-encoded, resized, mirrored or brightened, found by hash and confirmed on thumbnails.

Only `phash` and `thumbnail` are read, which lie in the cache, so no image is decoded. A pair is a near copy where
its thumbnails correlate by 1 - NEAR_DISTANCE or more after local normalisation, over the pixels that are not clipped
in either. Images that are alike without being copies, such as neighbouring slices of one volume, come close to that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from featprobe.records import FloatArray, IntArray, Samples, TextArray
from featprobe.splitting import thumbnails
from featprobe.splitting.thumbnails import Signs, Thumbnails

Mask = npt.NDArray[np.bool_]

NEAR_DISTANCE: Final = 0.08
"""Largest distance of a near copy. Measured on 2,226 public radiographs, MR slices, fundus and skin photographs (see
`tests/reference/test_near_reference.py`): 99 % of planted copies lie below 0.03, chests of two patients above 0.2,
two skin lesions above 0.38, two eyes above 0.09; neighbouring slices of one MR volume begin at 0.07."""

PHASH_BITS: Final = 12
DETAIL_BITS: Final = 20
"""Candidates differ in at most this many of the 64 bits of the perceptual hash and of the 128 bits of detail. 99 % of
the same planted copies differ in at most 4 and 8; a fifth of the MR and fundus images darkened by 51 levels, which turns much of
them black, differ in more and are missed."""

FULLY_PAIRED: Final = 8
"""An image with this many confirmed copies before it is not compared with those after it: they meet the others."""

_STRIP: Final = 256
_CHUNK: Final = 16_384
_TILE: Final = (16, 4096)
_CONFIRMED_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True, eq=False)
class NearCopies:
    """P pairs of rows: `left`, `right` int64 [P], `distance` float64 [P] in [0, NEAR_DISTANCE].

    Sorted by distance. Of a pair, `left` has the smaller id.
    """

    left: IntArray
    right: IntArray
    distance: FloatArray


def near_copies(samples: Samples) -> NearCopies:
    """Pairs of rows of different units (see `Samples.units`, here without `twin`) that are near copies.

    Blank images (`phash` "") and those whose thumbnail shows next to nothing (`thumbnails.has_content`) take no
    part; without thumbnails nothing is found. In a crowd of more than FULLY_PAIRED copies, and among images of one
    thumbnail, not every pair is listed, but each image is linked to others, so that the links join all of them. The
    result does not depend on the order of the rows. All hashes are compared: N^2 in time, N in memory.
    """
    rows = _taking_part(samples)
    if len(rows) < 2:
        return _sorted(samples, np.empty((0, 2), dtype=np.int64), np.empty(0))
    unit = samples.replace(twin=np.full(len(samples), "", dtype=np.str_)).units()
    whole = np.ascontiguousarray(samples.thumbnail[rows]).view(f"V{thumbnails.PIXELS}").ravel()
    _, first, of_row = np.unique(whole, return_index=True, return_inverse=True)
    # `rows` are sorted by id, so each thumbnail is stood for by its first id.
    alike = np.column_stack([rows[first[of_row]], rows])
    alike = alike[unit[alike[:, 0]] != unit[alike[:, 1]]]
    distinct = rows[np.sort(first)]
    pairs, distance = _Search(samples.thumbnail[distinct], unit[distinct]).run()
    return _sorted(
        samples, np.concatenate([alike, distinct[pairs]]), np.concatenate([np.zeros(len(alike)), distance])
    )


def with_twins(samples: Samples) -> Samples:
    """A copy whose `twin` names, for each image with near copies, the first id among all that are linked to it.

    Links are confirmed pairs alone, but they are followed: of A-B and B-C all three are one unit even where A
    and C are too unlike to be a pair, for a split that parted B from C would leak.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = near_copies(samples)
    size = len(samples)
    links = coo_array(
        (np.ones(len(pairs.left), dtype=np.int8), (pairs.left, pairs.right)), shape=(size, size)
    )
    cluster = connected_components(links, directed=False)[1]
    order = np.argsort(samples.id, kind="stable")
    codes, first = np.unique(cluster[order], return_index=True)
    names = samples.id[order][first][np.searchsorted(codes, cluster)]
    several = (np.bincount(cluster, minlength=1) > 1)[cluster]
    twin: TextArray = np.where(several, names, "")
    return samples.replace(twin=twin)


def distances(samples: Samples, left: IntArray, right: IntArray) -> FloatArray:
    """Distance of each pair of rows, float64 [P] in [0, 2]: 1 - correlation, of the nearer of direct and mirrored."""
    result = np.ones(len(left))

    def measure(start: int) -> None:
        part = slice(start, start + _CONFIRMED_AT_ONCE)
        a, b = samples.thumbnail[left[part]], samples.thumbnail[right[part]]
        straight = thumbnails.correlation(a, b)
        result[part] = 1 - np.maximum(straight, thumbnails.correlation(a, thumbnails.mirrored(b)))

    with ThreadPoolExecutor() as pool:
        list(pool.map(measure, range(0, len(left), _CONFIRMED_AT_ONCE)))
    return np.clip(result, 0, 2)


def _taking_part(samples: Samples) -> IntArray:
    """Rows with enough content to be a copy of something, in the order of their ids."""
    if samples.thumbnail.shape[1] != thumbnails.PIXELS:
        return np.empty(0, dtype=np.int64)
    order = np.argsort(samples.id, kind="stable")
    order = order[samples.phash[order] != ""]
    enough = [thumbnails.has_content(samples.thumbnail[part]) for part in _parts(order, _CHUNK)]
    return np.asarray(order[np.concatenate(enough)] if enough else order)


def _sorted(samples: Samples, pairs: IntArray, distance: FloatArray) -> NearCopies:
    """The pairs, nearest first; the smaller id stands left."""
    swapped = samples.id[pairs[:, 0]] > samples.id[pairs[:, 1]]
    pairs = np.where(swapped[:, None], pairs[:, ::-1], pairs)
    order = np.lexsort((samples.id[pairs[:, 1]], samples.id[pairs[:, 0]], distance))
    return NearCopies(pairs[order, 0], pairs[order, 1], distance[order])


class _Search:
    """All confirmed pairs (earlier, later) among M distinct thumbnails with content.

    A strip of rows meets all earlier rows that are still open, then itself. A row with FULLY_PAIRED copies before it
    is closed, so that a crowd of copies never meets itself in its thousands.
    """

    def __init__(self, thumbnail: Thumbnails, unit: IntArray) -> None:
        self._thumbnail, self._unit = thumbnail, unit
        self._signs = Signs.of(thumbnail)
        self._partners = np.zeros(len(unit), dtype=np.int64)
        self._pairs = [np.empty((0, 2), dtype=np.int64)]
        self._distance = [np.empty(0)]

    def run(self) -> tuple[IntArray, FloatArray]:
        """Pairs int64 [P, 2] and their distances float64 [P]."""
        earlier = np.empty(0, dtype=np.int64)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for strip in _parts(np.arange(len(self._unit)), _STRIP):
                self._meet(pool, strip, earlier)
                rest = strip[self._partners[strip] < FULLY_PAIRED]
                self._meet(pool, rest, rest)
                earlier = np.concatenate([earlier, rest[self._partners[rest] < FULLY_PAIRED]])
        return np.concatenate(self._pairs), np.concatenate(self._distance)

    def _meet(self, pool: ThreadPoolExecutor, rows: IntArray, others: IntArray) -> None:
        """Adds the confirmed pairs of `rows` with those of `others` that come before them."""
        for pairs, mirrored in pool.map(lambda part: self._candidates(rows, part), _parts(others, _CHUNK)):
            for start in range(0, len(pairs), 8 * _CONFIRMED_AT_ONCE):
                part = slice(start, start + 8 * _CONFIRMED_AT_ONCE)
                wanted = self._partners[pairs[part, 1]] < FULLY_PAIRED
                self._confirm(pool, pairs[part][wanted], mirrored[part][wanted])

    def _candidates(self, rows: IntArray, others: IntArray) -> tuple[IntArray, Mask]:
        """Pairs (other, row) of different units whose hashes are close, int64 [P, 2]; which are so mirrored."""
        signs, found = self._signs, []
        for low in range(0, len(others), _TILE[1]):
            theirs = others[low : low + _TILE[1]]
            for top in range(0, len(rows), _TILE[0]):
                mine = rows[top : top + _TILE[0]]
                close = np.bitwise_count(signs.phash[mine][:, None] ^ signs.phash[theirs]) <= PHASH_BITS
                turned = signs.phash[mine][:, None] ^ signs.phash_mirrored[theirs]
                close |= np.bitwise_count(turned) <= PHASH_BITS
                row, other = np.divmod(np.flatnonzero(close), len(theirs))
                found.append(np.column_stack([theirs[other], mine[row]]))
        pairs = np.concatenate(found)
        pairs = pairs[(pairs[:, 0] < pairs[:, 1]) & (self._unit[pairs[:, 0]] != self._unit[pairs[:, 1]])]
        differing = signs.detail[pairs[:, 0]] ^ signs.detail[pairs[:, 1]]
        straight = np.bitwise_count(differing).sum(axis=1)
        mirrored = np.bitwise_count(differing ^ thumbnails.ODD_BITS).sum(axis=1)
        kept = np.minimum(straight, mirrored) <= DETAIL_BITS
        return pairs[kept], (mirrored < straight)[kept]

    def _confirm(self, pool: ThreadPoolExecutor, pairs: IntArray, mirrored: Mask) -> None:
        tasks = range(0, len(pairs), _CONFIRMED_AT_ONCE)
        parts = pool.map(lambda start: self._measure(pairs, mirrored, start), tasks)
        distance = np.concatenate([np.empty(0), *parts])
        near = distance <= NEAR_DISTANCE
        self._pairs.append(pairs[near])
        self._distance.append(distance[near])
        np.add.at(self._partners, pairs[near, 1], 1)

    def _measure(self, pairs: IntArray, mirrored: Mask, start: int) -> FloatArray:
        part = slice(start, start + _CONFIRMED_AT_ONCE)
        a, b = self._thumbnail[pairs[part, 0]], self._thumbnail[pairs[part, 1]]
        b = np.where(mirrored[part][:, None], thumbnails.mirrored(b), b)
        return np.asarray(np.clip(1 - thumbnails.correlation(a, b), 0, 2))


def _parts(rows: IntArray, size: int) -> Iterator[IntArray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
