"""Files of the Hugging Face hub: from its cache where they lie there whole, else downloaded and said."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import urlparse

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from featprobe.backbones.core.bundle import SHOWN, sha256_of
from featprobe.backbones.core.info import Place
from featprobe.backbones.core.shards import is_index, shards
from featprobe.errors import BackboneError, OutputError, listed

FILES: Final = ("model.safetensors", "pytorch_model.bin")
TIMEOUT_SECONDS: Final = 10.0

# The hub's own error derives from OSError and from the base error of the HTTP library that this version of it
# uses: together they are every way in which a connection fails.
_NETWORK: Final[tuple[type[Exception], ...]] = (
    *(base for base in HfHubHTTPError.__mro__[1:] if issubclass(base, Exception) and base is not Exception),
)
_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


class UnreachableError(Exception):
    """A source that gave no answer; its text is a clause that says so. Another source may still be asked."""


def offline_wanted() -> bool:
    """Whether FEATPROBE_OFFLINE or HF_HUB_OFFLINE forbids downloads."""
    asked = os.environ.get("FEATPROBE_OFFLINE", "").strip().lower() in {"1", "true", "yes", "on"}
    return asked or bool(constants.HF_HUB_OFFLINE)


def folder(repository: str) -> Path:
    """Where the hub's cache keeps `repository`."""
    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def host() -> str:
    """The hub's host, for announcements and errors."""
    return urlparse(constants.ENDPOINT).hostname or str(constants.ENDPOINT)


def cached(place: Place, faults: list[str]) -> Path | None:
    """The first of `place.files` that the cache holds whole, at `place.revision`; the network is not asked.

    The weights behind a name therefore do not change under a study. What must not be used is told to `faults`:
    half a download, a link into nothing, bytes that are not those that the cache's own name for them (SHA-256)
    says.
    """
    for file in place.files or FILES:
        found = huggingface_hub.try_to_load_from_cache(place.where, file, revision=place.revision)
        if not isinstance(found, str):
            continue
        problem = _blob_fault(Path(found)) or _shard_fault(Path(found))
        if not problem:
            return Path(found)
        faults.append(problem)
    faults += _unfinished(place)
    return None


def commit(path: Path, repository: str) -> str:
    """The commit that a file of the cache is of; "" where its path does not say."""
    snapshots = folder(repository) / "snapshots"
    return path.relative_to(snapshots).parts[0] if path.is_relative_to(snapshots) else ""


def _blob_fault(path: Path) -> str:
    # Large files lie under their SHA-256, small ones under git's hash of 40 digits; copies without links tell nothing.
    blob = path.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return ""
    digest = sha256_of(blob)
    if digest == blob.name:
        return ""
    return (
        f"{path} is half a copy or damaged: its SHA-256 starts with {digest[:SHOWN]}, not {blob.name[:SHOWN]}"
    )


def _shard_fault(path: Path) -> str:
    """What keeps the shards of the index `path` from being used; "" where nothing does, or it is no index."""
    files = shards(path) if is_index(path) else ()
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        return f"{path} lists {len(files)} files, and {listed(absent, 3)} is not there"
    return next(filter(None, map(_blob_fault, files)), "")


def _unfinished(place: Place) -> list[str]:
    here = folder(place.where)
    # Each commit is asked for the names itself: a search for them would pass over links into nothing.
    paths = [commit / file for commit in sorted(here.glob("snapshots/*")) for file in place.files or FILES]
    dangling = [
        f"{path} links to a file that is not there"
        for path in paths
        if path.is_symlink() and not path.exists()
    ]
    return [*dangling, *(f"{path} is half a download" for path in sorted(here.glob("blobs/*.incomplete")))]


def download(place: Place, *, what: str, announce: Callable[[str], None], again: bool) -> Path:
    """The first of `place.files` that the repository holds, downloaded into the hub's cache.

    Host and size are announced first; `what` names the weights; `again` replaces what lies there. Raises
    UnreachableError after one attempt of `TIMEOUT_SECONDS`, BackboneError where the licence was not accepted or
    the repository, revision or file does not exist, OutputError where the disk is full.
    """
    files = place.files or FILES
    with _said(place, what):
        for number, file in enumerate(files):
            url = huggingface_hub.hf_hub_url(place.where, file, revision=place.revision)
            try:
                metadata = huggingface_hub.get_hf_file_metadata(url, timeout=TIMEOUT_SECONDS)
            except EntryNotFoundError:
                if number + 1 == len(files):
                    raise
                continue
            announce(f"downloading {what} ({size_in_words(metadata.size)}) from {host()}/{place.where}")
            path = Path(
                huggingface_hub.hf_hub_download(
                    place.where,
                    file,
                    revision=place.revision,
                    etag_timeout=TIMEOUT_SECONDS,
                    force_download=again,
                )
            )
            # An index of shards: all of one commit, though the branch may move meanwhile.
            at = commit(path, place.where) or place.revision
            for shard in shards(path) if is_index(path) else ():
                one = replace(place, files=(shard.name,), revision=at)
                download(one, what=f"{what} {shard.name}", announce=announce, again=again)
            return path
    raise BackboneError(f"no file of {place.where} was asked for")


def size_in_words(size: int | None) -> str:
    """A file's size for an announcement."""
    return f"{size / 1e6:.0f} MB" if size else "size not given"


@contextmanager
def _said(place: Place, what: str) -> Iterator[None]:
    try:
        yield
    except GatedRepoError as error:
        raise BackboneError(
            f"the weights of {what} are gated: {host()}/{place.where} gives them to those who accepted its licence",
            "no accepted licence was found for this machine",
            f"accept it at {constants.ENDPOINT}/{place.where} and type: hf auth login, or give --weights "
            f"{what.split(maxsplit=1)[0]}=FILE",
        ) from error
    except LocalEntryNotFoundError as error:
        raise UnreachableError(f"{host()} can't be reached ({first_line(error)})") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        at = f" at {place.revision}" if place.revision else ""
        raise BackboneError(
            f"{host()}/{place.where}{at} does not hold weights for {what}",
            f"looked for {' and '.join(place.files or FILES)}",
            f"give them as --weights {what.split(maxsplit=1)[0]}=FILE",
        ) from error
    except _NETWORK as error:
        refuse_full_disk(error, folder(place.where))
        raise UnreachableError(f"{host()} can't be reached ({first_line(error)})") from error


def refuse_full_disk(error: Exception, where: Path) -> None:
    """OutputError where `error` is the disk's and not the network's."""
    if isinstance(error, OSError) and error.errno in _DISK:
        raise OutputError(
            f"the weights can't be written to {where}",
            error.strerror or str(error),
            "free some space or change the folder's permissions, and type the same command again",
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error of another library, short."""
    text = str(error).strip()
    return text.splitlines()[0][:120] if text else type(error).__name__
