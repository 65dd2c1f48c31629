"""What is done to embeddings before a probe sees them, learnt on the rows that it is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from featprobe.errors import ConfigError, nearest
from featprobe.records import FloatArray

SCALINGS: Final = ("standard", "none", "l2", "centre+l2")


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """(x - centre) / scale, then divided by its Euclidean norm where `unit`; `centre` and `scale` are [D]."""

    centre: FloatArray
    scale: FloatArray
    unit: bool = False

    @classmethod
    def of(cls, X: FloatArray, kind: str) -> Scaling:
        """Learnt on X [N, D]. "standard" is scikit-learn's StandardScaler: a constant column keeps its scale.

        "l2" gives rows of length 1 (a row of zeros stays), "centre+l2" subtracts the rows' mean before. Raises
        ConfigError for an unknown kind.
        """
        if kind not in SCALINGS:
            hint = nearest(kind, SCALINGS) or f"known: {', '.join(SCALINGS)}"
            raise ConfigError(f"unknown scaling {kind!r}", hint)
        columns = X.shape[1]
        centre, scale = np.zeros(columns), np.ones(columns)
        if kind == "standard":
            centre, scale = X.mean(axis=0), deviation(X)
        elif kind == "centre+l2":
            centre = X.mean(axis=0)
        return cls(centre, scale, kind.endswith("l2"))

    def __call__(self, X: FloatArray) -> FloatArray:
        """The scaled rows, [M, D]."""
        rows = (X - self.centre) / self.scale
        if self.unit:
            norm = np.sqrt(np.einsum("md,md->m", rows, rows))[:, None]
            rows /= np.where(norm > 0, norm, 1)
        return rows


def deviation(X: FloatArray) -> FloatArray:
    """Each column's standard deviation [D], 1 where it is rounding only (scikit-learn's bound for constant columns)."""
    mean, variance = X.mean(axis=0), X.var(axis=0)
    n, eps = len(X), np.finfo(np.float64).eps
    constant = variance <= n * eps * variance + (n * mean * eps) ** 2
    return np.where(constant | (variance == 0), 1.0, np.sqrt(variance))
