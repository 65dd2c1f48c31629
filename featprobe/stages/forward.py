"""One batch through one frozen backbone: embeddings out, and proof that they are numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featprobe.errors import BackboneError
from featprobe.records import AnyArray
from featprobe.stages.machine import arithmetic

if TYPE_CHECKING:
    import torch

    from featprobe.backbones import Backbone

FloatTable = npt.NDArray[np.floating[Any]]


def stored_key(key: str, view: str = "") -> str:
    """The cache's name of `key` (POOLING or LAYER/POOLING), or of one view of it: LAYER@VIEW/POOLING."""
    layer, _, pooling = key.rpartition("/")
    return f"{layer}@{view}/{pooling}" if view else key


def taken_apart(stored: str) -> tuple[str, str]:
    """(key, view) of a cache's name; the view is "" where the embedding is the mean over all."""
    layer, _, pooling = stored.rpartition("/")
    layer, _, view = layer.partition("@")
    return (f"{layer}/{pooling}" if layer else pooling), view


def embed(
    backbone: Backbone,
    images: Mapping[str, torch.Tensor],
    stored: Sequence[str],
    *,
    sizes: AnyArray,
    precision: str,
    device: torch.device,
) -> dict[str, FloatTable]:
    """Name in the cache -> float32 [B, D] ([B, h, w, D] for patches), each the mean over the views or of one view.

    `images`: view -> float32 [B, 3, H, W]; all keys of a view come from one pass. `sizes`: int64 [B, 2], height and
    width of the images before preprocessing. B = 0 gives empty arrays. Raises BackboneError where the device's
    memory does not hold the batch.
    """
    apart = {name: taken_apart(name) for name in stored}
    keys = list(dict.fromkeys(key for key, _ in apart.values()))
    size = next(iter(images.values())).shape[-2:]
    if not len(sizes):
        return {
            name: np.empty((0, *backbone.row_shape(key, (size[0], size[1]))), dtype=np.float32)
            for name, (key, _) in apart.items()
        }
    seen = {
        view: _forward(backbone, batch, keys, sizes=sizes, precision=precision, device=device)
        for view, batch in images.items()
    }
    return {
        name: seen[view][key] if view else _mean([features[key] for features in seen.values()])
        for name, (key, view) in apart.items()
    }


def _mean(views: Sequence[FloatTable]) -> FloatTable:
    if len(views) == 1:
        return views[0]
    mean: FloatTable = np.asarray(np.mean(views, axis=0, dtype=np.float64), dtype=np.float32)
    return mean


def _forward(
    backbone: Backbone,
    images: torch.Tensor,
    keys: Sequence[str],
    *,
    sizes: AnyArray,
    precision: str,
    device: torch.device,
) -> dict[str, FloatTable]:
    import torch

    try:
        with torch.inference_mode(), arithmetic(precision, device):
            features = backbone(images.to(device, non_blocking=True), keys, torch.from_numpy(sizes))
    except torch.OutOfMemoryError:
        raise BackboneError(
            f"{backbone.name} with {len(images)} images at a time does not fit into the memory of {device}",
            "what was extracted is kept",
            f"type the same command with --batch-size {max(1, len(images) // 2)}",
        ) from None
    return {key: features[key].float().cpu().numpy() for key in keys}


def need_finite(
    embeddings: FloatTable, ids: Sequence[str], *, backbone: str, precision: str, storage: str
) -> None:
    """BackboneError naming the images whose embedding [B, ...] is not finite."""
    bad = np.unique(np.nonzero(~np.isfinite(embeddings))[0])
    if len(bad):
        names = [ids[row] for row in bad[:3]]
        raise BackboneError(
            f"the embedding by {backbone} of {', '.join(names)} is not finite ({len(bad)} of {len(embeddings)} in the batch)",
            f"it was computed in {precision} and stored as {storage}",
            "type the same command with --precision fp32 --storage float32",
        )
