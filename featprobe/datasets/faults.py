"""The rows of a table that can't be used, gathered so that one error lists them all, whatever is wrong with each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from featprobe.errors import DataError, listed

SHOWN: Final = 10


class Faults:
    """What is wrong with which of `count` rows.

    `where`: what holds the rows, such as "scans.csv". `name`: what a position is called, such as "row 7". With
    `private` no value of a cell is shown, for it may be what --pseudonymize is to keep secret.
    """

    def __init__(self, where: str, count: int, name: Callable[[int], str], *, private: bool = False) -> None:
        self.where, self.count, self.name, self.private = where, count, name, private
        self._found: dict[int, tuple[str, Callable[[int], str] | None]] = {}
        self._hints: list[tuple[str, str]] = []

    def add(
        self,
        positions: Iterable[int],
        why: str,
        value: Callable[[int], str] | None = None,
        *,
        known: str = "",
        step: str = "",
    ) -> None:
        """Note `why` for these positions, with the offending `value` of each; a row's first fault counts."""
        before = len(self._found)
        for position in positions:
            self._found.setdefault(position, (why, value))
        if len(self._found) > before and (known, step) not in self._hints:
            self._hints.append((known, step))

    def check(self) -> None:
        """DataError that lists the first ten of the rows and counts the rest; nothing where all are sound."""
        if not self._found:
            return
        places = sorted(self._found)
        shown = [self._words(place) for place in places[:SHOWN]]
        names = listed(shown + [""] * (len(places) - len(shown)), SHOWN)
        known = "; ".join(known for known, _ in self._hints if known)
        step = self._hints[0][1] if len(self._hints) == 1 else ""
        raise DataError(
            f"{len(places)} of {self.count} rows of {self.where} can't be used: {names}",
            known,
            step or "mend these rows, or take them out",
        )

    def _words(self, place: int) -> str:
        why, value = self._found[place]
        if value is None or self.private:
            return f"{self.name(place)} ({why})"
        return f"{self.name(place)} ({why}: {value(place)!r})"
