"""How far each label's probability lies from its frequency, in bins of equally many rows."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.calibration import mass_error
from featprobe.metrics.counting import labels_mean
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("macro_ace")
@describe(
    "macro_ace",
    label="Macro adaptive ECE of labels",
    higher_is_better=False,
    needs_classes=False,
    tasks=("multilabel",),
)
def macro_ace(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean over the labels of the calibration error of the label's probability, [B], in [0, 1].

    |frequency - mean probability| in 15 ranges of equal weight (Nixon et al., CVPR workshops 2019),
    on the label's known cells.
    """
    return labels_mean(mass_error, y_true, y_score, weights)
