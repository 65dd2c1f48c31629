"""What methods share that look for a few components of all views: whitening, and how many are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from featprobe.errors import ProbeError
from featprobe.fusion.contract import Fit, Learned, Training, varying
from featprobe.records import FloatArray, IntArray

SIZES: Final = (4, 8, 16, 32, 64, 128, 256)
"""Numbers of components that are tried, as far as the rows allow."""


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """Principal components of one view with unit variance: (x - mean) @ axes, [D] and [D, R], largest variance first."""

    mean: FloatArray
    axes: FloatArray

    @classmethod
    def of(cls, X: FloatArray, most: int) -> Whitening:
        """The first components of X [N, D], `most` or as many as there are: R is 0 where X is constant."""
        from sklearn.decomposition import PCA

        mean, live = X.mean(axis=0), varying(X)
        n, width = len(X), int(live.sum())
        if not width:
            return cls(mean, np.zeros((X.shape[1], 0)))
        solver = "covariance_eigh" if n >= width else "full"
        # Centred first: "covariance_eigh" subtracts the means' products, which costs digits where means are large.
        model = PCA(min(most, n - 1, width), svd_solver=solver).fit((X - mean)[:, live])
        variance = model.explained_variance_
        # Variances, not standard deviations: below rounding of the largest there is nothing but noise to blow up.
        rank = int((variance > np.finfo(np.float64).eps * max(n, width) * variance[0]).sum())
        axes = np.zeros((X.shape[1], rank))
        axes[live] = model.components_[:rank].T / np.sqrt(variance[:rank])
        return cls(mean, axes)

    @property
    def rank(self) -> int:
        """R."""
        return int(self.axes.shape[1])

    def __call__(self, X: FloatArray, count: int) -> FloatArray:
        """The first `count` components of X [M, D], [M, count]."""
        return np.asarray((X - self.mean) @ self.axes[:, :count])


class Projection(Protocol):
    """From views to components, learnt on other rows."""

    def __call__(self, views: Sequence[FloatArray]) -> FloatArray:
        """[M, k] of views [M, D_v]."""


class Finder(Protocol):
    """How a method finds its components. Pickles."""

    def __call__(
        self, views: Sequence[FloatArray], whitenings: Sequence[Whitening], count: int, seed: int
    ) -> tuple[Projection, tuple[str, ...]]:
        """`count` components, learnt on views [N, D_v] with their whitenings; and notes."""


@dataclass(frozen=True, slots=True, eq=False)
class Projected:
    """Components, then a probe."""

    projection: Projection
    probe: Learned

    def predict(self, views: Sequence[FloatArray]) -> FloatArray:
        """See `contract.Model`."""
        return self.probe.predict(self.projection(views))


def fit_components(
    views: Sequence[FloatArray],
    training: Training,
    find: Finder,
    sizes: Sequence[int] | None,
    *,
    default: Sequence[int] = SIZES,
) -> Fit:
    """Components by `find`, their number and the probe's value chosen together, then both on all training rows.

    In every part of `training.selection` components are learnt on the rows that are fitted to: rows that took part
    in finding whitened components no longer look like new ones. The pair with the best mean score is taken, of equal
    ones the fewest components. `sizes` None: `default`, as far as every part has that many. Raises ProbeError for a
    size that it has not.
    """
    most = max(sizes or default)
    parts = [
        (np.sort(fit), held, _whitened([X[np.sort(fit)] for X in views], most))
        for fit, held in training.selection
    ]
    whole = _whitened(views, most)
    possible = min(one.rank for own in (whole, *(part[2] for part in parts)) for one in own)
    tried = _possible(possible, sizes, default)
    scores: dict[tuple[int, float], list[float]] = {}
    for fit, held, whitenings in parts:
        for count in tried:
            projection, _ = find([X[fit] for X in views], whitenings, count, training.seed)
            learned = _judged(projection, views, training, fit, held)
            for value, score in learned.scores.items():
                scores.setdefault((count, value), []).append(score)
    count, value, notes = _best(scores, len(parts), tried)
    projection, said = find(views, whole, count, training.seed)
    probe = training.learn(
        projection(views),
        training.y,
        selection=training.selection,
        calibration=training.calibration,
        value=value,
    )
    return Projected(projection, probe), {"components": count, **probe.chosen}, (*notes, *said, *probe.notes)


def _judged(
    projection: Projection, views: Sequence[FloatArray], training: Training, fit: IntArray, held: IntArray
) -> Learned:
    """The probe's scores on the rows `held`, of fits to the rows `fit` alone."""
    rows = np.concatenate([fit, held])
    sides = (np.arange(len(fit)), np.arange(len(fit), len(rows)))
    return training.learn(
        projection([X[rows] for X in views]),
        training.y[rows],
        selection=[sides],
        # `fit` is ascending and comes first, so that positions in it are positions in `rows`.
        calibration=training.inside(training.calibration, fit, whole=True) or [sides],
        refit=False,
    )


def _whitened(views: Sequence[FloatArray], most: int) -> list[Whitening]:
    return [Whitening.of(X, most) for X in views]


def _possible(most: int, sizes: Sequence[int] | None, default: Sequence[int]) -> tuple[int, ...]:
    """The sizes that are tried where every part has `most` components."""
    if most < 1:
        raise ProbeError(
            "a view has no component in a part of the training rows: it is constant there",
            "components are learnt inside every part",
            "type --fuse average, which bears that",
        )
    if sizes is None:
        return tuple(size for size in default if size <= most) or (most,)
    if max(sizes) > most:
        raise ProbeError(
            f"{max(sizes)} components can't be had of every view",
            f"the smallest part of the training rows has {most}",
            f"ask for {most} at most",
        )
    return tuple(sizes)


def _best(
    scores: Mapping[tuple[int, float], Sequence[float]], parts: int, tried: Sequence[int]
) -> tuple[int, float, tuple[str, ...]]:
    """(components, value of the probe's grid, notes) with the best mean score of those that every part has."""
    means = {pair: float(np.mean(found)) for pair, found in scores.items() if len(found) == parts}
    if not means:
        raise ProbeError(
            "no value of the probe's grid could be fitted in every part of the training rows",
            f"components tried: {', '.join(map(str, tried))}",
            "type --fuse average",
        )
    count, value = max(means, key=lambda pair: (means[pair], -pair[0]))
    if len(tried) > 1 and count == tried[-1]:
        note = f"{count} components are the most that were tried ({tried[0]} to {tried[-1]}): more might do better"
        return count, value, (note,)
    return count, value, ()
