"""The leaks behind the results as pairs of small pictures, read from the cache: no image is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from featprobe import splitting
from featprobe.cache import Cache
from featprobe.imaging import THUMBNAIL_SIDE
from featprobe.records import LeakPair, Samples

MOST: int = 12
"""Pairs of one kind that are shown for a data set; `featprobe inspect --out DIR` lists them all."""


def leak_pairs(caches: Sequence[Cache], estimates: pd.DataFrame) -> Iterator[LeakPair]:
    """The leaks in every data set that the results rest on and one of the caches still holds."""
    wanted = set(zip(estimates["dataset"], estimates["fingerprint"], strict=True))
    seen: set[str] = set()
    for cache in caches:
        for entry in cache.current():
            if entry.dataset not in seen and (entry.dataset, entry.recipe.fingerprint) in wanted:
                seen.add(entry.dataset)
                yield from _pairs(entry.dataset, cache.read_samples(entry.path))


def _pairs(dataset: str, samples: Samples) -> Iterator[LeakPair]:
    position = {name: row for row, name in enumerate(samples.id.tolist())}
    shown: dict[str, int] = {}
    for leak in splitting.find_leaks(splitting.with_twins(samples)):
        shown[leak.kind] = shown.get(leak.kind, 0) + 1
        if shown[leak.kind] <= MOST:
            a, b = position[leak.id_a], position[leak.id_b]
            side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
            yield LeakPair(
                dataset=dataset,
                kind=leak.kind,
                id_a=leak.id_a,
                id_b=leak.id_b,
                split_a=leak.split_a,
                split_b=leak.split_b,
                distance=leak.distance,
                thumb_a=samples.thumbnail[a].reshape(side),
                thumb_b=samples.thumbnail[b].reshape(side),
            )
