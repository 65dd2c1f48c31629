"""Two-dimensional maps of the embedding tables that the results rest on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from featprobe.cache import Cache
from featprobe.config import CompareConfig
from featprobe.errors import MissingExtraError, ResultsError
from featprobe.records import EmbeddingMap, EmbeddingTable, IntArray, Samples

MAP_ROWS: Final = 5000
"""Points of an embedding map at most: more of them hide each other and swell the file."""


def embedding_maps(
    config: CompareConfig, caches: Sequence[Cache], estimates: pd.DataFrame
) -> list[EmbeddingMap]:
    """A map of every frozen embedding table that the results rest on and one of the caches still holds."""
    frozen = estimates[estimates["mode"] == "frozen"]
    keys = [
        f"{layer}/{name}" if layer else name
        for layer, name in zip(frozen["layer"], frozen["pooling"], strict=True)
    ]
    wanted = set(zip(frozen["dataset"], frozen["fingerprint"], keys, strict=True))
    found: dict[tuple[str, str, str], EmbeddingMap] = {}
    for cache in caches:
        for entry in cache.current():
            for pooling in entry.flat:
                key = (entry.dataset, entry.recipe.fingerprint, pooling)
                if key in wanted and key not in found:
                    found[key] = _map(cache.read(entry.path, pooling, thumbnails=False), config)
    return list(found.values())


def _map(table: EmbeddingTable, config: CompareConfig) -> EmbeddingMap:
    rows = np.arange(len(table.samples))
    if len(rows) > MAP_ROWS:
        rows = np.sort(np.random.default_rng(config.seed).choice(rows, MAP_ROWS, replace=False))
    X = np.asarray(table.embeddings, dtype=np.float64)[rows]
    xy, method = _pca(X) if config.map == "pca" else _umap(X, config.seed)
    label, names = _colours(table.samples)
    return EmbeddingMap(
        dataset=table.dataset,
        title=", ".join(
            filter(None, [f"{table.recipe.backbone} ({table.weights_label})", table.layer, table.pooling])
        ),
        method=method,
        xy=xy,
        label=label[rows],
        label_names=names,
        id=table.samples.id[rows],
    )


def _colours(samples: Samples) -> tuple[IntArray, tuple[str, ...]]:
    """(index, names) by which points are coloured: the class; how many labels hold; a fifth of the range."""
    if samples.task == "multilabel":
        held = np.minimum((samples.label == 1).sum(axis=1), 3)
        return np.where(samples.labelled, held, -1), ("no label", "1 label", "2 labels", "3 or more")
    if samples.task != "continuous":
        return samples.label, samples.label_names
    known = samples.label[samples.labelled]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, 6)))
    bins = np.clip(np.searchsorted(edges, samples.label, side="right") - 1, 0, max(len(edges) - 2, 0))
    names = tuple(f"{low:.3g} to {high:.3g}" for low, high in itertools.pairwise(edges))
    return np.where(samples.labelled, bins, -1), names or (f"{edges[0]:.3g}",)


def _pca(X: Any) -> tuple[Any, str]:
    from sklearn.decomposition import PCA

    if not X.std(axis=0).any():
        return np.zeros((len(X), 2)), "No map: all embeddings are the same"
    size = min(2, *X.shape)
    model = PCA(n_components=size, svd_solver="full" if min(X.shape) < 500 else "covariance_eigh").fit(X)
    xy = np.zeros((len(X), 2))
    xy[:, :size] = model.transform(X)
    shares = " and ".join(f"{share:.0%}" for share in model.explained_variance_ratio_)
    return xy, f"PCA of the embeddings ({shares} of the variance)"


def _umap(X: Any, seed: int) -> tuple[Any, str]:
    try:
        from umap import UMAP
    except ImportError:
        raise MissingExtraError("the UMAP map", "umap-learn", "umap") from None
    neighbours = min(15, len(X) - 1)
    if neighbours < 2:
        raise ResultsError("UMAP needs at least 3 images", f"there are {len(X)}", "type --map pca")
    xy = UMAP(n_components=2, random_state=seed, n_jobs=1, n_neighbors=neighbours).fit_transform(X)
    return np.asarray(xy, dtype=np.float64), f"UMAP of the embeddings ({neighbours} neighbours, seed {seed})"
