"""Images with more than 8 bits per channel: their own numbers, which Pillow cuts to 8 bits or rescales.

Grey: values as the file has them. Colour: values as the file has them, and `shown` scaled by the full range of the
bit depth. Percentiles of each image would brighten one slide and darken the next, and a 16-bit copy of an 8-bit
picture would no longer look like it; colours mean something in relation to white.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from featprobe.datasets.decoding import (
    UnreadableImageError,
    UnsupportedImageError,
    orientation_of,
    turned,
)
from featprobe.errors import MissingExtraError
from featprobe.imaging import Raster

if TYPE_CHECKING:
    from PIL.Image import Image

    from featprobe.records import AnyArray

BITS_PER_SAMPLE: Final = 258
PHOTOMETRIC: Final = 262
SAMPLE_FORMAT: Final = 339
SIGNED: Final = 2
_ROWS_AT_ONCE: Final = 256


def is_deep(image: Image, data: bytes) -> bool:
    """Whether an opened image (of which `data` are the bytes) has other numbers than 8 unsigned bits."""
    return image.mode[0] in "IF" or _bits(image, data) > 8 or _tag(image, SAMPLE_FORMAT, 1) == SIGNED


def decode(image: Image, data: bytes, page: int) -> Raster:
    """The image that `image` opened, of which `data` are the bytes; `page` of a TIFF file, from 0.

    Grey: uint16, int32, uint32, int8 or float32 [H, W]. Colour: [H, W, 3], alpha dropped, with `shown`. Raises as
    `decoding.decode` does.
    """
    from featprobe.datasets.formats import tiff

    kind = image.format or "image"
    if image.mode in {"F", "L"} or image.mode.startswith("I"):
        if kind == "JPEG2000" and not _pillow_knows_jpeg2000(data):
            return _coloured(_by_imagecodecs("jpeg2k_decode", data), kind, 0)
        return _grey(image, data, kind)
    if kind == "TIFF":
        return tiff.decode(data, page)
    most = 2 ** _bits(image, data) - 1
    if kind == "PNG":
        values = _by_imagecodecs("png_decode", data)
        image.load()  # the EXIF chunk may come after the pixels
    elif kind == "JPEG2000":
        values = _by_imagecodecs("jpeg2k_decode", data)
    elif kind == "PPM" and _tile(image)[0] == "ppm":
        values, most = _portable_pixels(image, data), _netpbm_most(image)
    else:
        raise UnsupportedImageError.of(f"colour images of more than 8 bits in {kind} files")
    return _coloured(turned(values, orientation_of(image)), kind, most)


def finite(values: AnyArray) -> tuple[AnyArray, int]:
    """(float32 values with those that are NaN or infinite replaced by the smallest finite one, their number).

    UnreadableImageError where none is finite.
    """
    with np.errstate(over="ignore"):  # beyond float32: infinite, and replaced
        values = values.astype(np.float32, copy=False)
    good = np.isfinite(values)
    bad = good.size - int(np.count_nonzero(good))
    if bad == good.size:
        raise UnreadableImageError("it holds no finite number")
    if not bad:
        return values, 0
    return np.where(good, values, values[good].min()), bad


def full_range(values: AnyArray, most: int) -> npt.NDArray[np.uint8]:
    """Unsigned `values` in 8 bits, 0 to `most` becoming 0 to 255, rounded to the nearest level."""
    shown = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), _ROWS_AT_ONCE):  # in float64, an image at the limit would take 4 GB
        some = values[start : start + _ROWS_AT_ONCE]
        shown[start : start + _ROWS_AT_ONCE] = np.floor(np.minimum(some / most, 1) * 255 + 0.5)
    return shown


def _coloured(values: AnyArray, kind: str, most: int) -> Raster:
    """The raster of decoded `values` [H, W] or [H, W, channels], alpha dropped."""
    if values.ndim == 2 or values.shape[2] < 3:
        return Raster(np.ascontiguousarray(values if values.ndim == 2 else values[:, :, 0]), kind)
    values = np.ascontiguousarray(values[:, :, :3])
    return Raster(values, kind, shown=full_range(values, most))


def _grey(image: Image, data: bytes, kind: str) -> Raster:
    most = _netpbm_most(image)
    image.load()
    values: AnyArray = np.asarray(image)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if kind == "TIFF":
        values = _tiff_numbers(image, values)
    elif kind == "JPEG2000":
        values = values >> (16 - _jpeg2000_depths(data)[0])  # Pillow moves the bits up
    elif kind == "PPM" and image.mode == "I":  # Pillow stretches 0 to `most` to 0 to 65535
        values = np.rint(values * (most / 65535)).astype(np.uint16)
    if values.dtype.kind == "f":
        values, _ = finite(values)
    inverted = kind == "TIFF" and _tag(image, PHOTOMETRIC, 1) == 0
    return Raster(turned(values, orientation_of(image)), kind, inverted=inverted)


def _tiff_numbers(image: Image, values: AnyArray) -> AnyArray:
    """Pillow's pixels as the numbers that they stand for: it takes unsigned for signed and the other way round."""
    signed = _tag(image, SAMPLE_FORMAT, 1) == SIGNED
    if values.dtype == np.uint8 and signed:
        return values.view(np.int8)
    if values.dtype == np.int32 and not signed and _tag(image, BITS_PER_SAMPLE, 8) == 32:
        return values.view(np.uint32)
    return values


