"""Do cached rows still come out the same? Computed again under today's versions, weights and device."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from featprobe import backbones
from featprobe.cache import Cache, CacheEntry
from featprobe.datasets import DatasetOptions, open_dataset
from featprobe.errors import CacheError
from featprobe.hashing import hash_images
from featprobe.loading import batches
from featprobe.records import EmbeddingTable, Preprocessing
from featprobe.stages.forward import embed
from featprobe.stages.machine import pick_device

if TYPE_CHECKING:
    import torch

    from featprobe.backbones import Backbone

TOLERANCES: Final = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 5e-2, "fp16": 1e-2}
"""Largest relative distance |a - b| / |b| of a row, per precision, that counts as the same embedding: devices,
batch sizes and thread counts round differently by one to two orders of magnitude less than this."""


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
    views = [rule.one(view) for view in rule.views]
    batch = next(batches(dataset, source_rows[chosen], views, batch_size=len(chosen), workers=0))
    if batch.quarantined:
        row, reason = batch.quarantined[0]
        raise CacheError(
            f"image {dataset.samples.id[row]} can't be read any more: {reason}",
            "its embedding is cached",
            "restore the image",
        )
    precision = table.recipe.precision
    key = f"{table.layer}/{table.pooling}" if table.layer else table.pooling
    again = embed(
        backbone,
        dict(zip(rule.views, batch.images, strict=True)),
        [key],
        sizes=batch.size,
        precision=precision,
        device=device,
    )[key].astype(np.float64)
    cached = np.asarray(table.embeddings[chosen], dtype=np.float64)
    distance = np.linalg.norm(again - cached, axis=1) / np.maximum(np.linalg.norm(cached, axis=1), 1e-12)
    allowed = max(TOLERANCES[precision], 2e-3 if table.recipe.storage == "float16" else 0.0)
    return Recheck(len(chosen), float(distance.max()), allowed)


def recheck_entry(
    store: Cache,
    entry: CacheEntry,
    sources: dict[str, str],
    weights: dict[str, str],
    rows: int,
    weights_dir: Path | None = None,
) -> Recheck:
    """Compute `rows` rows of a cached file again, with the images and weights where they were or are named.

    `sources`: data set's name ("" for all) -> SPEC; `weights`: backbone's name ("" for all) -> value;
    `weights_dir`: the folder of pretrained weights, None for the one that the environment names. Raises
    CacheError where the images or the weights are not those of the file.
    """
    recorded = entry.environment.get("source", {})
    spec = sources.get(entry.dataset) or sources.get("") or recorded.get("spec")
    if not spec:
        raise CacheError(
            f"{entry.path} does not say where its images were", "", f"type --source {entry.dataset}=SPEC"
        )
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in recorded.get("options", {}).items()
    }
    if options.get("pseudonymize"):
        options["pseudonymize"] = Path(options["pseudonymize"])
    dataset = open_dataset(spec, DatasetOptions(**options))
    rule = entry.recipe.preprocessing
    pooling = (entry.flat or entry.poolings)[0]
    chosen = (
        weights.get(entry.recipe.backbone)
        or weights.get("")
        or entry.environment.get("weights", "pretrained")
    )
    model = backbones.load(
        entry.recipe.backbone,
        weights=chosen,
        poolings=[] if "/" in pooling else [pooling],
        image_size=rule.image_size[0],
        seed=int(entry.environment.get("seed", 0)),
        weights_dir=weights_dir,
    )
    if model.weights_sha256 != entry.recipe.weights:
        raise CacheError(
            f"the weights {chosen!r} of {entry.recipe.backbone} are not those of {entry.path}",
            f"SHA-256 {model.weights_sha256[:12]} against {entry.recipe.weights[:12]}",
            f"type --weights {entry.recipe.backbone}=FILE with the file that was used",
        )
    table = store.read(entry.path, pooling, thumbnails=False)
    by_hash = {
        str(value): row
        for row, value in reversed(list(enumerate(hash_images(dataset, workers=2, progress=False))))
    }
    lost = [
        str(name)
        for name, value in zip(table.samples.id, table.samples.sha256, strict=True)
        if str(value) not in by_hash
    ]
    if lost:
        raise CacheError(
            f"{len(lost)} cached images are not in {spec} any more",
            f"the first is {lost[0]!r}",
            "type the featprobe extract command again",
        )
    source_rows = np.array([by_hash[str(value)] for value in table.samples.sha256], dtype=np.int64)
    device = pick_device("auto")
    return recheck(table, dataset, source_rows, model.to(device), rule, rows=rows, device=device)
