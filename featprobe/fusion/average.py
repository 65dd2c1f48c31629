"""Late fusion: every view has a probe of its own, and their answers are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import expit, softmax

from featprobe.fusion.contract import Fit, Learned, Training, named
from featprobe.records import TASKS, FloatArray
from featprobe.registry import FUSIONS

LEAST: Final = 1e-12
"""A smaller probability counts as this one where its logarithm is taken: no probe can veto a class by a 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Vote:
    """One probe per view. `how`: "arithmetic"; "geometric" (the classes' mean log probabilities); "odds" (each label's)."""

    probes: tuple[Learned, ...]
    how: str

    def predict(self, views: Sequence[FloatArray]) -> FloatArray:
        """See `contract.Model`."""
        found = np.stack([probe.predict(X) for probe, X in zip(self.probes, views, strict=True)])
        if self.how == "arithmetic":
            return np.asarray(found.mean(axis=0))
        if self.how == "odds":
            sure = np.clip(found, LEAST, 1 - LEAST)
            return np.asarray(expit((np.log(sure) - np.log1p(-sure)).mean(axis=0)))
        return np.asarray(softmax(np.log(np.maximum(found, LEAST)).mean(axis=0), axis=1))


class Average:
    """The arithmetic mean, which needs nothing but the probes."""

    name = "average"
    describe = "a probe for each view, each tuned for itself; the mean of their probabilities (or values)"
    tasks = TASKS

    def fit(self, views: Sequence[FloatArray], training: Training) -> Fit:
        """Each probe is tuned on `training.selection`."""
        return _fit(views, training, "arithmetic")


class GeometricAverage:
    """The normalised geometric mean: the logarithmic opinion pool, in which a sure probe weighs more."""

    name = "geometric-average"
    describe = (
        "a probe for each view, each tuned for itself; the geometric mean of their probabilities, normalised "
        "(logarithmic opinion pool, Genest and Zidek 1986; several labels: the mean of the log odds of each)"
    )
    tasks = ("classes", "ordinal", "multilabel")

    def fit(self, views: Sequence[FloatArray], training: Training) -> Fit:
        """Each probe is tuned on `training.selection`."""
        return _fit(views, training, "odds" if training.task == "multilabel" else "geometric")


def _fit(views: Sequence[FloatArray], training: Training, how: str) -> Fit:
    probes = tuple(
        training.learn(X, training.y, selection=training.selection, calibration=training.calibration)
        for X in views
    )
    pairs = list(zip(training.names, probes, strict=True))
    chosen = {f"{what} of {name}": value for name, probe in pairs for what, value in probe.chosen.items()}
    notes = tuple(note for name, probe in pairs for note in named(name, probe.notes))
    return Vote(probes, how), chosen, notes


FUSIONS.register("average")(Average())
FUSIONS.register("geometric-average")(GeometricAverage())
