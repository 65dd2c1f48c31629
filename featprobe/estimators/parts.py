"""The inner folds of an estimator: by group, stratified, and made for small classes too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from featprobe import splitting
from featprobe.errors import SplitError
from featprobe.estimators.faults import EstimatorError
from featprobe.records import AnyArray, IntArray, Samples, texts

Parts = list[tuple[IntArray, IntArray]]

KINDS: Final = (np.float64, np.float32)
"""Kinds of number that embeddings are kept in; values that are not finite are refused by the probe, which names rows."""


def inner_parts(
    target: AnyArray, groups: AnyArray | None, *, task: str, names: Sequence[str], folds: int, seed: int
) -> tuple[Parts, tuple[str, ...]]:
    """(pairs (fit, validate) of row positions, notes): those of `featprobe probe` for the same groups and seed.

    `target` as `probes.fit_probe` takes it. A class (or a value of a label) of one group is fitted on in every fold
    and validated in none; there are fewer folds where a class has few groups. Raises EstimatorError where fewer than
    two folds can be made.
    """
    if folds < 2:
        raise EstimatorError(
            f"inner_folds is {folds}", "C is chosen on at least 2 folds", "use inner_folds=5"
        )
    count = len(target)
    samples = Samples.build(
        path=[f"{row:09d}" for row in range(count)],
        label=target,
        label_names=tuple(names),
        task=task,
        group=None if groups is None else texts(_checked_groups(groups, count)),
    )
    lone, notes = _lone(samples, task)
    if lone.any():
        # Rows of "extra" are fitted on alone, which is what a class of one group needs.
        samples = samples.replace(split=np.where(lone, "extra", ""))
    if task in {"classes", "ordinal"} and len(np.unique(target[~lone])) < 2:
        raise EstimatorError(
            "fewer than two classes have two members (or groups), so that C can't be chosen",
            f"{count} rows (n_samples = {count}), {len(np.unique(target))} classes",
            "give more rows of each class",
        )
    try:
        return splitting.inner_folds(samples, np.arange(count), folds=folds, seed=seed), notes
    except SplitError as error:
        raise EstimatorError(error.wrong, error.known, "give more rows, or rows of more groups") from error


def _checked_groups(groups: AnyArray, count: int) -> AnyArray:
    column = np.asarray(groups)
    if column.shape != (count,):
        raise EstimatorError(
            f"groups of shape {column.shape} for {count} rows", "one group belongs to each row"
        )
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        raise EstimatorError("groups hold values that are missing or not finite", "", "give each row a group")
    return column


def _lone(samples: Samples, task: str) -> tuple[AnyArray, tuple[str, ...]]:
    """(rows of classes that have one group alone, bool [N]; a note about them)."""
    if task not in {"classes", "ordinal"}:
        return np.zeros(len(samples), dtype=bool), ()
    units = samples.units()
    pairs = np.unique(np.stack([samples.label, units]), axis=1)
    classes, counts = np.unique(pairs[0], return_counts=True)
    alone = classes[counts < 2]
    if not len(alone):
        return np.zeros(len(samples), dtype=bool), ()
    shown = ", ".join(repr(samples.label_names[c]) for c in alone.tolist()[:5])
    note = f"{len(alone)} of {len(classes)} classes have one member (or group) alone: {shown}; C is not chosen on them"
    return np.isin(samples.label, alone), (note,)
