"""Whether embeddings are fit to be compared: neither collapsed nor broken, nor another backbone's under a new name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from featprobe.records import AnyArray, FloatArray

Embeddings = npt.NDArray[np.floating[Any]]

MOST_ROWS: Final = 4096
"""Rows that the effective rank is taken from; of larger tables so many are drawn, the same ones every time."""

SMALLEST_RANK: Final = 2.0
SMALLEST_SHARE: Final = 0.01
"""Embeddings are collapsed below this effective rank, or below this share of the largest one possible, min(N - 1, D).

Measured on chest radiographs, fundus and dermoscopic photographs and digits (60 to 1,797 images): EfficientNet-Lite0
with ImageNet weights has 0.34 to 0.63 of it; random weights of nine architectures (VGG, ResNet, DenseNet,
EfficientNet, ConvNeXt, ViT, Swin, DINOv2) 0.077 to 0.67, and never less than 14.8. One direction alone has a rank of
1, with 1 % of noise 2 to 5.3 (a share of 0.009 to 0.020), a spectrum that falls as 1/k^2 some 5 (0.009 to 0.049).
"""

FEWEST_POSSIBLE: Final = 10
"""With fewer rows or dimensions a low rank says nothing."""

PRECISION: Final[Mapping[str, float]] = {"float32": 1e-5, "float16": 1e-3}
"""Spread of the rows, relative to their size, at which what tells them apart drowns in rounding.

A forward pass in single precision is right to some 1e-6, float16 rounds by 2e-4. DINOv2 with its initial weights has a
spread of 6e-5: small, to be told in float32, lost in float16; every other network measured has more than 0.09.
"""

MOST_DEAD: Final = 0.5
"""Share of constant dimensions that is mentioned. ReLU leaves up to 0.14 so in a ResNet, 0.37 in a random VGG16."""

MOST_SUBNORMAL: Final = 0.05
"""Share of float16 values below its full precision that is mentioned; measured are 0.007 at most."""

_LARGEST_HALF: Final = 65504.0
_SMALLEST_HALF: Final = 2.0**-14
_SAME: Final = 1e-6
_SKETCHED: Final = 16
_SKETCH_SAME: Final = 1e-5
"""A row that is off by 1e-6 of its length moves a projection, in units of the row's mean size, by about so much."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with embeddings. `kind`: nonfinite, equal, collapsed, dead, saturated or underflow."""

    kind: str
    words: str


def effective_rank(X: Embeddings) -> float:
    """How many directions the rows of `X`, [N, D], spread over: from 1 to min(N - 1, D), 0 where all are equal.

    exp of the entropy of the singular values of the centred rows, these divided by their sum (Roy and Vetterli,
    The effective rank, EUSIPCO 2007). They come from the eigenvalues of the smaller Gram matrix; of more than
    MOST_ROWS rows so many are drawn by a fixed seed. Raises ValueError on values that are not finite.
    """
    rows = _some(X)
    if not np.isfinite(rows).all():
        raise ValueError("the effective rank of values that are not finite is not defined")
    size = np.abs(rows).max(initial=0.0)
    if len(rows) < 2 or not size or (rows == rows[0]).all():
        return 0.0
    centred = rows / size
    centred -= centred.mean(axis=0)
    gram = centred @ centred.T if len(rows) < rows.shape[1] else centred.T @ centred
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0.0, None))
    share = singular[singular > 0] / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def check(X: Embeddings, storage: str) -> tuple[Finding, ...]:
    """What is wrong with the embeddings `X`, [N, D], as the cache stores them ("float32" or "float16"), worst first.

    Each finding is a sentence without the backbone's name, which the caller puts before it.
    """
    facts = _survey(X, storage)
    found = []
    if facts.nonfinite:
        found.append(
            Finding("nonfinite", f"{_of(facts.nonfinite, len(X))} embeddings hold values that are not finite")
        )
    if facts.saturated:
        found.append(
            Finding(
                "saturated",
                f"{_of(facts.saturated, len(X))} embeddings hold ±65504, the largest number of float16: larger "
                "values were cut off; extract with --precision fp32 --storage float32",
            )
        )
    found += _collapse(X, facts, storage)
    if storage == "float16" and facts.subnormal > MOST_SUBNORMAL:
        found.append(
            Finding(
                "underflow",
                f"{facts.subnormal:.0%} of the values lie below 6e-5, where float16 loses digits; extract with "
                "--storage float32",
            )
        )
    return tuple(found)


def identical(X: Embeddings, Y: Embeddings) -> bool:
    """Whether two tables, [N, D] each, are the same: bit by bit, or every row to 1e-6 of its length."""
    if X.shape != Y.shape:
        return False
    if X.dtype == Y.dtype and _sha256(X) == _sha256(Y):
        return True
    for a, b in zip(_blocks(X), _blocks(Y), strict=True):
        apart, length = np.linalg.norm(a - b, axis=1), np.linalg.norm(a, axis=1)
        if not (apart <= _SAME * length).all():
            return False
    return True


