"""featprobe backbones fetch, bundle, unbundle, verify: weights for machines that reach no hub."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from featprobe import backbones
from featprobe.backbones import BackboneInfo
from featprobe.backbones.core import archive as archives
from featprobe.backbones.core import bundle as shelves
from featprobe.backbones.core import manifest
from featprobe.backbones.core.places import (
    NO_PLACE,
    OWN,
    VARIABLE,
    Located,
    locate,
    unusable,
    weights_folder,
    with_shards,
)
from featprobe.errors import ConfigError

OK, FAILED = 0, 1
_DEFAULT: Final = "efficientnet_lite0"


def fetch(
    *,
    names: Sequence[str],
    to: Path,
    weights: Sequence[str] = (),
    offline: bool = False,
    weights_dir: Path | None = None,
) -> int:
    """Bring every file of the backbones into the weights folder `to`, downloaded where it lies nowhere here.

    `weights`: "NAME=FILE", a file of the user's own that stands for NAME's pretrained weights there. Licences
    and terms are printed before anything is downloaded; nothing is written unless all files can be had.
    """
    own = _own_files(weights)
    if not names and not own:
        raise ConfigError("no backbone was named", "", "type: featprobe backbones fetch NAME --to DIR")
    _collect([*names, *own], own, to, offline=offline, weights_dir=weights_dir)
    print(f"use them with --weights-dir {to}, or FEATPROBE_WEIGHTS_DIR={to}")
    return OK


def bundle(
    *,
    names: Sequence[str],
    to: Path,
    weights: Sequence[str] = (),
    offline: bool = False,
    weights_dir: Path | None = None,
) -> int:
    """Write the weights of the backbones, their licences and hashes into the one archive `to`.

    Without a name: all that the weights folder holds, or the built-in default where there is none. See `fetch`.
    """
    archives.check_name(to)
    own = _own_files(weights)
    folder = weights_folder(weights_dir)
    if folder and not names and not own:
        print(f"no NAME was given: all that {folder} holds is bundled")
        size = archives.pack(folder, to)
    else:
        part = to.with_name(f".{to.name}.{os.getpid()}.folder")
        try:
            wanted = [*names, *own] or [_DEFAULT]
            if not names and not own:
                print(f"no NAME was given: the built-in default {_DEFAULT} is bundled")
            _collect(wanted, own, part, offline=offline, weights_dir=weights_dir)
            size = archives.pack(part, to)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    print(f"{to}: {size / 1e6:.1f} MB; on the other machine: featprobe backbones unbundle {to.name} --to DIR")
    return OK


def unbundle(*, archive: Path, to: Path) -> int:
    """Unpack an archive of `bundle` into the weights folder `to`; every hash is proven first."""
    names = archives.unpack(archive, to)
    print(f"{to} holds {', '.join(names)}: use it with --weights-dir {to}, or FEATPROBE_WEIGHTS_DIR={to}")
    return OK


def verify(*, weights_dir: Path | None = None) -> int:
    """Read every byte of the weights folder; 1 where a file is not what the manifest says."""
    folder = weights_folder(weights_dir)
    if folder is None:
        raise ConfigError(
            "no weights folder was named", f"{VARIABLE} is not set either", "type: --weights-dir DIR"
        )
    problems = shelves.verify(folder)
    for problem in problems:
        print(f"DAMAGED  {problem}")
    if not problems:
        holdings = manifest.read(folder)
        print(f"ok  {folder} holds {shelves.summary(holdings)}")
    return FAILED if problems else OK


def _own_files(weights: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for value in weights:
        name, _, file = value.partition("=")
        if not name or not file or file in {"pretrained", "random"}:
            raise ConfigError(
                f"--weights {value} names no file of a backbone",
                "pretrained weights are taken without being asked for, random ones need no file",
                "type: --weights NAME=FILE",
            )
        found[name] = Path(file).expanduser()
    return found


def _collect(
    names: Iterable[str], own: dict[str, Path], to: Path, *, offline: bool, weights_dir: Path | None
) -> None:
    """Locate all files first, so that a backbone that can't be had leaves nothing behind; then take them in."""
    names = tuple(dict.fromkeys(names))
    for name in names:
        backbones.learn(name, offline=offline, weights_dir=weights_dir)
    infos = {info.name: info for info in map(backbones.describe, names)}
    files = {backbones.describe(name).name: path for name, path in own.items()}
    for info in infos.values():
        if not info.needs_weights:
            raise ConfigError(
                f"{info.name} needs no weights",
                "it is computed from the images alone",
                f"leave {info.name} out",
            )
    shelves.need_folder(to)
    for info in infos.values():
        _show_terms(info)
    for name, path in files.items():
        # Behind the firewall is too late to learn that a file is another architecture's.
        backbones.load(name, weights=str(path), offline=offline, weights_dir=weights_dir)
    found = {
        name: _located(info, files.get(name), offline=offline, weights_dir=weights_dir)
        for name, info in infos.items()
    }
    for name, located in found.items():
        for piece in shelves.add(infos[name], located, to).files:
            print(f"{piece.file}  {piece.size / 1e6:.1f} MB  SHA-256 {piece.sha256}  from {piece.source}")


def _located(
    info: BackboneInfo, own: Path | None, *, offline: bool, weights_dir: Path | None
) -> list[Located]:
    if info.conversion and own is None and not _kept(info, weights_dir):
        raise unusable(info, f"the published weights of {info.name} are not brought")
    found: list[Located] = []
    for file in info.files or (NO_PLACE,):
        if own is not None and not file.part:
            origin = f"{OWN}{own.name}"
            found += with_shards(Located(path=own, place=origin, origin=origin))
            continue
        found += with_shards(
            locate(
                # What would be refused when it is used is not brought either; a weights folder may hold it converted.
                dataclasses.replace(file, places=()) if info.conversion else file,
                name=info.name,
                offline=offline,
                announce=print,
                weights_dir=weights_dir,
                source=info.weights_source,
            )
        )
    return found


def _kept(info: BackboneInfo, weights_dir: Path | None) -> bool:
    folder = weights_folder(weights_dir)
    return folder is not None and info.name in manifest.read(folder)


def _show_terms(info: BackboneInfo) -> None:
    print(f"{info.name} ({info.family}): licence {info.licence}; weights: {info.weights_source}")
    if info.terms:
        print(f"  terms: {info.terms}")
