"""Bytes to 8-bit RGB pixels, by one decoder for every data set, so that equal bytes give equal embeddings."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Final

from featprobe.errors import DataError, FeatprobeError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

DECODER_NUMERICS: Final = 1
"""Part of every recipe; raised when the decoder gives other pixels for the same bytes."""

IMAGE_SUFFIXES: Final = frozenset(
    (
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx"),
        *(".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    )
)
"""What counts as an image in a folder. A fixed list: the images of a folder do not depend on Pillow's build."""

UNSUPPORTED_SUFFIXES: Final = {
    ".dcm": "DICOM files",
    ".dicom": "DICOM files",
    ".nii": "NIfTI volumes",
    ".nii.gz": "NIfTI volumes",
    ".nrrd": "NRRD volumes",
    ".mha": "MetaImage volumes",
    ".mhd": "MetaImage volumes",
}

_ARRAY_MAGIC: Final = b"featprobe array "
_ORIENTATION: Final = 0x0112
_BITS_PER_SAMPLE: Final = 258


class UnreadableImageError(OSError):
    """An image that is damaged, or no image: it is quarantined with this reason."""


class UnsupportedImageError(DataError):
    """An image that a plain conversion to 8 bits would mangle: it stops the reading of its data set."""

    @classmethod
    def of(cls, what: str, path: str = "") -> UnsupportedImageError:
        """The error for `what` (plural, such as "16-bit images"), with the file's path where it is known."""
        return cls(
            f"{path}: {what} are not supported yet" if path else f"{what} are not supported yet",
            "a plain conversion to 8 bits would mangle them",
            "export the images as 8-bit PNG or JPEG, with the window and slice of your choice, and use those",
        )


def unsupported_suffix(path: str) -> str:
    """What `path` is, judged by its suffix, where featprobe can't read it yet; else ""."""
    lower = path.lower()
    return next((what for suffix, what in UNSUPPORTED_SUFFIXES.items() if lower.endswith(suffix)), "")


def encode_array(image: npt.NDArray[np.uint8]) -> bytes:
    """An image in memory (uint8 [H, W] or [H, W, 3]) as bytes: dtype and shape in a line, then the pixels."""
    shape = "x".join(str(side) for side in image.shape)
    return _ARRAY_MAGIC + f"{image.dtype} {shape}\n".encode() + image.tobytes()


def decode(data: bytes) -> Image.Image:
    """The image in `data` (a file's bytes, or `encode_array`'s) in mode "RGB".

    EXIF orientation is applied (damaged EXIF data is ignored), grey is repeated, alpha is dropped, palettes,
    1-bit, CMYK and YCbCr images are converted; of an animation the first frame is taken. Raises
    UnreadableImageError for damaged, truncated, unknown or empty data and for sizes above Pillow's limit;
    UnsupportedImageError for 16-bit, floating-point and DICOM images and for stacks of pages.
    """
    if data.startswith(_ARRAY_MAGIC):
        return _decode_array(data)
    if data[128:132] == b"DICM":
        raise UnsupportedImageError.of("DICOM files")
    if not data:
        raise UnreadableImageError("the file is empty")
    with warnings.catch_warnings():
        # Pillow warns of damaged metadata and of large images; neither changes the pixels.
        warnings.simplefilter("ignore")
        try:
            return _decode_file(data)
        except (FeatprobeError, MemoryError):
            raise
        except Exception as error:
            raise UnreadableImageError(_reason(error)) from error


def _decode_file(data: bytes) -> Image.Image:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        _refuse_unsupported(image, data)
        image.load()
        return _upright(image).convert("RGB")


def _decode_array(data: bytes) -> Image.Image:
    import numpy as np
    from PIL import Image

    header, _, pixels = data[len(_ARRAY_MAGIC) :].partition(b"\n")
    dtype, shape = header.decode().split(" ")
    array = np.frombuffer(pixels, dtype=dtype).reshape([int(side) for side in shape.split("x")])
    return Image.fromarray(array).convert("RGB")


def _refuse_unsupported(image: Image.Image, data: bytes) -> None:
    if image.mode == "F":
        raise UnsupportedImageError.of("floating-point images")
    if image.mode.startswith("I") or _bits_per_channel(image, data) > 8:
        raise UnsupportedImageError.of("images with more than 8 bits per channel")
    if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
        raise UnsupportedImageError.of("stacks of several pages (TIFF)")


def _bits_per_channel(image: Image.Image, data: bytes) -> int:
    """Bits of the deepest channel: Pillow cuts 16-bit colour to 8 and calls it RGB, so its mode can't tell."""
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, 8)
        return max(bits) if isinstance(bits, tuple) else int(bits)
    if image.format == "JPEG2000":
        return _jpeg2000_bits(data)
    arguments = [tile[3] for tile in getattr(image, "tile", [])]
    words = [word for group in arguments for word in (group if isinstance(group, tuple) else (group,))]
    if image.format == "PPM":
        return max((word.bit_length() for word in words if isinstance(word, int)), default=8)
    return 16 if any(isinstance(word, str) and ";16" in word for word in words) else 8


def _jpeg2000_bits(data: bytes) -> int:
    """Bits of the deepest channel, from the codestream's SIZ marker (ISO/IEC 15444-1, A.5.1); 8 where unread."""
    start = data.find(b"\xff\x4f\xff\x51")
    channels = int.from_bytes(data[start + 40 : start + 42], "big") if start >= 0 else 0
    depths = data[start + 42 : start + 42 + 3 * channels : 3]
    return max(((depth & 0x7F) + 1 for depth in depths), default=8)


def _upright(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF orientation says (TIFF files are turned by Pillow when they are loaded)."""
    from PIL import Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - Pillow raises many types for damaged EXIF data; the pixels are sound
        return image
    return image if turn is None else image.transpose(turn)


def _reason(error: Exception) -> str:
    """Why an image could not be read, in words that are equal in every run (no memory addresses)."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can identify"
    text = re.sub(r"<[^>]* at 0x[0-9a-fA-F]+>", "the data", " ".join(str(error).split()))
    return text or type(error).__name__
