"""What the embeddings themselves have wrong, as the stages stored it with their results, for the report's warnings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from featprobe import health

IDENTITY = ("dataset", "backbone", "weights", "layer", "pooling", "preprocessing", "fingerprint")
"""What makes two embedding tables two."""


def ailments(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every stored finding once under its embeddings' name, then the backbones whose embeddings are identical.

    A unit of run.json may hold `health`, the sentences of `health.check`, and `signature`, that of `health.signature`.
    """
    tables: dict[tuple[str, ...], Mapping[str, Any]] = {}
    found: dict[str, None] = {}
    for key, info in _units(runs):
        for words in info.get("health", ()):
            found[f"{_owner(key)}: {words}"] = None
        if "signature" in info:
            tables[tuple(str(key.get(name, "")) for name in IDENTITY)] = info
    return [*found, *_doubles(tables)]


def _units(runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for run in runs:
        for info in run.get("units", {}).values():
            if "key" in info and not info.get("superseded", False):
                yield info["key"], info


def _owner(key: Mapping[str, Any]) -> str:
    """The embeddings' name before what is said of them."""
    return f"{key.get('dataset', '')} · {_backbone(key)} · {_table(key)}"


def _backbone(key: Mapping[str, Any]) -> str:
    weights = key.get("weights", "")
    return str(key["backbone"]) if weights in {"pretrained", "none"} else f"{key['backbone']} ({weights})"


def _table(key: Mapping[str, Any]) -> str:
    return "/".join(str(key[name]) for name in ("layer", "pooling") if key.get(name))


def _doubles(tables: Mapping[tuple[str, ...], Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each two backbones of one data set that have a table in common."""
    said: set[tuple[str, ...]] = set()
    for a, b in itertools.combinations(tables.values(), 2):
        first, second = a["key"], b["key"]
        names = (str(first.get("dataset", "")), *sorted((_backbone(first), _backbone(second))))
        if first.get("dataset") != second.get("dataset") or names[1] == names[2] or names in said:
            continue
        if health.alike(a["signature"], b["signature"]):
            said.add(names)
            yield (
                f"{names[0]}: {_backbone(first)} ({_table(first)}) and {_backbone(second)} ({_table(second)}) give "
                "identical embeddings: they are one model under two names, or one was extracted with the other's weights"
            )
