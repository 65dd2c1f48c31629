"""Turns labels into what a head is trained on, and refuses labels that no head can be trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from featprobe.errors import ProbeError
from featprobe.records import TASKS, AnyArray, FloatArray, IntArray

Link = Literal["softmax", "sigmoid", "number"]

_SEE = "see featprobe inspect --data SPEC"


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The labels of all rows as a head's outputs are compared with them.

    `link`: how outputs become predictions. `values`: softmax, int64 [N] in 0..K-1 (position in `classes`; -1 for
    a class that training lacks, or outside both parts); sigmoid, float32 [N, L] with NaN where missing; number,
    float32 [N, 1], standardised by `mean` and `scale` of the training rows. `outputs`: K, L or 1. `classes`: the
    columns of the prediction that are filled. `notes`: what the report must say.
    """

    link: Link
    values: AnyArray
    outputs: int
    classes: IntArray
    mean: float = 0.0
    scale: float = 1.0
    notes: tuple[str, ...] = ()


def encode(
    y: AnyArray, *, train: IntArray, val: IntArray, n_classes: int, task: str, binary_output: bool
) -> Target:
    """The target of `y`: int [N] (classes, ordinal), int [N, n_classes] of 0, 1, -1, or float [N].

    `binary_output`: two classes become one logistic output. Raises ProbeError for labels that are missing or out
    of range in either part, one class or value in training, no validation label that training could learn.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}")
    for name, part in (("training", train), ("validation", val)):
        if not len(part):
            raise ProbeError(
                f"the {name} part is empty",
                "a head needs rows to learn from and rows to choose on",
                "see the split with: featprobe inspect --data SPEC",
            )
    if np.intersect1d(train, val).size:
        raise ProbeError("the training and the validation part share rows", "choosing on them would flatter")
    if task == "continuous":
        return _numbers(y, train, val)
    if task == "multilabel":
        return _labels(y, train, val, n_classes)
    return _classes(y, train, val, n_classes, binary_output=binary_output, ordered=task == "ordinal")


def _numbers(y: AnyArray, train: IntArray, val: IntArray) -> Target:
    values = np.asarray(y, dtype=np.float64)
    for name, part in (("training", train), ("validation", val)):
        missing = ~np.isfinite(values[part])
        if missing.any():
            raise ProbeError(
                f"{int(missing.sum())} of {len(part)} {name} targets are missing or not finite",
                "images without a label can't be trained on",
            )
    if np.ptp(values[train]) == 0:
        raise ProbeError(
            "the training part holds one value only",
            f"all {len(train)} rows have the value {values[train[0]]:g}",
            _SEE,
        )
    mean, scale = float(values[train].mean()), float(values[train].std())
    standardised = ((values - mean) / scale).astype(np.float32)[:, None]
    return Target("number", standardised, 1, np.arange(1), mean, scale)


def _labels(y: AnyArray, train: IntArray, val: IntArray, n_classes: int) -> Target:
    labels = np.asarray(y, dtype=np.int64)
    used = labels[np.concatenate([train, val])]
    if used.size and (used.min() < -1 or used.max() > 1):
        raise ProbeError("labels lie outside -1..1", "1 is yes, 0 is no, -1 is missing")
    learning = labels[train]
    varying = (learning == 0).any(axis=0) & (learning == 1).any(axis=0)
    if not varying.any():
        raise ProbeError(
            "the training part holds no label with both values",
            f"each of the {n_classes} labels has one value in {len(train)} rows",
            _SEE,
        )
    if not (labels[val] >= 0).any():
        raise ProbeError("the validation part holds no known label", "all its labels are missing", _SEE)
    values = np.where(labels < 0, np.nan, labels).astype(np.float32)
    return Target("sigmoid", values, n_classes, np.arange(n_classes))


def _classes(
    y: AnyArray, train: IntArray, val: IntArray, n_classes: int, *, binary_output: bool, ordered: bool
) -> Target:
    labels = np.asarray(y, dtype=np.int64)
    used = labels[np.concatenate([train, val])]
    if used.min() < 0 or used.max() >= n_classes:
        raise ProbeError(
            f"labels lie outside 0..{n_classes - 1}",
            "images without a label can't be trained on",
            "leave those rows out, or name the label column with --label-column",
        )
    classes = np.unique(labels[train])
    if len(classes) < 2:
        raise ProbeError(
            "the training part holds one class only",
            f"all {len(train)} rows have the label {classes[0]}",
            _SEE,
        )
    known = np.isin(labels, classes)
    if not known[val].any():
        raise ProbeError(
            "no validation row has a class that training holds", "nothing can be chosen on", _SEE
        )
    codes = np.where(known, np.searchsorted(classes, labels), -1).astype(np.int64)
    notes = ("the classes are ordered; this head is fitted to them as classes without order",) * ordered
    lacking = int((~known[val]).sum())
    if lacking:
        notes += (f"{lacking} of {len(val)} validation rows have a class that training lacks",)
    if binary_output and len(classes) == 2:
        one = np.where(codes < 0, np.nan, codes).astype(np.float32)[:, None]
        return Target("sigmoid", one, 1, classes, notes=notes)
    return Target("softmax", codes, len(classes), classes, notes=notes)


def accuracy(target: Target, scores: AnyArray, rows: IntArray) -> float:
    """Share of `rows` (of known cells, for several labels) that scores [M, K] get right; unseen classes are wrong."""
    truth = target.values[rows]
    if target.link == "softmax":
        return float((scores.argmax(axis=1) == truth).mean())
    known = np.isfinite(truth)
    right = ((scores > 0) == (truth == 1)) & known
    if len(target.classes) != target.outputs:  # one output for two classes: a third one counts as wrong
        return float(right.mean())
    return float(right.sum() / known.sum())


def auroc(target: Target, scores: AnyArray, rows: IntArray) -> float:
    """Mean area under the ROC curve over classes or labels with both values in `rows`, of scores [M, K]; else NaN.

    By ranks (Mann and Whitney 1947), ties count half.
    """
    from scipy.stats import rankdata

    truth = target.values[rows]
    if target.link == "softmax":
        truth = (truth[:, None] == np.arange(target.outputs)).astype(np.float32)
    areas: list[float] = []
    for column, score in zip(truth.T, np.asarray(scores, dtype=np.float64).T, strict=True):
        known = np.isfinite(column)
        yes = column[known] == 1
        positives, negatives = int(yes.sum()), int((~yes).sum())
        if positives and negatives:
            ranks: FloatArray = rankdata(score[known])
            areas.append((ranks[yes].sum() - positives * (positives + 1) / 2) / (positives * negatives))
    return float(np.mean(areas)) if areas else float("nan")
