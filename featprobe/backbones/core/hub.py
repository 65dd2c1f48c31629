"""Pretrained weights from the Hugging Face hub: from its cache where they lie there, else downloaded and said."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlparse

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from featprobe.errors import BackboneError

FILES: Final = ("model.safetensors", "pytorch_model.bin")
TIMEOUT_SECONDS: Final = 10.0

# The hub's own error derives from OSError and from the base error of the HTTP library that this version of it
# uses: together they are every way in which a connection fails.
_NETWORK: Final[tuple[type[Exception], ...]] = (
    *(base for base in HfHubHTTPError.__mro__[1:] if issubclass(base, Exception) and base is not Exception),
)


def offline_wanted() -> bool:
    """Whether FEATPROBE_OFFLINE forbids downloads."""
    return os.environ.get("FEATPROBE_OFFLINE", "").strip().lower() in {"1", "true", "yes", "on"}


def fetch(
    repository: str,
    *,
    name: str,
    offline: bool,
    announce: Callable[[str], None],
    files: Sequence[str] = FILES,
) -> Path:
    """The path of `repository`'s weights, the first of `files` that exists there.

    What lies in the hub's cache is used without asking the network, so the weights behind a name do not
    change under a study. Host and size are announced before a download. BackboneError, after one attempt of
    at most `TIMEOUT_SECONDS`, where the hub can't be reached; at once where `offline` forbids it.
    """
    for file in files:
        cached = huggingface_hub.try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return Path(cached)
    host = urlparse(constants.ENDPOINT).hostname or constants.ENDPOINT
    if offline or offline_wanted() or constants.HF_HUB_OFFLINE:
        raise _unreachable(name, repository, f"offline was asked for, so {host} is not asked")
    try:
        return _download(repository, files, name, host, announce)
    except GatedRepoError as error:
        raise BackboneError(
            f"the weights of {name} are gated: {host}/{repository} gives them to those who accepted its licence",
            "no accepted licence was found for this machine",
            f"accept it at {constants.ENDPOINT}/{repository} and type: hf auth login, or give --weights {name}=FILE",
        ) from error
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise BackboneError(
            f"{host}/{repository} does not hold weights for {name}",
            f"looked for {' and '.join(files)}",
            f"give them as --weights {name}=FILE",
        ) from error
    except _NETWORK as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise _unreachable(name, repository, f"{host} can't be reached ({reason})") from error


def _download(
    repository: str, files: Sequence[str], name: str, host: str, announce: Callable[[str], None]
) -> Path:
    for number, file in enumerate(files):
        url = huggingface_hub.hf_hub_url(repository, file)
        try:
            metadata = huggingface_hub.get_hf_file_metadata(url, timeout=TIMEOUT_SECONDS)
        except EntryNotFoundError:
            if number + 1 == len(files):
                raise
            continue
        size = f"{metadata.size / 1e6:.0f} MB" if metadata.size else "size not given"
        announce(f"downloading {name} ({size}) from {host}/{repository}")
        return Path(huggingface_hub.hf_hub_download(repository, file, etag_timeout=TIMEOUT_SECONDS))
    raise BackboneError(f"no file of {repository} was asked for")


def _unreachable(name: str, repository: str, reason: str) -> BackboneError:
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    return BackboneError(
        f"the pretrained weights of {name} are not on this machine",
        f"{reason}, and its cache has no {folder}",
        f"three ways on: --weights {name}=FILE; or fetch them on a connected machine (featprobe extract --backbone "
        f"{name}) and copy that folder here; or the offline backbone: --backbone efficientnet_lite0",
    )
