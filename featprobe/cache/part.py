"""The file while it is being filled: a row never moves, and a commit is one number.

Every image of the data set, readable or not, has its row from the start; nothing is chunked or filtered, so
writing a batch changes no structure of the file and no byte of an earlier batch. A commit is an entry in
`progress/commits` (how far, CRC-32 of what lies between the last commit and this one), then the number of
entries that count. Each step is flushed before the next. A file that was cut off anywhere therefore opens,
and what a power cut lost on its way to the disk is noticed by its CRC and computed again.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from featprobe.cache.disk import output_error, reserve
from featprobe.cache.layout import (
    DAMAGE,
    UNFINISHED,
    Dim,
    Header,
    damaged,
    dims_of,
    embedding_sets,
    first_line,
    read_header,
    row_shape,
    row_values,
    write_header,
)
from featprobe.cache.packing import THUMBNAIL_BYTES, block_rows
from featprobe.errors import CacheError
from featprobe.records import AnyArray, IntArray, TextArray, texts

READABLE: Final = 1
QUARANTINED: Final = 2
_PER_IMAGE: Final[Mapping[str, np.dtype[Any]]] = {
    "state": np.dtype("u1"),
    "pixel_sha256": np.dtype("S64"),
    "phash": np.dtype("S32"),
    "thumbnail": np.dtype((np.uint8, (THUMBNAIL_BYTES,))),
    "reason": np.dtype("S240"),
}
"""What is kept of each image beside its embeddings."""


class DamagedPartError(CacheError):
    """An unfinished file that can't be gone on with; what it held is computed again."""


