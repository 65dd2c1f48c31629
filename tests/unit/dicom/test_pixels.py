from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", minversion="3.0")

from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from featprobe.datasets.decoding import UnreadableImageError, UnsupportedImageError
from featprobe.datasets.formats import dicom
from featprobe.imaging import encode_raster

RAMP = np.arange(12, dtype=np.int16).reshape(3, 4) * 100 - 300


# Values


def test_values_are_in_modality_units_and_as_small_as_is_exact(make):
    for slope, intercept, kind in ((1, 0, np.int16), (1, -1024, np.int16), (100, 0, np.int32)):
        raster = make.read(RAMP, RescaleSlope=slope, RescaleIntercept=intercept)
        assert raster.values.dtype == kind
        np.testing.assert_array_equal(raster.values, RAMP.astype(float) * slope + intercept)
    assert make.read(RAMP, RescaleSlope=1 / 256, RescaleIntercept=0).values.dtype == np.float32
    assert make.read(RAMP + 1, RescaleSlope=0.1, RescaleIntercept=0).values.dtype == np.float64
    assert make.read(RAMP.astype(np.uint16) % 4096, BitsStored=12, HighBit=11).values.dtype == np.uint16


def test_rescale_needs_slope_and_intercept(make):
    np.testing.assert_array_equal(make.read(RAMP, RescaleSlope=2).values, RAMP)


def test_a_modality_lut_clamps_at_both_ends_and_wins_over_rescale(make):
    stored = np.array([[-9, -2, 0], [1, 2, 300]], dtype=np.int16)
    table = make.lut(-2, 16, [10, 20, 30, 40, 50000])
    raster = make.read(stored, ModalityLUTSequence=table, RescaleSlope=3, RescaleIntercept=1)
    np.testing.assert_array_equal(raster.values, [[10, 10, 30], [40, 50000, 50000]])
    assert raster.shown is None


def test_big_endian_implicit_deflated_and_rle_give_the_same_pixels(make):
    voi = {"WindowCenter": 0, "WindowWidth": 900, "RescaleSlope": 1, "RescaleIntercept": 5}
    plain = make.read(RAMP, **voi)
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        other = dicom.decode(make.written(make.image(RAMP, syntax, **voi)))
        assert encode_raster(other) == encode_raster(plain)
        assert other.values.dtype.isnative
    packed = make.image(RAMP, **voi)
    packed.compress(RLELossless)
    assert encode_raster(dicom.decode(make.written(packed))) == encode_raster(plain)


def test_float_pixels_and_what_is_no_number(make):
    for kind in (np.float32, np.float64):
        stored = np.array([[0.25, -7.5], [1e30, np.nan]], dtype=kind)
        raster = make.read(stored)
        np.testing.assert_array_equal(raster.values, np.array([[0.25, -7.5], [1e30, -7.5]], dtype=kind))
        windowed = make.read(stored, WindowCenter=0, WindowWidth=10)
        np.testing.assert_array_equal(windowed.shown, [[149, 0], [255, 0]])
    with pytest.raises(UnreadableImageError, match="finite number"):
        make.read(np.full((2, 2), np.inf, dtype=np.float32))


def test_eight_bits_stay_as_they_are_and_masks_become_visible(make):
    eight = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert make.read(eight).shown is None
    assert np.asarray(make.read(eight).rgb())[..., 0].tolist() == eight.tolist()
    assert np.asarray(make.read(eight, PhotometricInterpretation="MONOCHROME1").rgb())[0, 1, 0] == 254
    bits = make.image(eight, BitsAllocated=1, BitsStored=1, HighBit=0, Rows=2, Columns=8)
    bits.PixelData = b"\x03\x80"
    np.testing.assert_array_equal(
        dicom.decode(make.written(bits)).shown, [[255, 255, 0, 0, 0, 0, 0, 0], [0] * 7 + [255]]
    )


def test_one_by_one(make):
    raster = make.read(np.array([[7]], dtype=np.int16), WindowCenter=7, WindowWidth=2)
    assert raster.values.shape == raster.shown.shape == (1, 1)


# Presentation


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # PS3.3 C.11.2.1.2.1: x <= c - .5 - (w - 1) / 2 is black; C.11.2.1.3.2: linear from c - w / 2.
        ("LINEAR", [0, 0, 85, 170, 255, 255]),
        ("LINEAR_EXACT", [0, 0, 64, 128, 191, 255]),
        ("SIGMOID", [5, 30, 69, 128, 186, 225]),
    ],
)
def test_the_three_window_functions(make, function, expected):
    stored = np.array([[-1998, 0, 1, 2, 3, 4]], dtype=np.int16)
    if function == "SIGMOID":
        stored[0, 0] = -2  # 255 / (1 + exp(4)) = 4.6
    raster = make.read(stored, WindowCenter=2, WindowWidth=4, VOILUTFunction=function)
    assert raster.shown.tolist() == [expected]


