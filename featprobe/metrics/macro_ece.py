"""How far each label's probability lies from its frequency, averaged over the labels."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.calibration import width_error
from featprobe.metrics.counting import labels_mean
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("macro_ece")
@describe(
    "macro_ece",
    label="Macro ECE of labels",
    higher_is_better=False,
    needs_classes=False,
    tasks=("multilabel",),
)
def macro_ece(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean over the labels of the calibration error of the label's probability, [B], in [0, 1].

    |frequency - mean probability| in 15 bins of equal width ((m - 1) / 15, m / 15] (Guo et al., ICML 2017),
    on the label's known cells.
    """
    return labels_mean(width_error, y_true, y_score, weights)
