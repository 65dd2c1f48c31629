"""One batch through one frozen backbone: embeddings out, and proof that they are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featprobe.errors import BackboneError
from featprobe.stages.machine import arithmetic

if TYPE_CHECKING:
    import torch

    from featprobe.backbones import Backbone

FloatTable = npt.NDArray[np.floating[Any]]


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
