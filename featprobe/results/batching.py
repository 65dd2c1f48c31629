"""Writes results of many small models together: the tables are written whole each time, and they grow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from featprobe.records import Estimate, Predictions
from featprobe.results.store import Addition, ResultsFolder

WAIT: Final = 10.0
"""Seconds that a result waits at most before it is written while others follow: what a kill can cost."""

SHARE: Final = 20
"""Writing takes at most one part in so many of the time: as it gets slower, results wait longer."""


class Batch:
    """Adds units to a folder, some at a time; at the end of the `with` block all are there, whatever ended it."""

    def __init__(self, folder: ResultsFolder, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._clock = clock
        self._waiting: list[Addition] = []
        self._due = clock() + WAIT

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def add(
        self,
        unit: str,
        predictions: Sequence[Predictions],
        estimates: Sequence[Estimate],
        info: Mapping[str, Any],
    ) -> None:
        """As `ResultsFolder.add`, now or soon; scores that are not finite are refused at once (ResultsError)."""
        self._waiting.append(Addition.of(unit, predictions, estimates, info))
        if self._clock() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Write what waits. OutputError where the folder can't be written to."""
        began = self._clock()
        if self._waiting:
            self.folder.add_all(self._waiting)
            self._waiting = []
        ended = self._clock()
        self._due = ended + max(WAIT, SHARE * (ended - began))
