"""The small pictures behind a report's examples, read from the cache: no image is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from featprobe.cache import Cache
from featprobe.imaging import THUMBNAIL_SIDE
from featprobe.records import Samples, Thumbnails


def thumbnails(
    caches: Sequence[Cache], estimates: pd.DataFrame, families: Mapping[str, str]
) -> tuple[dict[str, Thumbnails], list[str]]:
    """(family -> its data set's pictures, data sets whose pictures may not be shown).

    `families`: family -> data set. Data sets that were pseudonymized have none, nor have those of which no cache
    holds a file, or whose images are too small to have a thumbnail.
    """
    wanted = set(zip(estimates["dataset"], estimates["fingerprint"], strict=True))
    found: dict[str, Thumbnails] = {}
    hidden: dict[str, None] = {}
    seen: set[str] = set()
    for cache in caches:
        for entry in cache.current():
            if entry.dataset in seen or (entry.dataset, entry.recipe.fingerprint) not in wanted:
                continue
            seen.add(entry.dataset)
            if entry.environment.get("source", {}).get("options", {}).get("pseudonymize"):
                hidden[entry.dataset] = None
                continue
            pictures = _pictures(cache.read_samples(entry.path))
            if len(pictures.id):
                found |= {family: pictures for family, name in families.items() if name == entry.dataset}
    return found, list(hidden)


def _pictures(samples: Samples) -> Thumbnails:
    grey = samples.thumbnail.reshape(len(samples), THUMBNAIL_SIDE, -1)
    there = np.asarray(samples.thumbnail.any(axis=1)) if grey.size else np.zeros(len(samples), dtype=np.bool_)
    return Thumbnails(samples.id[there], grey[there])
