"""Every image of a data set is decoded once: what can't be read, what the copies share, sizes and formats."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np
from tqdm import tqdm

from featprobe.datasets import UnreadableImageError
from featprobe.errors import DataError
from featprobe.imaging import THUMBNAIL_SIDE, Print, print_of_raster
from featprobe.records import AnyArray, IntArray, Samples, TextArray, texts
from featprobe.shortcuts import FILE_SIZE
from featprobe.stages.sources import Source

if TYPE_CHECKING:
    import numpy.typing as npt

PICTURE_SIDE: Final = 160
"""Pixels of the longer side of the pictures on leaks.html."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What decoding told of the N rows of a data set.

    `samples`: with pixel_sha256, phash and thumbnail where the image can be read. `readable`: bool [N]. `width`,
    `height`, `size` (bytes): int64 [N], 0 where it can't. `format`, `mode` ("grey" or "colour"): text [N]. `faults`:
    (path, reason).
    """

    samples: Samples
    readable: npt.NDArray[np.bool_]
    width: IntArray
    height: IntArray
    size: IntArray
    format: TextArray
    mode: TextArray
    faults: tuple[tuple[str, str], ...]

    def metadata(self) -> dict[str, AnyArray]:
        """What is known of each readable image without looking at it, column -> [M]: what a shortcut may rest on."""
        samples = self.samples
        columns: dict[str, AnyArray] = {
            "width": self.width,
            "height": self.height,
            "aspect": self.width / np.maximum(self.height, 1),
            FILE_SIZE: self.size,
            "format": self.format,
            "grey or colour": self.mode,
            "site": samples.site,
            "modality": samples.modality,
            **{f"column {name}": column for name, column in samples.columns.items()},
        }
        return {name: column[self.readable] for name, column in columns.items()}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """One decoded image."""

    look: Print
    width: int
    height: int
    size: int
    format: str
    mode: str


def survey(source: Source, workers: int | None) -> Survey:
    """Read and decode every image in `workers` threads; memory holds its print alone."""

    def look(row: int) -> _Look | str:
        try:
            data = source.dataset.read(row)
            raster = source.dataset.decode(data)
            mode = "grey" if raster.values.ndim == 2 or raster.is_volume else "colour"
            return _Look(
                print_of_raster(raster), raster.width, raster.height, len(data), str(raster.format), mode
            )
        except (UnreadableImageError, OSError) as error:
            return str(error)
        except DataError as error:
            error.wrong = f"{source.samples.path[row]}: {error.wrong}"
            raise

    rows = range(len(source.samples))
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        found = list(
            tqdm(pool.map(look, rows), total=len(rows), unit="img", desc="decode", leave=False, disable=None)
        )
    return _survey(source.samples, found)


def _survey(samples: Samples, found: list[_Look | str]) -> Survey:
    good = [item if isinstance(item, _Look) else None for item in found]
    thumbnail = np.zeros((len(found), THUMBNAIL_SIDE**2), dtype=np.uint8)
    for row, item in enumerate(good):
        if item is not None:
            thumbnail[row] = item.look.thumbnail

    def numbers(name: str) -> IntArray:
        return np.array([0 if item is None else getattr(item, name) for item in good], dtype=np.int64)

    def words(name: str) -> TextArray:
        return texts(["" if item is None else getattr(item, name) for item in good])

    return Survey(
        samples=samples.replace(
            pixel_sha256=texts(["" if item is None else item.look.pixel_sha256 for item in good]),
            phash=texts(["" if item is None else item.look.phash for item in good]),
            thumbnail=thumbnail,
        ),
        readable=np.array([item is not None for item in good], dtype=bool),
        width=numbers("width"),
        height=numbers("height"),
        size=numbers("size"),
        format=words("format"),
        mode=words("mode"),
        faults=tuple(
            (str(samples.path[row]), item) for row, item in enumerate(found) if isinstance(item, str)
        ),
    )


def picture(source: Source, row: int) -> npt.NDArray[np.uint8]:
    """The image of `row` as it is looked at: uint8 [H, W, 3], its longer side at most PICTURE_SIDE."""
    image = source.dataset.decode(source.dataset.read(row)).middle().rgb()
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    return np.asarray(image, dtype=np.uint8)


def counted(values: TextArray, most: int = 6) -> str:
    """The most frequent values with their counts, in words; "" where nothing is known."""
    counts = Counter(value for value in values.tolist() if value)
    shown = ", ".join(f"{value} ({count})" for value, count in counts.most_common(most))
    return shown + (f" and {len(counts) - most} more" if len(counts) > most else "")
