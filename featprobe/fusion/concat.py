"""Side by side: one probe sees the columns of all views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featprobe.fusion.contract import Fit, Learned, Training, varying
from featprobe.records import TASKS, AnyArray, FloatArray
from featprobe.registry import FUSIONS


@dataclass(frozen=True, slots=True, eq=False)
class SideBySide:
    """(x - centre) * scale of each view, [D_v] each, side by side, then the probe."""

    centres: tuple[FloatArray, ...]
    scales: tuple[FloatArray, ...]
    probe: Learned

    def predict(self, views: Sequence[FloatArray]) -> FloatArray:
        """See `contract.Model`."""
        return self.probe.predict(self.columns(views))

    def columns(self, views: Sequence[FloatArray]) -> FloatArray:
        """What the probe sees, [M, sum of D_v]."""
        parts = zip(views, self.centres, self.scales, strict=True)
        return np.hstack([(X - centre) * scale for X, centre, scale in parts])


class Concat:
    """Every view has the same total variance, so that a wide backbone does not drown a narrow one."""

    name = "concat"
    describe = "the views side by side, each column standardised and each view brought to the same total variance, one probe"
    tasks = TASKS

    def fit(self, views: Sequence[FloatArray], training: Training) -> Fit:
        """Scales are learnt on all training rows; views of equal width without constant columns are standardised alone.

        A view's columns are standardised, then multiplied by sqrt(D / D_v): D_v its columns that vary, D their mean
        over the views, so that the total variance is that of standardised columns and the probe's grid stays right.
        """
        live = [varying(X) for X in views]
        mean = np.mean([own.sum() for own in live])
        centres, scales = [], []
        for X, own in zip(views, live, strict=True):
            scale = np.zeros(X.shape[1])
            scale[own] = np.sqrt(mean / own.sum()) / X[:, own].std(axis=0)
            centres.append(X.mean(axis=0))
            scales.append(scale)
        return _fit(views, training, centres, scales, scaled=True)


class PlainConcat:
    """As the literature mostly does it."""

    name = "plain-concat"
    describe = "the views side by side as they are, one probe, which scales every column alike"
    tasks = TASKS

    def fit(self, views: Sequence[FloatArray], training: Training) -> Fit:
        """Nothing is learnt but the probe."""
        widths = [X.shape[1] for X in views]
        return _fit(
            views, training, [np.zeros(w) for w in widths], [np.ones(w) for w in widths], scaled=False
        )


def _fit(
    views: Sequence[FloatArray],
    training: Training,
    centres: Sequence[AnyArray],
    scales: Sequence[AnyArray],
    *,
    scaled: bool,
) -> Fit:
    parts = zip(views, centres, scales, strict=True)
    probe = training.learn(
        np.hstack([(X - centre) * scale for X, centre, scale in parts]),
        training.y,
        selection=training.selection,
        calibration=training.calibration,
        scaled=scaled,
    )
    return SideBySide(tuple(centres), tuple(scales), probe), dict(probe.chosen), probe.notes


FUSIONS.register("concat")(Concat())
FUSIONS.register("plain-concat")(PlainConcat())
