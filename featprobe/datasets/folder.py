"""Folders of class folders, with or without split folders above them: the simplest way to hold images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from featprobe.datasets.base import (
    SPLIT_NAMES,
    Dataset,
    DatasetOptions,
    FileDataset,
    name_of,
    refuse_columns,
)
from featprobe.datasets.decoding import IMAGE_SUFFIXES, UnsupportedImageError, unsupported_suffix
from featprobe.datasets.hub_files import is_saved_folder
from featprobe.datasets.webdataset import is_shard_folder
from featprobe.errors import DataError
from featprobe.registry import DATASETS

_MANIFESTS: Final = ("labels.csv", "metadata.csv", "labels.tsv", "metadata.tsv", "labels.parquet")


_DICOM_INDEX: Final = "DICOMDIR"
"""A file without images that lists those beside it."""


@DATASETS.register("folder")
class Folder:
    """Every image, volume and DICOM file below FOLDER/CLASS/ or FOLDER/SPLIT/CLASS/, sorted by path."""

    @classmethod
    def accepts(cls, location: str) -> bool:
        """Any folder that is there and is not another kind's."""
        path = Path(location).expanduser()
        return path.is_dir() and not is_shard_folder(path) and not is_saved_folder(path)

    @classmethod
    def default_name(cls, location: str) -> str:
        """The folder's name; the name of the one around it where it is called train or data."""
        return name_of(Path(location))

    @classmethod
    def open(cls, location: str, name: str, options: DatasetOptions) -> Dataset:
        """The folder's images. DataError where there are none, no class folders, or one class only."""
        from featprobe.datasets.columns import Listing, samples_of
        from featprobe.datasets.faults import Faults
        from featprobe.datasets.rows import rows_of
        from featprobe.datasets.tables import Table
        from featprobe.records import texts

        refuse_columns(options, f"the folder {location}", paths=True)
        root = Path(location).expanduser()
        try:
            found = _scan(root)
        except OSError as error:
            raise DataError(
                f"the folder {location} can't be read",
                f"{error.strerror}: {error.filename}",
                "mend its permissions",
            ) from error
        if not found.images:
            raise _no_images(location, root, found)
        for path in found.images:
            if what := unsupported_suffix(path):
                raise UnsupportedImageError.of(what, "" if options.pseudonymize else path)
        paths = found.images
        splits = _splits(location, paths, options)
        labels = [] if options.unlabelled else _classes(location, root, paths, options, by_split=bool(splits))
        faults = Faults(location, len(paths), lambda at: paths[at], private=options.pseudonymize is not None)
        listing = Listing(
            Table(location, {"label": labels} if labels else {}, len(paths), faults),
            paths,
            splits=splits or None,
            classes=("label",),
            where=location,
            remedy=_one_class_hint(location, root, labels),
        )
        samples, rows, notes = samples_of(listing, options, lambda: rows_of(root, paths, options))
        files = texts(rows.spread(paths)) if rows.suffix else samples.path
        notes += found.notes()
        return FileDataset(name, "folder", samples, tuple(notes), root, files, rows.part, rows.rule)


@dataclass(slots=True)
class _Found:
    """What a scan met: the images' paths (POSIX, relative, sorted), and what it passed over."""

    images: list[str] = field(default_factory=list)
    hidden: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def notes(self) -> tuple[str, ...]:
        notes = []
        if self.hidden:
            notes.append(f"ignored {self.hidden} hidden files and folders")
        if self.others:
            kinds = ", ".join(sorted(suffix or "no suffix" for suffix in self.others))
            notes.append(f"ignored {self.others.total()} files that are not images ({kinds})")
        return tuple(notes)


def _scan(root: Path) -> _Found:
    from featprobe.datasets.stacks import is_stack_candidate

    found = _Found()
    for path in _walk(root, "", (), found):
        suffix = PurePosixPath(path).suffix.lower()
        known = suffix in IMAGE_SUFFIXES or unsupported_suffix(path)
        if known or (PurePosixPath(path).name != _DICOM_INDEX and is_stack_candidate(str(root / path))):
            found.images.append(path)
        else:
            found.others[suffix] += 1
    found.images.sort()
    return found


def _walk(root: Path, below: str, above: tuple[str, ...], found: _Found) -> Iterator[str]:
    """Every visible file below `root`/`below`, relative to root; links are followed, circles are not."""
    here = os.path.realpath(root / below)
    if here in above:
        return
    with os.scandir(root / below) as entries:
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            if entry.name.startswith("."):
                found.hidden += 1
            elif entry.is_dir():
                yield from _walk(root, path, (*above, here), found)
            else:
                yield path


def _splits(location: str, paths: list[str], options: DatasetOptions) -> list[str]:
    """The split of each path, or [] where the top folders are not splits. DataError where only some are."""
    tops = {path.partition("/")[0] for path in paths if "/" in path}
    known = sorted(top for top in tops if top.lower() in SPLIT_NAMES)
    if not known:
        return []
    others = sorted(tops - set(known)) + [path for path in paths if "/" not in path]
    if others:
        raise DataError(
            f"in {location}, {', '.join(known)} are split folders but {options.examples(others)} are not",
            "either all top folders are splits (train, val, test, extra) or all are classes",
            "move the others away, or write a manifest (.csv) with a column split",
        )
    return [SPLIT_NAMES[path.partition("/")[0].lower()] for path in paths]


def _classes(
    location: str, root: Path, paths: list[str], options: DatasetOptions, *, by_split: bool
) -> list[str]:
    """The class folder of each path. DataError where an image lies in none."""
    depth = 1 if by_split else 0
    outside = [path for path in paths if path.count("/") <= depth]
    if outside:
        where = "FOLDER/SPLIT/CLASS/IMAGE" if by_split else "FOLDER/CLASS/IMAGE"
        wrong = "has images but no class folders" if len(outside) == len(paths) else "has images outside them"
        beside = f"use its manifest: --data {location}/{manifest}" if (manifest := _manifest(root)) else ""
        raise DataError(
            f"{location} {wrong}: {options.examples(outside)}",
            f"labels come from class folders ({where})",
            beside or "sort the images into class folders, or extract them without labels: --label none",
        )
    return [path.split("/")[depth] for path in paths]


def _one_class_hint(location: str, root: Path, labels: list[str]) -> str:
    names = list(dict.fromkeys(labels))
    if manifest := _manifest(root):
        return f"use its manifest: --data {location}/{manifest}"
    if len(names) == 1 and (root / names[0]).is_dir():
        inner = [entry for entry in (root / names[0]).iterdir() if entry.is_dir()]
        if len(inner) >= 2:
            return f"its class folders may be one level down: --data {location}/{names[0]}"
    return "add a second class folder, or extract without labels: --label none"


def _manifest(root: Path) -> str:
    return next((name for name in _MANIFESTS if (root / name).is_file()), "")


def _no_images(location: str, root: Path, found: _Found) -> DataError:
    passed = "; ".join(found.notes())
    manifest = _manifest(root)
    return DataError(
        f"the folder {location} holds no images",
        passed or "it is empty",
        f"use its manifest: --data {location}/{manifest}"
        if manifest
        else "point --data at a folder of class folders, or at a manifest (.csv, .tsv, .parquet)",
    )
