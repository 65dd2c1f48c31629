"""Images with more than 8 bits per channel keep their numbers."""

from __future__ import annotations

import io
import sys
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from featprobe.datasets import UnreadableImageError, UnsupportedImageError
from featprobe.datasets.decoding import decode
from featprobe.errors import MissingExtraError
from featprobe.imaging import parse_intensity

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
COLOUR = RNG.integers(0, 65536, (20, 30, 3), dtype=np.uint16)


def packed(values: np.ndarray[Any, Any], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **options)
    return stream.getvalue()


def tiff(
    values: np.ndarray[Any, Any], byteorder: str = "<", photometric: Any = None, **options: Any
) -> bytes:
    stream = io.BytesIO()
    kind = photometric or ("rgb" if values.ndim == 3 else "minisblack")
    values = values.astype(values.dtype.newbyteorder(byteorder))
    tifffile.imwrite(stream, values, byteorder=byteorder, photometric=kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bit_grey_is_its_own_numbers(kind: str) -> None:
    raster = decode(packed(GREY, kind))
    assert (raster.values.dtype, raster.format) == (np.uint16, kind)
    assert np.array_equal(raster.values, GREY)
    low, high = np.percentile(GREY, [0.5, 99.5])
    expected = np.floor(np.clip((GREY - low) / (high - low), 0, 1) * 255 + 0.5)
    assert np.array_equal(np.asarray(raster.rgb())[..., 0], expected)


def test_twelve_bits_are_not_stretched_to_sixteen() -> None:
    values = GREY >> 4
    jp2 = imagecodecs.jpeg2k_encode(values, bitspersample=12, codecformat="jp2", level=0)
    assert np.array_equal(decode(jp2).values, values)
    for most in (4095, 5000, 65534):
        values = np.minimum(GREY, most)
        values[0, 0] = most
        assert np.array_equal(decode(b"P5 30 20 %d " % most + values.astype(">u2").tobytes()).values, values)
    plain = decode(b"P2 3 1 1000 0 5 1000")
    assert plain.values.tolist() == [[0, 5, 1000]]


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "i4", "f2", "f4", "f8", "i1"])
def test_every_kind_of_grey_tiff(byteorder: str, photometric: str, dtype: str) -> None:
    values = (GREY.astype(np.float64) - 20_000).astype("f4")
    if dtype[0] == "u":
        values = GREY.astype("f8") * (1 if dtype == "u2" else 65_000)
    elif dtype in {"i1", "f2"}:
        values = values / 400
    values = values.astype(dtype)
    raster = decode(tiff(values, byteorder, photometric))
    assert raster.values.dtype == (np.float32 if dtype[0] == "f" else raster.values.dtype)
    assert np.array_equal(raster.values, values.astype(np.float32) if dtype[0] == "f" else values)
    assert raster.values.dtype.isnative
    window = parse_intensity("range:-50:50")
    light = raster.rgb(window).getpixel((3, 2))[0]
    black = decode(tiff(values, byteorder)).rgb(window).getpixel((3, 2))[0]
    assert light == (255 - black if photometric == "miniswhite" else black)


def test_eight_bits_of_white_zero_are_turned_by_pillow_alone() -> None:
    values = (GREY >> 8).astype(np.uint8)
    raster = decode(tiff(values, photometric="miniswhite"))
    assert np.array_equal(np.asarray(raster.rgb())[..., 0], 255 - values)
    assert not raster.inverted


def test_numbers_that_are_not_finite_take_the_smallest_finite_one() -> None:
    values = GREY.astype(np.float32) + 7
    values[0, :3] = np.nan, np.inf, -np.inf
    raster = decode(tiff(values))
    assert raster.values[0, :3].tolist() == [values[np.isfinite(values)].min()] * 3
    assert np.array_equal(raster.values[1:], values[1:])
    with pytest.raises(UnreadableImageError, match="no finite number"):
        decode(tiff(np.full((4, 4), np.nan, np.float32)))


def ppm(values: np.ndarray[Any, Any], most: int = 65535) -> bytes:
    return b"P6 30 20 %d " % most + values.astype(">u2").tobytes()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (imagecodecs.png_encode(COLOUR), "PNG"),
        (imagecodecs.png_encode(np.dstack([COLOUR, GREY])), "PNG"),
        (imagecodecs.jpeg2k_encode(COLOUR, codecformat="jp2", level=0), "JPEG2000"),
        (tiff(COLOUR), "TIFF"),
        (tiff(COLOUR, ">", compression="lzw"), "TIFF"),
        (tiff(np.moveaxis(COLOUR, 2, 0).copy(), planarconfig="separate"), "TIFF"),
        (tiff(np.dstack([COLOUR, GREY]), extrasamples=["unassalpha"], tile=(16, 16)), "TIFF"),
        (ppm(COLOUR), "PPM"),
    ],
    ids=["png", "png-alpha", "jp2", "tiff", "tiff-big-lzw", "tiff-planes", "tiff-alpha-tiles", "ppm"],
)
def test_sixteen_bit_colour_keeps_its_numbers_and_is_shown_by_its_full_range(data: bytes, kind: str) -> None:
    raster = decode(data)
    assert (raster.values.dtype, raster.format) == (np.uint16, kind)
    assert np.array_equal(raster.values, COLOUR)
    assert np.array_equal(np.asarray(raster.rgb()), np.floor(COLOUR / 65535 * 255 + 0.5).astype(np.uint8))


