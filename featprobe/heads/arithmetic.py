"""Sets the precision of the arithmetic and turns a machine's limits into errors that say what to type."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Final

import torch

from featprobe.errors import ConfigError, ProbeError
from featprobe.heads.memory import out_of_memory

_HALF: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(device: torch.device, precision: str) -> None:
    """ConfigError where `device` can't train in `precision`."""
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "fp16 needs a GPU, and this training runs on the CPU",
            "bf16 and fp32 run on both",
            "type --precision bf16",
        )


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of one forward pass; entered anew for each, as it caches the weights it has cast."""
    return torch.autocast(device.type, dtype=_HALF.get(precision), enabled=precision in _HALF)


@contextmanager
def machine(
    device: torch.device, precision: str, batch_size: int, *, deterministic: bool = False
) -> Iterator[None]:
    """TF32 on for "tf32" and off for all else, restored afterwards; ProbeError where memory runs out.

    `deterministic`: torch's deterministic algorithms alone, inside.
    """
    with _deterministic(device) if deterministic else nullcontext():
        yield from _machine(device, precision, batch_size)


def _machine(device: torch.device, precision: str, batch_size: int) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise _out_of_memory(device, batch_size) from error
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if device.type == "cuda" and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        # cuBLAS reads it when it starts, and is deterministic with either of two values alone.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _out_of_memory(device: torch.device, batch_size: int) -> ProbeError:
    return ProbeError(
        f"{device} ran out of memory at a batch of {batch_size} images, also in the smallest parts",
        "memory grows with the image size and the backbone; half precision needs about half",
        "take a smaller --image-size or backbone, or type --precision bf16",
    )
