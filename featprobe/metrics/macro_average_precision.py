"""The mean precision over the recalls, averaged over the labels: ranking where findings are rare."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.average_precision import binary_average_precision
from featprobe.metrics.counting import labels_mean
from featprobe.metrics.ranking import by_row
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("macro_average_precision")
@describe("macro_average_precision", label="Macro average precision", tasks=("multilabel",))
def macro_average_precision(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean over the labels of the average precision on the label's known cells, [B].

    A label counts in a resample in which both its values have weight.
    """
    return labels_mean(binary_average_precision, y_true, y_score, by_row(weights))
