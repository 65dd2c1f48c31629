"""What came out: predictions, where frozen and fine-tuned models meet, and estimates with their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from featprobe.records.samples import Samples
from featprobe.records.values import AnyArray, FloatArray

KEY_COLUMNS: Final = (
    "dataset",
    "backbone",
    "weights",
    "mode",
    "pooling",
    "layer",
    "inputs",
    "fusion",
    "preprocessing",
    "probe",
    "protocol",
    "fraction",
    "shots",
    "variant",
    "seed",
    "fold",
    "level",
    "fingerprint",
)
"""The columns that results.csv and predictions.parquet share; together they name one fitted model."""

ROUNDING: Final = 1e-3
"""How far probabilities may lie outside [0, 1], and their sum from 1: single precision with many classes."""

ESTIMATE_COLUMNS: Final = (
    *KEY_COLUMNS,
    "n_train",
    "n_test",
    "n_groups",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "ci_method",
)


@dataclass(frozen=True, slots=True)
class RunKey:
    """What names one fitted model; the columns KEY_COLUMNS of every table.

    `mode`: frozen, head, full, ...; `fraction`: of the training labels; `shots`: per class, 0 for all;
    `inputs`: the modalities that the model saw ("T1", "A+B"), "" for all images; `fusion`: how the images of a
    case became one row ("mean", "max", "concat-mean", ...), "" where they did not; `variant`: what departs from the
    plain way, joined by ", ": "whole groups" (shots), "balanced weights", "moved thresholds", "temperature" or "isotonic" (recalibrated scores); `fold`: "test" under the user's split, "0" ... under cross-validation, "mean" for their average;
    `level`: image or case.
    """

    dataset: str
    backbone: str
    weights: str
    mode: str
    pooling: str
    preprocessing: str
    probe: str
    fingerprint: str
    layer: str = ""
    inputs: str = ""
    fusion: str = ""
    protocol: str = "featprobe"
    fraction: float = 1.0
    shots: int = 0
    variant: str = ""
    seed: int = 0
    fold: str = "test"
    level: str = "image"

    def to_dict(self) -> dict[str, Any]:
        """Column -> value, in the order of KEY_COLUMNS."""
        return {name: getattr(self, name) for name in KEY_COLUMNS}


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What one fitted model said about the test rows: where frozen and fine-tuned models meet.

    `samples`: the N test rows. `y_score`, float64, by `samples.task`: "classes" and "ordinal": [N, C],
    probabilities over `samples.label_names`, rows sum to 1; "multilabel": [N, L], the probability of each label;
    "continuous": [N, 1], the predicted value. `n_train`: rows it was fitted on. `thresholds`: where decisions are
    moved, float64 [C] (see `decided`). Raises ValueError where `y_score` or `thresholds` is none of these; values
    that are not finite are left to who stores them.
    """

    key: RunKey
    samples: Samples
    y_score: FloatArray
    n_train: int
    thresholds: FloatArray | None = None

    def __post_init__(self) -> None:
        task = self.samples.task
        expected = (len(self.samples), 1 if task == "continuous" else len(self.samples.label_names))
        if self.y_score.shape != expected:
            raise ValueError(f"y_score has shape {self.y_score.shape}, not {expected}")
        moved = self.thresholds
        if moved is not None and (moved.shape != expected[1:] or not ((moved > 0) & (moved < 1)).all()):
            raise ValueError(f"thresholds are {moved}, not {expected[1]} numbers between 0 and 1")
        known = self.y_score[np.isfinite(self.y_score).all(axis=1)]
        if task == "continuous" or not known.size:
            return
        if known.min() < -ROUNDING or known.max() > 1 + ROUNDING:
            raise ValueError(f"y_score lies in {known.min():g} to {known.max():g}: no probabilities")
        if task != "multilabel" and np.abs(known.sum(axis=1) - 1).max() > ROUNDING:
            raise ValueError("rows of y_score do not sum to 1")

    @property
    def y_true(self) -> AnyArray:
        """What the rows are: int64 [N], for "multilabel" int64 [N, L], for "continuous" float64 [N]."""
        return self.samples.label

    @property
    def decision_score(self) -> FloatArray:
        """What metrics of decisions judge: `y_score`, moved where there are thresholds; as `y_score` otherwise."""
        if self.thresholds is None:
            return self.y_score
        return decided(self.y_score, self.thresholds, self.samples.task)


def decided(y_score: FloatArray, thresholds: FloatArray, task: str) -> FloatArray:
    """Probabilities moved so that the plain rule (the largest; above 1/2) decides as the thresholds do, [N, C].

    Classes: p_c / t_c, made to sum to 1, so that the largest is that of p_c / t_c; with two classes and thresholds
    (1 - t, t) the second is decided for above t. Multilabel: odds p / (1 - p) over t / (1 - t), above 1/2 where p is
    above t. This is Bayes' rule for other shares of the classes (Saerens et al., Neural Computation 14, 2002, eq. 2.4).
    """
    if task == "multilabel":
        present, absent = y_score * (1 - thresholds), (1 - y_score) * thresholds
        return np.asarray(present / np.maximum(present + absent, np.finfo(np.float64).tiny))
    shares = y_score / thresholds
    return np.asarray(shares / np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny))


@dataclass(frozen=True, slots=True)
class Estimate:
    """One metric of one model (or of the average over folds) with its interval, a row of results.csv.

    `n_groups`: independent groups in the test rows. `ci_method` names method, confidence and estimand; an
    interval that is not defined is NaN and `ci_method` says why.
    """

    key: RunKey
    n_train: int
    n_test: int
    n_groups: int
    metric: str
    value: float
    ci_low: float
    ci_high: float
    ci_method: str

    def to_dict(self) -> dict[str, Any]:
        """Column -> value, in the order of ESTIMATE_COLUMNS."""
        values = self.key.to_dict()
        values.update({name: getattr(self, name) for name in ESTIMATE_COLUMNS[len(KEY_COLUMNS) :]})
        return values
