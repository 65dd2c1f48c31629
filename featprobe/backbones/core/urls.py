"""Weights behind an address: found where their own library keeps its downloads, or downloaded to that place."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.error import HTTPError
from urllib.parse import unquote, urlparse
from urllib.request import Request, urlopen

from featprobe.backbones.core.bundle import SHOWN, sha256_of
from featprobe.backbones.core.hub import (
    TIMEOUT_SECONDS,
    UnreachableError,
    first_line,
    refuse_full_disk,
    size_in_words,
)
from featprobe.backbones.core.info import Place
from featprobe.errors import BackboneError

_SCHEMES: Final = ["https"]
_UNFINISHED: Final = (".partial", ".part", ".incomplete")
# PyTorch's own downloads carry the first digits of their SHA-256 in the name, by its written convention.
_HASH_IN_NAME: Final = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt|bin|safetensors)")
_HASHED_HOSTS: Final = frozenset({"download.pytorch.org"})


def target(place: Place) -> Path:
    """The path under which the library that `place.folder` names keeps this address' file."""
    name = unquote(Path(urlparse(place.where).path).name)
    if place.folder == "xrv":
        return Path("~/.torchxrayvision/models_data").expanduser() / name
    if place.folder == "clip":
        return Path("~/.cache/clip").expanduser() / name
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / name


def published(place: Place) -> str:
    """The SHA-256, or its first digits, that the source states; "" where it states none."""
    address = urlparse(place.where)
    if place.sha256 or place.kind != "url" or address.hostname not in _HASHED_HOSTS:
        return place.sha256.lower()
    match = _HASH_IN_NAME.search(Path(address.path).name)
    return match.group(1) if match else ""


def cached(place: Place, faults: list[str]) -> Path | None:
    """The address' file where its library left it; what is half there is told to `faults`."""
    path = target(place)
    if path.is_file():
        return path
    if path.is_symlink():
        faults.append(f"{path} links to a file that is not there")
    if path.parent.is_dir():
        parts = (file for file in path.parent.iterdir() if file.name.endswith(_UNFINISHED))
        named = sorted(file for file in parts if file.name.lstrip(".").startswith(path.name))
        faults += [f"{file} is half a download" for file in named]
    return None


def download(place: Place, *, what: str, announce: Callable[[str], None]) -> Path:
    """The address' file, downloaded to `target(place)`: host and size are announced, size and hash are checked.

    Raises UnreachableError, BackboneError for a file that does not exist or is another than published, and
    OutputError where the disk is full. Nothing half-written is left.
    """
    import torch

    address = urlparse(place.where)
    if address.scheme not in _SCHEMES:
        raise BackboneError(
            f"weights are not downloaded from {place.where}",
            "only https is",
            f"give them as --weights {what.split(maxsplit=1)[0]}=FILE",
        )
    path = target(place)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        size = _size(place.where)
        announce(f"downloading {what} ({size_in_words(size)}) from {address.hostname}{address.path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(place.where, str(part), progress=sys.stderr.isatty())
        _check(part, size, published(place), place.where)
        part.replace(path)
    except HTTPError as error:
        error.close()
        raise _refusal(error, place, what) from error
    except OSError as error:
        refuse_full_disk(error, path.parent)
        raise UnreachableError(f"{address.hostname} can't be reached ({first_line(error)})") from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _size(address: str) -> int | None:
    request = Request(address, method="HEAD", headers={"User-Agent": "featprobe"})  # noqa: S310 - the scheme was checked
    with urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - see above
        length = answer.headers.get("Content-Length")
    return int(length) if length and length.isdigit() else None


def _check(part: Path, size: int | None, prefix: str, address: str) -> None:
    found = part.stat().st_size
    digest = sha256_of(part)
    if size is not None and found != size:
        problem = f"{found:,} of {size:,} bytes came"
    elif not digest.startswith(prefix):
        problem = f"its SHA-256 starts with {digest[:SHOWN]}, not with the published {prefix[:SHOWN]}"
    else:
        return
    raise BackboneError(
        f"what {address} gave is not the file that was asked for", problem, "type the same command again"
    )


def _refusal(error: HTTPError, place: Place, what: str) -> Exception:
    if error.code >= 500 or error.code in {408, 429}:
        return UnreachableError(f"{urlparse(place.where).hostname} answered {error.code} ({error.reason})")
    return BackboneError(
        f"{place.where} does not give the weights of {what}",
        f"it answered {error.code} ({error.reason})",
        f"give them as --weights {what.split(maxsplit=1)[0]}=FILE",
    )
