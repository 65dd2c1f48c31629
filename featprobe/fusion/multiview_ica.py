"""MultiView ICA: independent sources that all views share, each seen through a mixing of its own, with noise."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from featprobe.fusion.components import Projection, Whitening, fit_components
from featprobe.fusion.contract import Fit, Training
from featprobe.records import TASKS, FloatArray
from featprobe.registry import FUSIONS

SIZES: Final = (4, 8, 16, 32)
"""Numbers of sources that are tried: the time grows with their number and the rows."""

STEPS: Final = 200
"""Of the optimiser at most; the probe needs the sources' space more than their last digit."""


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """The mean over the views of their unmixed components: `unmixing` [V, k, k] of the first k whitened ones."""

    whitenings: tuple[Whitening, ...]
    unmixing: FloatArray

    def __call__(self, views: Sequence[FloatArray]) -> FloatArray:
        """The estimated sources [M, k] of rows that need not have been learnt from: nothing is estimated anew."""
        found = [
            own(X, len(W)) @ W.T for X, own, W in zip(views, self.whitenings, self.unmixing, strict=True)
        ]
        return np.asarray(np.mean(found, axis=0))


class MultiViewICA:
    """By the package multiviewica, of the method's authors."""

    name = "multiview-ica"
    describe = (
        "sources that all views share by MultiView ICA (Richard et al., NeurIPS 2020; package multiviewica) of their "
        "whitened principal components, one probe on them, their number chosen inside the training data"
    )
    tasks = TASKS
    package = "multiviewica"

    def __init__(self, sizes: Sequence[int] | None = None) -> None:
        self.sizes = sizes

    def fit(self, views: Sequence[FloatArray], training: Training) -> Fit:
        """See `components.fit_components`."""
        return fit_components(views, training, find, self.sizes, default=SIZES)


def find(
    views: Sequence[FloatArray], whitenings: Sequence[Whitening], count: int, seed: int
) -> tuple[Projection, tuple[str, ...]]:
    """`count` sources; a note where the optimiser was stopped before it converged."""
    from multiviewica import multiviewica

    rows = np.stack([own(X, count).T for X, own in zip(views, whitenings, strict=True)])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _, unmixing, _ = multiviewica(rows, max_iter=STEPS, random_state=seed)
    stopped = any("converge" in str(one.message) for one in said)
    note = f"MultiView ICA of {count} sources was stopped after {STEPS} steps, before it converged"
    return Sources(tuple(whitenings), np.asarray(unmixing)), (note,) if stopped else ()


FUSIONS.register("multiview-ica")(MultiViewICA())
