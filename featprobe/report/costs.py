"""A gain has a price: time, memory, trained parameters and an estimate of the energy of every system."""

from __future__ import annotations

import math
from typing import Any

from featprobe.report.panels import Panel
from featprobe.report.tables import Entry, Table

NOT_RECORDED = "-"


def costs_table(panel: Panel) -> Table | None:
    """The systems (best first) by what they cost; None where nothing was recorded."""
    rows = {row["system"]: row for row in panel.costs.to_dict("records")}
    if not rows:
        return None
    table = tuple((Entry(system), *_entries(rows.get(system))) for system in panel.systems)
    bases = list(dict.fromkeys(str(row["energy_basis"]) for row in rows.values() if row["energy_basis"]))
    note = " ".join(
        [
            "Seconds of training and predicting over all folds.",
            "Memory is the GPU's tensors at their most, on a CPU the whole process.",
            *(f"Energy is {basis}." for basis in bases),
        ]
    )
    header = ("System", "Seconds", "Device", "Peak memory", "Trained parameters", "Energy (estimate)")
    return Table(f"{panel.title}: what every system cost", header, table, note)


def _entries(row: Any) -> tuple[Entry, ...]:
    if row is None:
        return (Entry(NOT_RECORDED),) * 5
    return (
        Entry(_said(row["seconds"], "{:.3g}")),
        Entry(str(row["device"] or NOT_RECORDED)),
        Entry(_said(row["peak_memory_bytes"], "{:.2f} GiB", 2**30)),
        Entry(_parameters(row)),
        Entry(_said(row["energy_wh"], "{:.3g} Wh")),
    )


def _parameters(row: Any) -> str:
    if _missing(row["trained_parameters"]):
        return NOT_RECORDED
    trained = int(row["trained_parameters"])
    share = "" if _missing(row["parameters"]) else f" of {int(row['parameters']):,}"
    return f"{trained:,}{share}"


def _said(value: Any, form: str, unit: float = 1.0) -> str:
    return NOT_RECORDED if _missing(value) else form.format(float(value) / unit)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
