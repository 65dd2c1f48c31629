"""WebDataset shards: plain tar files in which the members of one sample share a name up to its first dot.

Convention: https://github.com/webdataset/webdataset (A. Aizman et al., High Performance I/O For Large Scale Deep
Learning, IEEE Big Data 2019). Members are read where they lie, in any order, so shards need not be unpacked.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from featprobe.datasets.base import Dataset, DatasetOptions, name_of, neighbours, repeated
from featprobe.datasets.decoding import IMAGE_SUFFIXES, UnreadableImageError, decode
from featprobe.errors import DataError, listed
from featprobe.registry import DATASETS

if TYPE_CHECKING:
    from featprobe.imaging import Raster
    from featprobe.records import IntArray, Samples

COMPRESSED: Final = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")
IMAGE_MEMBERS: Final = frozenset({suffix[1:] for suffix in IMAGE_SUFFIXES} | {"dcm", "dicom"})
LABELS: Final = ("label", "cls", "txt")
"""Where a label is looked for, in this order: the key of the .json member, then the members .cls and .txt."""

MOST_TEXT: Final = 2**20
"""Bytes of a .json, .cls or .txt member at most."""

_KEY: Final = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<suffix>[^/]+)")
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_END_MARK: Final = 1024


@DATASETS.register("webdataset")
class WebDataset:
    """A .tar shard, a folder of them, or a pattern such as `scans-{0000..0009}.tar`.

    A sample's image is the one member whose suffix is an image's (`--path-column SUFFIX` chooses another or one of
    several). Its columns are the keys of its .json member (label, group or patient, case, split, site, modality,
    id, ...) and its .cls and .txt members, as columns of these names. The id is the sample's name; where shards
    share names, the shard's name stands before it. Samples without an image are left out, and counted.
    """

    @classmethod
    def accepts(cls, location: str) -> bool:
        """What ends in .tar (compressed ones too, to be refused with what helps), or a folder of nothing else."""
        path = Path(location).expanduser()
        if path.is_dir():
            return is_shard_folder(path)
        return location.lower().endswith((".tar", *COMPRESSED))

    @classmethod
    def default_name(cls, location: str) -> str:
        """The folder's name or the file's stem, without the braces of a pattern."""
        plain = re.sub(r"[-_.]*\{[^{}]*\}", "", location)
        name = name_of(Path(plain))
        return name_of(Path(plain).parent) if name in {"", ".tar"} else name.removesuffix(".tar")

    @classmethod
    def open(cls, location: str, name: str, options: DatasetOptions) -> Dataset:
        """The samples of the shards in their order.

        DataError for shards that are missing, compressed, truncated or damaged, and for samples that can't be used:
        those with several images, or with a .json member that can't be read.
        """
        import numpy as np

        from featprobe.datasets.columns import Listing, samples_of
        from featprobe.datasets.rows import whole

        shards = _shards(location)
        index = _Index(shards, options)
        for number, shard in enumerate(shards):
            _scan(shard, number, index)
        table, paths, ids, members = index.table(location)
        listing = Listing(table, paths, ids, labels=LABELS)
        samples, _, notes = samples_of(listing, options, lambda: whole(table.count, options))
        places, start, size = (
            np.array(column, dtype=np.int64)
            for column in zip(*((m.shard, m.start, m.size) for m in members), strict=True)
        )
        return ShardDataset(name, samples, (*notes, *index.notes()), tuple(shards), places, start, size)


@dataclass(frozen=True, slots=True, eq=False)
class ShardDataset:
    """Images inside tar files: `shard` [N] indexes `shards`; `start`, `size` [N]: bytes. Nothing is kept open."""

    name: str
    samples: Samples
    notes: tuple[str, ...]
    shards: tuple[Path, ...]
    shard: IntArray
    start: IntArray
    size: IntArray
    kind: str = "webdataset"

    def read(self, row: int) -> bytes:
        """The member's bytes. DataError where the shard has gone, OSError where it can't be read any more."""
        path = self.shards[int(self.shard[row])]
        size = int(self.size[row])
        try:
            with path.open("rb") as stream:
                stream.seek(int(self.start[row]))
                data = stream.read(size)
        except FileNotFoundError as error:
            raise DataError(
                f"the shard {path.name} of {self.name} is no longer there",
                f"it was there when the data set was opened, at {path}",
                "put it back, or open the others alone",
            ) from error
        if len(data) < size:
            raise UnreadableImageError("the shard ends before the image does")
        return data

    def decode(self, data: bytes) -> Raster:
        """See `decoding.decode`."""
        return decode(data)


@dataclass(frozen=True, slots=True)
class _Member:
    """One file of a shard: where its bytes lie."""

    name: str
    shard: int
    start: int
    size: int


@dataclass(slots=True)
class _Sample:
    """The members of one key."""

    key: str
    shard: int
    members: dict[str, _Member] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)
    cells: dict[str, str] = field(default_factory=dict)
    wrong: str = ""


def is_shard_folder(path: Path) -> bool:
    """Whether the folder holds .tar files and no visible folder."""
    try:
        with os.scandir(path) as entries:
            seen = [
                (entry.name.lower(), entry.is_dir()) for entry in entries if not entry.name.startswith(".")
            ]
    except OSError:
        return False
    return any(name.endswith((".tar", *COMPRESSED)) for name, _ in seen) and not any(
        inner for _, inner in seen
    )


def _shards(location: str) -> list[Path]:
    path = Path(location).expanduser()
    if path.is_dir():
        found = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        shards = [entry for entry in found if entry.name.lower().endswith((".tar", *COMPRESSED))]
    elif path.exists() or "{" not in location:
        shards = [path]
    else:
        shards = [Path(name) for name in _expanded(str(path))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(shards)} shards are missing: {listed(missing)}",
            neighbours(shards[0]) if len(shards) == 1 else f"looked in {shards[0].parent}",
            "mend the path after --data",
        )
    for shard in shards:
        if shard.name.lower().endswith(COMPRESSED):
            raise _compressed(shard)
    return shards


def _expanded(pattern: str) -> list[str]:
    """The names that a pattern with {first..last} or {a,b} stands for, as a shell's braces do."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    inner = match.group(1)
    if span := re.fullmatch(r"(\d+)\.\.(\d+)", inner):
        first, last = (int(word) for word in span.groups())
        if last < first:
            raise DataError(
                f"{{{inner}}} counts backwards", "the first number is the smaller", "mend the pattern"
            )
        words: Iterable[str] = (str(number).zfill(len(span.group(1))) for number in range(first, last + 1))
    else:
        words = inner.split(",")
    return [
        name for word in words for name in _expanded(pattern[: match.start()] + word + pattern[match.end() :])
    ]


