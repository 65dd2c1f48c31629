"""What copies of an image share: exact pixels, a perceptual hash and a thumbnail that outlive re-encoding."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

    from featprobe.imaging.raster import Raster

PRINTS_NUMERICS: Final = 1
"""Part of every recipe; raised when the prints of the same pixels change."""

THUMBNAIL_SIDE: Final = 32
SMALLEST: Final = 16
"""Pixels of an image's shorter side below which it has no thumbnail (all 0): with so little detail strangers are
alike by chance, as handwritten digits of 8 x 8 pixels are."""


@dataclass(frozen=True, slots=True, eq=False)
class Print:
    """`pixel_sha256`: SHA-256 (hex) of "HxW:" and the RGB bytes, or of "ZxYxX:" and a volume's 8-bit levels.
    `phash`: 64-bit perceptual hash (hex), "" for an image of one grey level, which is a copy of nothing. `thumbnail`:
    uint8 [THUMBNAIL_SIDE ** 2], grey, row by row; all 0 for an image whose shorter side is below SMALLEST. Hash and
    thumbnail of a volume are those of its middle slice.
    """  # noqa: D205 - three fields, one paragraph

    pixel_sha256: str
    phash: str
    thumbnail: npt.NDArray[np.uint8]


def print_of(image: Image) -> Print:
    """The print of an 8-bit RGB image. Always taken of `Raster.rgb(AUTO)`, so that no setting changes it."""
    digest = hashlib.sha256(f"{image.height}x{image.width}:".encode())
    digest.update(image.tobytes())
    return _print(digest.hexdigest(), image)


def print_of_volume(volume: Raster, levels: npt.NDArray[np.uint8]) -> Print:
    """The print of a volume, of which `levels` (uint8 [Z, Y, X]) are `Raster.levels(AUTO)`."""
    digest = hashlib.sha256(f"{'x'.join(str(side) for side in levels.shape)}:".encode())
    digest.update(levels.tobytes())
    return _print(digest.hexdigest(), volume.middle().rgb())


def print_of_raster(raster: Raster) -> Print:
    """The print of an image or a volume."""
    return print_of_volume(raster, raster.levels()) if raster.is_volume else print_of(raster.rgb())


def _print(digest: str, image: Image) -> Print:
    import imagehash
    from PIL import Image as Pillow

    grey = image.convert("L")
    low, high = grey.getextrema()
    tiny = min(image.size) < SMALLEST
    small = Pillow.new("L", grey.size) if tiny else grey
    small = small.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Pillow.Resampling.LANCZOS)
    return Print(
        pixel_sha256=digest,
        phash="" if low == high else str(imagehash.phash(grey)),
        thumbnail=np.asarray(small, dtype=np.uint8).reshape(-1),
    )
