"""Every frame of every test file that pydicom ships equals pydicom's own functions, one after the other.

Files that pydicom would have to download are not looked at. What can't be decoded is pinned with its reason.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", minversion="3.0")
pytest.importorskip("openjpeg")
pytest.importorskip("libjpeg")

from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array  # noqa: E402

from featprobe.datasets.decoding import UnreadableImageError  # noqa: E402
from featprobe.datasets.formats import dicom  # noqa: E402

ROOT = Path(pydicom.__file__).parent / "data" / "test_files"
KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

UNDECODABLE = {
    "JPEG-lossy.dcm": dicom.BAD_PIXELS,  # a misplaced JPEG marker; only GDCM forgives it
    # The frame ends within the codestream's header, whose sides are then read from what follows.
    "JPEG2000-embedded-sequence-delimiter.dcm": "3,722,445,056 x 1,024 pixels, more than the limit of 178,956,970",
    "MR_truncated.dcm": dicom.BAD_PIXELS,  # 8130 of 8192 bytes
    "badVR.dcm": dicom.DAMAGED,  # NumberOfFrames is "1A"
    "meta_missing_tsyntax.dcm": dicom.DAMAGED,  # neither a transfer syntax nor rows and columns
    "nested_priv_SQ.dcm": dicom.DAMAGED,  # neither rows nor columns
}
N_FILES, N_DECODED, N_FRAMES = 95, 89, 163


def quietly(function):
    @functools.wraps(function)
    def wrapped(*arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*arguments)

    return wrapped


@quietly
def with_pixels() -> list[Path]:
    found = []
    for path in sorted(path for path in ROOT.rglob("*") if path.is_file()):
        ds = pydicom.dcmread(path, force=True)
        if any(keyword in ds for keyword in KEYWORDS):
            found.append(path)
    return found


@quietly
def frames_by_pydicom(path: Path) -> tuple[Any, list[Any]]:
    ds = pydicom.dcmread(path)
    pixels = pixel_array(ds)
    return ds, list(pixels) if int(ds.get("NumberOfFrames") or 1) > 1 else [pixels]


@quietly
def presented(values, ds) -> Any:
    """pydicom's VOI output as exact grey levels, 0 to 255; None without window or LUT."""
    if "WindowCenter" not in ds:
        return None
    low, high = (0, 2**ds.BitsStored - 1) if not ds.PixelRepresentation else (-(2**15), 2**15 - 1)
    if ds.PixelRepresentation and ds.BitsStored != 16:
        low, high = -(2 ** (ds.BitsStored - 1)), 2 ** (ds.BitsStored - 1) - 1
    slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
    low, high = low * slope + intercept, high * slope + intercept
    level = (apply_voi_lut(values, ds) - low) / (high - low) * 255
    return 255 - level if ds.PhotometricInterpretation == "MONOCHROME1" else level


def test_the_files_with_pixels_are_the_ones_we_know():
    paths = with_pixels()
    assert len(paths) == N_FILES
    assert {path.name for path in paths} >= set(UNDECODABLE)


def test_every_frame_equals_pydicom():
    decoded = n_frames = 0
    for path in with_pixels():
        if path.name in UNDECODABLE:
            continue
        ds, stored = frames_by_pydicom(path)
        data = path.read_bytes()
        assert dicom.is_dicom(data)
        ours = dicom.open_frames(data)
        facts = dicom.survey(path)
        assert len(ours) == len(stored) == facts.frames, path
        for number, pixels in enumerate(stored):
            compare(path, ds, pixels, ours[number])
            n_frames += 1
        decoded += 1
    assert (decoded, n_frames) == (N_DECODED, N_FRAMES)


def compare(path: Path, ds: Any, stored: Any, raster: Any) -> None:
    assert raster.format == "DICOM"
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, ds)
    if stored.ndim == 3:
        np.testing.assert_array_equal(raster.values, stored, err_msg=path.name)
        if stored.dtype == np.uint8:
            assert raster.shown is None
        else:
            exact = stored / np.iinfo(stored.dtype).max * 255
            assert np.abs(raster.shown - exact).max() <= 0.5 + 1e-9, path
        return
    values = apply_modality_lut(stored, ds)
    padded = stored == ds.PixelPaddingValue if "PixelPaddingValue" in ds else np.zeros(stored.shape, bool)
    np.testing.assert_array_equal(raster.values[~padded], values[~padded], err_msg=path.name)
    assert (raster.values[padded] == values[~padded].min()).all(), path
    assert raster.inverted == (ds.PhotometricInterpretation == "MONOCHROME1")
    exact = presented(values, ds)
    if ds.BitsStored == 1:
        exact = values * 255.0
    assert (raster.shown is None) == (exact is None), path
    if exact is not None:
        assert np.abs(raster.shown[~padded] - exact[~padded]).max() <= 0.5 + 1e-9, path
        assert (raster.shown[padded] == 0).all()


@pytest.mark.parametrize("name", sorted(UNDECODABLE))
def test_what_we_cannot_decode_pydicom_cannot_either(name):
    data = (ROOT / name).read_bytes()
    with pytest.raises(UnreadableImageError) as caught:
        dicom.decode(data)
    assert str(caught.value) == UNDECODABLE[name]
    with pytest.raises((RuntimeError, ValueError, AttributeError)):
        frames_by_pydicom(ROOT / name)
