"""Weights in several files: an index says which tensor lies in which file beside it, and all of them are one.

The layout of transformers' save_pretrained: NAME.safetensors.index.json (or NAME.bin.index.json) with a `weight_map`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from featprobe.errors import BackboneError, listed

INDEX: Final = ".index.json"
_SHARD: Final = re.compile(r"\w[\w.-]*\.(?:safetensors|bin)")
_AGAIN: Final = "compare the folder with its source, and copy it again"


def is_index(path: Path) -> bool:
    """Whether the name is that of an index of shards."""
    return path.name.endswith(INDEX)


def shards(index: Path) -> tuple[Path, ...]:
    """The files that `index` lists, beside it, sorted; whether they are there is not asked.

    BackboneError for an index that is none, or one that names files elsewhere.
    """
    return tuple(index.with_name(name) for name in sorted(set(_map(index).values())))


def joined(index: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    """Tensor -> value over all shards of `index`, each read by `read`.

    BackboneError where a shard is missing, holds no tensors, or holds others than the index says.
    """
    places = _map(index)
    absent = [path.name for path in shards(index) if not path.is_file()]
    if absent:
        raise BackboneError(
            f"{len(absent)} of the {len(shards(index))} files that {index.name} lists are missing: {listed(absent, 3)}",
            f"looked in {index.parent}",
            _AGAIN,
        )
    found: dict[str, Any] = {}
    for path in shards(index):
        content = read(path)
        wanted = {name for name, file in places.items() if file == path.name}
        if not isinstance(content, dict) or set(content) != wanted:
            odd = sorted(wanted ^ set(content)) if isinstance(content, dict) else sorted(wanted)
            raise BackboneError(
                f"{path.name} does not hold the tensors that {index.name} says",
                f"{len(odd)} are in one of them alone: {listed(odd, 3)}",
                _AGAIN,
            )
        found |= content
    return found


def _map(index: Path) -> dict[str, str]:
    try:
        places = json.loads(index.read_bytes())["weight_map"]
        sound = isinstance(places, dict) and bool(places)
        sound = sound and all(isinstance(file, str) and _SHARD.fullmatch(file) for file in places.values())
    except (ValueError, LookupError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise BackboneError(
            f"{index.name} is no index of weights in several files",
            'such an index has a "weight_map" of tensors to names of files beside it',
            _AGAIN,
        )
    return dict(places)
