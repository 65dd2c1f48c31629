"""The leaks of all inspected data sets as a table (leaks.csv) and as pairs of pictures (leaks.html)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from featprobe.records import LeakPair
from featprobe.splitting import Leak
from featprobe.stages.sources import Source
from featprobe.stages.survey import picture

LEAK_COLUMNS: Final = ("kind", "id_a", "id_b", "split_a", "split_b", "distance")

MOST_PICTURES: Final = 24
"""Pairs of one kind and data set on leaks.html; leaks.csv holds all."""


def write_leaks(
    out: Path, found: Sequence[tuple[Source, Sequence[Leak]]], facts: Mapping[str, str]
) -> tuple[Path, ...]:
    """Write out/leaks.csv and out/leaks.html. `facts`: data set -> what was looked at, in words."""
    from featprobe.report import write_leaks_page

    rows = [
        {"dataset": source.name, **{name: getattr(leak, name) for name in LEAK_COLUMNS}}
        for source, leaks in found
        for leak in leaks
    ]
    table = out / "leaks.csv"
    part = table.with_suffix(".csv.part")
    pd.DataFrame(rows, columns=["dataset", *LEAK_COLUMNS]).to_csv(part, index=False)
    part.replace(table)
    totals = Counter((source.name, leak.kind) for source, leaks in found for leak in leaks)
    pairs = [pair for source, leaks in found for pair in _pairs(source, leaks)]
    return table, write_leaks_page(out, pairs, totals, facts)


def _pairs(source: Source, leaks: Sequence[Leak]) -> Iterator[LeakPair]:
    """The first MOST_PICTURES of each kind; those across splits come first, and the unreadable are left out."""
    position = {name: row for row, name in enumerate(source.samples.id.tolist())}
    shown: Counter[str] = Counter()
    for leak in sorted(leaks, key=lambda leak: not leak.crosses):
        if shown[leak.kind] >= MOST_PICTURES:
            continue
        try:
            thumb_a, thumb_b = (picture(source, position[name]) for name in (leak.id_a, leak.id_b))
        except OSError:
            continue
        shown[leak.kind] += 1
        yield LeakPair(dataset=source.name, thumb_a=thumb_a, thumb_b=thumb_b, **dataclasses.asdict(leak))
