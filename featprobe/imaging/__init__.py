"""Between decoders and backbones: what a decoded image is, how it comes to 8 bits, and what its copies share.

No torch here: `inspect` judges pixels without it.
"""

from __future__ import annotations

from featprobe.imaging.intensity import AUTO, Intensity, canonical_intensity, parse_intensity
from featprobe.imaging.prints import (
    PRINTS_NUMERICS,
    THUMBNAIL_SIDE,
    Print,
    print_of,
    print_of_raster,
    print_of_volume,
)
from featprobe.imaging.raster import MAX_PIXELS, Raster, Reference, decode_raster, encode_raster, is_raster

__all__ = [
    "AUTO",
    "MAX_PIXELS",
    "PRINTS_NUMERICS",
    "THUMBNAIL_SIDE",
    "Intensity",
    "Print",
    "Raster",
    "Reference",
    "canonical_intensity",
    "decode_raster",
    "encode_raster",
    "is_raster",
    "parse_intensity",
    "print_of",
    "print_of_raster",
    "print_of_volume",
]
