"""Hands out rows of a cached embedding as float32 batches, so that patch tokens need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from featprobe.heads.cached.fitted import blocks
from featprobe.heads.model import CONSTANT_FEATURE
from featprobe.heads.optimisation import epoch_order
from featprobe.records import AnyArray, FloatArray, IntArray


class Rows:
    """`rows` of `table` [N, ...], an array or a memory map of any floating type; nothing is copied."""

    def __init__(self, table: AnyArray, rows: IntArray, device: torch.device) -> None:
        self.table, self.rows, self.device = table, rows, device

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """D, the last axis."""
        return int(self.table.shape[-1])

    def batch(self, positions: IntArray) -> Tensor:
        """float32 [B, ...] of `positions` into these rows."""
        taken = np.ascontiguousarray(self.table[self.rows[positions]], dtype=np.float32)
        return torch.from_numpy(taken).to(self.device)

    def blocks(self) -> Iterator[Tensor]:
        """All rows in order, in blocks that fit into memory."""
        everything = np.arange(len(self.rows))
        for part in blocks(self.table, len(self.rows)):
            yield self.batch(everything[part])

    def moments(self) -> tuple[FloatArray, FloatArray]:
        """(mean, 1 / deviation) of each channel over rows and tokens, float64 [D]; constant channels get 1."""
        count = len(self.rows) * int(np.prod(self.table.shape[1:-1]))
        mean = sum((block.sum(axis=0) for block in self._exact()), np.zeros(self.width)) / count
        squares = sum((np.square(block - mean).sum(axis=0) for block in self._exact()), np.zeros(self.width))
        deviation = np.sqrt(squares / count)
        usable = deviation > CONSTANT_FEATURE * np.abs(mean)
        return mean, np.where(usable, 1 / np.where(usable, deviation, 1.0), 1.0)

    def _exact(self) -> Iterator[FloatArray]:
        for part in blocks(self.table, len(self.rows)):
            yield np.asarray(self.table[self.rows[part]], dtype=np.float64).reshape(-1, self.width)


def endless_batches(count: int, size: int, steps: int, *, seed: int) -> Iterator[IntArray]:
    """`steps` batches of `size` positions from shuffled passes over `count` rows, one pass after the other."""
    waiting: IntArray = np.empty(0, dtype=np.int64)
    passes = 0
    for _ in range(steps):
        while len(waiting) < size:
            more = epoch_order(count, 1, seed=seed, epoch=passes)
            waiting, passes = np.concatenate([waiting, more]), passes + 1
        yield waiting[:size]
        waiting = waiting[size:]
