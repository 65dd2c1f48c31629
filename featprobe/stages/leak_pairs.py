"""The leaks behind the results as pairs of small pictures, read from the cache: no image is opened."""

from __future__ import annotations

import dataclasses
from collections import Counter
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
    """The first MOST of each kind; those across splits come first."""
    pictures = samples.thumbnail.reshape(len(samples), THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    position = {name: row for row, name in enumerate(samples.id.tolist())}
    shown: Counter[str] = Counter()
    leaks = splitting.find_leaks(splitting.with_twins(samples))
    for leak in sorted(leaks, key=lambda leak: not leak.crosses):
        shown[leak.kind] += 1
        if shown[leak.kind] <= MOST:
            thumb_a, thumb_b = (pictures[position[name]] for name in (leak.id_a, leak.id_b))
            yield LeakPair(dataset=dataset, thumb_a=thumb_a, thumb_b=thumb_b, **dataclasses.asdict(leak))
