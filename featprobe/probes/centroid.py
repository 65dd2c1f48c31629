"""The nearest class mean: the plainest of classifiers, and SimpleShot, its form for few labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from featprobe.errors import ConfigError
from featprobe.probes.linear import SoftmaxPath, class_means, varying, within_classes
from featprobe.probes.paths import PathProbe, Settings
from featprobe.records import AnyArray, FloatArray, IntArray
from featprobe.registry import PROBES

GRID: Final = tuple(float(t) for t in 10.0 ** np.arange(4, -2.25, -0.25))
UNIT_GRID: Final = tuple(float(t) for t in 10.0 ** np.arange(1, -3.25, -0.25))


def nearest_mean(means: FloatArray, present: IntArray, classes: int, units: FloatArray) -> SoftmaxPath:
    """softmax(- |x - mean|^2 / unit) for each of `units` [G] (above 0), `means` [P, D] of the classes `present`.

    Linear: what all classes share, |x - c|^2, drops out, and with c the means' mean large common offsets cost no
    digits. The unit sets how sure a prediction is, never which class.
    """
    if not (units > 0).all():
        raise ConfigError("a temperature has to be above 0", f"the least given is {units.min():g}")
    centre = means.mean(axis=0)
    moved = means - centre
    constant = -np.square(moved).sum(axis=1) - 2 * moved @ centre
    return SoftmaxPath(2 * moved.T / units[:, None, None], constant / units[:, None], present, classes)


class Centroid(PathProbe):
    """Nearest class mean by Euclidean distance; the grid is of temperatures."""

    name = "centroid"
    describe = (
        "nearest class mean of the standardised embeddings by Euclidean distance, probabilities by a softmax of minus "
        "the squared distance whose temperature has the least validation log loss"
    )
    tasks = ("classes", "ordinal")
    parameter = "temperature"
    grid = GRID
    alone = 1.0
    unweighed = "its class means weigh the same as it is"

    def path(self, X: FloatArray, y: AnyArray, grid: Sequence[float], settings: Settings) -> SoftmaxPath:
        """softmax(- d^2 / (2 v T)) with v the mean variance, within classes, of the columns that vary.

        At T = 1 these are the probabilities of equally frequent normal classes that share one variance; columns that
        go together ask for a larger T. Where classes have no spread (one row each), v is the spread of the means.
        """
        settings.only()
        means, present, code = class_means(X, y)
        within = float(np.square(within_classes(X, means, code)).sum()) / (len(X) * varying(X))
        unit = within or float(np.square(means - means.mean(axis=0)).mean()) or 1.0
        return nearest_mean(means, present, settings.classes, 2 * unit * np.array(grid))


class SimpleShot(PathProbe):
    """Nearest class mean of embeddings that are centred and then of length 1 (CL2N); the grid is of temperatures."""

    name = "simpleshot"
    describe = (
        "SimpleShot (Wang et al. 2019): nearest class mean of centred embeddings of length 1, probabilities by a "
        "softmax of minus the squared distance whose temperature has the least validation log loss"
    )
    tasks = ("classes", "ordinal")
    parameter = "temperature"
    grid = UNIT_GRID
    alone = 1.0
    unweighed = "its class means weigh the same as it is"
    scale = "centre+l2"

    def path(self, X: FloatArray, y: AnyArray, grid: Sequence[float], settings: Settings) -> SoftmaxPath:
        """softmax(- d^2 / T).

        Wang et al., SimpleShot: revisiting nearest-neighbor classification for few-shot learning, arXiv 1911.04623,
        section 3: the mean that is subtracted is that of the training rows, class means are not made to length 1.
        """
        settings.only()
        means, present, _ = class_means(X, y)
        return nearest_mean(means, present, settings.classes, np.array(grid))


PROBES.register("centroid")(Centroid())
PROBES.register("simpleshot")(SimpleShot())
