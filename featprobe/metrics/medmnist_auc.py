"""The AUC of MedMNIST's evaluator, for tables that stand beside its published ones."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.auroc import binary_auroc
from featprobe.metrics.counting import BoolArray, columns_of
from featprobe.metrics.ranking import by_row
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("medmnist_auc")
@describe("medmnist_auc", label="MedMNIST AUC", tasks=("classes", "ordinal", "multilabel"))
def medmnist_auc(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Area under the ROC curve of class 1 of two; else the unweighted mean over *all* classes or labels, [B].

    MedMNIST's `getAUC` (Yang et al., Scientific Data 10, 2023), which scores RetinaMNIST's grades as classes too. NaN
    where a class or label has no area because one of its sides has no weight: the evaluator fails there, where `auroc`
    and `macro_auroc` leave it out; where both are defined they are equal. Cells of labels that are not known
    (MedMNIST has none) count neither way.
    """
    if y_true.ndim == 1 and y_score.shape[1] == 2:
        return binary_auroc(y_true == 1, y_score[:, 1], weights)
    weights, total, every = by_row(weights), np.zeros(len(weights)), np.arange(len(y_true))
    for column in range(y_score.shape[1]):
        known = np.flatnonzero(y_true[:, column] >= 0) if y_true.ndim == 2 else every
        positive: BoolArray = y_true[known, column] == 1 if y_true.ndim == 2 else y_true == column
        total += binary_auroc(positive, y_score[known, column], columns_of(weights, known))
    return np.asarray(total / y_score.shape[1])
