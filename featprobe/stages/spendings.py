"""What every compared system cost, as the stages recorded it: time, memory, trained parameters, energy estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from featprobe.records import KEY_COLUMNS

COSTS: Final = (
    "seconds",
    "clock",
    "device",
    "extraction_seconds",
    "extraction_device",
    "peak_memory_bytes",
    "trained_parameters",
    "parameters",
    "energy_wh",
    "energy_basis",
)
"""Fields of a recorded cost; any may be None."""

_OWN: Final = tuple(name for name in KEY_COLUMNS if name not in {"dataset", "fold"})


def spendings(runs: Sequence[Mapping[str, Any]], estimates: pd.DataFrame) -> pd.DataFrame:
    """One row per data set, level and system with a recorded cost: dataset, level, system, COSTS.

    `estimates`: with the columns `system` and `dataset` (or family of data sets) as compared.
    """
    known: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for run in runs:
        for info in run.get("units", {}).values():
            if "costs" in info:
                known[tuple(str(info["key"].get(name, "")) for name in _OWN)] = info["costs"]
    rows = []
    keys = estimates[["dataset", "system", *_OWN]].drop_duplicates()
    for row in keys.to_dict("records"):
        cost = known.get(tuple(str(row[name]) for name in _OWN))
        if cost is not None:
            named = {"dataset": row["dataset"], "level": row["level"], "system": row["system"]}
            rows.append({**named, **{name: cost.get(name) for name in COSTS}})
    return pd.DataFrame(rows, columns=["dataset", "level", "system", *COSTS])
