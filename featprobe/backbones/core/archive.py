"""A weights folder as one file that can be carried behind a firewall, and back again, proven on both sides."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

from featprobe.backbones.core import bundle, manifest
from featprobe.errors import BackboneError, listed

SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")


def check_name(archive: Path) -> None:
    """BackboneError unless the archive's name says what it is."""
    if not manifest.is_archive(archive):
        raise BackboneError(
            f"{archive} is no name of an archive",
            f"known suffixes: {', '.join(SUFFIXES)}",
            "type: --to weights.tar (weights hardly get smaller in a .tar.gz)",
        )


def pack(folder: Path, archive: Path) -> int:
    """Write the weights folder into one archive, byte for byte the same each time; returns its size in bytes.

    Only what the manifest lists goes in. BackboneError where a file is not what the manifest says.
    """
    check_name(archive)
    holdings = manifest.read(folder)
    pieces = sorted({piece.file: piece for held in holdings.values() for piece in held.files}.items())
    problems = [problem for _, piece in pieces if (problem := bundle.fault(folder, piece))]
    if problems:
        raise _refused(folder, problems)
    archive.parent.mkdir(parents=True, exist_ok=True)
    with (
        bundle.written(archive) as part,
        part.open("wb") as raw,
        _compressed(raw, archive) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        # The manifest stands first: it is read before anything large.
        for file in (manifest.MANIFEST, bundle.LICENCES, *(file for file, _ in pieces)):
            _put(tar, folder / file, file)
    return archive.stat().st_size


@contextmanager
def _compressed(raw: IO[bytes], archive: Path) -> Iterator[IO[bytes]]:
    if archive.name.endswith(".tar"):
        yield raw
        return
    # Neither time nor name of the file inside: the same folder gives the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as stream:
        yield cast("IO[bytes]", stream)


def _put(tar: tarfile.TarFile, path: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = path.stat().st_size, 0o644
    with path.open("rb") as stream:
        tar.addfile(member, stream)


def unpack(archive: Path, to: Path) -> list[str]:
    """Unpack into the weights folder `to`, joined with what it holds; returns the names of what arrived.

    Nothing reaches `to` before every hash was proven. BackboneError for an archive that is none, is half a
    copy, reaches outside its folder, or holds other weights under a name that `to` has.
    """
    if not archive.is_file():
        raise BackboneError(
            f"the archive {archive} {'is a folder' if archive.is_dir() else 'does not exist'}",
            "a folder of weights needs no unpacking: it is used with --weights-dir"
            if archive.is_dir()
            else "",
            "type: featprobe backbones unbundle ARCHIVE --to DIR",
        )
    where = to.resolve()
    bundle.need_folder(where)
    where.parent.mkdir(parents=True, exist_ok=True)
    part = where.with_name(f".{where.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        _extract(archive, part)
        try:
            holdings = manifest.read(part)
        except BackboneError as error:
            raise _bad(archive, f"its {manifest.MANIFEST} can't be used: {error.known}") from error
        if problems := bundle.verify(part):
            raise _refused(archive, [problem.replace(f"{part}{os.sep}", "") for problem in problems])
        if where.is_dir() and not any(where.iterdir()):
            where.rmdir()
        if where.exists():
            arrivals = [
                (held, [(part / piece.file, piece) for piece in held.files]) for held in holdings.values()
            ]
            bundle.merge(where, arrivals)
        else:
            part.rename(where)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sorted(holdings)


def _extract(archive: Path, to: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(to, filter=_plain_files)  # noqa: S202 - the filter lets nothing out of the folder
    except tarfile.FilterError as error:
        raise _bad(archive, f"it holds what no weights folder has: {error}") from error
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _bad(archive, f"it is no archive, or half a copy of one: {error}") from error
    if not (to / manifest.MANIFEST).is_file():
        raise _bad(archive, f"it has no {manifest.MANIFEST}")


def _plain_files(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    if not (member.isreg() or member.isdir()):
        raise tarfile.SpecialFileError(member)
    return tarfile.data_filter(member, path)


def _bad(archive: Path, reason: str) -> BackboneError:
    return BackboneError(
        f"the archive {archive} is refused",
        reason[:200],
        "compare its size and checksum with the original's, and copy it again",
    )


def _refused(what: Path, problems: list[str]) -> BackboneError:
    return BackboneError(
        f"{what} is refused: {len(problems)} of its files are not what its manifest says",
        listed(problems, 3),
        "copy it again, or make it anew: featprobe backbones bundle NAME --to FILE.tar",
    )
