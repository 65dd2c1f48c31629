from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from featprobe.datasets import UnreadableImageError
from featprobe.datasets.decoding import decode, encode_array

RNG = np.random.default_rng(0)
SIXTEEN = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
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


def shown(data: bytes) -> Image.Image:
    return decode(data).rgb()


def test_rgb_pixels_come_back_as_they_are() -> None:
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert shown(packed(COLOUR, kind)).tobytes() == COLOUR.tobytes()


def test_grey_is_repeated_alpha_dropped_and_palettes_are_converted() -> None:
    grey = COLOUR.convert("L")
    assert shown(packed(grey)).tobytes() == Image.merge("RGB", [grey] * 3).tobytes()
    alpha = COLOUR.convert("RGBA")
    alpha.putalpha(Image.fromarray(RNG.integers(0, 256, (20, 30), dtype=np.uint8)))
    assert shown(packed(alpha)).tobytes() == COLOUR.tobytes()
    grey_alpha = Image.merge("LA", [grey, alpha.getchannel("A")])
    assert shown(packed(grey_alpha)).tobytes() == Image.merge("RGB", [grey] * 3).tobytes()
    palette = COLOUR.quantize(16)
    assert shown(packed(palette, transparency=bytes(range(16)))).tobytes() == palette.convert("RGB").tobytes()
    bilevel = grey.convert("1")
    assert shown(packed(bilevel)).tobytes() == bilevel.convert("RGB").tobytes()
    cmyk = packed(COLOUR.convert("CMYK"), "JPEG")
    assert shown(cmyk).tobytes() == Image.open(io.BytesIO(cmyk)).convert("RGB").tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(("orientation", "where"), [(3, (29, 19)), (6, (19, 0)), (8, (0, 29)), (2, (29, 0))])
def test_the_exif_orientation_is_applied_once(kind: str, orientation: int, where: tuple[int, int]) -> None:
    image = Image.new("RGB", (30, 20))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    turned = shown(packed(image, kind, exif=exif, **options))
    pixels = np.asarray(turned).sum(axis=2)
    y, x = np.unravel_index(pixels.argmax(), pixels.shape)
    assert (x, y) == where


def test_damaged_exif_data_does_not_cost_the_image() -> None:
    data = packed(COLOUR, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\xff\xff")
    assert shown(data).size == (30, 20)


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
        shown(data)
    assert str(caught.value)
    assert " at 0x" not in str(caught.value)


def test_a_decompression_bomb_is_unreadable_and_a_large_image_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed(COLOUR)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    with pytest.raises(UnreadableImageError, match=r"^600 pixels, more than the limit of 178,956,970"):
        decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    assert shown(data).size == (30, 20)


def test_eight_bit_jpeg2000_is_read() -> None:
    assert shown(packed(COLOUR, "JPEG2000")).tobytes() == COLOUR.tobytes()


def test_grey_values_have_two_axes_and_colour_three() -> None:
    grey = decode(packed(COLOUR.convert("LA")))
    assert (grey.values.shape, grey.values.dtype, grey.format) == ((20, 30), np.uint8, "PNG")
    colour = decode(packed(COLOUR.quantize(16), "GIF"))
    assert (colour.values.shape, colour.format) == ((20, 30, 3), "GIF")


def test_arrays_in_memory_take_the_same_way() -> None:
    colour = np.asarray(COLOUR)
    assert shown(encode_array(colour)).tobytes() == COLOUR.tobytes()
    assert encode_array(colour) != encode_array(colour.reshape(30, 20, 3))
    with pytest.raises(UnreadableImageError):
        decode(encode_array(colour)[:-1])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_are_pillows(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for image in (COLOUR, COLOUR.convert("L"), Image.fromarray(SIXTEEN)):
        data = packed(image, kind, exif=exif)
        with Image.open(io.BytesIO(data)) as opened:
            expected = np.asarray(ImageOps.exif_transpose(opened))
        assert np.array_equal(decode(data).values, expected)


def test_a_huge_header_is_refused_before_anything_is_allocated() -> None:
    import resource

    bomb = png(8, 2, b"", (60_000, 60_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        UnreadableImageError, match=r"3,600,000,000 pixels, more than the limit of 178,956,970"
    ):
        decode(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    with pytest.raises(UnreadableImageError, match="pixels, more than the limit"):
        decode(b"P6 20000 10000 65535 ")


def test_an_image_of_one_pixel_is_an_image() -> None:
    assert decode(packed(COLOUR.crop((0, 0, 1, 1)))).rgb().size == (1, 1)
    assert decode(packed(Image.fromarray(SIXTEEN[:1, :1]))).rgb().size == (1, 1)
