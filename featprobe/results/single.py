"""One table of results with its record: what of it is already there, and what it can be trusted for.

NAME.json holds the SHA-256 of NAME.csv and is renamed into place last; a table that it does not vouch for is set
aside, and what it held is computed again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import filelock

from featprobe.errors import OutputError

UNIT: Final = "unit"
"""The last column: the hash of what decided a row."""


class SingleTable:
    """ROOT/NAME.csv with the `columns`, of which `key` names what a row is of: a later row of one key replaces it."""

    def __init__(self, root: Path, name: str, columns: Sequence[str], key: Sequence[str]) -> None:
        self.path = root / f"{name}.csv"
        self.record = root / f"{name}.json"
        self.columns, self.key = (*columns, UNIT), tuple(key)

    def rows(self) -> list[dict[str, str]]:
        """All rows as text; none where the table is missing or is not the one that its record vouches for."""
        try:
            data = self.path.read_bytes()
            vouched = json.loads(self.record.read_text(encoding="utf-8"))["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        if vouched != hashlib.sha256(data).hexdigest():
            return []
        return list(csv.DictReader(io.StringIO(data.decode(), newline="")))

    def add(self, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
        """Add `rows` (with UNIT) in the place of those of their keys; `about` (JSON types) goes into the record.

        Raises OutputError, and then nothing has changed.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.path.parent / f".{self.path.stem}.lock", timeout=120):
                self._write(rows, about)
        except (OSError, filelock.Timeout) as error:
            raise OutputError(
                f"can't write {self.path}",
                getattr(error, "strerror", None) or str(error),
                "free some space, wait for the other featprobe, or choose another folder with --out",
            ) from error

    def _write(self, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
        old, new = self.rows(), [{name: _text(row[name]) for name in self.columns} for row in rows]
        keys = {tuple(row[name] for name in self.key) for row in new}
        kept = [row for row in old if tuple(row[name] for name in self.key) not in keys]
        if self.path.exists() and not old:
            digest = hashlib.sha256(self.path.read_bytes()).hexdigest()[:8]
            self.path.replace(self.path.with_name(f"{self.path.name}.{digest}.old"))
        sink = io.StringIO(newline="")
        lines = csv.DictWriter(sink, self.columns, lineterminator="\n")
        lines.writeheader()
        lines.writerows(sorted([*kept, *new], key=lambda row: [row[name] for name in self.key]))
        data = sink.getvalue().encode()
        record = {**about, "sha256": hashlib.sha256(data).hexdigest()}
        text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for path, content in ((self.path, data), (self.record, text.encode())):
            draft = path.with_name(f"{path.name}.{os.getpid()}.part")
            draft.write_bytes(content)
            draft.replace(path)


def _text(value: Any) -> str:
    """The fewest digits that give back the same float64; the empty field for NaN."""
    if isinstance(value, float):
        return "" if value != value else repr(float(value))  # noqa: PLR0124 - NaN
    return str(value)
