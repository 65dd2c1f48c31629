"""A folder of weights that proves itself: files, hashes and licences in one manifest, and one archive of it all.

`DIR/manifest.json` lists, per backbone, its files with size, SHA-256 and source; `DIR/NAME/main/FILE` (or
`DIR/NAME/PART/FILE`) are the files under the names that their sources gave them; `DIR/LICENCES.txt` is for people.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from filelock import FileLock

from featprobe.backbones.core.info import BackboneInfo
from featprobe.backbones.core.manifest import MANIFEST, SCHEMA, Holding, Piece, read, version
from featprobe.backbones.core.shards import is_index
from featprobe.errors import BackboneError, listed

LICENCES: Final = "LICENCES.txt"
SHOWN: Final = 12
_WHOLE: Final = "main"
_BLOCK: Final = 1 << 20


class Source(Protocol):
    """A file to be taken in, as `places.Located`."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def part(self) -> str:
        """Which part of the backbone it is, "" for the whole."""

    @property
    def origin(self) -> str:
        """Where it was first had from, in words."""

    @property
    def revision(self) -> str:
        """The commit it is of, "" where there is none."""


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, computed once per process while the file stays as it is."""
    seen = path.stat()
    return _digest(path, seen.st_size, seen.st_mtime_ns, seen.st_ino)


@functools.lru_cache(maxsize=256)
def _digest(path: Path, *_: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def need_folder(to: Path) -> None:
    """BackboneError where the folder `to` holds other things and is no weights folder."""
    others = sorted(path.name for path in to.iterdir() if path.name != _LOCK) if to.is_dir() else []
    if others and MANIFEST not in others:
        raise BackboneError(
            f"{to} holds other files and is no weights folder",
            f"there are {listed(others, 3)}, and no {MANIFEST}",
            "type a new folder after --to",
        )


def fault(folder: Path, piece: Piece) -> str:
    """Why a listed file must not be used, in words; "" where it is what the manifest says."""
    path = folder / piece.file
    if not path.is_file():
        return f"{path} is listed in {MANIFEST} and missing"
    size = path.stat().st_size
    if size != piece.size:
        return f"{path} is half a copy or another file: it has {size:,} bytes where {MANIFEST} says {piece.size:,}"
    found = sha256_of(path)
    if found != piece.sha256:
        return (
            f"{path} is not the file that {MANIFEST} lists: its SHA-256 starts with {found[:SHOWN]} "
            f"where {piece.sha256[:SHOWN]} was written down"
        )
    return ""


def find(folder: Path, name: str, part: str) -> Piece | None:
    """The file held for `name` and `part`, proven to be what the manifest says; None where none is held.

    BackboneError where the file is missing, half a copy or has another hash.
    """
    holding = read(folder).get(name)
    piece = holding.piece(part) if holding else None
    shards = [each for each in holding.files if each.part.startswith(f"{part}:")] if holding else []
    problems = (fault(folder, each) for each in (piece, *shards) if each)
    problem = next(filter(None, problems), "")
    if problem:
        raise BackboneError(
            f"the weights of {name} are refused",
            problem,
            f"copy the folder again, or delete {folder} and type: featprobe backbones fetch {name} --to {folder}",
        )
    return piece


def verify(folder: Path) -> list[str]:
    """Every problem of the weights folder, one sentence each; [] where each listed file is what it should be."""
    pieces = {piece.file: piece for holding in read(folder).values() for piece in holding.files}
    problems = [problem for piece in pieces.values() if (problem := fault(folder, piece))]
    return [*problems, *(f"{folder / file} is not listed in {MANIFEST}" for file in _strays(folder, pieces))]


def _strays(folder: Path, known: Mapping[str, Piece]) -> list[str]:
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(file for file in files if file not in {*known, MANIFEST, LICENCES, _LOCK})


def shelf(info: BackboneInfo) -> Holding:
    """An entry for `info` that holds no file yet."""
    names = [field.name for field in dataclasses.fields(Holding) if field.name != "files"]
    return Holding(**{name: getattr(info, name) for name in names})


def add(info: BackboneInfo, sources: Sequence[Source], to: Path) -> Holding:
    """Copy the files of one backbone into the weights folder `to`, made where it does not exist.

    A file that is there already, by hash and name, is not copied again, also where another backbone brought
    it. BackboneError, with nothing changed, where `to` holds other weights under this name.
    """
    files = [(source.path, _described(info.name, source)) for source in sources]
    return merge(to, [(shelf(info), files)])[info.name]


def _described(name: str, source: Source) -> Piece:
    return Piece(
        part=source.part,
        file=f"{_folder_name(name)}/{source.part.partition(':')[0] or _WHOLE}/{source.path.name}",
        size=source.path.stat().st_size,
        sha256=sha256_of(source.path),
        source=source.origin,
        revision=source.revision,
    )


def merge(to: Path, arrivals: Sequence[tuple[Holding, Sequence[tuple[Path, Piece]]]]) -> dict[str, Holding]:
    """Take files, each with where it lies now, into `to` under their backbones; see `add`. All that `to` holds then."""
    with _changing(to):
        holdings = read(to) if (to / MANIFEST).is_file() else {}
        for entry, files in arrivals:
            for _, piece in files:
                other = holdings[entry.name].piece(piece.part) if entry.name in holdings else None
                if other and other.sha256 != piece.sha256:
                    raise _taken(to, entry.name, other, piece)
        copied: list[Path] = []
        try:
            for entry, files in arrivals:
                _take(to, holdings, entry, files, copied)
            _write(to, holdings)
        except BaseException:
            for path in copied:
                path.unlink(missing_ok=True)
                with suppress(OSError):
                    path.parent.rmdir()
                    path.parent.parent.rmdir()
            raise
    return holdings


def _take(
    to: Path,
    holdings: dict[str, Holding],
    entry: Holding,
    files: Sequence[tuple[Path, Piece]],
    copied: list[Path],
) -> None:
    stored = {(p.sha256, Path(p.file).name): p.file for h in holdings.values() for p in h.files}
    pieces = {piece.part: piece for piece in (holdings[entry.name].files if entry.name in holdings else ())}
    for path, piece in files:
        key = (piece.sha256, Path(piece.file).name)
        # Shards lie beside their index, whatever other backbones brought.
        alone = ":" in piece.part or is_index(path)
        placed = piece if alone else dataclasses.replace(piece, file=stored.setdefault(key, piece.file))
        target = to / placed.file
        if fault(to, placed):
            copied += [] if target.exists() else [target]
            _copy(path, target, placed.sha256)
        pieces[piece.part] = placed
    holdings[entry.name] = dataclasses.replace(entry, files=tuple(pieces[part] for part in sorted(pieces)))


def _taken(to: Path, name: str, held: Piece, offered: Piece) -> BackboneError:
    return BackboneError(
        f"{to} already holds other weights of {name}",
        f"it has {held.source} (SHA-256 {held.sha256[:SHOWN]}), and {offered.source} "
        f"(SHA-256 {offered.sha256[:SHOWN]}) is another file",
        "type another folder after --to: one name stands for one file of weights",
    )


def _folder_name(name: str) -> str:
    """`name` as a folder: what a file system might refuse is replaced, and a hash keeps such names apart."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