def signature(X: Embeddings) -> dict[str, Any]:
    """What `alike` needs of a table, [N, D], in a few JSON values: two tables need not be in memory at once.

    `sha256` of the values; `sketch`: sums of two fixed random projections of the rows, each row of length 1, with 16
    sets of random signs, as float32 in hex: every number mixes all rows, so that none says anything of one of them.
    """
    rng = np.random.default_rng(0)
    columns = rng.choice([-1.0, 1.0], size=(X.shape[1], 2)) / np.sqrt(X.shape[1])
    sketch = np.zeros((_SKETCHED, 2))
    for block in _blocks(X):
        scale = np.sqrt((block**2).mean(axis=1, keepdims=True))
        with np.errstate(invalid="ignore", over="ignore"):  # infinite values make a sketch that is like none
            short = np.divide(block @ columns, scale, out=np.zeros((len(block), 2)), where=scale != 0)
            sketch += rng.choice([-1.0, 1.0], size=(_SKETCHED, len(block))) @ short
    sketch /= np.sqrt(max(len(X), 1))
    return {"shape": list(X.shape), "sha256": _sha256(X), "sketch": sketch.astype("<f4").tobytes().hex()}


def alike(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two signatures are of tables that `identical` would call the same."""
    if list(a["shape"]) != list(b["shape"]):
        return False
    if a["sha256"] == b["sha256"]:
        return True
    first, second = (np.frombuffer(bytes.fromhex(side["sketch"]), dtype="<f4") for side in (a, b))
    return bool(len(first)) and bool((np.abs(first - second) <= _SKETCH_SAME).all())


@dataclass(frozen=True, slots=True)
class _Facts:
    """Of a table: rows not finite and rows saturated, shares of dead dimensions and of subnormal values."""

    nonfinite: int
    saturated: int
    dead: float
    subnormal: float
    equal: bool


def _survey(X: Embeddings, storage: str) -> _Facts:
    nonfinite = saturated = small = nonzero = 0
    low, high = np.full(X.shape[1], np.inf), np.full(X.shape[1], -np.inf)
    for block in _blocks(X):
        finite = np.isfinite(block)
        nonfinite += int((~finite.all(axis=1)).sum())
        size = np.abs(block)
        saturated += int((size == _LARGEST_HALF).any(axis=1).sum())
        small += int(((size > 0) & (size < _SMALLEST_HALF)).sum())
        nonzero += int((size > 0).sum())
        low = np.minimum(low, np.where(finite, block, np.inf).min(axis=0, initial=np.inf))
        high = np.maximum(high, np.where(finite, block, -np.inf).max(axis=0, initial=-np.inf))
    rounding = 2 * float(np.finfo(storage).eps) * np.maximum(np.abs(low), np.abs(high))
    known = np.isfinite(low)
    dead = (high - low <= rounding)[known]
    return _Facts(
        nonfinite=nonfinite,
        saturated=saturated,
        dead=float(dead.mean()) if known.any() else 1.0,
        subnormal=small / max(nonzero, 1),
        equal=bool((low == high)[known].all()),
    )


def _collapse(X: Embeddings, facts: _Facts, storage: str) -> Iterator[Finding]:
    """At most one way in which the rows are too much alike."""
    rows = _some(X)
    rows = rows[np.isfinite(rows).all(axis=1)]
    possible = min(len(rows) - 1, X.shape[1])
    if possible < 1:
        return
    if facts.equal:
        yield Finding("equal", f"the embeddings of all {len(X)} images are the same")
        return
    spread, rank = _spread(rows), effective_rank(rows)
    if spread < PRECISION[storage]:
        yield Finding(
            "collapsed",
            f"the embeddings are collapsed: they differ from each other by {spread:.1g} of their size, no more than "
            f"rounding does ({storage})",
        )
    elif possible >= FEWEST_POSSIBLE and rank < max(SMALLEST_RANK, SMALLEST_SHARE * possible):
        yield Finding(
            "collapsed",
            f"the embeddings are collapsed: their effective rank is {rank:.1f}, where {possible} is possible "
            "(Roy and Vetterli, 2007)",
        )
    elif facts.dead > MOST_DEAD:
        yield Finding("dead", f"{facts.dead:.0%} of the {X.shape[1]} dimensions are the same for every image")


def _spread(rows: FloatArray) -> float:
    """Root mean square distance of the rows from their mean, relative to their root mean square length."""
    length = np.sqrt((rows**2).sum(axis=1).mean())
    return float(np.sqrt(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean()) / length)


def _some(X: Embeddings) -> FloatArray:
    """All rows or MOST_ROWS of them, float64."""
    if len(X) <= MOST_ROWS:
        return np.asarray(X, dtype=np.float64)
    chosen = np.random.default_rng(0).choice(len(X), MOST_ROWS, replace=False)
    return np.asarray(X[np.sort(chosen)], dtype=np.float64)


def _blocks(X: Embeddings) -> Iterator[FloatArray]:
    for start in range(0, len(X), MOST_ROWS):
        yield np.asarray(X[start : start + MOST_ROWS], dtype=np.float64)


def _sha256(X: AnyArray) -> str:
    values = np.ascontiguousarray(X)
    return hashlib.sha256(values.astype(values.dtype.newbyteorder("<"), copy=False).data).hexdigest()


def _of(count: int, total: int) -> str:
    return f"all {total}" if count == total else f"{count} of {total}"