def test_a_sixteen_bit_copy_of_an_eight_bit_picture_looks_like_it() -> None:
    eight = (COLOUR >> 8).astype(np.uint8) // 2
    deep = decode(imagecodecs.png_encode(eight.astype(np.uint16) * 257))
    assert np.array_equal(np.asarray(deep.rgb()), eight)
    least = decode(ppm(np.minimum(COLOUR, 1000), 1000))
    assert least.shown is not None
    assert np.array_equal(least.shown == 255, np.minimum(COLOUR, 1000) > 997)


def test_grey_with_alpha_is_grey() -> None:
    raster = decode(imagecodecs.png_encode(np.dstack([GREY, GREY[::-1]])))
    assert np.array_equal(raster.values, GREY)
    assert raster.shown is None
    both = np.dstack([GREY, GREY[::-1]]).astype(np.float32)
    page = tiff(both, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"])
    assert np.array_equal(decode(page).values, GREY)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_turns_deep_images_too(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    first = decode(packed(GREY, "PNG", exif=exif)).values
    colour = imagecodecs.png_encode(np.dstack([GREY] * 3))
    chunk = packed(GREY, "PNG", exif=exif)
    start = chunk.index(b"eXIf") - 4
    chunk = chunk[start : start + 12 + int.from_bytes(chunk[start : start + 4], "big")]
    end = colour.index(b"IEND") - 4  # after the pixels
    assert np.array_equal(decode(colour[:end] + chunk + colour[end:]).values[..., 0], first)
    tagged = [(274, 3, 1, orientation, True)]
    for data in (tiff(GREY, extratags=tagged), tiff(GREY, ">", "miniswhite", extratags=tagged)):
        assert np.array_equal(decode(data).values, first)
    assert np.array_equal(decode(tiff(np.dstack([GREY] * 3), extratags=tagged)).values[..., 0], first)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"P3 1 1 65535 1 2 3", "colour images of more than 8 bits in PPM"),
        (tiff(np.dstack([COLOUR, GREY]), photometric="separated"), "4 channels of uint16"),
        (tiff(COLOUR.astype(np.float32)), "3 channels of float32"),
        (tiff(GREY.astype(np.complex64)), "complex64"),
        (
            tiff(np.dstack([GREY] * 2).astype(np.float32), photometric="minisblack", planarconfig="contig"),
            "2 chan",
        ),
        (tiff(np.dstack([COLOUR, COLOUR]), extrasamples=[0, 0, 0]), "6 channels of uint16"),
    ],
    ids=["ppm-plain", "cmyk", "float-colour", "complex", "two-channels", "six-channels"],
)
def test_what_can_not_be_shown_by_a_stated_rule_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(UnsupportedImageError, match=rf"{words}.* not supported; .*; convert"):
        decode(data)


@pytest.mark.parametrize(
    "data", [packed(GREY, "PNG"), tiff(COLOUR), imagecodecs.png_encode(COLOUR), tiff(GREY, ">", "miniswhite")]
)
def test_truncated_deep_images_are_unreadable(data: bytes) -> None:
    for size in (len(data) // 2, len(data) - 40, 60):
        with pytest.raises(UnreadableImageError):
            decode(data[:size])


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setattr("featprobe.datasets.formats.tiff.installed", lambda: False)
    for data in (imagecodecs.png_encode(COLOUR), tiff(COLOUR)):
        with pytest.raises(
            MissingExtraError, match=r"16-bit colour images .* imagecodecs.*featprobe\[tiff\]"
        ):
            decode(data)
    assert np.array_equal(decode(tiff(GREY)).values, GREY)
    with pytest.raises(UnreadableImageError, match="Pillow can identify"):
        decode(tiff(GREY, ">", "miniswhite"))


def test_a_bomb_in_sixteen_bits_is_refused_by_its_header() -> None:
    for head in (b"P5 20000 10000 65535 ", b"P6 20000 10000 65535 "):
        with pytest.raises(UnreadableImageError, match="more than the limit of 178,956,970"):
            decode(head)
    for values in (COLOUR, GREY.astype(np.float16)):
        data = bytearray(tiff(values))
        with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
            tags = file.pages[0].tags
            for tag in (tags[256], tags[257]):
                size = 2 if int(tag.dtype) == 3 else 4
                data[tag.valueoffset : tag.valueoffset + size] = (60_000).to_bytes(size, "little")
        with pytest.raises(UnreadableImageError, match="more than the limit of 178,956,970"):
            decode(bytes(data))


def test_a_damaged_tiff_header_costs_neither_memory_nor_invented_pixels() -> None:
    data = tiff(COLOUR, tile=(16, 16))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages[0].tags
        width, height, counts = tags[256], tags[257], tags[325]
    many = bytearray(data)
    many[width.offset + 4 : width.offset + 8] = (200).to_bytes(4, "little")  # the width is 200 numbers
    many[width.offset + 8 : width.offset + 12] = bytes(4)
    with pytest.raises(UnreadableImageError):
        decode(bytes(many))
    tall = bytearray(data)
    tall[height.valueoffset : height.valueoffset + 2] = (4000).to_bytes(2, "little")
    empty = bytearray(data)
    empty[counts.valueoffset : counts.valueoffset + 2] = bytes(2)
    for damaged in (tall, empty):
        with pytest.raises(UnreadableImageError, match="pixels are missing"):
            decode(bytes(damaged))
