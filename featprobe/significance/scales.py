"""An interval is built where the metric's values spread evenly, so that it never leaves the metric's range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

ZERO: Final = 1e-12
"""Values nearer to each other than this are the same number but for rounding."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The range [`lower`, `upper`] of a metric, either end possibly infinite, and the scale that fits it.

    Both ends finite: the logit of the place between them, which for [-1, 1] is (twice) Fisher's z. One end: the
    logarithm of the distance from it. None: the values as they are.
    """

    lower: float
    upper: float

    @property
    def name(self) -> str:
        """For ci_method."""
        if np.isfinite(self.lower) and np.isfinite(self.upper):
            return "Fisher's z" if (self.lower, self.upper) == (-1.0, 1.0) else "the logit scale"
        if np.isfinite(self.lower):
            return "the logarithmic scale"
        if np.isfinite(self.upper):
            return f"the logarithmic scale of {self.upper:g} - value"
        return "the metric's own scale"

    def rounding(self, value: float) -> float:
        """How far values near `value` may lie apart and still be the same number."""
        if np.isfinite(self.lower) and np.isfinite(self.upper):
            return ZERO
        if np.isfinite(self.lower) or np.isfinite(self.upper):
            end = self.lower if np.isfinite(self.lower) else self.upper
            return ZERO * max(abs(value - end), float(np.finfo(np.float64).tiny))
        return ZERO * max(1.0, abs(value))

    def interval(self, value: float, error: float, freedom: float, confidence: float) -> tuple[float, float]:
        """`value` +- t(`freedom`) standard errors by the delta method; NaN where the value is at an end."""
        t = float(stats.t.ppf((1 + confidence) / 2, freedom))
        if np.isfinite(self.lower) and np.isfinite(self.upper):
            return self._logit(value, error, t)
        if not np.isfinite(self.lower) and not np.isfinite(self.upper):
            return value - t * error, value + t * error
        distance = self.upper - value if np.isfinite(self.upper) else value - self.lower
        if not distance > 0:
            return float("nan"), float("nan")
        near, far = distance * np.exp(np.array([-1.0, 1.0]) * t * error / distance)
        if np.isfinite(self.upper):
            return float(self.upper - far), float(self.upper - near)
        return float(self.lower + near), float(self.lower + far)

    def _logit(self, value: float, error: float, t: float) -> tuple[float, float]:
        width = self.upper - self.lower
        share = (value - self.lower) / width
        if not ZERO < share < 1 - ZERO:
            return float("nan"), float("nan")
        centre = np.log(share / (1 - share))
        half = t * (error / width) / (share * (1 - share))
        low, high = self.lower + width / (1 + np.exp(-(centre + np.array([-half, half]))))
        return float(low), float(high)
