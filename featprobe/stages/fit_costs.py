"""What fitting a frozen probe cost, in the columns of a training's costs, so that both stand side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from featprobe.stages.tables import Table
from featprobe.stages.training_costs import WATTS_PER_THREAD, resident_peak

TRAINED: Final = frozenset({"coef", "intercept", "cuts", "weight", "bias", "tensors"})
"""Fields of fitted models that hold trained numbers. Scalings and calibrations are not counted, nor are rows that
neighbours are looked for in: they are kept as they come."""


@dataclasses.dataclass(frozen=True, slots=True)
class FitCost:
    """Of one fold. `seconds`: see `Spending`; `peak`: bytes, None where it could not be measured; `trained`: parameters."""

    seconds: float
    peak: int | None
    trained: int | None


class Spending:
    """`seconds` of CPU time of this process, all threads together, and its `peak` memory in bytes (None: unknown)."""

    def __init__(self) -> None:
        self.seconds, self.peak = 0.0, None if not _forget_peak() else resident_peak()


def _forget_peak() -> bool:
    """Whether the kernel took the peak of resident memory back to what is resident now (Linux alone does)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


@contextlib.contextmanager
def spending() -> Iterator[Spending]:
    """What is spent inside. One fit at a time runs in a process, and none in processes of its own."""
    found, began = Spending(), time.process_time()
    yield found
    found.seconds = time.process_time() - began
    found.peak = None if found.peak is None else resident_peak()


def trained_parameters(model: Any) -> int | None:
    """Numbers that fitting set in a model of probes, heads or fusion; None for a model that does not show them."""
    if not dataclasses.is_dataclass(model):
        return None
    return _count(model)


def _count(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(_count, value.values()))
    if isinstance(value, (tuple, list)):
        return sum(map(_count, value))
    if not dataclasses.is_dataclass(value):
        return 0
    found = 0
    for field in dataclasses.fields(value):
        part = getattr(value, field.name)
        if field.name not in TRAINED:
            found += _count(part)
        elif isinstance(part, Mapping):
            found += sum(int(np.size(one)) for one in part.values())
        else:
            found += int(np.size(part))
    return found


def fit_costs(folds: Sequence[FitCost], tables: Sequence[Table], watts: float | None) -> dict[str, Any]:
    """What all folds came to, as JSON types and as `training_costs.costs` names it, with the share of the cache.

    `watts`: of one CPU thread, None for the assumed.
    """
    seconds = sum(fold.seconds for fold in folds)
    used = WATTS_PER_THREAD if watts is None else watts
    basis = f"{used:g} W for each CPU thread" + (" (assumed)" if watts is None else " as given with --watts")
    peaks = [fold.peak for fold in folds]
    forward, device = extraction(tables)
    return {
        "seconds": round(seconds, 3),
        "clock": "CPU",
        "device": "cpu",
        "extraction_seconds": None if forward is None else round(forward, 3),
        "extraction_device": device,
        "peak_memory_bytes": None if None in peaks else max(peak for peak in peaks if peak is not None),
        "trained_parameters": folds[0].trained,
        "parameters": None,
        "energy_wh": round(seconds * used / 3600, 6),
        "energy_basis": f"an estimate, no measurement: seconds times {basis}",
    }


def extraction(tables: Sequence[Table]) -> tuple[float | None, str | None]:
    """(seconds of the forward passes that gave the tables, device), None where the cache does not know them.

    Seconds for each image that passed, times the images; a pass that gave several of the tables counts once.
    """
    passes: dict[str, tuple[float, str]] = {}
    for table in tables:
        for entry in table.entries:
            about = entry.environments.get(table.pooling, {})
            if not about.get("forward_images"):
                return None, None
            spent = float(about["forward_seconds"]) / int(about["forward_images"]) * entry.n
            device = str(about.get("engine", "")).removeprefix("torch on ")
            passes[f"{entry.path} {about['forward_seconds']!r}"] = (spent, device)
    devices = sorted({device for _, device in passes.values()})
    return sum(spent for spent, _ in passes.values()), "+".join(devices)