def _compressed(shard: Path) -> DataError:
    return DataError(
        f"the shard {shard.name} is compressed",
        "images are read from the middle of a shard, which a compressed one does not allow",
        f"unpack it once, such as with gunzip: it becomes {shard.name.partition('.')[0]}.tar",
    )


def _scan(shard: Path, number: int, index: _Index) -> None:
    """Every member of the shard into the index. DataError where the shard is damaged or ends too early."""
    try:
        with shard.open("rb") as stream:
            if stream.read(2) == b"\x1f\x8b":
                raise _compressed(shard)
            stream.seek(0)
            end = 0
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    end = member.offset_data + -(-member.size // 512) * 512
                    if member.isreg() and not member.issparse():
                        index.add(_Member(member.name, number, member.offset_data, member.size))
                    elif not member.isdir():
                        index.passed_over += 1
                    archive.members = []  # type: ignore[attr-defined] # tarfile keeps all it has seen
            index.read_texts(stream)
            stream.seek(end)
            mark = stream.read(_END_MARK)
            if any(mark):  # tarfile takes a damaged header in the middle for the end
                raise tarfile.ReadError(f"the header at byte {end} can't be read")
            if len(mark) < _END_MARK:
                index.unended.append(shard.name)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(
            f"the shard {shard.name} is damaged or cut off", str(error), "copy or make it again"
        ) from error
    except OSError as error:
        raise DataError(
            f"the shard {shard.name} can't be read", error.strerror or str(error), "mend its permissions"
        ) from error


class _Index:
    """What the shards hold, sample by sample."""

    def __init__(self, shards: Sequence[Path], options: DatasetOptions) -> None:
        self.shards, self.options = shards, options
        self.samples: dict[tuple[int, str], _Sample] = {}
        self.passed_over = 0
        self.without_image = 0
        self.unended: list[str] = []
        self._unread: list[_Sample] = []

    def add(self, member: _Member) -> None:
        """Put a member to the sample of its key; files without a suffix or with a hidden name are passed over."""
        match = _KEY.fullmatch(member.name.removeprefix("./"))
        if match is None:
            self.passed_over += 1
            return
        key, suffix = match["key"], match["suffix"].lower()
        place = (member.shard, key)
        if place not in self.samples:
            self.samples[place] = _Sample(key, member.shard)
            self._unread.append(self.samples[place])
        sample = self.samples[place]
        if suffix in sample.members:
            sample.doubled.append(suffix)
        sample.members[suffix] = member

    def read_texts(self, stream: Any) -> None:
        """The cells of the samples that were added since the last call, from their shard."""
        for sample in self._unread:
            for suffix in ("json", "cls", "txt"):
                if (member := sample.members.get(suffix)) is None:
                    continue
                if member.size > MOST_TEXT:
                    sample.wrong = f"its .{suffix} has {member.size} bytes, more than {MOST_TEXT}"
                    continue
                stream.seek(member.start)
                sample.wrong = _read_cells(sample, suffix, stream.read(member.size)) or sample.wrong
        self._unread = []

    def table(self, location: str) -> tuple[Any, list[str], list[str], list[_Member]]:
        """(the table of the samples with an image, their paths, their ids, their images)."""
        from featprobe.datasets.faults import Faults
        from featprobe.datasets.tables import Table

        chosen = [(sample, self._images(sample)) for sample in self.samples.values()]
        held = [(sample, images) for sample, images in chosen if images or sample.doubled]
        self.without_image = len(chosen) - len(held)
        if not held:
            seen = Counter(suffix for sample in self.samples.values() for suffix in sample.members)
            raise DataError(
                f"{location} holds no images",
                f"its members end in {listed(sorted(seen))}" if seen else "its shards are empty",
                "name the suffix of the images: --path-column SUFFIX",
            )
        names = [sample.key for sample, _ in held]
        if repeated(names):
            names = [f"{self.shards[sample.shard].stem}/{sample.key}" for sample, _ in held]
        private = self.options.pseudonymize is not None
        faults = Faults(
            location,
            len(held),
            (lambda at: f"sample {at + 1}") if private else lambda at: f"sample {names[at]}",
            private=private,
        )
        for position, (sample, images) in enumerate(held):
            if sample.doubled:
                faults.add([position], f"two members .{sample.doubled[0]}")
            if len(images) > 1:
                faults.add(
                    [position],
                    f"several images: {', '.join(images)}",
                    known="--path-column SUFFIX chooses one of several images",
                )
            if sample.wrong:
                faults.add([position], sample.wrong)
        members = [sample.members[images[0]] if images else _Member("", 0, 0, 0) for sample, images in held]
        paths = [f"{self.shards[member.shard].name}/{member.name}" for member in members]
        columns = {
            name: [sample.cells.get(name, "") for sample, _ in held]
            for name in sorted({name for sample, _ in held for name in sample.cells})
        }
        return Table(location, columns, len(held), faults), paths, names, members

    def _images(self, sample: _Sample) -> list[str]:
        """The suffixes of the sample's image: more than one where it is not clear which."""
        asked = self.options.path_column
        if asked is not None:
            wanted = asked.lower().lstrip(".")
            return [wanted] if wanted in sample.members else []
        exact = [suffix for suffix in sample.members if suffix in IMAGE_MEMBERS]
        return exact or [s for s in sample.members if s.rpartition(".")[2] in IMAGE_MEMBERS]

    def notes(self) -> list[str]:
        """What was left out, for the console."""
        notes = []
        if self.without_image:
            notes.append(f"{self.without_image} samples of the shards hold no image: they are left out")
        if self.passed_over:
            notes.append(
                f"ignored {self.passed_over} members that are links or have no suffix or a hidden name"
            )
        if self.unended:
            notes.append(
                f"{len(self.unended)} shards have no end mark and may be cut off: {listed(self.unended, 3)}"
            )
        return notes


def _read_cells(sample: _Sample, suffix: str, data: bytes) -> str:
    """Put a member's text into the sample's cells; what is wrong with it, or ""."""
    from featprobe.datasets.tables import cell_text

    try:
        text = data.decode("utf-8-sig").strip()
        found = json.loads(text) if suffix == "json" else {suffix: text}
    except ValueError:  # also of UTF-8
        return f"its .{suffix} can't be read"
    if not isinstance(found, dict):
        return "its .json is no object of keys and values"
    for name, value in found.items():
        flat = not isinstance(value, (dict, list)) or (
            isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value)
        )
        sample.cells[str(name).strip()] = cell_text(value) if flat else "<nested>"
    return ""
