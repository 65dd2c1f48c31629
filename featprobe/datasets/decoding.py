"""Bytes to pixels, by one decoder for every data set, so that equal bytes give equal embeddings."""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from featprobe.errors import DataError, FeatprobeError
from featprobe.imaging import MAX_PIXELS, Raster, decode_raster, encode_raster, is_raster

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    from featprobe.records import AnyArray

DECODER_NUMERICS: Final = 2
"""Part of every recipe; raised when the decoder gives other pixels for the same bytes."""

IMAGE_SUFFIXES: Final = frozenset(
    (
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx"),
        *(".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    )
)
"""What counts as an image in a folder. A fixed list: the images of a folder do not depend on Pillow's build."""

UNSUPPORTED_SUFFIXES: Final = {
    ".nrrd": "NRRD volumes",
    ".mha": "MetaImage volumes",
    ".mhd": "MetaImage volumes",
    ".mgz": "FreeSurfer volumes",
    ".mgh": "FreeSurfer volumes",
}

_ORIENTATION: Final = 0x0112
T = TypeVar("T")
_GREY_MODES: Final = frozenset(("1", "L", "LA", "La"))


class UnreadableImageError(OSError):
    """An image that is damaged, or no image: it is quarantined with this reason."""


class UnsupportedImageError(DataError):
    """An image that featprobe could only mangle: it stops the reading of its data set."""

    @classmethod
    def of(cls, what: str, path: str = "", next_step: str = "") -> UnsupportedImageError:
        """The error for `what` (plural, such as "NRRD volumes"), with the file's path where it is known."""
        return cls(
            f"{path}: {what} are not supported" if path else f"{what} are not supported",
            "featprobe reads grey images of any depth, colour of 8 and 16 bits, DICOM and NIfTI",
            next_step or "convert them, such as to NIfTI, DICOM or PNG, and use those",
        )


def unsupported_suffix(path: str) -> str:
    """What `path` is, judged by its suffix, where featprobe can't read it; else ""."""
    lower = path.lower()
    return next((what for suffix, what in UNSUPPORTED_SUFFIXES.items() if lower.endswith(suffix)), "")


def encode_array(image: npt.NDArray[np.uint8]) -> bytes:
    """An image in memory (uint8 [H, W] or [H, W, 3]) as bytes that `decode` takes."""
    return encode_raster(Raster(image, "array"))


def decode(data: bytes) -> Raster:
    """The image in `data`: a file's bytes, or `encode_raster`'s.

    Values: uint8 [H, W] or [H, W, 3] for images of up to 8 bits: EXIF orientation is applied (damaged EXIF data is
    ignored), alpha is dropped, palettes, CMYK and YCbCr are converted to RGB; of an animation the first frame is
    taken. Deeper images: see `formats.deep`; DICOM: see `formats.dicom`.

    Raises UnreadableImageError for damaged, truncated, unknown or empty data and for more than MAX_PIXELS pixels,
    before any is decoded; UnsupportedImageError for a TIFF file of several pages (see `stacks`) and for kinds of
    colour that can't be shown in 8 bits by a stated rule; MissingExtraError where a package is missing.
    """
    from featprobe.datasets.formats import dicom, nifti

    if not data:
        raise UnreadableImageError("the file is empty")
    if is_raster(data):
        return guarded(lambda: decode_raster(data))
    if dicom.is_dicom(data):
        return dicom.decode(data)
    if nifti.is_nifti(data):
        raise UnreadableImageError(nifti.why_no_slice(data))
    return guarded(lambda: _decode_file(data))


def decode_pages(data: bytes, numbers: Sequence[int]) -> Iterator[Raster | UnreadableImageError]:
    """The pages `numbers` (from 0) of the TIFF file `data`, the error for one that is damaged.

    The file's list of pages is read once: opening it for each page of n would take n * n steps.
    """
    from PIL import Image, UnidentifiedImageError

    from featprobe.datasets.formats import tiff

    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        image = None

    def page(number: int) -> Raster:
        try:
            if image is not None:
                image.seek(number)
                return _decode_image(image, data, number)
        except SyntaxError:  # a kind of page that Pillow does not know
            pass
        return tiff.decode(data, number)

    for number in numbers:
        try:
            yield guarded(functools.partial(page, number))
        except UnreadableImageError as error:
            yield error


def guarded(read: Callable[[], T]) -> T:
    """What `read` reads, every error about the data made an UnreadableImageError."""
    with warnings.catch_warnings():
        # Pillow warns of damaged metadata and of large images; neither changes the pixels.
        warnings.simplefilter("ignore")
        try:
            return read()
        except (FeatprobeError, UnreadableImageError, MemoryError):
            raise
        except Exception as error:
            raise UnreadableImageError(_reason(error)) from error


def refuse_bomb(width: int, height: int) -> None:
    """UnreadableImageError for more than MAX_PIXELS pixels."""
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(f"{width} x {height} pixels, more than the limit of {MAX_PIXELS:,}")


def _decode_file(data: bytes) -> Raster:
    from PIL import Image, UnidentifiedImageError

    from featprobe.datasets.formats import tiff

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
                raise several_pages()
            return _decode_image(image, data, 0)
    except Image.DecompressionBombError as error:  # Pillow's own check, at the same number
        pixels = int(next(iter(re.findall(r"\d+", str(error))), 0))
        raise UnreadableImageError(f"{pixels:,} pixels, more than the limit of {MAX_PIXELS:,}") from error
    except (UnidentifiedImageError, SyntaxError):  # Pillow knows few kinds of deep TIFF
        if not tiff.is_tiff(data) or not tiff.installed():
            raise
        return tiff.decode(data, None)


def several_pages() -> UnsupportedImageError:
    """The error for a stack of pages that is asked for as one image."""
    return UnsupportedImageError.of(
        "TIFF files of several pages in the place of one image",
        next_step="give them as files of a folder or a manifest, where every page is an image",
    )


def _decode_image(image: Image, data: bytes, page: int) -> Raster:
    import numpy as np

    from featprobe.datasets.formats import deep

    refuse_bomb(*image.size)
    if deep.is_deep(image, data):
        return deep.decode(image, data, page)
    image.load()
    plain = image.convert("L" if image.mode in _GREY_MODES else "RGB")
    return Raster(turned(np.asarray(plain), orientation_of(image)), image.format or "image")


def orientation_of(image: Image) -> int:
    """EXIF's orientation of a loaded image, 1 (as it is) where there is none."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - Pillow raises many types for damaged EXIF data; the pixels are sound
        return 1


def turned(values: AnyArray, orientation: int) -> AnyArray:
    """`values` ([H, W, ...]) as EXIF's orientation says (TIFF files are turned by Pillow when they are loaded)."""
    import numpy as np

    if orientation in {5, 6, 7, 8}:  # rows and columns change places
        values = values.swapaxes(0, 1)
    vertically, horizontally = orientation in {3, 4, 7, 8}, orientation in {2, 3, 6, 7}
    values = values[::-1] if vertically else values
    values = values[:, ::-1] if horizontally else values
    return np.ascontiguousarray(values)


def _reason(error: Exception) -> str:
    """Why an image could not be read, in words that are equal in every run (no memory addresses)."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can identify"
    text = re.sub(r"<[^>]* at 0x[0-9a-fA-F]+>", "the data", " ".join(str(error).split()))
    return text or type(error).__name__
