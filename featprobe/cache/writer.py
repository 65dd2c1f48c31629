"""Filling one cache file: batch by batch, resumable, and refused rather than mixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featprobe.cache.disk import need_free
from featprobe.cache.layout import PART, Dim, Header, Metadata, dims_of, opened, read_metadata, row_shape
from featprobe.cache.packing import copy_embeddings, packed_size, put_in_place, write_embeddings, write_whole
from featprobe.cache.part import QUARANTINED, READABLE, DamagedPartError, Part, blank_columns, is_whole
from featprobe.errors import CacheError, DataError
from featprobe.records import POOLINGS, AnyArray, IntArray, Quarantine, Samples, TextArray, images_sha256


class StoredRowsChangedError(CacheError):
    """An image reads otherwise than when the file's other poolings were made: write all with fresh=True."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is to be written where; `poolings` is key -> D or (h, w, D), `samples` the full list with sha256."""

    path: Path
    header: Header
    samples: Samples
    poolings: Mapping[str, Dim]
    batch_size: int
    fresh: bool


class Writer:
    """Fills the `.part` of one cache file; made by `Cache.writer`, used as a context manager.

    `poolings`: what `append` must be given: the asked ones that the finished file lacks. `position`: images of
    the data set already consumed; `batch_size`: the one that the file was begun with, so that a resumed run
    cuts the same batches; `notes`: what the console should say about the file that was found.
    """

    def __init__(self, task: Task, release: ExitStack) -> None:
        self.path = task.path
        self._task = task
        self._release = release
        self._notes: list[str] = []
        self._part: Part | None = None
        self._stored_dims: dict[str, Dim] = {}
        self.batch_size = task.batch_size
        self.position = len(task.samples)
        _check(task)
        self._promote()
        if task.path.exists():
            self._read_stored()
        missing = {
            key: dim for key, dim in task.poolings.items() if key not in self._stored_dims or task.fresh
        }
        self.poolings = tuple(missing)
        if missing:
            self._open(missing)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found of an earlier run and done about it, in words."""
        return tuple(self._notes)

    def append(
        self,
        rows: IntArray,
        embeddings: Mapping[str, AnyArray],
        pixel_sha256: TextArray,
        phash: TextArray,
        thumbnail: npt.NDArray[np.uint8],
        quarantined: Sequence[tuple[int, str]],
        consumed: int,
    ) -> None:
        """Commit the images [position, consumed) of the data set.

        `rows`: the readable ones, [B], ascending; `embeddings`: key -> [B, D] or [B, h, w, D]; `pixel_sha256`, `phash`: [B] and
        `thumbnail`: uint8 [B, THUMBNAIL_SIDE ** 2], as of `featprobe.imaging`; `quarantined`: (row, reason) of
        the others. Raises CacheError on a value that is not finite, StoredRowsChangedError where the finished
        file holds other pixels, OutputError on a full disk, ValueError where the rows do not make up the window
        or an array has another shape. Nothing of the batch is then committed.
        """
        part = self._open_part()
        rows = np.asarray(rows, dtype=np.int64)
        lost = np.array([row for row, _ in quarantined], dtype=np.int64)
        window = np.arange(part.position, consumed)
        if not len(window) or not np.array_equal(np.sort(np.concatenate([rows, lost])), window):
            raise ValueError(f"the batch must hold each of the images {part.position} to {consumed} once")
        columns = blank_columns(len(window))
        readable = rows - part.position
        columns["state"][readable], columns["state"][lost - part.position] = READABLE, QUARANTINED
        prints = {"pixel_sha256": _ascii(pixel_sha256), "phash": _ascii(phash), "thumbnail": thumbnail}
        for name, given in prints.items():
            _need_fit(name, given, (len(rows), *columns[name].shape[1:]), columns[name].dtype)
            columns[name][readable] = given
        for row, reason in quarantined:
            columns["reason"][row - part.position] = _cut(reason, columns["reason"].itemsize)
        values = {key: self._padded(key, embeddings[key], rows, window) for key in self.poolings}
        self._need_agreement(part.position, columns["state"], columns["pixel_sha256"])
        part.write(columns, values, consumed)
        self.position = part.position

    def finish(self, environment: Mapping[str, Any]) -> Path:
        """Write the finished file whole, put it in place, remove the `.part`; returns the file's path.

        `environment` is recorded. Raises DataError where no image was readable, OutputError on a full disk (the
        `.part` stays and is gone on with), ValueError while images are still to come.
        """
        if self._part is None:
            return self.path
        part = self._part
        if part.position != part.header.n_images:
            raise ValueError(f"{part.header.n_images - part.position} images are still to come")
        state = part.state()
        if not (state == READABLE).any():
            reason = part.column("reason", slice(0, 1))[0]
            self._discard()
            raise DataError(
                f"none of the {len(state)} images of {self._task.header.dataset} could be read",
                f"the first: {self._task.samples.path[0]}: {reason}",
                "type featprobe inspect --data SPEC to see what is wrong with them",
            )
        self._need_agreement(0, state, _ascii(part.column("pixel_sha256")))
        metadata = self._metadata(part, state, environment)
        temporary = self._pack(part, metadata, np.flatnonzero(state == READABLE))
        part.close()
        self._part = None
        # The finished file takes the place of the .part first: killed between the two renamings it is promoted.
        put_in_place(temporary, part.path)
        put_in_place(part.path, self.path)
        return self.path

    def close(self) -> None:
        """Give the lock back; what is committed stays in the `.part`, a `.part` without a commit goes."""
        try:
            if self._part is not None and self._part.position == 0:
                self._discard()
            elif self._part is not None:
                self._part.close()
                self._part = None
        finally:
            self._release.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _promote(self) -> None:
        part = self._part_path()
        if part.exists() and is_whole(part):
            put_in_place(part, self.path)
            self._notes.append("a finished file that only lacked its name was put in place")

    def _read_stored(self) -> None:
        with opened(self.path, sealed=True) as file:
            stored = read_metadata(file, self.path, thumbnails=False)
            self._stored_dims = dims_of(file)
        if stored.header.recipe != self._task.header.recipe:
            raise _other_recipe(self.path)
        self._stored_state = np.full(len(self._task.samples), READABLE)
        self._stored_state[stored.quarantine.row] = QUARANTINED
        self._stored_pixels = np.zeros(len(self._stored_state), dtype="S64")
        self._stored_pixels[self._stored_state == READABLE] = _ascii(stored.samples.pixel_sha256)
        lost = sorted(set(self._stored_dims) - set(self._task.poolings))
        if self._task.fresh and lost:
            raise ValueError(f"fresh=True would lose the poolings {lost}")

    def _open(self, missing: Mapping[str, Dim]) -> None:
        path = self._part_path()
        part = self._resume(path, missing) if path.exists() else None
        try:
            self._part = part = part or Part.create(
                path, self._task.header, missing, batch_size=self._task.batch_size, fresh=self._task.fresh
            )
            need_free(path, self._final_size())
        except BaseException:
            self.close()
            raise
        self.position, self.batch_size = part.position, part.batch_size

    def _resume(self, path: Path, missing: Mapping[str, Dim]) -> Part | None:
        """The unfinished file, if it can be gone on with; else it is removed, and a note says why."""
        try:
            part = Part.open(path)
        except DamagedPartError as error:
            path.unlink()
            self._notes.append(f"the unfinished file was damaged and is begun anew ({error.wrong})")
            return None
        if part.header.recipe != self._task.header.recipe:
            part.close()
            raise _other_recipe(path)
        if dict(part.poolings) != dict(missing) or part.fresh != self._task.fresh:
            part.close()
            path.unlink()
            self._notes.append(
                f"the unfinished file was of {'+'.join(part.poolings)} alone and is begun anew with {'+'.join(missing)}"
            )
            return None
        if part.dropped:
            self._notes.append(
                f"{part.dropped} rows of the unfinished file were damaged and are computed again"
            )
        if _machine(part.environment()) != _machine(self._task.header.environment):
            self._notes.append("the unfinished file was begun on another machine or under other versions")
        return part

    def _padded(self, key: str, values: AnyArray, rows: IntArray, window: IntArray) -> AnyArray:
        """The embeddings in the storage dtype, a row for each image of the window; zero where unreadable."""
        part, storage = self._open_part(), self._task.header.recipe.storage
        values = np.asarray(values)
        one = row_shape(part.poolings[key])
        if values.shape != (len(rows), *one):
            raise ValueError(f"{key} has shape {values.shape}, not {(len(rows), *one)}")
        with np.errstate(over="ignore"):  # what overflows float16 is reported below, with its image
            stored = values.astype(storage)
        bad = rows[~np.isfinite(stored).all(axis=tuple(range(1, stored.ndim)))]
        if len(bad):
            raise CacheError(
                f"{len(bad)} embeddings are not finite, the first of image {self._task.samples.id[bad[0]]}",
                f"pooling {key}, precision {self._task.header.recipe.precision}, stored as {storage}",
                "type the command again with --precision fp32",
            )
        padded = np.zeros((len(window), *one), dtype=storage)
        padded[rows - window[0]] = stored
        return padded

    def _need_agreement(self, start: int, state: AnyArray, pixels: AnyArray) -> None:
        """Poolings of one file belong to the same pixels: compare with what the finished file was made from."""
        if not self._stored_dims or self._task.fresh:
            return
        window = slice(start, start + len(state))
        differs = (self._stored_state[window] != state) | (self._stored_pixels[window] != pixels)
        if differs.any():
            image = self._task.samples.path[start + int(np.flatnonzero(differs)[0])]
            raise StoredRowsChangedError(
                f"{int(differs.sum())} images read otherwise than when {self.path} was written, the first is {image}",
                f"it holds {'+'.join(self._stored_dims)}, and all poolings of a file belong to the same pixels",
                f"remove {self.path} and type the featprobe extract command again with every pooling",
            )

    def _metadata(self, part: Part, state: IntArray, environment: Mapping[str, Any]) -> Metadata:
        task, read, lost = self._task, np.flatnonzero(state == READABLE), np.flatnonzero(state == QUARANTINED)
        recorded = dict(environment)
        begun = part.environment()
        if _machine(begun) != _machine(task.header.environment):
            recorded["begun_under"] = begun
        samples = task.samples.take(read).replace(
            pixel_sha256=part.column("pixel_sha256")[read],
            phash=part.column("phash")[read],
            thumbnail=part.thumbnails()[read],
        )
        quarantine = Quarantine(
            row=lost.astype(np.int64),
            id=task.samples.id[lost],
            path=task.samples.path[lost],
            sha256=task.samples.sha256[lost],
            reason=part.column("reason")[lost],
        )
        return Metadata(dataclasses.replace(task.header, environment=recorded), samples, quarantine)

    def _pack(self, part: Part, metadata: Metadata, rows: IntArray) -> Path:
        keep = bool(self._stored_dims) and not self._task.fresh
        storage = metadata.header.recipe.storage

        def fill(group: Any) -> None:
            for key, dim in part.poolings.items():
                shape, blocks = (len(rows), *row_shape(dim)), part.blocks(key, rows)
                write_embeddings(group, key, shape, storage, blocks, metadata.header.environment)
            if keep:
                with opened(self.path) as old:
                    copy_embeddings(old, group)

        return write_whole(self.path, metadata, fill, self._final_size(metadata))

    def _final_size(self, metadata: Metadata | None = None) -> int:
        known = metadata or Metadata(self._task.header, self._task.samples, Quarantine.empty())
        return packed_size(known, {**self._stored_dims, **self._task.poolings})

    def _part_path(self) -> Path:
        return self.path.with_name(self.path.name + PART)

    def _open_part(self) -> Part:
        if self._part is None:
            raise ValueError("there is nothing to append: the file is finished")
        return self._part

    def _discard(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part.path.unlink(missing_ok=True)
            self._part = None


def _check(task: Task) -> None:
    if not len(task.samples):
        raise DataError(
            f"{task.header.dataset} has no image", "", "check the folder or manifest given by --data"
        )
    if images_sha256(task.samples.sha256) != task.header.recipe.images:
        raise ValueError("recipe.images is not the SHA-256 of samples.sha256")
    if task.batch_size < 1:
        raise ValueError(f"batch_size is {task.batch_size}")
    for key in task.poolings:
        layer, slash, pooling = key.rpartition("/")
        if "/" in layer or {layer, pooling} & {".", ".."} or not pooling or (slash and not layer):
            raise ValueError(f"{key!r} is neither POOLING nor LAYER/POOLING")
        if layer in POOLINGS:
            raise ValueError(f"{key!r}: a layer can't have the name of a pooling")


def _other_recipe(path: Path) -> CacheError:
    return CacheError(
        f"{path} was made by another recipe than its name says",
        "someone renamed it, or two fingerprints begin alike",
        "move it out of the cache folder and type the same command again",
    )


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {name: environment.get(name) for name in ("device", "engine", "versions", "python", "platform")}


def _ascii(values: TextArray) -> AnyArray:
    return np.char.encode(np.asarray(values, dtype=np.str_), "ascii")


def _need_fit(name: str, values: AnyArray, shape: tuple[int, ...], kind: np.dtype[Any]) -> None:
    """ValueError unless `values` has the shape and can be stored as `kind` without being cut or rounded."""
    if values.shape != shape or not np.can_cast(values.dtype, kind, "safe"):
        raise ValueError(f"{name} is {values.dtype} {values.shape}, not {kind} {shape}")


def _cut(reason: str, width: int) -> bytes:
    one_line = " ".join(reason.split()).replace("\0", "") or "no reason given"
    return one_line.encode("utf-8", "replace")[:width].decode("utf-8", "ignore").encode()
