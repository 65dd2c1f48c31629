"""What every probe promises, so that a new one takes one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from featprobe.errors import ProbeError, listed
from featprobe.records import AnyArray, FloatArray, IntArray

Parts = Sequence[tuple[IntArray, IntArray]]
"""Pairs (fit, validate) of row positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a protocol wants a probe to be fitted, where it differs from the probe's own way (None: the probe's own).

    `scale`: what is done to the embeddings (see `scaling.SCALINGS`), learnt on the rows that are fitted to.
    `grid`: the values that are tried, from the simplest model to the least restrained. `score`: what the values are judged by
    (see `choosing.SCORES`). `pick`: which value is taken (see `choosing.PICKS`). `refit`: fit the chosen value to
    all rows; else to the rows that it was chosen with (`selection` then has one part). `options`: what only this
    kind of probe knows, such as a temperature; "class_weight" is "none" or "balanced" (see `weighing`).
    """

    scale: str | None = None
    grid: tuple[float, ...] | None = None
    score: str | None = None
    pick: str | None = None
    refit: bool = True
    options: Mapping[str, float | str | bool] = field(default_factory=dict)


OWN: Final = Rule()
"""The probe's own way."""


class Model(Protocol):
    """A fitted model."""

    def predict(self, X: FloatArray) -> FloatArray:
        """What `Predictions.y_score` holds for the task, float64, of X float64 [M, D].

        Classes: probabilities [M, K] of the K classes that occur in training, rows sum to 1; multilabel: [M, L];
        continuous: [M, 1].
        """


Fit = tuple[Model, dict[str, float], dict[float, float], tuple[str, ...]]
"""(model, what was chosen, score per value of the grid, notes)."""


class Probe(Protocol):
    """A kind of model; members of the registry PROBES.

    `describe`: one sentence for reports. `tasks`: the kinds of target (of TASKS) that it can be fitted to. It may also
    have `weighs`, True where it knows the option "class_weight", and `alone`, the value of its grid that is taken where
    no rows are left to choose on.
    """

    name: str
    describe: str
    tasks: tuple[str, ...]

    def fit(
        self,
        X: FloatArray,
        y: AnyArray,
        *,
        selection: Parts,
        calibration: Parts,
        seed: int,
        label_names: Sequence[str],
        task: str = "classes",
        rule: Rule = OWN,
    ) -> Fit:
        """Choose on `selection`, refit on all of X [N, D], by the probe's own way where `rule` says nothing else.

        `y`: int [N] in 0..K-1 (every class occurs), for multilabel int [N, L] with -1 missing, for continuous
        float [N]. `label_names`: of the L labels, for notes; () for other targets.
        """


@dataclass(frozen=True, slots=True, eq=False)
class FittedProbe:
    """A probe that is ready to predict.

    `classes`: int [K], the classes that occurred in training, of `n_classes`; for multilabel all labels, for
    continuous the one value. `chosen`: such as {"C": 0.01}, for multilabel {"C of edema": 0.01, ...}. `scores`:
    value of the grid -> mean validation score, higher is better. `notes`: what the report must say, such as a C
    at the edge of the grid or a fit that did not converge. Pickles.
    """

    name: str
    n_classes: int
    n_features: int
    classes: IntArray
    model: Model
    chosen: Mapping[str, float]
    scores: Mapping[float, float]
    notes: tuple[str, ...]
    task: str = "classes"

    def predict(self, X: npt.NDArray[np.floating]) -> FloatArray:
        """`Predictions.y_score` of X float [M, D], whatever the task: float64 [M, n_classes], or [M, 1].

        Probabilities are 0 for classes that training had not. Raises ProbeError for another D or for values that
        are not finite.
        """
        table = np.ascontiguousarray(X, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != self.n_features:
            raise ProbeError(f"embeddings {table.shape} where the probe was fitted on [N, {self.n_features}]")
        check_finite(table, "test")
        result = np.zeros((len(table), self.n_classes))
        if len(table):
            result[:, self.classes] = self.model.predict(table)
        return result

    def predict_proba(self, X: npt.NDArray[np.floating]) -> FloatArray:
        """`predict` where it gives probabilities; ProbeError where the target is a number."""
        if self.task == "continuous":
            raise ProbeError(f"the {self.name} probe of a continuous target gives values, no probabilities")
        return self.predict(X)


def check_finite(X: FloatArray, what: str) -> None:
    """ProbeError that names the rows of `X` [N, D] with values that are not finite."""
    bad = np.flatnonzero(~np.isfinite(X).all(axis=1))
    if len(bad):
        raise ProbeError(
            f"{len(bad)} of {len(X)} {what} embeddings hold values that are not finite (NaN or infinity)",
            f"rows {listed([str(row) for row in bad])}",
            "type: featprobe cache verify, or extract again with --precision fp32",
        )


def edge_note(chosen: float, grid: Sequence[float]) -> tuple[str, ...]:
    """A note where C was chosen at an end of its grid."""
    if chosen not in (grid[0], grid[-1]):
        return ()
    end = "strong" if chosen == grid[0] else "weak"
    return (
        f"C = {chosen:g} lies at the {end} end of its grid ({grid[0]:g} to {grid[-1]:g}): "
        + ("the embedding says little about the labels" if end == "strong" else "a larger C might do better"),
    )
