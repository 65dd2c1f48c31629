"""The cache folder: which files it holds, which of them are current, and the doors to reading and writing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from featprobe.cache.donors import DonatedRow, Donor
from featprobe.cache.layout import (
    PART,
    SUFFIX,
    Dim,
    ForeignFileError,
    Header,
    as_dim,
    damaged,
    dims_of,
    embedding_sets,
    opened,
    read_header,
    read_quarantine,
    read_samples,
    read_text,
)
from featprobe.cache.locking import held
from featprobe.cache.sealing import seen
from featprobe.cache.upkeep import refresh
from featprobe.cache.writer import Task, Writer
from featprobe.errors import CacheError, nearest
from featprobe.records import AnyArray, EmbeddingTable, IntArray, Quarantine, Recipe, Samples


@dataclasses.dataclass(frozen=True, slots=True)
class CacheEntry:
    """One finished file. `n`: readable images of `n_images`; `dims`: key -> D or (h, w, D); `size` in bytes.

    `environments`: key -> where that pooling was computed; `environment` is of the last writing. `seen`:
    seconds since 1970 at which an extraction last made or met the file.
    """

    path: Path
    dataset: str
    recipe: Recipe
    weights_label: str
    n: int
    n_images: int
    dims: Mapping[str, Dim]
    size: int
    environment: Mapping[str, Any]
    environments: Mapping[str, Mapping[str, Any]]
    seen: float

    @property
    def poolings(self) -> tuple[str, ...]:
        """The keys under `embeddings/`: POOLING, or LAYER/POOLING."""
        return tuple(self.dims)

    @property
    def flat(self) -> tuple[str, ...]:
        """The keys whose rows are [D], as a probe takes them: all but patches."""
        return tuple(key for key, dim in self.dims.items() if isinstance(dim, int))


class Cache:
    """The cache folder `root`. One object belongs to one thread; locks keep processes and objects apart."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._held: set[Path] = set()
        self._writing: set[Path] = set()

    def path(self, dataset: str, recipe: Recipe) -> Path:
        """ROOT/DATASET/BACKBONE-FINGERPRINT12.h5, with what file systems don't take replaced."""
        return self.root / _folder(dataset) / f"{_safe(recipe.backbone)}-{recipe.fingerprint[:12]}{SUFFIX}"

    def files(self, dataset: str | None = None) -> list[Path]:
        """All finished files, readable or not."""
        return sorted(self.root.glob(f"{'*' if dataset is None else _folder(dataset)}/*{SUFFIX}"))

    def parts(self, dataset: str | None = None) -> list[Path]:
        """All unfinished files."""
        return sorted(self.root.glob(f"{'*' if dataset is None else _folder(dataset)}/*{SUFFIX}{PART}"))

    def scan(
        self, dataset: str | None = None, backbone: str | None = None
    ) -> tuple[list[CacheEntry], list[CacheError]]:
        """The finished files, and an error for each that can't be read; files of others are passed over."""
        entries: list[CacheEntry] = []
        problems: list[CacheError] = []
        for path in self.files(dataset):
            try:
                entry = _entry(path)
            except ForeignFileError:
                continue
            except CacheError as error:
                problems.append(error)
                continue
            if dataset in {None, entry.dataset} and backbone in {None, entry.recipe.backbone}:
                entries.append(entry)
        return entries, problems

    def entries(self, dataset: str | None = None, backbone: str | None = None) -> list[CacheEntry]:
        """The finished files; CacheError on the first that is truncated, damaged or of another schema."""
        entries, problems = self.scan(dataset, backbone)
        if problems:
            raise problems[0]
        return entries

    def current(self, dataset: str | None = None, backbone: str | None = None) -> list[CacheEntry]:
        """Of the files that differ in their list of images alone, the one last of use; CacheError as `entries`."""
        return _newest(self.entries(dataset, backbone))

    def superseded(self, dataset: str | None = None) -> list[CacheEntry]:
        """The files that `current` leaves out; damaged files are passed over."""
        entries, _ = self.scan(dataset)
        kept = {entry.path for entry in _newest(entries)}
        return [entry for entry in entries if entry.path not in kept]

    def read(
        self,
        path: Path,
        pooling: str,
        *,
        layer: str = "",
        thumbnails: bool = True,
        rows: IntArray | None = None,
    ) -> EmbeddingTable:
        """The embeddings of one pooling, [N, D] or for patches [N, h, w, D], from a file whose every byte was checked.

        A key of `CacheEntry.poolings` may be given as it is: LAYER/POOLING is taken apart. `thumbnails` as in
        `read_samples`. `rows`: only these, int64 positions among the readable images in any order: dense tables
        may be larger than the memory. Raises CacheError on an unknown pooling and on a file that is damaged or incomplete.
        """
        key = f"{layer}/{pooling}" if layer else pooling
        layer, _, pooling = key.rpartition("/")
        with opened(path, sealed=True) as file:
            header, samples = read_header(file, path), read_samples(file, path, thumbnails=thumbnails)
            dataset = _embedding_set(file, path, key)
            count = int(dataset.shape[0])
            if not dataset.attrs["complete"] or not count == len(samples) == int(dataset.attrs["rows"]):
                raise damaged(path, f"{key} has {count} rows for {len(samples)} samples")
            values: AnyArray = dataset[:] if rows is None else _rows(dataset, rows)
        if rows is not None:
            samples = samples.take(rows)
        return EmbeddingTable(
            dataset=header.dataset,
            samples=samples,
            embeddings=values,
            pooling=pooling,
            recipe=header.recipe,
            weights_label=header.weights_label,
            layer=layer,
        )

    def read_samples(self, path: Path, *, thumbnails: bool = True) -> Samples:
        """The readable images of the file, [N], in the data set's order.

        Without `thumbnails` (1 kB for each image) these are left out, as before an image is decoded: T is 0.
        """
        with opened(path) as file:
            read_header(file, path)
            return read_samples(file, path, thumbnails=thumbnails)

    def read_quarantine(self, path: Path) -> Quarantine:
        """The images that could not be read; `row` is the position in the whole data set."""
        with opened(path) as file:
            read_header(file, path)
            return read_quarantine(file)

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """Hold the lock of the file; CacheError says who else does. `writer` and `refresh` go along with it."""
        with held(path):
            self._held.add(path)
            try:
                yield
            finally:
                self._held.discard(path)

    def writer(
        self,
        dataset: str,
        recipe: Recipe,
        samples_all: Samples,
        poolings: Mapping[str, Dim],
        *,
        batch_size: int,
        weights_label: str,
        environment: Mapping[str, Any],
        fresh: bool = False,
    ) -> Writer:
        """Open or resume the `.part` of one file, locked until the writer is closed.

        `samples_all`: every image of the data set, sha256 filled; `poolings`: key -> D, or (h, w, D) for patches. Poolings that the
        finished file holds are left alone, unless `fresh`: then all are written again (`poolings` must name
        them), and the old file stays until the new one is whole. Raises CacheError where another writer holds
        the file or it is damaged, OutputError where it can't be written, DataError on a data set without images.
        """
        path = self.path(dataset, recipe)
        header = Header(dataset, recipe, weights_label, len(samples_all), dict(environment))
        release = ExitStack()
        try:
            if path not in self._held or path in self._writing:
                release.enter_context(self.lock(path))
            self._writing.add(path)
            release.callback(self._writing.discard, path)
            dims = {key: as_dim(dim) for key, dim in poolings.items()}
            task = Task(path, header, samples_all, dims, batch_size, fresh)
            return Writer(task, release)
        except BaseException:
            release.close()
            raise

    def refresh(
        self,
        path: Path,
        samples: Samples,
        environment_changes: Mapping[str, Any] | None = None,
        *,
        weights_label: str | None = None,
    ) -> bool:
        """Take over labels, groups, splits, cases, ids, paths and columns of the data set's full list `samples`.

        True if any differed. The file is then replaced by a whole new one; no embedding is computed or changed.
        `weights_label`: what the weights are called now (None: as before), which is no part of the recipe. It counts as used now. Raises CacheError where the images are not the file's, OutputError on a full disk.
        """
        with ExitStack() as stack:
            if path not in self._held:
                stack.enter_context(self.lock(path))
            return refresh(path, samples, environment_changes or {}, weights_label)

    def donors(self, dataset: str, recipe: Recipe, poolings: Collection[str] = ()) -> list[Path]:
        """Finished files of the same recipe but for the images that hold `poolings`, last used first."""
        entries, _ = self.scan(dataset, recipe.backbone)
        fitting = [
            entry
            for entry in entries
            if entry.recipe.images_free == recipe.images_free
            and entry.recipe.images != recipe.images
            and set(poolings) <= set(entry.poolings)
        ]
        return [entry.path for entry in sorted(fitting, key=_age, reverse=True)]

    def donated_rows(
        self, dataset: str, recipe: Recipe, poolings: Collection[str]
    ) -> dict[str, Mapping[str, AnyArray]]:
        """SHA-256 of an image's bytes -> key -> embedding [D] or [h, w, D], from all donors; the last used one goes first.

        Patches are read when they are asked for: their file stays open as long as what is returned.
        """
        found: dict[str, Mapping[str, AnyArray]] = {}
        for path in self.donors(dataset, recipe, poolings):
            with opened(path, sealed=True) as file:
                hashes = read_text(file["samples"]["sha256"]).tolist()
                tables = {key: Donor(path, key, _embedding_set(file, path, key)) for key in poolings}
            for row, value in enumerate(hashes):
                if value:
                    found.setdefault(value, DonatedRow(tables, row))
        return found


