"""Which embeddings of a data set belong together: what differs in backbone, pooling, layer or view alone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from featprobe.config import ProbeConfig
from featprobe.errors import ConfigError, listed
from featprobe.stages.tables import Material, Table


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Group:
    """What is fused: `tables`, side by side in this order, called `parts`."""

    tables: tuple[Table, ...]
    parts: tuple[str, ...]


def groups(config: ProbeConfig, material: Material, over: str) -> list[Group]:
    """The tables of one data set that are fused with each other; ConfigError where there are none.

    Canaries (image statistics, random weights beside given ones) are left out unless they are named. "backbone":
    every backbone's table of one layer and pooling, or its only table. "pooling", "layer", "view": all of one file
    that differ in that alone; a pooling that is others side by side is left out where they are there.
    """
    tables = sorted(candidates(config, material), key=_order)
    sets = _over_backbones(material, tables) if over == "backbone" else _over_keys(tables, over)
    found = [Group(one, _names(one, over)) for one in sets]
    if not found:
        there = [
            f"{table.recipe.backbone} {table.pooling}" if over != "backbone" else table.recipe.backbone
            for table in tables
        ]
        raise ConfigError(
            f"data set {material.name!r}: there are no two {over}s to fuse",
            f"there is {listed(list(dict.fromkeys(there))) or 'nothing but canaries'}",
            f"type {_REMEDY[over]}, or leave --fuse out",
        )
    return found


_REMEDY: Final[Mapping[str, str]] = {
    "backbone": "featprobe extract with another --backbone",
    "pooling": "featprobe extract with another --pooling",
    "layer": "featprobe extract with --layer",
    "view": "featprobe extract with --tta hflip --tta-keep",
}


def candidates(config: ProbeConfig, material: Material) -> list[Table]:
    """All flat tables but canaries that are not named: image statistics, and random weights beside given ones."""
    given = {t.recipe.backbone for t in material.tables if t.weights_label not in {"random", "none"}}

    def canary(table: Table) -> bool:
        if table.weights_label == "none":
            return table.recipe.backbone not in config.backbone
        return table.weights_label == "random" and table.recipe.backbone in given

    return [table for table in material.tables if not table.dense and not canary(table)]


def _order(table: Table) -> tuple[Any, ...]:
    """Alphabetical, numbers by their size; whatever order the cache lists them in."""
    words = (table.recipe.backbone, table.weights_label, table.recipe.preprocessing.label, table.pooling)
    return tuple(
        (int(piece) if piece.isdecimal() else 0, piece)
        for word in words
        for piece in (*re.split(r"(\d+)", word), "")
    )


def _over_backbones(material: Material, tables: Sequence[Table]) -> Iterator[tuple[Table, ...]]:
    files: dict[str, list[Table]] = {}
    for table in tables:
        files.setdefault(table.fingerprint, []).append(table)
    if len(files) < 2:
        return
    seen: set[frozenset[int]] = set()
    for key in dict.fromkeys(table.pooling for table in tables):
        chosen = [
            next((table for table in own if table.pooling == key), own[0] if len(own) == 1 else None)
            for own in files.values()
        ]
        whole = tuple(table for table in chosen if table is not None)
        if len(whole) == len(files) and frozenset(map(id, whole)) not in seen:
            seen.add(frozenset(map(id, whole)))
            yield whole
    if not seen:
        there = [f"{own[0].recipe.backbone}: {', '.join(t.pooling for t in own)}" for own in files.values()]
        raise ConfigError(
            f"data set {material.name!r}: it is not clear which embeddings of the backbones belong together",
            f"there are {'; '.join(there)}",
            "name one each, such as --pooling cls gap",
        )


def _over_keys(tables: Sequence[Table], over: str) -> Iterator[tuple[Table, ...]]:
    sets: dict[tuple[str, ...], list[Table]] = {}
    for table in tables:
        layer, view, pooling = _key_parts(table)
        if over == "view" and not view:
            continue  # the mean of all views
        same = {"pooling": (layer, view), "layer": (view, pooling), "view": (layer, pooling)}[over]
        sets.setdefault((table.fingerprint, *same), []).append(table)
    for own in sets.values():
        there = {_key_parts(table)[2] for table in own}
        kept = [
            table
            for table in own
            if over != "pooling"
            or "+" not in _key_parts(table)[2]
            or not set(_key_parts(table)[2].split("+")) <= there
        ]
        if len(kept) > 1:
            yield tuple(kept)


def _key_parts(table: Table) -> tuple[str, str, str]:
    """(layer, view, pooling) of POOLING, LAYER/POOLING or LAYER@VIEW/POOLING."""
    before, _, pooling = table.pooling.rpartition("/")
    layer, _, view = before.partition("@")
    return layer or "last", view, pooling


def _names(tables: Sequence[Table], over: str) -> tuple[str, ...]:
    """A name for each table that no other has: what is fused over, and what else tells them apart."""
    if over != "backbone":
        place = {"layer": 0, "view": 1, "pooling": 2}[over]
        return tuple(_key_parts(table)[place] for table in tables)
    rows = [
        (t.recipe.backbone, t.weights_label, t.recipe.preprocessing.label, t.fingerprint[:6]) for t in tables
    ]
    for count in range(1, 5):
        names = tuple(" ".join(row[:count]) for row in rows)
        if len(set(names)) == len(names):
            break
    return names
