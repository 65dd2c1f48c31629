"""From files to rows: which files are there, and how one that holds several images becomes several rows."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from featprobe.datasets.decoding import UnsupportedImageError
from featprobe.errors import DataError
from featprobe.records import IntArray

if TYPE_CHECKING:
    from featprobe.datasets.base import DatasetOptions
    from featprobe.datasets.stacks import SliceRule

_WORTH_LISTING: Final = 20
"""Files of one folder from which listing the folder is faster than asking for each."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """M rows of F files, in the order of the files.

    `source` int64 [M]: the row's file. `part` int64 [M]: -1 for the whole file, else its slice, frame or page.
    `suffix`: what a part adds to its file's id ([M], or empty where no file has parts). `patient`, `study`,
    `modality` [F]: what DICOM headers say, "" where a file has none; never to be shown as they are. `rule`: how
    volumes are cut.
    """

    source: IntArray
    part: IntArray
    suffix: tuple[str, ...]
    patient: Sequence[str]
    study: Sequence[str]
    modality: Sequence[str]
    notes: tuple[str, ...]
    rule: SliceRule

    def spread(self, values: Sequence[str]) -> Sequence[str]:
        """The files' values [F] for the rows [M]."""
        return [values[file] for file in self.source.tolist()] if self.suffix else values

    def named(self, values: Sequence[str]) -> Sequence[str]:
        """The files' names [F] for the rows [M], each with the suffix of its part."""
        if not self.suffix:
            return values
        return [values[file] + end for file, end in zip(self.source.tolist(), self.suffix, strict=True)]


def whole(count: int, options: DatasetOptions) -> Rows:
    """One row for each of `count` files."""
    from featprobe.datasets.stacks import SliceRule

    none = [""] * count
    rule = SliceRule(options.axis, options.slices)
    numbers = np.arange(count, dtype=np.int64)
    return Rows(numbers, np.full(count, -1, dtype=np.int64), (), none, none, none, (), rule)


def rows_of(root: Path, paths: Sequence[str], options: DatasetOptions) -> Rows:
    """The rows of the files at `paths` (relative to `root`, or absolute), volumes and stacks opened up.

    DataError where nothing is left because every volume is of one grey level.
    """
    from featprobe.datasets import stacks

    plain = whole(len(paths), options)
    prefix = str(root)
    held = [file for file, path in enumerate(paths) if stacks.is_stack_candidate(os.path.join(prefix, path))]  # noqa: PTH118 - a million paths
    if not held:
        return plain
    try:
        found = stacks.expand(root, [paths[file] for file in held], plain.rule)
    except UnsupportedImageError as error:
        if not options.pseudonymize:
            raise
        raise _without_names(error, root, [paths[file] for file in held]) from None
    others = np.setdiff1d(plain.source, held)
    source = np.concatenate([others, np.array(held, dtype=np.int64)[found.file]])
    if not len(source):
        raise DataError(
            f"the {len(paths)} files hold no image with content",
            "; ".join(found.notes),
            "check --axis and --slices",
        )
    part = np.concatenate([plain.part[others], found.part])
    suffix = [""] * len(others) + list(found.suffix)
    order = np.argsort(source, kind="stable")
    ends = tuple(suffix[position] for position in order.tolist())

    def of_all(values: Sequence[str]) -> list[str]:
        known = dict(zip(held, values, strict=True))
        return [known.get(file, "") for file in range(len(paths))]

    return Rows(
        source[order],
        part[order],
        ends,
        of_all(found.patient),
        of_all(found.study),
        of_all(found.modality),
        tuple(found.notes),
        plain.rule,
    )


def _without_names(error: UnsupportedImageError, root: Path, paths: Sequence[str]) -> UnsupportedImageError:
    words = [error.wrong, error.known, error.next_step]
    for path in paths:
        for name in (str(root / path), path, path.rpartition("/")[2]):
            words = [word.replace(name, "a file") for word in words]
    return UnsupportedImageError(*words)


def absent(root: Path, paths: Sequence[str]) -> list[int]:
    """The positions of the paths that are no files, in order. Each folder is listed once, not asked per file."""
    folders: dict[str, list[int]] = defaultdict(list)
    for position, path in enumerate(paths):
        folders[os.path.dirname(path)].append(position)  # noqa: PTH120 - a million paths
    missing = []
    for folder, positions in folders.items():
        known = _files_in(root / folder) if len(positions) >= _WORTH_LISTING else set()
        start = len(folder) + 1 if folder and not folder.endswith("/") else len(folder)
        missing += [
            position
            for position in positions
            if paths[position][start:] not in known and not _is_file(root / paths[position])
        ]
    return sorted(missing)


def _files_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file system takes
        return False
