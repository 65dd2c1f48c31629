"""A batch that does not fit into memory is passed in halves: the optimizer sees the same batch."""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from featprobe.heads.team import SOLO, Team

T = TypeVar("T")


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device, or the machine, has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


class Portions:
    """How many images pass at a time: `size`, halved down to `least` each time that memory runs out."""

    def __init__(self, size: int, least: int = 1) -> None:
        self.size, self.least = size, min(least, size)
        self.first = size

    def parts(self, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
        """The tensors [B, ...] in near-equal parts of at most `size` rows, so that no part is a stump."""
        spans = self.spans(len(tensors[0]))
        return [tuple(tensor[start:stop] for tensor in tensors) for start, stop in spans]

    def spans(self, rows: int) -> list[tuple[int, int]]:
        """(first, end) of near-equal parts of at most `size` of `rows` rows."""
        count = math.ceil(rows / self.size)
        least, longer = divmod(rows, count) if count else (0, 0)
        ends = [number * least + min(number, longer) for number in range(count + 1)]
        return list(itertools.pairwise(ends))

    def run(self, attempt: Callable[[], T], *, undo: Callable[[], None], rows: int, team: Team = SOLO) -> T:
        """What `attempt` gives; after running out of memory it is undone and tried in smaller parts.

        Where memory runs out in one process of `team` all of them undo and take the smaller parts.
        """
        while True:
            failed = False
            try:
                return team.attempted(attempt)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or min(self.size, rows) <= self.least:
                    raise
                failed = True
            if failed:  # outside the handler: the error holds on to the memory of its frames
                undo()
                self.size = max(self.least, math.ceil(min(self.size, rows) / 2))
                if torch.cuda.is_available():
                    gc.collect()
                    torch.cuda.empty_cache()

    def note(self, batch: int, *, norms: bool, processes: int = 1) -> str:
        """What must be said of a batch that was halved, "" where none was."""
        if self.size == self.first:
            return ""
        together = f" in {processes} processes together" if processes > 1 else ""
        statistics = "; BatchNorm statistics are of these" if norms else ""
        return (
            f"memory ran out: {self.size} images passed at a time{together}, their gradients added up to the batch of {batch}"
            f"{statistics}"
        )


class Statistics:
    """The buffers of BatchNorm layers as they were before a step, to take them back."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = layers
        self.kept: list[Tensor] = []

    def keep(self) -> None:
        """Copy them."""
        self.kept = [value.clone() for layer in self.layers for value in layer.buffers(recurse=False)]

    def restore(self) -> None:
        """Put them back."""
        buffers = [value for layer in self.layers for value in layer.buffers(recurse=False)]
        for value, before in zip(buffers, self.kept, strict=True):
            value.copy_(before)
