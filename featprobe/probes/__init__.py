"""From embeddings to probabilities: scikit-learn's probes, tuned inside the training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from featprobe.errors import ProbeError
from featprobe.probes.contract import OWN, FittedProbe, Parts, Probe, Rule, check_finite
from featprobe.probes.thresholds import moved as moved_thresholds
from featprobe.probes.weighing import need_weighing
from featprobe.records import TASKS, AnyArray, FloatArray, IntArray
from featprobe.registry import PROBES

__all__ = [
    "DEFAULT_PROBES",
    "FittedProbe",
    "Parts",
    "Probe",
    "Rule",
    "describe",
    "fit_probe",
    "moved_thresholds",
    "need_suitable",
    "need_weighing",
    "probes_for",
]

DEFAULT_PROBES: Final = ("logistic", "svm")
UNORDERED: Final = "the classes are ordered; this probe is fitted to them as classes without order"
_DEFAULTS: Final = {
    "classes": DEFAULT_PROBES,
    "ordinal": DEFAULT_PROBES,
    "multilabel": ("logistic",),
    "continuous": ("ridge",),
}


def probes_for(task: str) -> tuple[str, ...]:
    """The probes that are fitted to this kind of target where the user named none."""
    return _DEFAULTS[task]


def need_suitable(name: str, task: str) -> None:
    """ConfigError where no probe has this name, ProbeError where it can't be fitted to this kind of target."""
    probe: Probe = PROBES.get(name)
    if task not in probe.tasks:
        fitting = [other for other, member in PROBES.items() if task in member.tasks]
        raise ProbeError(
            f"the {name} probe can't be fitted to a target of kind {task!r}",
            f"probes that can: {', '.join(fitting)}",
            f"type --probe {' '.join(probes_for(task))}",
        )


def fit_probe(
    name: str,
    X: npt.NDArray[np.floating],
    y: AnyArray,
    *,
    n_classes: int,
    selection: Sequence[tuple[IntArray, IntArray]],
    calibration: Sequence[tuple[IntArray, IntArray]],
    seed: int,
    task: str = "classes",
    label_names: Sequence[str] = (),
    rule: Rule = OWN,
) -> FittedProbe:
    """The probe `name`, its C (or alpha) chosen on `selection`, refitted on all rows of `X`.

    `X` float [N, D]. `y` by `task`: "classes" and "ordinal" int [N] in 0..n_classes-1; "multilabel" int
    [N, n_classes] of 0, 1 and -1 (missing); "continuous" float [N], `n_classes` 1. `selection`: pairs (fit,
    validate) of row positions, from which the scaler, C and everything else are chosen. `calibration`: pairs
    (fit, hold out) for Platt scaling out of fold (used by the SVM). `label_names`: of a multilabel target, for
    notes (default: their numbers). `rule`: a protocol's way instead of the probe's own. Raises ProbeError for a probe that does not
    fit the task, values that are not finite, labels out of range, a single class or value, or missing parts;
    ConfigError for an unknown name.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}")
    need_suitable(name, task)
    probe: Probe = PROBES.get(name)
    table = np.ascontiguousarray(X, dtype=np.float64)
    labels = np.asarray(y, dtype=np.float64 if task == "continuous" else np.int64)
    expected = (len(table), n_classes) if task == "multilabel" else table.shape[:1]
    if table.ndim != 2 or labels.shape != expected:
        raise ProbeError(f"embeddings {table.shape} and labels {labels.shape} do not fit together")
    check_finite(table, "training")
    classes, target = _target(name, labels, n_classes, task)
    unordered = task == "ordinal" and "classes" in probe.tasks
    if not selection:
        raise ProbeError(f"the {name} probe has no rows to choose C on")
    names = tuple(label_names) or tuple(str(number) for number in range(n_classes))
    model, chosen, scores, own = probe.fit(
        table,
        target,
        selection=selection,
        calibration=calibration,
        seed=seed,
        label_names=names if task == "multilabel" else (),
        task=task,
        rule=rule,
    )
    return FittedProbe(
        name=name,
        n_classes=n_classes,
        n_features=table.shape[1],
        classes=classes,
        model=model,
        chosen=chosen,
        scores=scores,
        notes=(*([UNORDERED] if unordered else []), *own),
        task=task,
    )


def _target(name: str, labels: AnyArray, n_classes: int, task: str) -> tuple[IntArray, AnyArray]:
    """(columns of the result that the model fills, what the probe is fitted to); ProbeError where unfit."""
    if task == "continuous":
        return np.arange(1), _numbers(name, labels)
    least, most = (-1, 1) if task == "multilabel" else (0, n_classes - 1)
    if labels.size and (labels.min() < least or labels.max() > most):
        raise ProbeError(f"labels lie outside {least}..{most}", "images without a label can't be probed")
    if task == "multilabel":
        varying = (labels == 0).any(axis=0) & (labels == 1).any(axis=0)
        if not varying.any():
            raise ProbeError(
                f"the {name} probe needs a label with both values",
                f"each of the {n_classes} labels has one value in the {len(labels)} training rows",
                "see featprobe inspect --data SPEC",
            )
        return np.arange(n_classes), labels
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ProbeError(
            f"the {name} probe needs two classes",
            f"the {len(labels)} training rows hold {len(classes)}",
            "see featprobe inspect --data SPEC",
        )
    return classes, codes.astype(np.int64)


def _numbers(name: str, values: FloatArray) -> FloatArray:
    """`values` [N] of a continuous target; ProbeError where they are missing or all the same."""
    missing = ~np.isfinite(values)
    if missing.any():
        raise ProbeError(
            f"{int(missing.sum())} of {len(values)} training targets are missing or not finite",
            "images without a label can't be probed",
        )
    if not len(values) or np.ptp(values) == 0:
        raise ProbeError(
            f"the {name} probe needs targets that differ",
            f"the {len(values)} training rows hold one value",
            "see featprobe inspect --data SPEC",
        )
    return values


def describe(name: str) -> str:
    """The probe in one sentence, for reports."""
    return str(PROBES.get(name).describe)
