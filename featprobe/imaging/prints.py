"""What copies of an image share: exact pixels, a perceptual hash and a thumbnail that outlive re-encoding."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

PRINTS_NUMERICS: Final = 1
"""Part of every recipe; raised when the prints of the same pixels change."""

THUMBNAIL_SIDE: Final = 32
SMALLEST: Final = 16
"""Pixels of an image's shorter side below which it has no thumbnail (all 0): with so little detail strangers are
alike by chance, as handwritten digits of 8 x 8 pixels are."""


@dataclass(frozen=True, slots=True, eq=False)
class Print:
    """`pixel_sha256`: SHA-256 (hex) of "HxW:" and the RGB bytes. `phash`: 64-bit perceptual hash (hex), "" for an
    image of one grey level, which is a copy of nothing. `thumbnail`: uint8 [THUMBNAIL_SIDE ** 2], grey, row by row;
    all 0 for an image whose shorter side is below SMALLEST.
    """  # noqa: D205 - three fields, one paragraph

    pixel_sha256: str
    phash: str
    thumbnail: npt.NDArray[np.uint8]


def print_of(image: Image) -> Print:
    """The print of an 8-bit RGB image. Always taken of `Raster.rgb(AUTO)`, so that no setting changes it."""
    import imagehash
    from PIL import Image as Pillow

    digest = hashlib.sha256(f"{image.height}x{image.width}:".encode())
    digest.update(image.tobytes())
    grey = image.convert("L")
    low, high = grey.getextrema()
    tiny = min(image.size) < SMALLEST
    small = Pillow.new("L", grey.size) if tiny else grey
    small = small.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Pillow.Resampling.LANCZOS)
    return Print(
        pixel_sha256=digest.hexdigest(),
        phash="" if low == high else str(imagehash.phash(grey)),
        thumbnail=np.asarray(small, dtype=np.uint8).reshape(-1),
    )
