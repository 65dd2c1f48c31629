"""One batch through one frozen backbone, and the check that cached rows still come out the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from featprobe.errors import BackboneError, CacheError
from featprobe.loading import batches
from featprobe.records import EmbeddingTable, Preprocessing
from featprobe.stages.machine import arithmetic

if TYPE_CHECKING:
    import torch

    from featprobe.backbones import Backbone

FloatTable = npt.NDArray[np.floating[Any]]

TOLERANCES: Final = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 5e-2, "fp16": 1e-2}
"""Largest relative distance |a - b| / |b| of a row, per precision, that counts as the same embedding: devices,
batch sizes and thread counts round differently by one to two orders of magnitude less than this."""


def embed(
    backbone: Backbone, images: torch.Tensor, poolings: Sequence[str], *, precision: str, device: torch.device
) -> dict[str, FloatTable]:
    """Pooling -> float32 [B, D] for images float32 [B, 3, H, W]; B = 0 gives empty arrays.

    Raises BackboneError where the device's memory does not hold the batch.
    """
    import torch

    if len(images) == 0:
        return {pooling: np.empty((0, backbone.dim(pooling)), dtype=np.float32) for pooling in poolings}
    try:
        with torch.inference_mode(), arithmetic(precision, device):
            features = backbone(images.to(device, non_blocking=True), poolings)
    except torch.OutOfMemoryError:
        raise BackboneError(
            f"{backbone.name} with {len(images)} images at a time does not fit into the memory of {device}",
            "what was extracted is kept",
            f"type the same command with --batch-size {max(1, len(images) // 2)}",
        ) from None
    return {pooling: features[pooling].float().cpu().numpy() for pooling in poolings}


def need_finite(
    embeddings: FloatTable, ids: Sequence[str], *, backbone: str, precision: str, storage: str
) -> None:
    """BackboneError naming the images whose embedding [B, D] is not finite."""
    bad = np.unique(np.nonzero(~np.isfinite(embeddings))[0])
    if len(bad):
        names = [ids[row] for row in bad[:3]]
        raise BackboneError(
            f"the embedding by {backbone} of {', '.join(names)} is not finite ({len(bad)} of {len(embeddings)} in the batch)",
            f"it was computed in {precision} and stored as {storage}",
            "type the same command with --precision fp32 --storage float32",
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Recheck:
    """How far rows computed again lie from the cached ones: the largest relative distance, and what is allowed."""

    rows: int
    worst: float
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether every row is the same embedding."""
        return self.worst <= self.allowed


def recheck(
    table: EmbeddingTable,
    dataset: Any,
    source_rows: npt.NDArray[np.int64],
    backbone: Backbone,
    rule: Preprocessing,
    *,
    rows: int,
    device: torch.device,
) -> Recheck:
    """Compute up to `rows` evenly spaced rows of `table` again and compare.

    `source_rows` [N]: where each row of the table stands in `dataset`. Raises CacheError where an image
    that was readable no longer is.
    """
    chosen = np.unique(
        np.linspace(0, len(table.samples) - 1, num=min(rows, len(table.samples))).round().astype(np.int64)
    )
    batch = next(batches(dataset, source_rows[chosen], [rule], batch_size=len(chosen), workers=0))
    if batch.quarantined:
        row, reason = batch.quarantined[0]
        raise CacheError(
            f"image {dataset.samples.id[row]} can't be read any more: {reason}",
            "its embedding is cached",
            "restore the image",
        )
    precision = table.recipe.precision
    again = embed(backbone, batch.images[0], [table.pooling], precision=precision, device=device)[
        table.pooling
    ].astype(np.float64)
    cached = np.asarray(table.embeddings[chosen], dtype=np.float64)
    distance = np.linalg.norm(again - cached, axis=1) / np.maximum(np.linalg.norm(cached, axis=1), 1e-12)
    allowed = max(TOLERANCES[precision], 2e-3 if table.recipe.storage == "float16" else 0.0)
    return Recheck(len(chosen), float(distance.max()), allowed)
