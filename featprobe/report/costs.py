"""A gain has a price: time, memory, trained parameters and an estimate of the energy of every system."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
    note = " ".join([*_meanings(list(rows.values())), *(f"Energy is {basis}." for basis in bases)])
    header = (
        "System",
        "Seconds",
        "Device",
        "Extraction (s)",
        "Peak memory",
        "Trained parameters",
        "Energy (estimate)",
    )
    return Table(f"{panel.title}: what every system cost", header, table, note)


def _meanings(rows: Sequence[Any]) -> Iterator[str]:
    """What the columns hold, as far as these rows have it."""
    clocks = {row["clock"] for row in rows}
    frozen = "CPU" in clocks
    yield (
        "Seconds of fitting or training, the choice of settings included, and of predicting, over all folds: "
        + (
            "CPU time of probes on a frozen backbone, wall time of trained systems."
            if clocks - {"CPU"} and frozen
            else "CPU time."
            if frozen
            else "wall time."
        )
    )
    if frozen:
        yield (
            "Extraction is the wall time of the forward passes that gave the embeddings, once for all probes and "
            "settings, decoding not included; it is in no other column."
        )
    if any(row["clock"] == "CPU" and _missing(row["extraction_seconds"]) for row in rows):
        yield "Where it is not known to the cache, what a frozen system cost is incomplete."
    yield "Memory is the GPU's tensors at their most, on a CPU the whole process."
    if frozen:
        yield (
            "Trained parameters are weights and intercepts; neighbours that are looked up count as none, scalings and "
            "calibrations are not counted."
        )


def _entries(row: Any) -> tuple[Entry, ...]:
    if row is None:
        return (Entry(NOT_RECORDED),) * 6
    clock = "" if _missing(row["clock"]) else f" {row['clock']}"
    unknown = "not known" if row["clock"] == "CPU" else "in training"
    return (
        Entry(_said(row["seconds"], "{:.3g}") + clock),
        Entry(str(row["device"] or NOT_RECORDED)),
        Entry(_said(row["extraction_seconds"], f"{{:.3g}} ({row['extraction_device']})", missing=unknown)),
        Entry(_said(row["peak_memory_bytes"], "{:.2f} GiB", 2**30, missing="not measured")),
        Entry(_parameters(row)),
        Entry(_said(row["energy_wh"], "{:.3g} Wh")),
    )


def _parameters(row: Any) -> str:
    if _missing(row["trained_parameters"]):
        return NOT_RECORDED
    trained = int(row["trained_parameters"])
    share = "" if _missing(row["parameters"]) else f" of {int(row['parameters']):,}"
    return f"{trained:,}{share}"


def _said(value: Any, form: str, unit: float = 1.0, *, missing: str = NOT_RECORDED) -> str:
    return missing if _missing(value) else form.format(float(value) / unit)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
