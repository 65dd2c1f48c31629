"""Stacking: a linear model learns how far to trust each view's probe, from answers about rows that it had not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from featprobe.errors import ProbeError
from featprobe.fusion.contract import Fit, Learned, Parts, Training, named
from featprobe.records import TASKS, FloatArray, IntArray
from featprobe.registry import FUSIONS

LEAST: Final = 1e-9
"""Probabilities are cut here before their logarithm is taken: scores from -21 to 21."""


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """A probe per view, fitted to all training rows, and the model on what they say."""

    probes: tuple[Learned, ...]
    top: Learned
    task: str

    def predict(self, views: Sequence[FloatArray]) -> FloatArray:
        """See `contract.Model`."""
        said = [scores(probe.predict(X), self.task) for probe, X in zip(self.probes, views, strict=True)]
        return self.top.predict(np.hstack(said))


class Stack:
    """Wolpert's stacked generalisation with grouped folds; probabilities in, as Ting and Witten found best."""

    name = "stack"
    describe = (
        "a probe for each view; a logistic regression (for numbers: ridge) on their log odds, learnt from answers out of "
        "grouped folds (Wolpert, Neural Networks 5, 1992; Ting and Witten, JAIR 10, 1999)"
    )
    tasks = TASKS

    def fit(self, views: Sequence[FloatArray], training: Training) -> Fit:
        """Base probes are tuned anew in every fold, on rows of other folds alone, then on all rows for the test.

        Raises ProbeError where a fold leaves nothing to tune the base probes on: it takes three grouped folds, or
        a validation part.
        """
        folds = training.calibration
        rows = np.sort(np.concatenate([held for _, held in folds]))
        said = np.hstack([_out_of_fold(X, training) for X in views])[rows]
        top = training.learn(
            said,
            training.y[rows],
            selection=training.inside(_others(folds), rows),
            calibration=training.inside(_others(folds), rows),
            final=True,
        )
        probes = tuple(
            training.learn(X, training.y, selection=training.selection, calibration=folds) for X in views
        )
        pairs = list(zip(training.names, probes, strict=True))
        chosen = {f"{what} of {name}": value for name, probe in pairs for what, value in probe.chosen.items()}
        chosen |= {f"{what} of the stack": value for what, value in top.chosen.items()}
        notes = [note for name, probe in pairs for note in named(name, probe.notes)]
        return Stacked(probes, top, training.task), chosen, (*notes, *named("the stack", top.notes))


def _others(folds: Parts) -> list[tuple[IntArray, IntArray]]:
    """The folds with all rows that any of them holds out on the other side: rows that none holds out have no answer."""
    held = [rows for _, rows in folds]
    return [
        (np.sort(np.concatenate([*held[:k], *held[k + 1 :]])), rows)
        for k, rows in enumerate(held)
        if len(held) > 1
    ]


def _out_of_fold(X: FloatArray, training: Training) -> FloatArray:
    """The scores of one view's probe for every row, from a probe that saw nothing of the row's fold; NaN for others."""
    found: FloatArray | None = None
    for fit, held in training.calibration:
        selection = training.inside(training.selection, fit) or training.inside(training.calibration, fit)
        if not selection:
            raise ProbeError(
                "stacking needs three grouped folds of the training rows, to tune each probe without the rows it scores",
                f"there are {len(training.calibration)}: that is how many groups the rarest class has",
                "type --fuse average, or leave rare classes out with --min-groups 3",
            )
        probe = training.learn(
            X[fit],
            training.y[fit],
            selection=selection,
            calibration=training.inside(training.calibration, fit, whole=True) or selection,
        )
        said = scores(probe.predict(X[held]), training.task)
        if found is None:
            found = np.full((len(X), said.shape[1]), np.nan)
        found[held] = said
    assert found is not None
    return found


def scores(predicted: FloatArray, task: str) -> FloatArray:
    """What the model on top sees of predictions [M, K]: values as they are; of two classes the log odds, [M, 1].

    Of several classes the centred log probabilities, [M, K], which are a linear classifier's own decision values;
    of labels the log odds of each, [M, L].
    """
    if task == "continuous":
        return predicted
    if task == "multilabel" or predicted.shape[1] == 2:
        sure = np.clip(predicted if task == "multilabel" else predicted[:, 1:], LEAST, 1 - LEAST)
        return np.asarray(np.log(sure) - np.log1p(-sure))
    logs = np.log(np.maximum(predicted, LEAST))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))


FUSIONS.register("stack")(Stack())