def _portable_pixels(image: Image, data: bytes) -> AnyArray:
    """The pixels of a binary PPM file of two bytes per channel."""
    start = int(_tile(image)[2])
    count = image.width * image.height * 3
    pixels = np.frombuffer(data, dtype=">u2", count=count, offset=start)
    return pixels.reshape(image.height, image.width, 3).astype(np.uint16)


def _netpbm_most(image: Image) -> int:
    """The number that is white in a Netpbm file (65535 where Pillow does not stretch it), before it is loaded."""
    arguments = _tile(image)[3] if image.format == "PPM" else ()
    return int(arguments[1]) if isinstance(arguments, tuple) and len(arguments) == 2 else 65535


def _tile(image: Image) -> tuple[Any, ...]:
    """How Pillow is going to load an image that is not loaded yet: (codec, extents, offset, arguments)."""
    tiles: list[tuple[Any, ...]] = getattr(image, "tile", [])
    return tiles[0] if tiles else ("", (), 0, ())


def _by_imagecodecs(function: str, data: bytes) -> AnyArray:
    try:
        import imagecodecs
    except ImportError as error:
        raise MissingExtraError("16-bit colour images", "imagecodecs", "tiff") from error
    values: AnyArray = getattr(imagecodecs, function)(data)
    return values


def _tag(image: Image, number: int, default: int) -> int:
    """The largest value of a TIFF tag; `default` where it is not there or the image is no TIFF file."""
    value = getattr(image, "tag_v2", {}).get(number, default) if image.format == "TIFF" else default
    return int(max(value)) if isinstance(value, tuple) else int(value)


def _bits(image: Image, data: bytes) -> int:
    """Bits of the deepest channel: Pillow cuts 16-bit colour to 8 and calls it RGB, so its mode can't tell."""
    if image.format == "TIFF":
        return _tag(image, BITS_PER_SAMPLE, 8)
    if image.format == "JPEG2000":
        return max(_jpeg2000_depths(data))
    arguments: list[Any] = [tile[3] for tile in getattr(image, "tile", [])]
    words = [word for group in arguments for word in (group if isinstance(group, tuple) else (group,))]
    if image.format == "PPM":
        return max((word.bit_length() for word in words if isinstance(word, int)), default=8)
    deep = (isinstance(word, str) and ";16" in word and not word.startswith("BGR;16") for word in words)
    return 16 if any(deep) else 8  # BGR;16 is 5, 6 and 5 bits


def _jpeg2000_depths(data: bytes) -> list[int]:
    """Bits of each channel, from the codestream's SIZ marker (ISO/IEC 15444-1, A.5.1); [8] where unread."""
    return [(depth & 0x7F) + 1 for depth in _jpeg2000_bytes(data)] or [8]


def _jpeg2000_bytes(data: bytes) -> bytes:
    start = data.find(b"\xff\x4f\xff\x51")
    channels = int.from_bytes(data[start + 40 : start + 42], "big") if start >= 0 else 0
    return data[start + 42 : start + 42 + 3 * channels : 3]


def _pillow_knows_jpeg2000(data: bytes) -> bool:
    """Whether Pillow keeps the numbers of a grey JPEG 2000 image: unsigned and of at most 16 bits."""
    return all(not depth & 0x80 and (depth & 0x7F) < 16 for depth in _jpeg2000_bytes(data))
