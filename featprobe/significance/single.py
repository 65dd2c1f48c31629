"""Some methods count rows as independent: where a group has several rows they are refused, with what fits instead."""

from __future__ import annotations

import numpy as np

from featprobe.errors import ConfigError
from featprobe.records import IntArray


def need_single_rows(unit: IntArray, method: str, instead: str) -> None:
    """ConfigError where a group of `unit` int [N] has several rows; `instead`: what to type next."""
    sizes = np.bincount(unit)
    several = int((sizes > 1).sum())
    if several:
        raise ConfigError(
            f"{method} counts rows as independent, but {several} of {int((sizes > 0).sum())} groups have several rows",
            "its interval and p-value would be too small",
            instead,
        )
