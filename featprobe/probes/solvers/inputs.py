"""Rows that no solver can compute with are refused by their numbers."""

from __future__ import annotations

from typing import Final

import numpy as np

from featprobe.errors import ProbeError, listed
from featprobe.records import FloatArray

LARGEST: Final = 1e100
"""Beyond it squares leave float64's range."""


class InputError(ProbeError, ValueError):
    """Data that can't be fitted; scikit-learn expects a ValueError."""


def need_finite(X: FloatArray) -> None:
    """InputError that names the rows of X [N, D] with values that can't be computed with."""
    if not np.isfinite(X.sum()) or np.abs(X).max() > LARGEST:
        bad = np.flatnonzero(~(np.abs(X) <= LARGEST).all(axis=1))
        raise InputError(
            f"{len(bad)} of {len(X)} rows of X hold NaN, infinity or values beyond {LARGEST:g}",
            f"rows {listed([str(row) for row in bad])}",
            "type: featprobe cache verify, or extract again with --precision fp32",
        )