class Part:
    """An open `.h5.part` of `header.n_images` rows; `poolings` is key -> D or (h, w, D), `position` the committed rows."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file
        self._commits = file[UNFINISHED]["commits"]
        self._committed = file[UNFINISHED]["committed"]
        self._per_image = {name: file[UNFINISHED][name] for name in _PER_IMAGE}
        self._embeddings = embedding_sets(file)
        self.header = read_header(file, path, finished=False)
        self.poolings = dims_of(file)
        self.batch_size = int(file.attrs["batch_size"])
        self.fresh = bool(file.attrs["fresh"])
        self.position, self.dropped = self._cut_back()

    @classmethod
    def create(
        cls, path: Path, header: Header, poolings: Mapping[str, Dim], *, batch_size: int, fresh: bool
    ) -> Part:
        """A new file, its room on the disk taken at once; OutputError where there is none."""
        count, storage = header.n_images, np.dtype(header.recipe.storage).newbyteorder("<")
        per_image = sum(kind.itemsize for kind in _PER_IMAGE.values()) + 16
        size = count * (per_image + sum(map(row_values, poolings.values())) * storage.itemsize) + 100_000
        try:
            reserve(path, size)
            with h5py.File(path, "w", locking=False) as file:
                write_header(file, header)
                file.attrs["batch_size"] = batch_size
                file.attrs["fresh"] = fresh
                progress = file.create_group(UNFINISHED)
                for name, kind in _PER_IMAGE.items():
                    _reserved(progress, name, (count, *kind.shape), kind.base)
                _reserved(progress, "commits", (count, 2), np.dtype("<i8"))
                progress.create_dataset("committed", data=np.zeros(1, dtype="<i8"))
                for key, dim in poolings.items():
                    _reserved(file, f"embeddings/{key}", (count, *row_shape(dim)), storage)
            reserve(path, size)
            return cls(path, h5py.File(path, "r+", locking=False))
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, (OSError, RuntimeError)):
                raise output_error(path, first_line(error), size) from error
            raise

    @classmethod
    def open(cls, path: Path) -> Part:
        """An unfinished file, cut back to its last whole commit; DamagedPartError where that can't be done."""
        try:
            file = h5py.File(path, "r+", locking=False)
        except PermissionError as error:
            raise output_error(path, error.strerror or str(error), 0) from error
        except DAMAGE as error:
            raise DamagedPartError(f"{path} can't be opened: {first_line(error)}") from error
        try:
            return cls(path, file)
        except (*DAMAGE, CacheError) as error:
            file.close()
            raise DamagedPartError(f"{path} can't be read: {first_line(error)}") from error
        except BaseException:
            file.close()
            raise

    def write(self, columns: Mapping[str, AnyArray], embeddings: Mapping[str, AnyArray], until: int) -> None:
        """Commit the rows [position, until): one entry per row in each array, all zero for an unreadable image."""
        window = slice(self.position, until)
        try:
            for name, dataset in self._per_image.items():
                dataset[window] = columns[name]
            for key, dataset in self._embeddings.items():
                dataset[window] = embeddings[key]
            entry = int(self._committed[0])
            self._commits[entry] = (until, self._crc(window))
            self._file.flush()
            self._committed[0] = entry + 1
            self._file.flush()
        except (OSError, RuntimeError) as error:
            raise output_error(self.path, first_line(error), self.path.stat().st_size) from error
        self.position = until

    def thumbnails(self) -> npt.NDArray[np.uint8]:
        """The thumbnails of all images, uint8 [n_images, T]; zero where unreadable."""
        return np.asarray(self._per_image["thumbnail"][:], dtype=np.uint8)

    def column(self, name: str, window: slice = slice(None)) -> TextArray:
        """A per-image column of text: pixel_sha256, phash or reason."""
        return texts([value.decode() for value in self._per_image[name][window]])

    def state(self) -> IntArray:
        """READABLE, QUARANTINED, or 0 for a row not yet committed; int64 [n_images]."""
        state = np.asarray(self._per_image["state"][:], dtype=np.int64)
        state[self.position :] = 0
        return state

    def blocks(self, key: str, rows: IntArray) -> Iterator[AnyArray]:
        """The embeddings of the ascending `rows`, `block_rows` at a time."""
        many = block_rows(self._embeddings[key])
        for start in range(0, len(rows), many):
            wanted = rows[start : start + many]
            try:
                values: AnyArray = self._embeddings[key][wanted[0] : wanted[-1] + 1][wanted - wanted[0]]
            except DAMAGE as error:
                raise damaged(self.path, first_line(error)) from error
            yield values

    def environment(self) -> dict[str, Any]:
        """The environment that the file was begun in."""
        values: dict[str, Any] = json.loads(self._file.attrs["environment"])
        return values

    def close(self) -> None:
        """Close the file; what is committed stays."""
        with suppress(OSError, RuntimeError):  # a full disk was already reported by `write`
            self._file.close()

    def _crc(self, window: slice) -> int:
        value = 0
        for name in _PER_IMAGE:
            value = zlib.crc32(self._per_image[name][window].tobytes(), value)
        for key in sorted(self._embeddings):
            value = zlib.crc32(self._embeddings[key][window].tobytes(), value)
        return value

    def _cut_back(self) -> tuple[int, int]:
        """The rows up to the last commit that is whole, and how many rows behind it were given up."""
        said = int(self._committed[0])
        commits = self._commits[:said]
        position = 0
        for good, (until, crc) in enumerate(commits.tolist()):
            if not position < until <= self.header.n_images or self._crc(slice(position, until)) != crc:
                self._committed[0] = good
                self._file.flush()
                return position, int(commits[-1][0]) - position
            position = until
        return position, 0


def blank_columns(count: int) -> dict[str, AnyArray]:
    """What `Part.write` takes for each image, all zero, to be filled in; `count` entries each."""
    return {name: np.zeros(count, dtype=kind) for name, kind in _PER_IMAGE.items()}


def is_whole(path: Path) -> bool:
    """Whether `path` is a finished file that only lacks its last renaming."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return "metadata_sha256" in file.attrs and UNFINISHED not in file
    except DAMAGE:
        return False


def _reserved(group: Any, name: str, shape: tuple[int, ...], kind: np.dtype[Any]) -> None:
    """A contiguous dataset whose place in the file is fixed now; its bytes are not written yet."""
    parent, _, leaf = name.rpartition("/")
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    node = group.require_group(parent) if parent else group
    h5py.h5d.create(
        node.id, leaf.encode(), h5py.h5t.py_create(kind), h5py.h5s.create_simple(shape), properties
    )
