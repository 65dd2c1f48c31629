"""The processes that train one model together: one by default, for which every question has a plain answer.

`featprobe.heads.crew` answers the same questions for several. All of them run the same code on the same rows: what
one process alone may do (write, draw, print) stands in `decided`, what fails in one fails in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from featprobe.records import IntArray

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class EndedTogetherError(Exception):
    """Raised by an ear for progress in every process at the same epoch: a training is ended, nothing has failed."""


class Team:
    """One process by itself. `rank`: which process this is, from 0; `size`: how many there are."""

    rank = 0
    size = 1
    device: torch.device | None = None
    """This process's own, where a launcher gave it one."""

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Any error inside, of any process, is raised in all of them: none is left waiting for one that stopped."""
        yield

    def attempted(self, work: Callable[[], T]) -> T:
        """What `work` gives; where memory runs out in one process, all raise an error that says so."""
        return work()

    def decided(self, work: Callable[[], T]) -> T:
        """What `work` gives in the main process, the only one that calls it; JSON types (others get tuples as lists)."""
        return work()

    def tensors(self, work: Callable[[], Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The tensors that `work` gives in the main process, bit for bit."""
        return dict(work())

    def most(self, value: int) -> int:
        """The largest of all processes' values."""
        return value

    def same(self, value: str, what: str) -> None:
        """DataError where `what` has another value in another process."""

    def owned(self, count: int, *, mirrored: bool) -> IntArray:
        """Rows of a batch of `count` that this process passes, int64, ascending: see `featprobe.heads.shares.owners`."""
        del mirrored
        return np.arange(count, dtype=np.int64)

    def block(self, count: int) -> tuple[int, int]:
        """(first, end) of the rows that this process passes where no gradient is needed."""
        return 0, count

    def rows(self, made: torch.Tensor, count: int) -> torch.Tensor:
        """All `count` rows in order, of what every process made of its `block`; CPU."""
        del count
        return made

    def add_up(self, gradients: Sequence[torch.Tensor], loss: torch.Tensor) -> torch.Tensor:
        """The loss summed over all processes, and the same of `gradients`, in place."""
        del gradients
        return loss

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """`values` summed over all processes, for layers that look at the whole batch; may raise as `attempted` does."""
        return values

    def whole_batch(self, rows: IntArray, count: int, *, live: bool) -> AbstractContextManager[Any]:
        """Where layers that look at, or draw for, a batch do so for all its `count` rows, of which `rows` are here.

        `live`: whether they count; else they are there only so that this process takes part.
        """
        del rows, count, live
        return nullcontext()


SOLO = Team()
