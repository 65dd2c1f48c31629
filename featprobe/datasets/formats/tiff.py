"""TIFF files beyond Pillow: deep colour, depths and byte orders that it does not know, and stacks of pages."""

from __future__ import annotations

import io
import logging
import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from featprobe.datasets.decoding import (
    UnreadableImageError,
    UnsupportedImageError,
    refuse_bomb,
    several_pages,
    turned,
)
from featprobe.datasets.formats.deep import PHOTOMETRIC, finite, full_range
from featprobe.errors import MissingExtraError
from featprobe.imaging import Raster

if TYPE_CHECKING:
    from featprobe.records import AnyArray

for _name in ("PIL.TiffImagePlugin", "tifffile"):  # what they find is told as the image's reason
    logging.getLogger(_name).setLevel(logging.CRITICAL)

_MAGICS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB = 0, 1, 2
_SEPARATE: Final = 2
_ORIENTATION: Final = 274
_SUBFILE_TYPE: Final = 254
_NO_IMAGE_OF_ITS_OWN: Final = 1 | 4
"""Bits of the tag NewSubfileType: a reduced copy of another page, and a mask."""


def is_tiff(data: bytes) -> bool:
    """Whether `data` begins as a TIFF file does."""
    return data.startswith(_MAGICS)


def installed() -> bool:
    """Whether the packages of the extra `tiff` are there."""
    return all(find_spec(package) is not None for package in ("tifffile", "imagecodecs"))


def pages(path: Path) -> list[int]:
    """The numbers (from 0) of the pages that are images: not reduced copies of others, nor masks.

    An empty list where the file has one page only. Raises what Pillow or tifffile raise for a damaged file.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            kinds = _subfile_types(image) if image.format == "TIFF" else []
    except (UnidentifiedImageError, SyntaxError):  # a kind of page that Pillow does not know
        if not installed():
            raise
        import tifffile

        with tifffile.TiffFile(path) as file:
            every: list[Any] = list(file.pages)
            kinds = [int(page.tags.valueof(_SUBFILE_TYPE, default=0)) for page in every]
    if len(kinds) < 2:
        return []
    return [number for number, kind in enumerate(kinds) if not kind & _NO_IMAGE_OF_ITS_OWN] or [0]


def _subfile_types(image: Any) -> list[int]:
    found = []
    for page in range(getattr(image, "n_frames", 1)):
        image.seek(page)
        found.append(int(image.tag_v2.get(_SUBFILE_TYPE, 0)))
    return found


def decode(data: bytes, page: int | None) -> Raster:
    """Page `page` of the TIFF file `data`, the only one for None.

    Grey: any real dtype [H, W]; colour: unsigned [H, W, 3] with `shown`, alpha dropped. MissingExtraError
    without tifffile and imagecodecs; else raises as `decoding.decode` does.
    """
    if not installed():
        raise MissingExtraError("16-bit colour images", "imagecodecs", "tiff")
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if page is None and len(file.pages) > 1:
            raise several_pages()
        chosen: Any = file.pages[page or 0]
        tag = chosen.tags.valueof
        photometric = int(tag(PHOTOMETRIC, default=_MIN_IS_BLACK))
        _refuse_sizes(chosen)
        _refuse_unknown(chosen, photometric)
        values = turned(_channels_last(chosen), int(tag(_ORIENTATION, default=1)))
        bits = int(chosen.bitspersample)
    if photometric == _RGB:
        values = np.ascontiguousarray(values[:, :, :3])
        return Raster(values, "TIFF", shown=full_range(values, 2**bits - 1))
    values = np.ascontiguousarray(values[:, :, 0])
    if values.dtype.kind == "f":
        values, _ = finite(values)
    return Raster(values, "TIFF", inverted=photometric == _MIN_IS_WHITE)


def _refuse_sizes(page: Any) -> None:
    """What a damaged header says may be anything: a size that is a list multiplies to gigabytes."""
    for sides in ((page.imagewidth, page.imagelength), (page.tilewidth, page.tilelength)):
        if not all(isinstance(side, int) for side in sides):
            raise UnreadableImageError("the sizes in its header are damaged")
        refuse_bomb(*sides)
    expected = math.prod(page.chunked)
    if len(page.databytecounts) < expected or not all(page.databytecounts[:expected]):
        raise UnreadableImageError("pixels are missing")  # tifffile would make them 0


def _refuse_unknown(page: Any, photometric: int) -> None:
    kind = page.dtype.kind if page.dtype is not None else "?"
    samples, extra = int(page.samplesperpixel), [int(kind) for kind in page.extrasamples]
    if page.imagedepth != 1:
        raise UnsupportedImageError.of("TIFF pages of several layers")
    if photometric == _RGB and kind == "u" and samples - len(extra) == 3 and len(extra) < 2:
        return
    if (
        photometric in {_MIN_IS_WHITE, _MIN_IS_BLACK}
        and kind in "uif"
        and (samples == 1 or _is_alpha(samples, extra))
    ):
        return
    raise UnsupportedImageError.of(
        f"TIFF images of {samples} channels of {page.dtype} (photometric interpretation {photometric})"
    )


def _is_alpha(samples: int, extra: list[int]) -> bool:
    """Whether a second channel is said to be transparency; a channel of another kind is not to be lost."""
    return samples == 2 and extra in ([1], [2])


def _channels_last(page: Any) -> AnyArray:
    """[H, W, channels], however the file holds its planes."""
    values: AnyArray = page.asarray()
    if values.ndim == 2:
        return values[:, :, None]
    if values.ndim != 3:
        raise UnreadableImageError("its pixels are no image")
    return np.moveaxis(values, 0, 2) if int(page.planarconfig) == _SEPARATE else values
