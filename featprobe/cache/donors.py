"""Rows of an earlier file for the next one: flat ones at hand, patches, which may not fit into memory, on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featprobe.cache.layout import DAMAGE, damaged, first_line
from featprobe.errors import CacheError
from featprobe.records import AnyArray


class Donor:
    """One embedding table of a finished file whose seal was checked: in memory, or read row by row where dense.

    A dense table keeps the file open by itself, so that it outlives whoever opened `dataset`, and a file that is
    replaced or removed meanwhile can still be read.
    """

    def __init__(self, path: Path, key: str, dataset: Any) -> None:
        self._path = path
        self._rows = (
            dataset[:] if dataset.ndim == 2 else _opened_again(path, key, str(dataset.attrs["sha256"]))
        )

    def row(self, row: int) -> AnyArray:
        """The embedding [D] or [h, w, D]; CacheError where the file fails."""
        try:
            return np.asarray(self._rows[row])
        except DAMAGE as error:
            raise damaged(self._path, first_line(error)) from error


class DonatedRow(Mapping[str, AnyArray]):
    """Key -> embedding of one image."""

    __slots__ = ("_row", "_tables")

    def __init__(self, tables: Mapping[str, Donor], row: int) -> None:
        self._tables, self._row = tables, row

    def __getitem__(self, key: str) -> AnyArray:
        return self._tables[key].row(self._row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)


def _opened_again(path: Path, key: str, sha256: str) -> Any:
    """The table of a file of its own; CacheError where the file was replaced since it was checked."""
    try:
        dataset = h5py.File(path, "r", locking=False)[f"embeddings/{key}"]
        same = str(dataset.attrs["sha256"]) == sha256
    except DAMAGE as error:
        raise damaged(path, first_line(error)) from error
    if not same:
        raise CacheError(f"{path} was replaced while it was read", "", "type the same command again")
    return dataset