_LOCK: Final = ".lock"


@contextmanager
def _changing(folder: Path) -> Iterator[None]:
    """One writer at a time; what a failed attempt made in a new folder is removed."""
    fresh = not folder.exists()
    if folder.exists() and not folder.is_dir():
        read(folder)
    need_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / _LOCK, thread_local=False):
        try:
            yield
        except BaseException:
            if fresh and not (folder / MANIFEST).is_file():
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            with suppress(OSError):
                (folder / _LOCK).unlink()


def _copy(source: Path, target: Path, sha256: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with written(target) as part:
        digest = hashlib.sha256()
        with source.open("rb") as reading, part.open("wb") as writing:
            while block := reading.read(_BLOCK):
                digest.update(block)
                writing.write(block)
        if digest.hexdigest() != sha256:
            raise BackboneError(
                f"{source} changed while it was copied",
                f"its SHA-256 started with {sha256[:SHOWN]}, what was read has {digest.hexdigest()[:SHOWN]}",
                "type the same command again",
            )


@contextmanager
def written(target: Path) -> Iterator[Path]:
    """A temporary file beside `target` that becomes it, on the disk itself, when all went well; else is removed."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _write(folder: Path, holdings: Mapping[str, Holding]) -> None:
    entries = [dataclasses.asdict(holdings[name]) for name in sorted(holdings)]
    content = {"schema": SCHEMA, "featprobe": version(), "backbones": entries}
    with written(folder / LICENCES) as part:
        part.write_text(_licences(holdings), encoding="utf-8")
    with written(folder / MANIFEST) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _licences(holdings: Mapping[str, Holding]) -> str:
    paragraphs = ["The licences and sources of the weights in this folder."]
    for name in sorted(holdings):
        held = holdings[name]
        lines = [f"{name} ({held.family}, {held.architecture})", f"  licence: {held.licence}"]
        lines += [f"  terms: {held.terms}"] if held.terms else []
        lines += [f"  cite: {held.citation}"]
        lines += [f"  {piece.file}: {piece.size:,} bytes, from {piece.source}" for piece in held.files]
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs) + "\n"


def summary(holdings: Mapping[str, Holding]) -> str:
    """The names held, for an error."""
    return listed(sorted(holdings)) or "nothing"
