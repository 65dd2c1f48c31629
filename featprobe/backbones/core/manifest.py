"""What a weights folder says of itself: manifest.json, read with every entry proven to be what it should be."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

from featprobe.errors import BackboneError, listed

SCHEMA: Final = 1
MANIFEST: Final = "manifest.json"

E = TypeVar("E")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One file of a weights folder. `file`: its path inside the folder; `source`: where it was first had from.

    `part`: "" for the backbone itself, else what the file adds; ":NAME" is a shard of the weights that the piece
    "" is the index of, and lies beside it.
    """

    part: str
    file: str
    size: int
    sha256: str
    source: str
    revision: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a weights folder holds for one backbone: the facts that its user needs, and its files."""

    name: str
    family: str
    architecture: str
    licence: str
    terms: str
    citation: str
    files: tuple[Piece, ...] = ()

    def piece(self, part: str) -> Piece | None:
        """The file of `part`, None where it is not held."""
        return next((piece for piece in self.files if piece.part == part), None)


def version() -> str:
    """The installed featprobe's, "unknown" where it is not installed."""
    # The package itself stands above this room and is not imported from it.
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("featprobe")
    return "unknown"


def read(folder: Path) -> dict[str, Holding]:
    """Name -> what the weights folder holds for it.

    BackboneError where `folder` is no weights folder, is an archive of one, or its manifest can't be trusted.
    """
    manifest = folder / MANIFEST
    if folder.is_file():
        raise BackboneError(
            f"the weights folder {folder} is a file",
            "an archive of weights is unpacked once, then used" if is_archive(folder) else "",
            f"type: featprobe backbones unbundle {folder} --to DIR, then --weights-dir DIR",
        )
    if not manifest.is_file():
        raise BackboneError(
            f"{folder} is no weights folder: it has no {MANIFEST}"
            if folder.is_dir()
            else f"{folder} does not exist",
            "such a folder is made by featprobe backbones fetch and unbundle",
            "type: featprobe backbones fetch NAME --to DIR, or correct --weights-dir or FEATPROBE_WEIGHTS_DIR",
        )
    try:
        return _parsed(manifest.read_bytes())
    except (OSError, _FaultError) as error:
        raise BackboneError(
            f"the manifest {manifest} can't be used",
            str(error)[:200],
            "copy the folder again, or make it anew: featprobe backbones fetch NAME --to DIR",
        ) from error


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive which `archive.pack` writes."""
    return path.name.endswith((".tar", ".tar.gz", ".tgz"))


class _FaultError(Exception):
    """What is wrong with a manifest, in words."""


def _parsed(raw: bytes) -> dict[str, Holding]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _FaultError("it is no JSON: it is damaged, cut off, or another file") from error
    schema = _entry(content, "schema", "it")
    if type(schema) is not int:
        raise _FaultError(f"its schema is {_shown(schema)}, which is no number")
    if schema != SCHEMA:
        raise _FaultError(f"its schema is {schema}, this featprobe ({version()}) reads {SCHEMA}")
    entries = _entry(content, "backbones", "it")
    if not isinstance(entries, list):
        raise _FaultError(f"its entry 'backbones' is {_shown(entries)}, not a list")
    found: dict[str, Holding] = {}
    for entry in entries:
        holding = _holding(entry)
        if holding.name in found:
            raise _FaultError(f"it lists {holding.name} twice")
        found[holding.name] = holding
    return found


def _holding(entry: Any) -> Holding:
    files = _entry(entry, "files", "a backbone")
    if not isinstance(files, list):
        raise _FaultError(f"the files of a backbone are {_shown(files)}, not a list")
    pieces = tuple(_piece(piece) for piece in files)
    holding = _record(Holding, {**entry, "files": pieces}, "a backbone")
    if len({piece.part for piece in pieces}) != len(pieces):
        raise _FaultError(f"{holding.name} has one part twice")
    return holding


def _piece(entry: Any) -> Piece:
    piece = _record(Piece, entry, "a file")
    inside = PurePosixPath(piece.file)
    if inside.is_absolute() or ".." in inside.parts or not inside.parts or "\\" in piece.file:
        raise _FaultError(f"the file {piece.file!r} lies outside the folder")
    if not re.fullmatch(r"[0-9a-f]{64}", piece.sha256) or piece.size < 0:
        raise _FaultError(f"size or SHA-256 of {piece.file} is none")
    return piece


def _record(kind: type[E], entry: Any, what: str) -> E:
    """`entry` as the record `kind`: all its fields that have no default, no other, each of the right type."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    needed = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    for name in needed:
        _entry(entry, name, what)
    odd = sorted(set(entry) - set(fields))
    if odd:
        raise _FaultError(
            f"{what} has entries that this featprobe ({version()}) does not know: {listed(odd)}"
        )
    for name, value in entry.items():
        right = {"size": int, "files": tuple}.get(name, str)
        if type(value) is not right:
            raise _FaultError(
                f"the entry {name!r} of {what} is {_shown(value)}, not {'a number' if right is int else 'text'}"
            )
    return kind(**entry)


def _entry(content: Any, name: str, what: str) -> Any:
    if not isinstance(content, Mapping):
        raise _FaultError(f"{what} is {_shown(content)}, not a list of named entries")
    if name not in content:
        raise _FaultError(f"{what} lacks the entry {name!r}")
    return content[name]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
