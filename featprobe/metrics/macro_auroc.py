"""The chance that an image with a finding scores above one without, averaged over the findings."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.auroc import binary_auroc
from featprobe.metrics.counting import labels_mean
from featprobe.metrics.ranking import by_row
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("macro_auroc")
@describe("macro_auroc", label="Macro AUROC", tasks=("multilabel",))
def macro_auroc(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean over the labels of the area under the ROC curve on the label's known cells, [B].

    A label counts in a resample in which both its values have weight.
    """
    return labels_mean(binary_auroc, y_true, y_score, by_row(weights))
