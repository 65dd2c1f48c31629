"""The data as the solver sees them, and how much they bend the loss: what L-BFGS starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from scipy.linalg import LinAlgError, cholesky, eigh

from featprobe.probes.solvers.logistic_losses import Floats
from featprobe.records import FloatArray, IntArray

EIGENVECTORS: Final = 1024
"""Directions at most in which the curvature is told apart."""

BLOCK: Final = 1024
"""Rows that are centred and scaled at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Curvature:
    """The rows' (weighted) covariance: eigenvectors [D, r], eigenvalues [r], `rest` for all directions beyond."""

    vectors: Floats
    values: FloatArray
    rest: float


@dataclass(slots=True, eq=False)
class Blocks:
    """The Hessian's diagonal blocks at one C and one place: of each column of the logits C * X' diag(bends) X + 1.

    Rows bend the classes differently, which the product of `Curvature` and the classes' mean can't hold; where it is
    far off (columns / FACTOR_COST iterations are not enough), the blocks are the better start: the inverse Hessian
    is taken for P B^-1 P, P the projection on what softmax feels. `factors`: Cholesky's, [D + 1, D + 1] with the
    intercept last, one per column; in double precision where the descent is.
    """

    C: float
    factors: list[Floats]


@dataclass(slots=True, eq=False)
class Shelf:
    """Where the walks that go together leave the blocks that one of them had factored: folds bend nearly alike.

    By the width of the logits: a part that lacks a class has fewer columns than the others.
    """

    blocks: dict[int, Blocks] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Rows:
    """The data of all regressions: float64 [n, D] as given, and float32, centred and scaled, for the descent."""

    X: FloatArray
    centre: FloatArray
    scale: FloatArray
    single: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.single = np.empty(self.X.shape, dtype=np.float32)
        for start in range(0, len(self.X), BLOCK):
            part = slice(start, start + BLOCK)
            self.single[part] = (self.X[part] - self.centre) / self.scale

    def logits(self, w: FloatArray) -> FloatArray:
        """float64 [k, n] of weights [k, D] of the centred, scaled columns."""
        own = w / self.scale
        found: FloatArray = own @ self.X.T
        found -= (own @ self.centre)[:, None]
        return found

    def slopes(self, residuals: FloatArray) -> FloatArray:
        """float64 [k, D]: residuals [k, n] times the centred, scaled rows."""
        found: FloatArray = residuals @ self.X
        found -= residuals.sum(axis=1)[:, None] * self.centre
        found /= self.scale
        return found

    def curvature(self, weights: Floats | None = None) -> Curvature:
        """Eigenvectors and eigenvalues of the rows' covariance, each row with its weight [n], in their precision."""
        n, D = self.X.shape
        share = np.ones(n, dtype=np.float32) if weights is None else weights
        root = np.sqrt(share / max(float(share.sum()), 1e-30))[:, None]
        if n < D:
            rows = self._block(slice(None), root)
            values, left = eigh(rows @ rows.T, check_finite=False)
            kept = values > 1e-6 * max(values[-1], 1e-30)
            vectors, values = (rows.T @ left[:, kept]) / np.sqrt(values[kept]), values[kept]
        else:
            gram = np.zeros((D, D), dtype=root.dtype)
            for start in range(0, n, BLOCK):
                part = self._block(slice(start, start + BLOCK), root)
                gram += part.T @ part
            values, vectors = eigh(gram, check_finite=False)
        values, vectors = np.clip(values[::-1], 0, None).astype(np.float64), vectors[:, ::-1]
        rest = float(values[EIGENVECTORS:].mean()) if len(values) > EIGENVECTORS else 0.0
        return Curvature(np.ascontiguousarray(vectors[:, :EIGENVECTORS]), values[:EIGENVECTORS], rest)

    def factors(self, weights: Floats, C: float) -> Blocks:
        """Cholesky's factors of C * X' diag(row of `weights` [k, n]) X + 1, the intercept's column of ones last."""
        n, D = self.X.shape
        grams = np.zeros((len(weights), D + 1, D + 1), dtype=weights.dtype)
        roots = np.sqrt(weights)
        # A row that bends a millionth of what the others do is left out: most are, where the data are separable.
        felt = weights > 1e-6 * weights.max(axis=1, keepdims=True)
        some = np.flatnonzero(felt.any(axis=0))
        ones = np.ones((n, 1), dtype=weights.dtype)
        for start in range(0, len(some), BLOCK):
            part = some[start : start + BLOCK]
            rows = np.hstack([self._block(part, ones), ones[part]])
            for place, (root, own) in enumerate(zip(roots, felt, strict=True)):
                bent = rows[own[part]] * root[part][own[part], None]
                grams[place] += bent.T @ bent
        grams *= C
        for gram in grams:
            top = float(np.diag(gram).max())
            gram[np.diag_indices(D)] += 1
            gram[np.diag_indices(D + 1)] += 4 * np.finfo(weights.dtype).eps * top
        return Blocks(C, [_cholesky(gram) for gram in grams])

    def _block(self, part: slice | IntArray, root: Floats) -> Floats:
        """Rows, centred and scaled, times `root` [n, 1], in its precision."""
        if root.dtype == np.float32:
            return self.single[part] * root[part]
        return (self.X[part] - self.centre) / self.scale * root[part]


def _cholesky(gram: Floats) -> Floats:
    """The lower factor, of a matrix that is lifted where rounding left it indefinite."""
    for lift in (0.0, 1e-6, 1e-3):
        try:
            gram[np.diag_indices(len(gram))] += lift * float(np.diag(gram).max())
            return np.asarray(cholesky(gram, lower=True, check_finite=False))
        except LinAlgError:
            continue
    return np.diag(np.sqrt(np.diag(gram)))
