"""Decoded images and volumes at hand for training: read once, kept while they fit into memory, augmented by position."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from tqdm import tqdm

from featprobe.datasets import UnreadableImageError
from featprobe.imaging import AUTO, Intensity, Print, Raster, print_of, print_of_volume
from featprobe.loading import augment, augment_volume, preprocess, preprocess_volume
from featprobe.records import AnyArray, IntArray, Preprocessing, Samples, texts

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL.Image import Image

MEMORY: Final = 4 * 2**30
"""Bytes of decoded pixels that are kept; what does not fit is decoded again when it is needed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Moves:
    """How training images may be turned: see `featprobe.loading.augment`."""

    flip: bool = False
    vertical_flip: bool = False
    rotate: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """`levels`: uint8 [Z, Y, X]; `spacing`: mm between voxels along these axes."""

    levels: npt.NDArray[np.uint8]
    spacing: tuple[float, float, float]


class ImageShelf:
    """The readable images of one data set, or its volumes.

    `rows`: int64 [M], their rows; `faults`: (row, reason) of the others. `volumes`: what they must be; ConfigError
    where one is the other.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        intensity: Intensity = AUTO,
        workers: int | None = None,
        memory: int = MEMORY,
        volumes: bool = False,
    ) -> None:
        self._dataset = dataset
        self._intensity = intensity
        self._volumes = volumes
        self._kept: dict[int, Image | Volume] = {}
        self._pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
        self.faults: list[tuple[int, str]] = []
        left = memory
        rows = range(len(dataset.samples))
        good: list[int] = []
        self._prints: list[Print] = []
        for row, found in zip(
            rows,
            tqdm(self._pool.map(self._try, rows), total=len(rows), unit="img", desc="decode", disable=None),
            strict=True,
        ):
            if isinstance(found, str):
                self.faults.append((row, found))
                continue
            image, look = found
            good.append(row)
            self._prints.append(look)
            size = image.levels.size if isinstance(image, Volume) else image.width * image.height * 3
            if size <= left:
                self._kept[row] = image
                left -= size
        self.rows: IntArray = np.array(good, dtype=np.int64)

    def printed(self, samples: Samples) -> Samples:
        """The readable ones of the data set's `samples` with what the leak gate needs of their pixels."""
        thumbnails = [look.thumbnail for look in self._prints]
        return samples.take(self.rows).replace(
            pixel_sha256=texts([look.pixel_sha256 for look in self._prints]),
            phash=texts([look.phash for look in self._prints]),
            thumbnail=np.array(thumbnails, dtype=np.uint8).reshape(len(thumbnails), -1),
        )

    def _try(self, row: int) -> tuple[Image | Volume, Print] | str:
        try:
            raster = self._raster(row)
        except (UnreadableImageError, OSError) as error:
            return error.strerror or str(error)
        presented = self._shown(raster, AUTO)
        image = presented if self._intensity == AUTO else self._shown(raster, self._intensity)
        if isinstance(presented, Volume):
            return image, print_of_volume(raster, presented.levels)
        return image, print_of(presented)

    def _raster(self, row: int) -> Raster:
        raster: Raster = self._dataset.decode(self._dataset.read(row))
        return raster

    def _shown(self, raster: Raster, intensity: Intensity) -> Image | Volume:
        if self._volumes:
            return Volume(raster.levels(intensity), raster.spacing or (1.0, 1.0, 1.0))
        return raster.rgb(intensity)

    def tensor(self, row: int, rule: Preprocessing, seed: int | None, moves: Moves) -> torch.Tensor:
        """float32 [3, H, W] of one image, [1, D, H, W] of a volume; augmented by a generator of (seed, row) unless
        `seed` is None.
        """  # noqa: D205 - what it gives does not fit a first line
        image = self._kept.get(row) or self._shown(self._raster(row), self._intensity)
        if seed is None:
            if isinstance(image, Volume):
                return preprocess_volume(image.levels, image.spacing, rule)
            return preprocess(image, rule)
        mixed = int(np.random.SeedSequence([seed, row]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        generator = torch.Generator().manual_seed(mixed)
        if isinstance(image, Volume):
            return augment_volume(image.levels, image.spacing, rule, generator, **dataclasses.asdict(moves))
        return augment(image, rule, generator, **dataclasses.asdict(moves))

    def submit(
        self, rows: Sequence[int], rule: Preprocessing, seed: int | None, moves: Moves
    ) -> list[Future[torch.Tensor]]:
        """The tensors of `rows`, being made in the background."""
        return [self._pool.submit(self.tensor, int(row), rule, seed, moves) for row in rows]


class ImagePart:
    """One part of a fold as batches of preprocessed images: what `heads.train_fold` learns from.

    `rows`: int64 [N], rows of the shelf's data set; `labels`: int64 [N] or [N, L], float64 [N]; `names`: N ids.
    """

    def __init__(
        self,
        shelf: ImageShelf,
        rows: IntArray,
        labels: AnyArray,
        rule: Preprocessing,
        moves: Moves,
        names: Sequence[str] = (),
    ) -> None:
        self._shelf, self._rows, self._rule, self._moves = shelf, rows, rule, moves
        self._labels, self.names = labels, names

    @property
    def labels(self) -> AnyArray:
        """int64 [N] or [N, L], float64 [N]."""
        return self._labels

    def batches(
        self, order: IntArray, batch_size: int, *, augment_seed: int | None
    ) -> Iterator[torch.Tensor]:
        """float32 [B, 3, H, W] ([B, 1, D, H, W] of volumes) per slice of `order`; the next batch is made while the
        last one is used.
        """  # noqa: D205 - what it gives does not fit a first line
        slices = [self._rows[order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
        ahead: list[list[Future[torch.Tensor]]] = []
        for rows in slices:
            ahead.append(self._shelf.submit(rows.tolist(), self._rule, augment_seed, self._moves))
            if len(ahead) > 1:
                yield torch.stack([future.result() for future in ahead.pop(0)])
        for futures in ahead:
            yield torch.stack([future.result() for future in futures])
