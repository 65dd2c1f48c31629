"""What a training cost: seconds, memory, trained parameters, and an estimate of the energy that says it is one."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

WATTS_PER_THREAD: Final = 10.0
"""Assumed of a CPU's core that computes; no measurement of this machine."""


@dataclass(frozen=True, slots=True)
class Cost:
    """`seconds`: of training, resumed parts included, and of predicting. `peak`: bytes; `trained`: parameters."""

    seconds: float
    peak: int
    trained: int
    whole: int


class PeakMemory:
    """`bytes` is the most memory held at a time: of the GPU's tensors, else of this process."""

    def __init__(self) -> None:
        self.bytes = 0


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """The peak inside.

    On the CPU it is the resident memory of the whole process, images kept for training included; where the kernel
    does not let it be reset (Linux alone does) it is the peak since the process began.
    """
    import torch

    found = PeakMemory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    try:
        yield found
    finally:
        found.bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident_peak()


def resident_peak() -> int:
    """The most resident memory of this process in bytes, since that was last reset."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def costs(folds: Sequence[Cost], device: torch.device, watts: float | None) -> dict[str, Any]:
    """What all folds came to, as JSON types; see `power` for what the energy rests on."""
    seconds = sum(fold.seconds for fold in folds)
    used, basis = power(device) if watts is None else (watts, f"{watts:g} W as given with --watts")
    return {
        "seconds": round(seconds, 3),
        "clock": "wall",
        "device": device.type,
        "peak_memory_bytes": max(fold.peak for fold in folds),
        "trained_parameters": folds[0].trained,
        "parameters": folds[0].whole,
        "energy_wh": None if used is None else round(seconds * used / 3600, 6),
        "energy_basis": f"an estimate, no measurement: seconds times {basis}" if used is not None else basis,
    }


def power(device: torch.device) -> tuple[float | None, str]:
    """(watts, what they are): the GPU's power limit; 10 W for each CPU thread, an assumption; None where unknown."""
    import torch

    if device.type == "cpu":
        threads = torch.get_num_threads()
        return WATTS_PER_THREAD * threads, f"{WATTS_PER_THREAD:g} W for each of {threads} threads (assumed)"
    if device.type == "cuda":
        number = torch.cuda.current_device() if device.index is None else device.index
        command = ["nvidia-smi", f"--id={number}", "--query-gpu=power.limit", "--format=csv,noheader,nounits"]
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout  # noqa: S603 - fixed words and a number
            return float(said.split()[0]), f"the GPU's power limit of {float(said.split()[0]):g} W"
    return None, "no estimate: the device's power is not known; give it with --watts"
