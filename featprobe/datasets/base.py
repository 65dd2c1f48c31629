"""What every data set offers, and how text from outside becomes labels, splits and groups, alike for all kinds."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from featprobe.datasets.decoding import decode, encode_array
from featprobe.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from featprobe.datasets.stacks import SliceRule
    from featprobe.imaging import Raster
    from featprobe.records import IntArray, Samples, TextArray

NONE: Final = "none"
"""The word that switches a column off, such as `--label none`."""

SPLIT_NAMES: Final = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "extra": "extra",
}
"""Name as users write it, in lower case -> name in `records.SPLITS`."""

NO_GROUPS: Final = (
    "no groups declared: every image counts as its own group; if one patient can have several images, "
    "say so with --group-column or --group-regex"
)
NO_GROUPS_OF: Final = {
    unit: NO_GROUPS.replace("every image", f"every {unit}").replace("several images", f"several {unit}s")
    for unit in ("image", "file", "case")
}
"""The same where several images belong together all the same: the slices of a file, the images of a case."""

_VAGUE_STEMS: Final = ("labels", "metadata", "train", "data")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOptions:
    """How to read a SPEC. None takes the default names; "none" for a column leaves that column out.

    `label_column`: none, one, or several, which makes the target multi-label. `group_regex`: its first capture
    group, or the whole match, in an image's path is the group. `target`: one of `records.TASKS`, None to detect
    it; `class_order`: the classes of an ordinal target; `uncertain` ("ignore", "zero", "one") and `blank`
    ("ignore", "zero"): what such cells count as (see `targets`). `axis` and `slices`: how a volume becomes images,
    or that it stays one row (see `stacks.SliceRule`). `pseudonymize`: the file with the secret (see `privacy`).
    """

    path_column: str | None = None
    label_column: tuple[str, ...] = ()
    group_column: str | None = None
    split_column: str | None = None
    case_column: str | None = None
    site_column: str | None = None
    modality_column: str | None = None
    id_column: str | None = None
    group_regex: str | None = None
    keep_column: tuple[str, ...] = ()
    target: str | None = None
    class_order: tuple[str, ...] = ()
    uncertain: str = "ignore"
    blank: str = "ignore"
    axis: str = "axial"
    slices: str = "all"
    pseudonymize: Path | None = None

    def __post_init__(self) -> None:
        # One name is as good as a tuple of one; taken letter by letter it would be several columns.
        for name in ("label_column", "keep_column", "class_order"):
            value = getattr(self, name)
            if not isinstance(value, tuple):
                object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value or ()))

    @property
    def unlabelled(self) -> bool:
        """True where labels are not wanted: every label is -1 and there are no label names."""
        return self.label_column == (NONE,)

    def examples(self, names: Sequence[str]) -> str:
        """The first three of `names` for an error; only how many where names are to stay secret."""
        return f"{len(names)} of them" if self.pseudonymize else first_three(names)


class Dataset(Protocol):
    """Images in a fixed order and what is known about each.

    `notes` are sentences that the console must show. A data set can be pickled.
    """

    @property
    def name(self) -> str:
        """What the cache, the results and the report call it."""

    @property
    def kind(self) -> str:
        """The registered kind it was opened as."""

    @property
    def samples(self) -> Samples:
        """N rows; `sha256`, `pixel_sha256` and `phash` are "" everywhere."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the console must say."""

    def read(self, row: int) -> bytes:
        """The image's bytes. OSError where they can't be read, DataError where the file has gone."""

    def decode(self, data: bytes) -> Raster:
        """The image in `data`, with the numbers that it came with.

        UnreadableImageError (an OSError) where it is damaged, UnsupportedImageError (a DataError) where
        featprobe can't read its kind.
        """


class DatasetKind(Protocol):
    """One way to hold images, registered as `@DATASETS.register("KIND")` above a class of these three."""

    @classmethod
    def accepts(cls, location: str) -> bool:
        """Whether SPEC (without NAME=) is of this kind. Exactly one kind may say yes."""

    @classmethod
    def default_name(cls, location: str) -> str:
        """What the data set is called where the user gave no NAME=."""

    @classmethod
    def open(cls, location: str, name: str, options: DatasetOptions) -> Dataset:
        """The data set, with every file found; DataError where it can't be used as it stands."""


@dataclass(frozen=True, slots=True, eq=False)
class FileDataset:
    """Images that are files, or parts of files.

    `files` [N]: each row's file, relative to `root` or absolute (`samples.path` is only what the row is called).
    `part` int64 [N]: -1 for a whole file, else the number of the slice, frame or page. `rule`: how its volumes are
    cut.
    """

    name: str
    kind: str
    samples: Samples
    notes: tuple[str, ...]
    root: Path
    files: TextArray
    part: IntArray
    rule: SliceRule

    def read(self, row: int) -> bytes:
        """The file's bytes, or its slice's pixels as `encode_raster` writes them.

        DataError where the file is not there any more, OSError where it can't be read.
        """
        from featprobe.datasets.stacks import read_part

        path = self.root / str(self.files[row])
        part = int(self.part[row])
        try:
            return path.read_bytes() if part < 0 else read_part(path, part, self.rule)
        except FileNotFoundError as error:
            raise DataError(
                f"the image {self.samples.path[row]} of {self.name} is no longer there",
                f"it was there when the data set was opened, at {path}",
                "put it back, or take it out of the data set",
            ) from error

    def decode(self, data: bytes) -> Raster:
        """See `decoding.decode`."""
        return decode(data)