def test_a_window_works_on_modality_values_and_the_first_of_several_counts(make):
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1000, "VOILUTFunction": "LINEAR_EXACT"}
    raster = make.read(
        np.array([[400, 500, 600]], np.int16), WindowCenter=[0, 9], WindowWidth=[400, 1], **tags
    )
    assert raster.shown.tolist() == [[0, 128, 255]]


def test_negative_slopes_keep_small_modality_values_dark(make):
    raster = make.read(
        np.array([[0, 100]], np.int16), RescaleSlope=-1, RescaleIntercept=0, WindowCenter=-50, WindowWidth=80
    )
    assert raster.shown.tolist() == [[255, 0]]


def test_windows_that_the_standard_forbids_count_as_none(make):
    for centre, width, function in (
        (0, 0.5, "LINEAR"),
        (0, 0, "SIGMOID"),
        (0, -3, "LINEAR_EXACT"),
        (0, 9, "CUBE"),
    ):
        assert make.read(RAMP, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function).shown is None
    assert make.read(RAMP, WindowCenter=0, WindowWidth=None).shown is None
    assert make.read(np.array([[1, 2]], np.int16), WindowCenter=2, WindowWidth=1).shown.tolist() == [[0, 255]]


def test_a_voi_lut_wins_over_the_window(make):
    stored = np.array([[0, 1, 2, 3, 900]], dtype=np.uint16)
    tags = {"WindowCenter": 1, "WindowWidth": 2, "VOILUTSequence": make.lut(1, 12, [0, 1365, 4095])}
    assert make.read(stored, **tags).shown.tolist() == [[0, 0, 85, 255, 255]]


