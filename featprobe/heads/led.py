"""The checkpoints of a training that several processes share: the main one keeps them, all know what they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from featprobe.heads.checkpoints import CheckpointStore, Tensors
from featprobe.heads.team import Team


class LedStore:
    """A CheckpointStore of the main process for all of `team`; no other process needs to see its folder.

    Every method is as the store's own, called by all processes at once; what fails in the main one fails in all.
    """

    def __init__(self, store: CheckpointStore, team: Team) -> None:
        self._store, self._team = store, team

    @property
    def notes(self) -> list[str]:
        """What the console must say, in the main process."""
        return self._store.notes

    @property
    def best_path(self) -> Path:
        """Where the best epoch's weights are."""
        return self._store.best_path

    def claim(self) -> None:
        """See CheckpointStore."""
        self._only(self._store.claim)

    def finished(self) -> dict[str, Any] | None:
        """See CheckpointStore."""
        return self._team.decided(self._store.finished)

    def load_last(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """See CheckpointStore."""
        read: dict[str, Tensor] = {}

        def load() -> dict[str, Any] | None:
            found = self._store.load_last()
            if found is None:
                return None
            read.update(found[0])
            return found[1]

        state = self._team.decided(load)
        return None if state is None else (self._team.tensors(lambda: read), state)

    def holds_best(self, epoch: int) -> bool:
        """See CheckpointStore."""
        return self._team.decided(lambda: self._store.holds_best(epoch))

    def load_best(self) -> dict[str, Tensor]:
        """See CheckpointStore."""
        return self._team.tensors(self._store.load_best)

    def save_last(self, tensors: Tensors, state: Mapping[str, Any]) -> None:
        """See CheckpointStore."""
        self._only(lambda: self._store.save_last(tensors, state))

    def save_best(self, tensors: Tensors, record: Mapping[str, Any]) -> None:
        """See CheckpointStore."""
        self._only(lambda: self._store.save_best(tensors, record))

    def finish(self, record: Mapping[str, Any]) -> None:
        """See CheckpointStore."""
        self._only(lambda: self._store.finish(record))

    def clear_last(self) -> None:
        """See CheckpointStore."""
        self._only(self._store.clear_last)

    def _only(self, work: Callable[[], None]) -> None:
        self._team.decided(work)
