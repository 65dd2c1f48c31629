"""How many independent units hold each class."""

from __future__ import annotations

import numpy as np
import pandas as pd

from featprobe.records import IntArray


def groups_per_class(labels: IntArray, units: IntArray, n_classes: int) -> IntArray:
    """Units that hold at least one row of each class, int64 [C]."""
    pairs = pd.DataFrame({"label": labels, "unit": units}).drop_duplicates()
    return np.bincount(pairs["label"].to_numpy(), minlength=n_classes).astype(np.int64)