def test_a_voi_lut_of_eight_bits_for_more_than_256_values_does_not_wrap(make):
    stored = np.array([[0, 255, 256, 2048, 4095]], dtype=np.uint16)
    raster = make.read(
        stored, BitsStored=12, HighBit=11, VOILUTSequence=make.lut(0, 8, np.arange(4096) // 16)
    )
    assert raster.shown.tolist() == [[0, 15, 16, 128, 255]]


def test_a_voi_lut_after_a_rescale_and_in_implicit_vr(make):
    table = make.lut(-10, 16, [0, 0x8000, 0xFFFF])
    ds = make.image(
        np.array([[0, 1, 2]], np.int16), ImplicitVRLittleEndian, VOILUTSequence=table,
        RescaleSlope=1, RescaleIntercept=-10,
    )  # fmt: skip
    assert dicom.decode(make.written(ds)).shown.tolist() == [[0, 128, 255]]


def test_monochrome1_and_inverse_are_inverted_once(make):
    window = {"WindowCenter": 200, "WindowWidth": 1000}
    plain = make.read(RAMP, **window)
    assert not plain.inverted
    for tags in (
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ):
        raster = make.read(RAMP, **tags, **window)
        assert raster.inverted
        np.testing.assert_array_equal(raster.shown, 255 - plain.shown)
        np.testing.assert_array_equal(raster.values, plain.values)
    assert make.read(RAMP, PhotometricInterpretation="MONOCHROME1").shown is None


def test_padding_moves_no_minimum_and_is_black(make):
    stored = RAMP.copy()
    stored[0] = -2000
    window = {"WindowCenter": 300, "WindowWidth": 1000}
    for extra in (
        {"PixelPaddingValue": -2000},
        {"PixelPaddingValue": -1900, "PixelPaddingRangeLimit": -2100},
    ):
        raster = make.read(stored, **extra, **window)
        assert raster.values.min() == RAMP[1:].min()
        assert (raster.values[0] == RAMP[1:].min()).all()
        assert (raster.shown[0] == 0).all()
        np.testing.assert_array_equal(raster.values[1:], RAMP[1:])
        inverted = make.read(stored, PhotometricInterpretation="MONOCHROME1", **extra, **window)
        assert (inverted.values[0] == RAMP.max()).all()
        assert (inverted.shown[0] == 0).all()
        assert (
            np.asarray(make.read(stored, PhotometricInterpretation="MONOCHROME1", **extra).rgb())[0] == 0
        ).all()


def test_padding_written_with_the_wrong_sign_is_understood(make):
    stored = np.array([[-2000, 5, 9]], dtype=np.int16)
    ds = make.image(stored)
    ds.add_new("PixelPaddingValue", "US", 2**16 - 2000)
    assert dicom.decode(make.written(ds)).values.tolist() == [[5, 5, 9]]


def test_an_image_of_padding_alone_is_flat(make):
    assert make.read(np.full((2, 2), -5, np.int16), PixelPaddingValue=-5).values.tolist() == [
        [-5, -5],
        [-5, -5],
    ]


# Colour


def test_colour_by_pixel_and_by_plane(make):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    plain = make.read(pixels, **make.rgb_tags())
    np.testing.assert_array_equal(plain.values, pixels)
    assert plain.shown is None
    ds = make.image(pixels, **make.rgb_tags(PlanarConfiguration=1))
    ds.PixelData = pixels.transpose(2, 0, 1).tobytes()
    np.testing.assert_array_equal(dicom.decode(make.written(ds)).values, pixels)


def test_ybr_becomes_rgb_and_sixteen_bits_are_shown_in_eight(make):
    red = np.array([[[76, 85, 255]]], dtype=np.uint8)
    raster = make.read(red, **make.rgb_tags(PhotometricInterpretation="YBR_FULL"))
    assert np.abs(raster.values.astype(int) - [[[254, 0, 0]]]).max() <= 1
    deep = make.read(np.array([[[0, 32768, 65535]]], np.uint16), **make.rgb_tags())
    assert deep.values.dtype == np.uint16
    assert deep.shown.tolist() == [[[0, 128, 255]]]


def test_palettes_of_8_and_16_bits(make):
    stored = np.array([[0, 1, 2, 9]], dtype=np.uint8)
    for bits, kind, top in ((8, np.uint8, 255), (16, "<u2", 65535)):
        ds = make.image(stored, PhotometricInterpretation="PALETTE COLOR")
        for c, colour in enumerate(("Red", "Green", "Blue")):
            ds.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [4, 0, bits])
            entries = np.array([0, c * top // 2, top, top // 3], dtype=kind)
            ds.add_new(f"{colour}PaletteColorLookupTableData", "OW", entries.tobytes())
        raster = dicom.decode(make.written(ds))
        assert np.asarray(raster.rgb()).tolist() == [[[0] * 3, [0, 127, 255], [255] * 3, [85] * 3]]
        assert (raster.shown is None) == (bits == 8)


@pytest.mark.parametrize("model", ["HSV", "ARGB", "CMYK", "YBR_PARTIAL_422"])
def test_colour_models_that_pydicom_does_not_convert_are_named(make, model):
    with pytest.raises(UnsupportedImageError, match=model):
        make.read(np.zeros((2, 2, 3), np.uint8), **make.rgb_tags(PhotometricInterpretation=model))


# Several frames


def test_frames_one_by_one(make, tmp_path: Path):
    stack = np.stack([RAMP, RAMP + 1, RAMP * 2])
    path = tmp_path / "stack.dcm"
    path.write_bytes(make.written(make.image(stack)))
    frames = dicom.open_frames(path)
    assert len(frames) == dicom.survey(path).frames == 3
    for k in range(3):
        np.testing.assert_array_equal(frames[k].values, stack[k])
        np.testing.assert_array_equal(dicom.frame(path, k).values, stack[k])
        np.testing.assert_array_equal(dicom.frame(path.read_bytes(), k).values, stack[k])
    np.testing.assert_array_equal(dicom.decode(path.read_bytes()).values, stack[0])
    for k in (-1, 3):
        with pytest.raises(IndexError):
            frames[k]


def test_functional_groups_hold_frame_by_frame(make):
    frames = np.stack([RAMP] * 3)
    shared = make.group(
        PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": 0},
        FrameVOILUTSequence={"WindowCenter": 0, "WindowWidth": 200, "VOILUTFunction": "LINEAR_EXACT"},
    )
    own = make.group(
        PixelValueTransformationSequence={"RescaleSlope": 1, "RescaleIntercept": 7},
        FrameVOILUTSequence={
            "WindowCenter": [107, 3],
            "WindowWidth": [400, 1],
            "VOILUTFunction": "LINEAR_EXACT",
        },
    )
    ds = make.image(
        frames, SharedFunctionalGroupsSequence=[shared], RescaleSlope=1, RescaleIntercept=0,
        PerFrameFunctionalGroupsSequence=[Dataset(), own, make.group(FrameVOILUTSequence={"WindowCenter": 1})],
    )  # fmt: skip
    ours = dicom.open_frames(make.written(ds))
    np.testing.assert_array_equal(ours[0].values, RAMP * 2)
    np.testing.assert_array_equal(ours[1].values, RAMP + 7)
    np.testing.assert_array_equal(ours[2].values, RAMP * 2)
    assert ours[0].shown.ravel()[:7].tolist() == [0, 0, 0, 128, 255, 255, 255]
    assert ours[1].shown.ravel()[:7].tolist() == [0, 0, 0, 64, 128, 191, 255]
    assert ours[2].shown is None
