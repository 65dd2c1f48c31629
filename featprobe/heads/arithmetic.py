"""Sets the precision of the arithmetic and turns a machine's limits into errors that say what to type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from featprobe.errors import ConfigError, ProbeError

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
def machine(device: torch.device, precision: str, batch_size: int) -> Iterator[None]:
    """TF32 on for "tf32" and off for all else, restored afterwards; ProbeError where memory runs out."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(device, batch_size) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise _out_of_memory(device, batch_size) from error
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _out_of_memory(device: torch.device, batch_size: int) -> ProbeError:
    smaller = f"type --batch-size {batch_size // 2}" if batch_size > 1 else "take a smaller --image-size"
    return ProbeError(
        f"{device} ran out of memory at a batch of {batch_size} images",
        "memory grows with the batch and the image size; half precision needs about half",
        f"{smaller}, or --precision bf16",
    )