def _entry(path: Path) -> CacheEntry:
    with opened(path) as file:
        header = read_header(file, path)
        sets = embedding_sets(file)
        if not sets or not all(dataset.attrs["complete"] for dataset in sets.values()):
            raise damaged(path, "its embeddings are not complete")
        return CacheEntry(
            path=path,
            dataset=header.dataset,
            recipe=header.recipe,
            weights_label=header.weights_label,
            n=int(file["samples"]["id"].shape[0]),
            n_images=header.n_images,
            dims=dims_of(file),
            size=path.stat().st_size,
            environment=header.environment,
            environments={key: json.loads(dataset.attrs["environment"]) for key, dataset in sets.items()},
            seen=seen(path),
        )


def _embedding_set(file: Any, path: Path, key: str) -> Any:
    known = embedding_sets(file)
    layer, _, pooling = key.rpartition("/")
    if key not in known:
        raise CacheError(
            f"{path} holds no pooling {key!r}",
            f"it holds {', '.join(known)}; {nearest(key, known)}".rstrip("; "),
            f"type featprobe extract with {f'--layer {layer} ' if layer else ''}--pooling {pooling} to add it",
        )
    return known[key]


def _rows(dataset: Any, rows: IntArray) -> AnyArray:
    """The rows of a dataset in the order asked for; a flat table is read whole, which is the faster way."""
    if dataset.ndim == 2:
        return np.asarray(dataset[:][rows])
    values = np.empty((len(rows), *dataset.shape[1:]), dtype=dataset.dtype)
    for place, row in enumerate(rows.tolist()):
        values[place] = dataset[row]
    return values


def _age(entry: CacheEntry) -> tuple[float, str]:
    return entry.seen, str(entry.path)


def _newest(entries: list[CacheEntry]) -> list[CacheEntry]:
    newest: dict[tuple[str, str], CacheEntry] = {}
    for entry in sorted(entries, key=_age):
        newest[entry.dataset, entry.recipe.images_free] = entry
    return sorted(newest.values(), key=lambda entry: (entry.dataset, str(entry.path)))


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+@=-]", "_", name, flags=re.ASCII)[:80].lstrip(".") or "_"


def _folder(dataset: str) -> str:
    """Data sets whose names become alike get folders of their own: a folder holds one data set."""
    safe = _safe(dataset)
    digest = hashlib.sha256(dataset.encode("utf-8", "surrogatepass")).hexdigest()
    return safe if safe == dataset else f"{safe}-{digest[:8]}"
