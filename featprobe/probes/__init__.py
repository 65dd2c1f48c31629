"""From embeddings to probabilities: scikit-learn's probes, tuned inside the training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from featprobe.errors import ProbeError
from featprobe.probes.contract import FittedProbe, Parts, Probe, check_finite
from featprobe.records import IntArray
from featprobe.registry import PROBES

__all__ = ["DEFAULT_PROBES", "FittedProbe", "Parts", "Probe", "describe", "fit_probe"]

DEFAULT_PROBES: Final = ("logistic", "svm")


def fit_probe(
    name: str,
    X: npt.NDArray[np.floating],
    y: IntArray,
    *,
    n_classes: int,
    selection: Sequence[tuple[IntArray, IntArray]],
    calibration: Sequence[tuple[IntArray, IntArray]],
    seed: int,
) -> FittedProbe:
    """The probe `name`, its C chosen on `selection`, refitted on all rows of `X`.

    `X` float [N, D], `y` int [N] in 0..n_classes-1. `selection`: pairs (fit, validate) of row positions, from
    which the scaler, C and everything else are chosen. `calibration`: pairs (fit, hold out) for Platt
    scaling out of fold (used by the SVM). Raises ProbeError for values that are not finite, labels out of
    range, a single class or missing parts; ConfigError for an unknown name.
    """
    probe: Probe = PROBES.get(name)
    table = np.ascontiguousarray(X, dtype=np.float64)
    labels = np.asarray(y, dtype=np.int64)
    if table.ndim != 2 or labels.shape != table.shape[:1]:
        raise ProbeError(f"embeddings {table.shape} and labels {labels.shape} do not fit together")
    check_finite(table, "training")
    if len(labels) and (labels.min() < 0 or labels.max() >= n_classes):
        raise ProbeError(f"labels lie outside 0..{n_classes - 1}", "images without a label can't be probed")
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ProbeError(
            f"the {name} probe needs two classes",
            f"the {len(labels)} training rows hold {len(classes)}",
            "see featprobe inspect --data SPEC",
        )
    if not selection:
        raise ProbeError(f"the {name} probe has no rows to choose C on")
    model, chosen, scores, notes = probe.fit(
        table, codes.astype(np.int64), selection=selection, calibration=calibration, seed=seed
    )
    return FittedProbe(
        name=name,
        n_classes=n_classes,
        n_features=table.shape[1],
        classes=classes,
        model=model,
        chosen=chosen,
        scores=scores,
        notes=notes,
    )


def describe(name: str) -> str:
    """The probe in one sentence, for reports."""
    return str(PROBES.get(name).describe)
