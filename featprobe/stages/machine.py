"""Device, arithmetic and versions: what the machine adds to a run, recorded but never part of the key."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from featprobe.errors import ConfigError, OutputError

if TYPE_CHECKING:
    import torch

NUMERIC_PACKAGES: Final = ("torch", "timm", "torchvision", "pillow")
"""Another version of one of these may change an embedding: 16 rows are computed again before reuse."""

LIBRARIES: Final = {
    "hf": "transformers",
    "monai": "monai",
    "openclip": "open_clip_torch",
    "xrv": "torchxrayvision",
}
"""Prefix of an architecture -> the package that builds it, whose version then counts like timm's."""

RECORDED_PACKAGES: Final = (
    *NUMERIC_PACKAGES,
    *LIBRARIES.values(),
    "featprobe",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "h5py",
)


def versions(packages: tuple[str, ...] = RECORDED_PACKAGES) -> dict[str, str]:
    """Package -> installed version ("" where it is not installed)."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def numeric_packages(architecture: str) -> tuple[str, ...]:
    """The packages of which another version may change an embedding by `architecture`."""
    library = LIBRARIES.get(architecture.partition(":")[0])
    return (*NUMERIC_PACKAGES, library) if library else NUMERIC_PACKAGES


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the first CUDA GPU, else the CPU. ConfigError where it is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}", "known: auto, cpu, cuda, cuda:N, mps") from None
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if not there.get(device.type, False) or (device.index or 0) >= count:
        raise ConfigError(
            f"device {name!r} is not there",
            f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA GPUs",
            "type --device auto",
        )
    return device


def keep_freed_memory(device: torch.device) -> None:
    """Let glibc keep the activations' memory between CPU forward passes instead of asking the kernel each time.

    By default every activation of 32 MB or more is mapped, zeroed page by page and unmapped again; that took
    over half of the CPU time of EfficientNet-Lite0 at 224 pixels. Nothing happens on a GPU or without glibc.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_threshold = -1, -3  # the names' values in malloc.h
    libc.mallopt(mmap_threshold, 2**30)
    libc.mallopt(trim_threshold, 2**31 - 1)


def device_name(device: torch.device) -> str:
    """What a person calls the device, such as `NVIDIA H100` or `cpu (2 threads)`."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Run a forward pass in `precision`; fp32 means fp32: TF32 is off unless it was asked for."""
    import torch

    tf32 = precision == "tf32"
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    try:
        if precision in kinds:
            with torch.autocast(device.type, dtype=kinds[precision]):
                yield
        else:
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def default_batch_size(device: torch.device) -> int:
    """Images per forward pass: enough to fill the device, not its memory."""
    return 128 if device.type == "cuda" else 32


def default_workers(device: torch.device) -> int:
    """Processes that decode: a GPU must be fed, a CPU's cores are busy with the forward pass."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores - 1)) if device.type == "cuda" else 0


def offline(flag: bool) -> bool:
    """Whether the network is forbidden: by --offline or by FEATPROBE_OFFLINE=1."""
    return flag or os.environ.get("FEATPROBE_OFFLINE", "").lower() in {"1", "true", "yes", "on"}


def environment(device: torch.device, **more: Any) -> dict[str, Any]:
    """What is recorded beside an embedding file: device, versions, engine."""
    return {
        "device": device_name(device),
        "engine": f"torch on {device.type}",
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **more,
    }


def need_writable(folder: Path) -> None:
    """Make `folder`, or say at once, before any work, that it can't be written to (OutputError)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".featprobe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"can't write to {folder}",
            error.strerror or str(error),
            "choose another folder with --out or --cache, or change its permissions",
        ) from None
