"""Rows of a data set in order, each decoded once for all rules, as batches of normalised tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from featprobe.errors import ConfigError, DataError
from featprobe.imaging import THUMBNAIL_SIDE, Print, Raster
from featprobe.loading.inputs import (
    Pixels,
    check_image_rule,
    check_views,
    inputs_of,
    normalise,
    pixels_rule,
)
from featprobe.loading.volumes import check_volume_rule, sides_of, volume_inputs_of
from featprobe.loading.workers import in_workers
from featprobe.records import IntArray, Preprocessing, Samples, TextArray, texts


class ImageSource(Protocol):
    """What loading needs of a data set."""

    @property
    def samples(self) -> Samples:
        """N rows."""

    def read(self, row: int) -> bytes:
        """The image's bytes, or OSError."""

    def decode(self, data: bytes) -> Raster:
        """The decoded image, or OSError, or DataError where the data set must not be used."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some rows of a data set as a backbone's input.

    `rows`: int64 [B], the rows whose image could be read. `images`: one float32 tensor [B, 3, H, W] per
    preprocessing, [B, 1, D, H, W] under one of 3-D inputs, in their order (equal preprocessings share one tensor:
    do not write into it). `size`: int64 [B, 2], height and width in pixels of the decoded image, or of a
    volume's slices, before any preprocessing.
    `pixel_sha256`, `phash` [B], `thumbnail` uint8 [B, T]: see `featprobe.imaging.Print`.
    `quarantined`: (row, reason) of the others.
    """

    rows: IntArray
    images: tuple[torch.Tensor, ...]
    size: IntArray
    pixel_sha256: TextArray
    phash: TextArray
    thumbnail: npt.NDArray[np.uint8]
    quarantined: tuple[tuple[int, str], ...]


def batches(
    dataset: ImageSource,
    rows: IntArray,
    preprocessings: Sequence[Preprocessing],
    *,
    batch_size: int,
    workers: int,
) -> Iterator[Batch]:
    """Batch i covers `rows[i * batch_size : (i + 1) * batch_size]`, in that order.

    `preprocessings`: each of one view (`Preprocessing.one`); all share one decode of an image, and those that
    differ in view, mean or std alone one resize. `workers`: processes that read and decode, 0 for none. It
    changes no value. Images that can't be read leave their batch, which may then be empty, and are listed in it.
    Raises DataError for a file that has gone or that must not be used, ConfigError for a preprocessing that
    can't be done, such as a 3-D one of an image or a 2-D one of a volume.
    """
    if batch_size < 1:
        raise ConfigError(f"the batch size is {batch_size}", "it must be at least 1", "type --batch-size 32")
    unique = list(dict.fromkeys(preprocessings))
    _check(unique)
    cuts = list(dict.fromkeys(map(pixels_rule, unique)))
    starts = range(0, len(rows), batch_size)
    source = _Parts(dataset, [rows[start : start + batch_size] for start in starts], cuts)
    parts = iter(map(source.load, range(len(source)))) if workers < 1 else in_workers(source, workers)
    for part in parts:
        normalised = {
            rule: normalise(torch.from_numpy(part.pixels[cuts.index(pixels_rule(rule))]), rule)
            for rule in unique
        }
        yield Batch(
            rows=np.asarray(part.rows, dtype=np.int64),
            images=tuple(normalised[rule] for rule in preprocessings),
            size=np.array(part.size, dtype=np.int64).reshape(len(part.rows), 2),
            pixel_sha256=texts([found.pixel_sha256 for found in part.prints]),
            phash=texts([found.phash for found in part.prints]),
            thumbnail=np.array([found.thumbnail for found in part.prints], dtype=np.uint8).reshape(
                len(part.prints), THUMBNAIL_SIDE**2
            ),
            quarantined=tuple(part.quarantined),
        )


def _check(rules: Sequence[Preprocessing]) -> None:
    for rule in rules:
        check_views(rule)
        (check_image_rule if rule.depth is None else check_volume_rule)(rule)
    if len({rule.depth is None for rule in rules}) > 1:
        raise ConfigError(
            "2-D and 3-D backbones can't be run over the same rows",
            "2-D ones take images and the slices of volumes (--slices all), 3-D ones whole volumes (--slices volume)",
            "name backbones of one kind",
        )


@dataclass(slots=True, eq=False)
class _Part:
    """A batch on its way from a worker; `pixels`: one uint8 [B, 3, H, W] or [B, 1, D, H, W] per rule of `_Parts`."""

    rows: list[int] = field(default_factory=list)
    size: list[tuple[int, int]] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)
    prints: list[Print] = field(default_factory=list)
    quarantined: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """The batches to load. `rules`: no two alike, without mean and std."""

    dataset: ImageSource
    chunks: list[IntArray]
    rules: list[Preprocessing]

    def __len__(self) -> int:
        return len(self.chunks)

    def load(self, index: int) -> _Part:
        part = _Part()
        inputs: list[list[Pixels]] = [[] for _ in self.rules]
        for row in self.chunks[index].tolist():
            try:
                raster = self._raster(row)
            except OSError as error:
                part.quarantined.append((row, error.strerror or str(error)))
                continue
            pixels, look = self._inputs(row, raster)
            for found, one in zip(inputs, pixels, strict=True):
                found.append(one)
            part.rows.append(row)
            part.size.append((raster.height, raster.width))
            part.prints.append(look)
        for found, rule in zip(inputs, self.rules, strict=True):
            shape = (3, *rule.image_size) if rule.depth is None else (1, *sides_of(rule))
            part.pixels.append(np.stack(found) if found else np.empty((0, *shape), dtype=np.uint8))
        return part

    def _inputs(self, row: int, raster: Raster) -> tuple[list[Pixels], Print]:
        read = inputs_of if self.rules[0].depth is None else volume_inputs_of
        try:
            return read(raster, self.rules)
        except ConfigError as error:
            error.wrong = f"{self.dataset.samples.path[row]}: {error.wrong}"
            raise

    def _raster(self, row: int) -> Raster:
        data = self.dataset.read(row)
        try:
            return self.dataset.decode(data)
        except DataError as error:
            error.wrong = f"{self.dataset.samples.path[row]}: {error.wrong}"
            raise
