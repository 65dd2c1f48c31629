"""Embeddings that were computed before, by the content of the image: folds of a cross-validation share them."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from featprobe.errors import CacheError, OutputError
from featprobe.records import AnyArray, sha256_json

MOST_BYTES: Final = 2**28
"""Embeddings held in memory, 256 MiB: 90,000 images of 768 values. The longest unused leave first."""


class Memo:
    """Rows in memory, by (what they were computed with, SHA-256 of the image); safe between threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._rows: OrderedDict[tuple[str, str], AnyArray] = OrderedDict()
        self._most, self._bytes = most_bytes, 0
        self._lock = threading.Lock()

    def get(self, key: str, hashes: Sequence[str]) -> dict[str, AnyArray]:
        """Hash -> row [D] of those that are known."""
        with self._lock:
            found = {value: (key, value) for value in hashes if (key, value) in self._rows}
            for place in found.values():
                self._rows.move_to_end(place)
            return {value: self._rows[place] for value, place in found.items()}

    def put(self, key: str, rows: Mapping[str, AnyArray]) -> None:
        """Keep `rows` (hash -> [D]), at the cost of the longest unused."""
        with self._lock:
            for value, row in rows.items():
                before = self._rows.pop((key, value), None)
                self._bytes += row.nbytes - (0 if before is None else before.nbytes)
                self._rows[key, value] = row.copy()  # a view would keep its whole table
            while self._bytes > self._most and self._rows:
                self._bytes -= self._rows.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._rows.clear()
            self._bytes = 0


MEMO: Final = Memo()
"""The process's own."""


def read_rows(root: Path, key: str, hashes: Sequence[str]) -> dict[str, AnyArray]:
    """Hash -> row of those that lie in the folder `root`; CacheError for a file that is damaged."""
    wanted = set(hashes)
    found: dict[str, AnyArray] = {}
    for path in sorted(_folder(root, key).glob("*.npz")):
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as parts:
                names = parts["sha256"].tolist()
                if wanted.isdisjoint(names):
                    continue
                rows = parts["embeddings"]
                found |= {name: rows[at] for at, name in enumerate(names) if name in wanted}
        except Exception as error:  # numpy and zipfile raise many types for a damaged file
            raise CacheError(
                f"{path} is damaged",
                str(error).splitlines()[0] if str(error) else "",
                "remove it and try again",
            ) from error
    return found


def write_rows(root: Path, key: str, rows: Mapping[str, AnyArray]) -> None:
    """Add `rows` (hash -> [D]) to the folder as one file, whole or not at all; OutputError where it can't be written."""
    names = sorted(rows)
    path = _folder(root, key) / f"{sha256_json(names)[:32]}.npz"
    sink = io.BytesIO()
    np.savez(sink, sha256=np.array(names, dtype=np.str_), embeddings=np.stack([rows[name] for name in names]))
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(sink.getvalue())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"can't write to {path.parent}", error.strerror or str(error), "choose another folder with cache="
        ) from error


def _folder(root: Path, key: str) -> Path:
    return root / "extractor" / key[:32]
