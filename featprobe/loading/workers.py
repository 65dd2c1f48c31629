"""Processes that read and decode: they end with their parent, and their errors keep their words.

Workers send 8-bit pixels, a quarter of the bytes of floats, through pipes, which need no shared memory; the
division by 255 and the normalisation follow in the receiving process. Both ways give the same floats.
"""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any, Final, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader

from featprobe.errors import DataError, FeatprobeError

_PR_SET_PDEATHSIG: Final = 1  # prctl(2): the signal that a process gets when its parent dies

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Loads(Protocol[T_co]):
    """Something that can load its parts by number, and can be pickled."""

    def __len__(self) -> int:
        """How many parts there are."""

    def load(self, index: int) -> T_co:
        """Part `index`."""


class _Listed:
    """The parts as torch's DataLoader wants them. Errors are returned: raised, they lose their words."""

    def __init__(self, source: Loads[Any]) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._source.load(index)
        except FeatprobeError as error:
            return error


def in_workers(source: Loads[T], workers: int) -> Iterator[T]:
    """Every part of `source`, in order, loaded by `workers` processes. DataError where one of them dies."""
    # Forked workers share the data set's memory; elsewhere the platform's own way is the safe one.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    with warnings.catch_warnings():
        # torch warns of more workers than cores, Python of forking beside threads: workers use no other thread.
        warnings.simplefilter("ignore")
        loader: Any = DataLoader(
            _Listed(source),  # type: ignore[arg-type]  # a sequence of parts; DataLoader needs no more
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=min(workers, max(len(source), 1)),
            multiprocessing_context=context,
            worker_init_fn=functools.partial(_start_worker, parent=os.getpid()),
        )
        iterator: Any = iter(loader)
    try:
        for part in iterator:
            if isinstance(part, FeatprobeError):
                raise part
            yield part
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            "a process that loads images has died",
            "most likely the machine ran out of memory",
            "type --workers 0, or a smaller --batch-size",
        ) from error
    finally:
        iterator._shutdown_workers()  # noqa: SLF001 - leaving it to the garbage collector lets workers linger


def _as_it_is(part: Any) -> Any:
    return part


def _start_worker(_: int, *, parent: int) -> None:
    if sys.platform == "linux":
        # A forked worker shares the parent's open files, and with them its lock on the cache: after the parent
        # is killed the lock must not live on in a worker that has yet to notice.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
