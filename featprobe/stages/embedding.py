"""Images straight through a backbone, without the cache: the same road as an extraction, for those who predict."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from featprobe.imaging import Raster
from featprobe.records import AnyArray, IntArray, Recipe, Samples
from featprobe.stages.forward import embed, need_finite
from featprobe.stages.machine import default_batch_size, default_workers

if TYPE_CHECKING:
    import torch

    from featprobe.backbones import Backbone


class Images(Protocol):
    """What is embedded: a data set, or anything that reads and decodes like one."""

    @property
    def samples(self) -> Samples:
        """N rows."""

    def read(self, row: int) -> bytes:
        """The image's bytes, or OSError."""

    def decode(self, data: bytes) -> Raster:
        """The decoded image, or OSError, or DataError where the data set must not be used."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """`rows` int64 [M] that could be read, their embeddings [M, D], and (row, reason) of the others."""

    rows: IntArray
    table: npt.NDArray[np.floating[Any]]
    quarantined: tuple[tuple[int, str], ...]


def embedded(
    images: Images,
    rows: IntArray,
    backbone: Backbone,
    recipe: Recipe,
    key: str,
    *,
    device: torch.device,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: str = "",
) -> Embedded:
    """Embed `rows` of `images` as `featprobe extract` does under `recipe` and stores under `key`, in its dtype.

    `progress`: what the bar is called, "" for none. Raises DataError for a file that has gone or that must not be
    used, BackboneError where memory does not do or an embedding is not finite.
    """
    from tqdm import tqdm

    from featprobe import loading

    rule = recipe.preprocessing
    rules = [rule.one(view) for view in rule.views]
    backbone.to(device)
    found: list[IntArray] = []
    tables: list[AnyArray] = []
    quarantined: list[tuple[int, str]] = []
    stream = loading.batches(
        images,
        rows,
        rules,
        batch_size=batch_size or default_batch_size(device),
        workers=default_workers(device) if workers is None else workers,
    )
    with tqdm(total=len(rows), unit="img", desc=progress, disable=None if progress else True) as bar:
        for batch in stream:
            table = _stored(backbone, batch, rule.views, recipe, key, device)
            ids = images.samples.id[batch.rows].tolist()
            need_finite(
                table, ids, backbone=backbone.name, precision=recipe.precision, storage=recipe.storage
            )
            found.append(batch.rows)
            tables.append(table)
            quarantined += batch.quarantined
            bar.update(len(batch.rows) + len(batch.quarantined))
    if not tables:
        width = backbone.row_shape(key, rule.image_size)
        tables, found = [np.empty((0, *width), dtype=recipe.storage)], [np.empty(0, dtype=np.int64)]
    return Embedded(np.concatenate(found), np.concatenate(tables), tuple(quarantined))


def _stored(
    backbone: Backbone, batch: Any, views: tuple[str, ...], recipe: Recipe, key: str, device: torch.device
) -> AnyArray:
    fresh = embed(
        backbone,
        dict(zip(views, batch.images, strict=True)),
        (key,),
        sizes=batch.size,
        precision=recipe.precision,
        device=device,
    )[key]
    with np.errstate(over="ignore"):  # a float16 overflow is named by its image
        return np.asarray(fresh.astype(recipe.storage))
