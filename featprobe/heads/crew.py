"""Several processes that train one model together, in a process group that accelerate sets up.

Of accelerate this takes what a launcher's words mean: process group, backend and device. Its wrappers of loaders,
optimisers and models are left out on purpose. A wrapped loader draws an order and seeds of its own, so that another
number of processes would be another training. A model wrapped for data-parallel training sends gradients while the
backward pass still runs: a process that runs out of memory, or meets a broken image, in the middle of it would leave
the others waiting for ever. And it takes the mean over processes, wrong by weight where their shares differ. Here
gradients are summed once the pass is over and every process has said that its own went well.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed

from featprobe import errors
from featprobe.errors import ConfigError, DataError, FeatprobeError, MissingExtraError
from featprobe.heads.batchwide import WholeBatch
from featprobe.heads.memory import out_of_memory
from featprobe.heads.shares import owners
from featprobe.heads.team import EndedTogetherError, Team
from featprobe.records import IntArray

T = TypeVar("T")

BUCKET: Final = 2**23
"""Numbers of a gradient that are sent at a time: 32 MB of float32."""

PATIENCE: Final = timedelta(days=7)
"""How long one process waits for another that is alive; of one that has died it hears at once."""

_WELL, _NO_MEMORY, _FAILED = 0, 1, 2


class ElsewhereError(MemoryError):
    """Memory ran out in another process."""


class Crew(Team):
    """The processes that a launcher started. `device`: this process's own; `cpu`: whether all are to use the CPU.

    Before they exchange anything they meet, and say how things stand: who has failed meanwhile comes to that
    meeting, too, wherever the others are. MissingExtraError where accelerate is not installed, ConfigError where it
    does not know the launcher.
    """

    def __init__(self, *, cpu: bool) -> None:
        state = _partial_state()(cpu=cpu)
        if not distributed.is_initialized():
            raise ConfigError(
                "accelerate sees one process, where the launcher started several",
                "on GPUs it takes them from torchrun and from its own launcher alone",
                "type: torchrun --nproc-per-node N -m featprobe.cli finetune ...",
            )
        self._state = state
        self.rank, self.size = int(state.process_index), int(state.num_processes)
        self.device = torch.device(state.device)
        # What is said between the steps is small and in main memory, whatever the gradients' own way is.
        self._talk: Any = distributed.new_group(backend="gloo", timeout=PATIENCE)
        self._staging: Tensor | None = None
        self._agreed: BaseException | None = None

    def leave(self) -> None:
        """The end of the group; every process comes to it."""
        self._meet("end")
        self._state.destroy_process_group()

    @property
    def torn(self) -> bool:
        """Whether a process is gone, so that nothing can be said to the others any more."""
        return isinstance(self._agreed, _GoneError)

    def knows(self, error: BaseException) -> bool:
        """Whether `error` has been raised in every process."""
        return error is self._agreed

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """See `Team.agreeing`."""
        try:
            yield
        except EndedTogetherError:
            raise
        except Exception as error:
            if self.knows(error):
                raise
            self._meet("failure", _FAILED, error)
            raise

    def attempted(self, work: Callable[[], T]) -> T:
        """See `Team.attempted`."""
        try:
            value = work()
        except ElsewhereError:
            raise
        except Exception as error:
            if out_of_memory(error):
                self._meet("attempt", _NO_MEMORY)
            raise
        self._meet("attempt")
        return value

    def decided(self, work: Callable[[], T]) -> T:
        """See `Team.decided`."""
        value = work() if self.main else None
        words = json.dumps(value).encode()  # before all meet: what can't be told is this process's own error
        self._meet("decision")
        told = self._broadcast(words)
        return value if self.main else json.loads(told)  # type: ignore[return-value]

    def tensors(self, work: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """See `Team.tensors`."""
        given = dict(work()) if self.main else {}
        kinds = self.decided(
            lambda: [
                (name, str(one.dtype).removeprefix("torch."), list(one.shape)) for name, one in given.items()
            ]
        )
        if not self.main:
            given = {
                name: torch.empty(shape, dtype=getattr(torch, kind)).contiguous()
                for name, kind, shape in kinds
            }
        self._meet("tensors")
        for one in given.values():
            local = one.detach().cpu().contiguous()
            if local.numel():
                self._do(
                    lambda part: distributed.broadcast(part, 0, group=self._talk),
                    local.view(-1).view(torch.uint8),
                )
        return given

    def most(self, value: int) -> int:
        """See `Team.most`."""
        self._meet("most")
        held = torch.tensor([value], dtype=torch.int64)
        self._do(lambda part: distributed.all_reduce(part, distributed.ReduceOp.MAX, group=self._talk), held)
        return int(held.item())

    def same(self, value: str, what: str) -> None:
        """See `Team.same`."""
        self._meet("same")
        values = self._gathered(value)
        other = next((rank for rank, one in enumerate(values) if one != values[0]), None)
        if other is not None:
            raise DataError(
                f"process {other} of {self.size} sees {what} other than process 0 does",
                "all must see the same images, labels, weights and versions, also on another machine",
                "compare the files and `pip list` of the machines",
            )

    def owned(self, count: int, *, mirrored: bool) -> IntArray:
        """See `Team.owned`."""
        found: IntArray = np.flatnonzero(owners(count, self.size, mirrored=mirrored) == self.rank)
        return found

    def block(self, count: int) -> tuple[int, int]:
        """See `Team.block`."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    def rows(self, made: Tensor, count: int) -> Tensor:
        """See `Team.rows`."""
        self._meet("rows")
        # A block may be empty, and then its maker does not know how wide the rows are.
        widths = [json.loads(one) for one in self._gathered(json.dumps(list(made.shape)))]
        width: list[int] = next((one[1:] for one in widths if one[0]), [])
        whole = torch.zeros((count, *width), dtype=torch.float32)
        first, end = self.block(count)
        if first < end:
            whole[first:end] = made
        # Each row is made once and 0 elsewhere: the sum is exact.
        self._do(lambda part: distributed.all_reduce(part, group=self._talk), whole)
        return whole

    def add_up(self, gradients: Sequence[Tensor], loss: Tensor) -> Tensor:
        """See `Team.add_up`; the order of the sum is the library's, the same in every process."""
        staging = self._room(gradients, loss)
        self._meet(f"{len(gradients)} gradients")
        for bucket in _buckets(gradients, len(staging)):
            ends = np.cumsum([0, *(one.numel() for one in bucket)])
            parts = [staging[ends[at] : ends[at + 1]].view(one.shape) for at, one in enumerate(bucket)]
            for part, one in zip(parts, bucket, strict=True):
                part.copy_(one)
            self._do(distributed.all_reduce, staging[: ends[-1]])
            for part, one in zip(parts, bucket, strict=True):
                one.copy_(part)
        total = loss.detach().clone()
        self._do(distributed.all_reduce, total)
        return total

    def _room(self, gradients: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Where gradients are laid out to be sent; made once, since afterwards there may be no memory for it."""
        wanted = max((one.numel() for one in gradients), default=1)
        whole = sum(one.numel() for one in gradients)
        if self._staging is None or len(self._staging) < wanted:
            size = max(wanted, min(BUCKET, whole))
            self._staging = torch.empty(size, dtype=torch.float32, device=loss.device)
        return self._staging

    def total(self, values: Tensor) -> Tensor:
        """See `Team.total`."""
        if self._meet("total") == _NO_MEMORY:
            raise ElsewhereError("memory ran out in another process")
        self._do(distributed.all_reduce, values)
        return values

    def whole_batch(self, rows: IntArray, count: int, *, live: bool) -> AbstractContextManager[Any]:
        """See `Team.whole_batch`."""
        return WholeBatch(self, rows, count, live=live)

    def _meet(self, what: str, code: int = _WELL, error: BaseException | None = None) -> int:
        """The worst of all processes' codes; where one has failed, its error.

        `what` is to be exchanged next: RuntimeError where the processes do not mean the same, a fault of featprobe.
        """
        mark = zlib.crc32(what.encode())
        word = torch.tensor([code, mark, -mark], dtype=torch.int64)
        self._do(lambda part: distributed.all_reduce(part, distributed.ReduceOp.MAX, group=self._talk), word)
        worst, most, least = (int(number) for number in word)
        if worst == _FAILED:
            self._raise_first(error)
        if worst == _NO_MEMORY and code == _WELL and what == "attempt":
            raise ElsewhereError("memory ran out in another process")
        if worst == _WELL and most != -least:
            raise RuntimeError(f"the processes are out of step: this one is at {what!r}, another is not")
        return worst

    def _raise_first(self, own: BaseException | None) -> None:
        """The error of the first process that failed: its own there, the same words elsewhere."""
        told = self._gathered("" if own is None else json.dumps(_words(own)))
        first = next(rank for rank, words in enumerate(told) if words)
        if own is None or first != self.rank:
            self._agreed = _rebuilt(json.loads(told[first]), first, self.size)
        else:
            self._agreed = own
        raise self._agreed

    def _gathered(self, text: str) -> list[str]:
        """Every process's text, by rank."""
        data = text.encode()
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        length = torch.tensor([len(data)], dtype=torch.int64)
        self._do(lambda part: distributed.all_gather(sizes, part, group=self._talk), length)
        longest = max(1, *(int(size) for size in sizes))
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else 0
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        self._do(lambda part: distributed.all_gather(parts, part, group=self._talk), padded)
        pairs = zip(parts, sizes, strict=True)
        return [bytes(part[: int(size)].tolist()).decode() for part, size in pairs]

    def _broadcast(self, data: bytes) -> bytes:
        """The main process's `data`."""
        length = torch.tensor([len(data)], dtype=torch.int64)
        self._do(
            lambda part: distributed.broadcast(part, 0, group=self._talk), length
        )  # others' own is overwritten
        content = torch.empty(int(length), dtype=torch.uint8)
        if self.main:
            content.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        self._do(lambda part: distributed.broadcast(part, 0, group=self._talk), content)
        return bytes(content.tolist())

    def _do(self, exchange: Callable[[Tensor], Any], values: Tensor) -> None:
        """`exchange` with `values`; FeatprobeError where a process is gone."""
        try:
            exchange(values)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            self._agreed = _GoneError(
                "another process of this training is gone",
                str(error).strip().splitlines()[0].partition(". ")[0],
                "type the same command again: it goes on from the last checkpoint",
            )
            raise self._agreed from error


class _GoneError(FeatprobeError):
    """A process ended without a word, as by a kill."""


def _buckets(gradients: Sequence[Tensor], room: int) -> Iterator[list[Tensor]]:
    """Runs of `gradients` of at most `room` numbers."""
    bucket: list[Tensor] = []
    held = 0
    for one in gradients:
        if bucket and held + one.numel() > room:
            yield bucket
            bucket, held = [], 0
        bucket.append(one)
        held += one.numel()
    if bucket:
        yield bucket


def _words(error: BaseException) -> list[str]:
    if isinstance(error, FeatprobeError):
        return [type(error).__name__, error.wrong, error.known, error.next_step]
    return ["", f"{type(error).__name__}: {error}"]


def _rebuilt(words: Sequence[str], rank: int, size: int) -> FeatprobeError:
    """The error of process `rank` for another one: of the same kind, but that a fault is no error of the data."""
    kind, *parts = words
    if not kind:
        return FeatprobeError(f"process {rank} of {size} failed", parts[0], "see its traceback")
    parts[0] = f"process {rank} of {size}: {parts[0]}"
    cls = getattr(errors, kind, FeatprobeError)
    error: FeatprobeError = cls.__new__(cls)
    FeatprobeError.__init__(error, *parts)
    return error


def _partial_state() -> Any:
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise MissingExtraError("training in several processes", "accelerate", "distributed") from error
    return PartialState
