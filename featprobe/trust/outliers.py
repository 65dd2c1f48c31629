"""Images of another kind than those learnt from: how strange an embedding is, and how well that tells them apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.special import logsumexp
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.neighbors import NearestNeighbors

from featprobe.errors import ProbeError
from featprobe.records import FloatArray, IntArray

ACCEPTED: Final = 0.95
"""Share of the known rows that is accepted where FPR95 is read off."""


@dataclass(frozen=True, slots=True)
class Shrinkage:
    """A covariance S becomes (1 - `share`) S + `ridge` I: embeddings have more columns than there are patients, and the
    plain one (0, 0) has then no inverse.
    """  # noqa: D205 - the rule does not fit a first line

    share: float
    ridge: float

    @classmethod
    def of(cls, X: FloatArray, y: IntArray) -> Shrinkage:
        """Ledoit and Wolf's (JMVA 88, 2004) of the rows X [N, D] within their classes y [N]."""
        inside = _parted(X, y)[1]
        share = float(ledoit_wolf_shrinkage(inside, assume_centered=True))
        return cls(share, share * float(np.square(inside).sum()) / inside.size)


@dataclass(frozen=True, slots=True, eq=False)
class Gaussians:
    """One normal distribution for each class around its own mean, all of one covariance.

    `centre` [D], `factor` [D, D] (lower triangle, Cholesky), `means` [K, D] of the classes behind both.
    """

    centre: FloatArray
    factor: FloatArray
    means: FloatArray

    @classmethod
    def of(cls, X: FloatArray, y: IntArray, shrinkage: Shrinkage) -> Gaussians:
        """Fitted to X float64 [N, D] of classes y int [N] (Lee et al., NeurIPS 2018, section 2.1).

        Raises ProbeError where the covariance within classes has no inverse.
        """
        means, inside = _parted(X, y)
        covariance = (1 - shrinkage.share) * (inside.T @ inside / len(inside))
        covariance[np.diag_indices_from(covariance)] += shrinkage.ridge
        try:
            factor = cholesky(covariance, lower=True)
        except np.linalg.LinAlgError:
            raise ProbeError(
                f"no distance can be measured by how {len(X)} embeddings vary within their {len(means)} classes",
                f"their covariance, of {X.shape[1]} columns, has no inverse",
                "give more images of each class, or type --detector knn",
            ) from None
        centre = means.mean(axis=0)
        return cls(centre, factor, solve_triangular(factor, (means - centre).T, lower=True).T)

    def distances(self, X: FloatArray) -> FloatArray:
        """Squared Mahalanobis distance of X [M, D] to the mean of each class, [M, K]."""
        Z = solve_triangular(self.factor, (X - self.centre).T, lower=True).T
        squares = np.square(Z).sum(axis=1)[:, None] + np.square(self.means).sum(axis=1)
        return np.asarray(np.maximum(squares - 2 * Z @ self.means.T, 0))


def _parted(X: FloatArray, y: IntArray) -> tuple[FloatArray, FloatArray]:
    """(mean of each class [K, D], rows less the mean of their class [N, D])."""
    codes = np.unique(y, return_inverse=True)[1].reshape(-1)
    means = np.stack([X[codes == k].mean(axis=0) for k in range(int(codes.max()) + 1)])
    return means, X - means[codes]


def mahalanobis(
    X: FloatArray, y: IntArray, asked: FloatArray, *, shrinkage: Shrinkage | None = None
) -> FloatArray:
    """Squared distance of `asked` [M, D] to the nearest class of X [N, D], y [N]: [M] (Lee et al., NeurIPS 2018).

    `shrinkage`: None for that of Ledoit and Wolf on the rows within their classes. ProbeError as `Gaussians.of`.
    """
    own = shrinkage or Shrinkage.of(X, y)
    return np.asarray(Gaussians.of(X, y, own).distances(asked).min(axis=1))


def relative_mahalanobis(
    X: FloatArray, y: IntArray, asked: FloatArray, *, shrinkage: Shrinkage | None = None
) -> FloatArray:
    """`mahalanobis` less the squared distance under one normal distribution of all rows, [M] (Ren et al. 2021, arXiv
    2106.09022): what is unusual for every image of the kind counts less.

    Both covariances are shrunk alike: in directions in which training rows do not vary, only what both share is left.
    """  # noqa: D205 - the source does not fit a first line
    own = shrinkage or Shrinkage.of(X, y)
    one = Gaussians.of(X, np.zeros(len(X), dtype=np.int64), own)
    return mahalanobis(X, y, asked, shrinkage=own) - one.distances(asked)[:, 0]


def neighbour_distance(X: FloatArray, asked: FloatArray, k: int) -> FloatArray:
    """Distance of `asked` [M, D] to its k-th nearest row of X [N, D], all at unit length, [M] (Sun et al., ICML 2022).

    Of fewer than `k` rows the farthest.
    """
    search = NearestNeighbors(n_neighbors=min(k, len(X)), algorithm="brute").fit(_unit(X))
    return np.asarray(search.kneighbors(_unit(asked))[0][:, -1], dtype=np.float64)


def _unit(X: FloatArray) -> FloatArray:
    length = np.sqrt(np.square(X).sum(axis=1, keepdims=True))
    return np.asarray(X / np.where(length > 0, length, 1))


def doubt(probability: FloatArray) -> FloatArray:
    """Minus the largest probability of [M, K], [M] (Hendrycks and Gimpel, ICLR 2017)."""
    return np.asarray(-probability.max(axis=1))


def energy(logits: FloatArray) -> FloatArray:
    """Minus the logarithm of the summed exponentials of logits [M, K], [M] (Liu et al., NeurIPS 2020, temperature 1)."""
    return np.asarray(-logsumexp(logits, axis=1))


def accepted_strangers(
    known: FloatArray, strange: FloatArray, known_weights: FloatArray, strange_weights: FloatArray
) -> FloatArray:
    """FPR95: share of strange rows that is no stranger than the threshold that accepts 95 % of the known, [B].

    `known` [N], `strange` [M]: scores, higher is stranger; weights [B, N], [B, M]. The threshold is the smallest
    score up to which at least ACCEPTED of the known weigh.
    """
    order = np.argsort(known, kind="stable")
    mass = np.cumsum(np.take(known_weights, order, axis=1), axis=1)
    wanted = ACCEPTED * mass[:, -1:] - 1e-9
    limit = known[order][np.minimum((mass < wanted).sum(axis=1), len(known) - 1)]
    ranks = np.argsort(strange, kind="stable")
    total = np.zeros((len(strange_weights), len(strange) + 1))
    np.cumsum(np.take(strange_weights, ranks, axis=1), axis=1, out=total[:, 1:])
    place = np.searchsorted(strange[ranks], limit, side="right")
    whole = total[:, -1]
    taken = total[np.arange(len(total)), place]
    return np.asarray(np.divide(taken, whole, out=np.full(len(total), np.nan), where=whole > 0))
