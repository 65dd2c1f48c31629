"""As the classwise error, but in bins that hold equally many rows: small probabilities get bins of their own."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.calibration import fewest, mass_error, over_classes
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("ace")
@describe("ace", label="Adaptive ECE", higher_is_better=False, upper=fewest, needs_classes=False)
def ace(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Adaptive calibration error, [B], in [0, 2 / C].

    Nixon et al. (CVPR workshops 2019), ACE, without a threshold: for each class 15 ranges of its probability that hold
    equal weight, the mean over ranges and classes of |frequency - mean probability|. How ranges are cut: `mass_error`.
    """
    return over_classes(mass_error, y_true, y_score, weights)
