"""Grey levels come to 8 bits by a stated rule, and a raster survives being written down."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from featprobe.errors import ConfigError
from featprobe.imaging import (
    AUTO,
    THUMBNAIL_SIDE,
    Raster,
    Reference,
    canonical_intensity,
    decode_raster,
    encode_raster,
    is_raster,
    parse_intensity,
    print_of,
)

RAMP = np.arange(-1000, 1000, 10, dtype=np.int16).reshape(10, 20)


def levels(raster: Raster, rule: str) -> np.ndarray:
    return np.asarray(raster.rgb(parse_intensity(rule)))


def test_eight_bits_are_taken_as_they_are():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(levels(Raster(grey, "PNG"), "auto"), np.repeat(grey[:, :, None], 3, axis=2))
    colour = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    np.testing.assert_array_equal(levels(Raster(colour, "PNG"), "auto"), colour)
    assert (levels(Raster(grey, "PNG", inverted=True), "auto")[:, :, 0] == 255 - grey).all()


def test_auto_takes_the_files_own_presentation_else_percentiles():
    shown = np.full((10, 20), 7, dtype=np.uint8)
    assert (levels(Raster(RAMP, "DICOM", shown=shown), "auto") == 7).all()
    low, high = np.percentile(RAMP, [0.5, 99.5])
    expected = np.floor(np.clip((RAMP - low) / (high - low), 0, 1) * 255 + 0.5)
    np.testing.assert_array_equal(levels(Raster(RAMP, "TIFF"), "auto")[:, :, 0], expected)


def test_a_window_is_linear_between_its_edges():
    found = levels(Raster(RAMP, "DICOM"), "window:40:400")[:, :, 0]
    assert (found[RAMP <= -160] == 0).all()
    assert (found[RAMP >= 240] == 255).all()
    assert found[RAMP == 40].tolist() == [128]
    np.testing.assert_array_equal(found, levels(Raster(RAMP, "DICOM"), "range:-160:240")[:, :, 0])


def test_three_windows_are_three_channels():
    found = levels(Raster(RAMP, "DICOM"), "window:-600:1500,window:40:400,window:300:1500")
    for channel, rule in enumerate(("window:-600:1500", "window:40:400", "window:300:1500")):
        np.testing.assert_array_equal(
            found[:, :, channel], levels(Raster(RAMP, "DICOM"), rule)[:, :, channel]
        )


def test_a_slice_is_scaled_by_its_volume():
    volume = np.random.default_rng(0).normal(50, 20, (8, 10, 20))
    volume[volume < 20] = 0
    slices = [Raster(part, "NIfTI", reference=Reference.of(volume)) for part in volume]
    low, high = np.percentile(volume, [1, 99])
    for part, raster in zip(volume, slices, strict=True):
        expected = np.floor(np.clip((part - low) / (high - low), 0, 1) * 255 + 0.5)
        assert np.abs(levels(raster, "percentile:1:99")[:, :, 0] - expected).max() <= 1
        inside = volume[volume != 0]
        near, far = inside.mean() - 2 * inside.std(), inside.mean() + 2 * inside.std()
        expected = np.floor(np.clip((part - near) / (far - near), 0, 1) * 255 + 0.5)
        np.testing.assert_array_equal(levels(raster, "zscore-nonzero:2")[:, :, 0], expected)


def test_inverted_images_are_turned_around_and_flat_ones_are_black():
    normal = levels(Raster(RAMP, "DICOM"), "minmax")
    np.testing.assert_array_equal(levels(Raster(RAMP, "DICOM", inverted=True), "minmax"), 255 - normal)
    assert (levels(Raster(np.full((3, 3), 900, dtype=np.uint16), "PNG"), "auto") == 0).all()


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("AUTO", "auto"),
        ("zscore", "zscore:3"),
        ("zscore-nonzero:2.50", "zscore-nonzero:2.5"),
        ("window:40:400.0", "window:40:400"),
        (
            "percentile:0.5:99.5, percentile:0:100,percentile:1:2",
            "percentile:0.5:99.5,percentile:0:100,percentile:1:2",
        ),
    ],
)
def test_a_rule_has_one_spelling_in_the_recipe(typed, canonical):
    assert canonical_intensity(typed) == canonical
    assert canonical_intensity(canonical) == canonical


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "windw:40:400",
        "window:40",
        "window:40:0",
        "window:40:400,window:1:2",
        "range:5:5",
        "percentile:-1:99",
        "percentile:1:nan",
        "minmax:1",
        "zscore:-1",
        "window:40:400,range:0:1,range:0:1",
        "window:a:b",
    ],
)
def test_what_is_no_rule_is_refused_with_the_grammar(typed):
    with pytest.raises(ConfigError, match=r"is no rule for intensities; .*known: auto, window:CENTRE:WIDTH"):
        parse_intensity(typed)


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64]),
        st.one_of(
            st.tuples(st.integers(1, 5), st.integers(1, 5)),
            st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3)),
        ),
        elements={"allow_nan": False, "allow_infinity": False, "min_value": 0, "max_value": 100},
    ),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_a_raster_survives_being_written_down(values, inverted, presented, part):
    shown = np.arange(values.shape[0] * values.shape[1], dtype=np.uint8).reshape(values.shape[:2])
    raster = Raster(
        values,
        "TIFF",
        shown=shown if presented else None,
        inverted=inverted,
        reference=Reference.of(values) if part else None,
    )
    data = encode_raster(raster)
    back = decode_raster(data)
    assert is_raster(data)
    assert not is_raster(b"\x89PNG")
    assert encode_raster(back) == data
    np.testing.assert_array_equal(back.values, values)
    assert back.values.dtype == values.dtype
    assert (back.format, back.inverted) == ("TIFF", inverted)
    if presented:
        np.testing.assert_array_equal(back.shown, shown)
    if part:
        np.testing.assert_array_equal(back.reference.quantiles, raster.reference.quantiles)
        assert back.reference.std_nonzero == raster.reference.std_nonzero
    np.testing.assert_array_equal(np.asarray(back.rgb(AUTO)), np.asarray(raster.rgb(AUTO)))


def test_prints_tell_size_and_pixels_apart_and_blank_images_are_copies_of_nothing():
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    one, same = print_of(Image.fromarray(noise)), print_of(Image.fromarray(noise.copy()))
    assert one.pixel_sha256 == same.pixel_sha256
    assert print_of(Image.fromarray(noise.reshape(60, 40, 3))).pixel_sha256 != one.pixel_sha256
    assert one.thumbnail.shape == (THUMBNAIL_SIDE**2,)
    assert len(one.phash) == 16
    assert not print_of(Image.new("RGB", (30, 30), (9, 9, 9))).phash
    assert print_of(Image.fromarray(noise[:1, :1])).phash == ""
    assert print_of(Image.fromarray(noise[:16, :16])).thumbnail.any()
    small = print_of(Image.fromarray(noise[:15, :40]))
    assert small.phash
    assert not small.thumbnail.any()
