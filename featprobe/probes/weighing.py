"""Class weights: what a row counts where every class is to weigh the same, however rare it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from featprobe.errors import ConfigError
from featprobe.records import AnyArray, FloatArray
from featprobe.registry import PROBES

CHOICES: Final = ("none", "balanced")
"""Values of the option `class_weight` of a rule."""


def is_balanced(options: Mapping[str, float | str | bool]) -> bool:
    """Whether a rule's options ask for balanced class weights; ConfigError for an unknown value."""
    value = options.get("class_weight", "none")
    if value not in CHOICES:
        raise ConfigError(f"unknown class_weight {value!r}", f"known: {', '.join(CHOICES)}")
    return value == "balanced"


def row_weights(y: AnyArray) -> FloatArray:
    """N / (K N_k) for each row of class k, scikit-learn's "balanced", float64 [N] of `y` int [N].

    K counts the classes that occur. Several labels, `y` int [N, L]: of each label by itself the same with its known
    rows and their values, [N, L], 0 where it is not known (-1) and 1 where it has one value only.
    """
    if y.ndim == 2:
        columns = [np.where(y[:, label] >= 0, _of_label(y[:, label]), 0.0) for label in range(y.shape[1])]
        return np.stack(columns, axis=1) if columns else np.zeros(y.shape)
    _, code, counts = np.unique(y, return_inverse=True, return_counts=True)
    return np.asarray(len(y) / (len(counts) * counts[code]), dtype=np.float64)


def _of_label(values: AnyArray) -> FloatArray:
    result = np.ones(len(values))
    known = values >= 0
    if known.any():
        result[known] = row_weights(values[known])
    return result


def can_weigh(name: str) -> bool:
    """Whether the probe of this name can be fitted with class weights."""
    return bool(getattr(PROBES.get(name), "weighs", False))


def need_weighing(name: str, task: str) -> None:
    """ConfigError, by name, where class weights mean nothing to the probe or the target."""
    if task == "continuous":
        raise ConfigError(
            "--class-weight balanced has no classes to weigh",
            "the target is a number",
            "leave --class-weight out",
        )
    if not can_weigh(name):
        able = [other for other, member in PROBES.items() if can_weigh(other) and task in member.tasks]
        own = getattr(PROBES.get(name), "unweighed", "it has no weights of rows")
        raise ConfigError(
            f"--class-weight balanced can't be used with the {name} probe",
            f"{own}; probes that can: {', '.join(able)}",
            f"type --probe {able[0]}, or leave --class-weight out",
        )


def without_weights(options: Mapping[str, Any]) -> dict[str, Any]:
    """The other options."""
    return {name: value for name, value in options.items() if name != "class_weight"}
