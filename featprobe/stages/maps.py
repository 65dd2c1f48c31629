"""Two-dimensional maps of the embedding tables that the results rest on."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from featprobe.cache import Cache
from featprobe.config import CompareConfig
from featprobe.errors import MissingExtraError, ResultsError
from featprobe.records import EmbeddingMap, EmbeddingTable

MAP_ROWS: Final = 5000
"""Points of an embedding map at most: more of them hide each other and swell the file."""


def embedding_maps(config: CompareConfig, estimates: pd.DataFrame) -> list[EmbeddingMap]:
    """A map of every frozen embedding table that the results rest on and the cache still holds."""
    if config.map == "none":
        return []
    wanted = {(row.fingerprint, row.pooling) for row in estimates[estimates["mode"] == "frozen"].itertuples()}
    cache = Cache(config.cache)
    return [
        _map(cache.read(entry.path, pooling), config)
        for entry in (cache.current() if config.cache.is_dir() else [])
        for pooling in entry.poolings
        if (entry.recipe.fingerprint, pooling) in wanted
    ]


def _map(table: EmbeddingTable, config: CompareConfig) -> EmbeddingMap:
    rows = np.arange(len(table.samples))
    if len(rows) > MAP_ROWS:
        rows = np.sort(np.random.default_rng(config.seed).choice(rows, MAP_ROWS, replace=False))
    X = np.asarray(table.embeddings, dtype=np.float64)[rows]
    xy, method = _pca(X) if config.map == "pca" else _umap(X, config.seed)
    return EmbeddingMap(
        dataset=table.dataset,
        title=f"{table.recipe.backbone} ({table.weights_label}), {table.pooling}",
        method=method,
        xy=xy,
        label=table.samples.label[rows],
        label_names=table.samples.label_names,
    )


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
