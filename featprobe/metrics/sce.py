"""How far each class's probability lies from its frequency: calibration beyond the most probable class."""

from __future__ import annotations

from featprobe.metrics import describe
from featprobe.metrics.calibration import fewest, over_classes, width_error
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("sce")
@describe("sce", label="Classwise ECE", higher_is_better=False, upper=fewest, needs_classes=False)
def sce(y_true: IntArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Static (classwise) calibration error, [B], in [0, 2 / C].

    Nixon et al. (CVPR workshops 2019), SCE; the classwise ECE of Kull et al. (NeurIPS 2019): `ece` of the probability of
    each class against the rest, in 15 bins of equal width, averaged over all classes. Of two classes it is the error
    of the probability of class 1.
    """
    return over_classes(width_error, y_true, y_score, weights)
