"""The algebra that both losses share: products with a Gram matrix, Cholesky systems, the search along a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg import lapack

from featprobe.records import FloatArray, IntArray

GRAM_ROWS: Final = 2000
"""Rows up to which the Gram matrix of two classes is held whatever D is (32 MB)."""

LOOSE: Final = 1e-3
"""Gap of the values of C that are walked before the first one asked for."""

SEARCHES: Final = 40
RIDGE: Final = 1e-13
"""Least share of the largest diagonal entry that is added to a system without a penalty of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """Products with Q = diag(sign) rows rows' diag(sign), [N, N]: held where it is small, else by two passes."""

    rows: FloatArray
    sign: FloatArray
    gram: FloatArray | None
    scale: float

    @classmethod
    def of(cls, rows: FloatArray, sign: FloatArray) -> Kernel:
        """Holds the matrix up to GRAM_ROWS rows, or 2 D. `scale`: the rows' mean square length, 1 where it is 0."""
        gram = None
        if len(rows) <= max(GRAM_ROWS, 2 * rows.shape[1]):
            gram = rows @ rows.T
            gram *= sign
            gram *= sign[:, None]
        squares = np.einsum("nd,nd->n", rows, rows)
        return cls(rows, sign, gram, float(squares.mean()) or 1.0)

    def times(self, v: FloatArray) -> FloatArray:
        """Q v [N]; most of v is often zero."""
        some = v.nonzero()[0]
        if not len(some):
            return np.zeros(len(v))
        few = 2 * len(some) < len(v)
        if self.gram is not None:
            return np.asarray(v[some] @ self.gram[some] if few else v @ self.gram)
        signed = v * self.sign
        coef = signed[some] @ self.rows[some] if few else signed @ self.rows
        return np.asarray(self.sign * (self.rows @ coef))

    def part(self, some: IntArray) -> FloatArray:
        """The rows `some` of the Gram matrix [S, N], or of the signed features [S, D]."""
        if self.gram is not None:
            return np.asarray(self.gram.take(some, axis=0))
        return np.asarray(self.rows.take(some, axis=0) * self.sign[some, None])

    def product(self, part: FloatArray, v: FloatArray) -> FloatArray:
        """(Q v)[some] for part = part(some)."""
        return np.asarray(part @ (v if self.gram is not None else (v * self.sign) @ self.rows))

    def solve(self, part: FloatArray, some: IntArray, ridge: float, right: FloatArray) -> FloatArray:
        """(Q[some, some] + ridge)^-1 right, [S, R], for part = part(some).

        In the features' space where that is smaller (Woodbury's identity). A ridge under RIDGE is raised to it.
        """
        ridge = max(ridge, RIDGE * self.scale)
        if self.gram is None and len(some) > self.rows.shape[1]:
            inner = part.T @ part
            inner.flat[:: len(inner) + 1] += ridge
            return np.asarray((right - part @ cholesky(inner, part.T @ right)) / ridge)
        block = part @ part.T if self.gram is None else part.take(some, axis=1)
        block.flat[:: len(block) + 1] += ridge
        return cholesky(block, right)


def clipped(values: FloatArray, top: FloatArray) -> FloatArray:
    """`values` [N] between 0 and `top`; numpy's own clip spends more on its arguments than on a short array."""
    result = np.maximum(values, 0.0)
    return np.minimum(result, top, out=result)


def cholesky(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """matrix^-1 right for a positive definite matrix; one that rounding made indefinite gets a larger diagonal."""
    diagonal = matrix.diagonal().copy()
    share = 1e-14
    while share < 1:
        factor, failed = lapack.dpotrf(matrix.T, lower=1, clean=0)  # symmetric: the transpose spares a copy
        if not failed:
            solution, _ = lapack.dpotrs(factor, right, lower=1)
            return np.asarray(solution)
        matrix.flat[:: len(matrix) + 1] = diagonal * (1 + share)
        share *= 10
    return np.zeros_like(right)


def line_search(
    free: FloatArray, speed: FloatArray, turned: FloatArray, cost: FloatArray, first: float, second: float
) -> float:
    """The step t that minimises along the line: where first + t second + clip(free + t speed, 0, cost)'turned is 0.

    That slope grows with t and is piecewise linear; a step of 1 that leaves every row where it was is exact.
    """

    def slope(t: float) -> float:
        return first + t * second + float(clipped(free + t * speed, cost) @ turned)

    low, left = 0.0, slope(0.0)
    high, right = 1.0, slope(1.0)
    if left >= 0 or abs(right) <= 1e-6 * abs(left):
        return 1.0
    enough = 1e-3 * abs(left)
    for _ in range(SEARCHES):
        if right >= 0:
            break
        low, left, high = high, right, 2 * high
        right = slope(high)
    if (
        right < 0
    ):  # falling as far as was looked; where the slope does not grow at all, rounding is all that is left
        return high if right > left else 1.0
    t = high
    for turn in range(SEARCHES):
        t = low - left * (high - low) / (right - left) if turn % 3 < 2 else 0.5 * (low + high)
        here = slope(t)
        if abs(here) <= enough or not low < t < high:
            break
        if here < 0:
            low, left = t, here
        else:
            high, right = t, here
    return t


def powers(C: float, first: float) -> list[float]:
    """The powers of ten of `first` up to C / 2, to reach a C from where the problem is easy.

    At first = 1 / (sum of weights x mean square length) every row lies inside the margin and w is a plain sum of them.
    """
    count = int(np.log10(max(C / first, 1.0))) + 1
    return [value for value in (first * 10.0**power for power in range(count)) if value < 0.5 * C]
