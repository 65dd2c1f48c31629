"""How far scores can be believed: calibrated, selected by confidence, in sets that hold the truth, known or strange.

Plain functions of arrays; nothing here reads an image, a cache or a result.
"""

from __future__ import annotations

from featprobe.trust.calibration import METHODS, Isotonic, Recalibrated, Temperature, calibrate

__all__ = ["METHODS", "Isotonic", "Recalibrated", "Temperature", "calibrate"]
