from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featprobe.datasets import UnreadableImageError, UnsupportedImageError
from featprobe.datasets.decoding import decode, encode_array

RNG = np.random.default_rng(0)
COLOUR = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8))


def packed(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(bits: int, colour: int, rows: bytes, size: tuple[int, int]) -> bytes:
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)
    data = zlib.compress(rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_rgb_pixels_come_back_as_they_are() -> None:
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert decode(packed(COLOUR, kind)).tobytes() == COLOUR.tobytes()


def test_grey_is_repeated_alpha_dropped_and_palettes_are_converted() -> None:
    grey = COLOUR.convert("L")
    assert decode(packed(grey)).tobytes() == Image.merge("RGB", [grey] * 3).tobytes()
    alpha = COLOUR.convert("RGBA")
    alpha.putalpha(Image.fromarray(RNG.integers(0, 256, (20, 30), dtype=np.uint8)))
    assert decode(packed(alpha)).tobytes() == COLOUR.tobytes()
    grey_alpha = Image.merge("LA", [grey, alpha.getchannel("A")])
    assert decode(packed(grey_alpha)).tobytes() == Image.merge("RGB", [grey] * 3).tobytes()
    palette = COLOUR.quantize(16)
    assert (
        decode(packed(palette, transparency=bytes(range(16)))).tobytes() == palette.convert("RGB").tobytes()
    )
    bilevel = grey.convert("1")
    assert decode(packed(bilevel)).tobytes() == bilevel.convert("RGB").tobytes()
    cmyk = packed(COLOUR.convert("CMYK"), "JPEG")
    assert decode(cmyk).tobytes() == Image.open(io.BytesIO(cmyk)).convert("RGB").tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(("orientation", "where"), [(3, (29, 19)), (6, (19, 0)), (8, (0, 29)), (2, (29, 0))])
def test_the_exif_orientation_is_applied_once(kind: str, orientation: int, where: tuple[int, int]) -> None:
    image = Image.new("RGB", (30, 20))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    turned = decode(packed(image, kind, exif=exif, **options))
    pixels = np.asarray(turned).sum(axis=2)
    y, x = np.unravel_index(pixels.argmax(), pixels.shape)
    assert (x, y) == where


def test_damaged_exif_data_does_not_cost_the_image() -> None:
    data = packed(COLOUR, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\xff\xff")
    assert decode(data).size == (30, 20)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"just text", "not an image that Pillow can identify"),
        (packed(COLOUR, "JPEG")[:-300], "truncated"),
        (packed(COLOUR)[:300], "truncated"),
        (packed(COLOUR)[:-60].replace(b"IDAT", b"IDAX"), "."),
    ],
)
def test_damaged_files_are_unreadable_for_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        decode(data)
    assert str(caught.value)
    assert " at 0x" not in str(caught.value)


def test_a_decompression_bomb_is_unreadable_and_a_large_image_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed(COLOUR)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    with pytest.raises(UnreadableImageError, match="decompression bomb"):
        decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    assert decode(data).size == (30, 20)


SIXTEEN = RNG.integers(0, 65536, (4, 4), dtype=np.uint16)


@pytest.mark.parametrize(
    "data",
    [
        packed(Image.fromarray(SIXTEEN)),
        packed(Image.fromarray(SIXTEEN), "TIFF"),
        packed(Image.fromarray(SIXTEEN.astype(np.int32)), "TIFF"),
        packed(Image.fromarray(SIXTEEN.astype(np.float32)), "TIFF"),
        packed(Image.fromarray(SIXTEEN), "JPEG2000"),
        png(16, 2, bytes(4 * (1 + 24)), (4, 4)),
        png(16, 4, bytes(4 * (1 + 16)), (4, 4)),
        png(16, 6, bytes(4 * (1 + 32)), (4, 4)),
        b"P6 2 2 65535 " + bytes(24),
        b"P5 2 2 4095 " + bytes(8),
        packed(COLOUR, "TIFF", save_all=True, append_images=[COLOUR]),
        bytes(128) + b"DICM" + bytes(40),
    ],
    ids=[
        "png16",
        "tiff16",
        "tiff32",
        "tiff-float",
        "jp2-16",
        "rgb16",
        "la16",
        "rgba16",
        "ppm16",
        "pgm12",
        "tiff-stack",
        "dicom",
    ],
)
def test_what_eight_bits_would_mangle_is_refused_and_not_quarantined(data: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match=r"not supported yet; .*mangle.*; export"):
        decode(data)


def test_eight_bit_jpeg2000_is_read() -> None:
    assert decode(packed(COLOUR, "JPEG2000")).tobytes() == COLOUR.tobytes()


def test_arrays_in_memory_take_the_same_way() -> None:
    colour = np.asarray(COLOUR)
    assert decode(encode_array(colour)).tobytes() == COLOUR.tobytes()
    assert encode_array(colour).startswith(b"featprobe array uint8 20x30x3\n")
    assert encode_array(colour[:10]) != encode_array(colour[:10].reshape(30, 10, 3))