@dataclass(frozen=True, slots=True, eq=False)
class ArrayDataset:
    """Images that lie in memory: `images` is uint8 [N, H, W] or [N, H, W, 3]."""

    name: str
    kind: str
    samples: Samples
    notes: tuple[str, ...]
    images: npt.NDArray[np.uint8]

    def read(self, row: int) -> bytes:
        """Dtype and shape in a line of text, then the pixels."""
        return encode_array(self.images[row])

    def decode(self, data: bytes) -> Raster:
        """See `decoding.decode`."""
        return decode(data)


def name_of(path: Path) -> str:
    """A folder's name or a file's stem; the name of the folder around it where that says nothing."""
    full = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - resolve() would name a link's target
    stem = full.name if full.is_dir() else full.stem
    return full.parent.name if stem.lower() in _VAGUE_STEMS else stem


def neighbours(path: Path) -> str:
    """The names beside `path` that are nearest to its own, as a clause for an error ("" where none is near)."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return ""
    return nearest(path.name, names)


def refuse_columns(options: DatasetOptions, what: str, *, paths: bool) -> None:
    """ConfigError where an option asks for something that `what`, which has no columns, does not have.

    `paths`: whether its images have paths that --group-regex can be matched against.
    """
    columns = ("path", "group", "split", "case", "site", "modality", "id")
    given: dict[str, str | None] = {
        f"--{name}-column": getattr(options, f"{name}_column") for name in columns
    }
    given["--label-column"] = NONE if options.unlabelled else next(iter(options.label_column), None)
    flags = [flag for flag, value in given.items() if value not in {None, NONE}]
    flags += ["--keep-column"] if options.keep_column else []
    flags += ["--group-regex"] if options.group_regex and not paths else []
    if flags:
        raise ConfigError(
            f"{' and '.join(flags)} can't be used with {what}",
            "it has no such columns" if paths else "it has neither columns nor file names",
            "leave the option out, or write a manifest (.csv) of the images",
        )


def encode_labels(values: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """(index of each label, -1 where it is "", and the sorted names): numbers sort as numbers."""
    names = sorted(set(values) - {""})
    if all(_is_number(name) for name in names):
        names.sort(key=float)
    index = {name: position for position, name in enumerate(names)}
    return [index.get(value, -1) for value in values], tuple(names)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def require_classes(names: Sequence[str], what: str, next_step: str) -> None:
    """DataError unless there are at least two classes to tell apart. `what` names where they were looked for."""
    if len(names) >= 2:
        return
    wrong = f"{what} holds one class only, {names[0]!r}" if names else f"{what} holds no label"
    raise DataError(wrong, "a probe needs at least two classes", next_step)


def canonical_splits(values: Sequence[str]) -> tuple[list[str], list[int]]:
    """(name in `records.SPLITS` of each value, positions of the values that are no known split)."""
    names = [SPLIT_NAMES.get(value.lower(), "" if not value else "?") for value in values]
    return names, [position for position, name in enumerate(names) if name == "?"]


def groups_by_regex(pattern: str, paths: Sequence[str], options: DatasetOptions) -> list[str]:
    """The group that `pattern` finds in each path, "" where it finds none.

    ConfigError where it is no regular expression, DataError where it matches no path at all.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"--group-regex {pattern!r} is not a regular expression", str(error), "mend the pattern"
        ) from error
    matches = [compiled.search(path) for path in paths]
    groups = [(match[1 if compiled.groups else 0] or "") if match else "" for match in matches]
    if not any(groups):
        raise DataError(
            f"--group-regex {pattern!r} finds a group in none of {len(paths)} paths",
            "" if options.pseudonymize else f"the first path is {paths[0]!r}",
            "mend the pattern; its first (...) is the group",
        )
    return groups


def complete_groups(groups: Sequence[str] | None, ids: Sequence[str]) -> tuple[list[str] | None, list[str]]:
    """(groups with the missing ones filled, or None where none is declared; notes for the console)."""
    if groups is None or not any(groups):
        return None, [NO_GROUPS]
    missing = sum(not group for group in groups)
    filled = [group or f"{name} (no group)" for group, name in zip(groups, ids, strict=True)]
    if not missing:
        return filled, []
    return filled, [f"{missing} of {len(ids)} images have no group: each of them counts as its own group"]


def repeated(values: Iterable[str]) -> list[str]:
    """The values that occur more than once, in order of appearance."""
    return [value for value, count in Counter(values).items() if count > 1]


def first_three(items: Sequence[str]) -> str:
    """The first three items, and how many more there are."""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(items[:3]) + more
