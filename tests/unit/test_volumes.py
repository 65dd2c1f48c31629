"""Volumes as rows: read whole, brought to 8 bits as their slices are, and to a 3-D input by a stated resize."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch.nn import functional

from featprobe.datasets import UnreadableImageError, open_dataset
from featprobe.datasets.base import DatasetOptions
from featprobe.datasets.decoding import decode
from featprobe.datasets.stacks import SliceRule, expand, parse_slices, read_part, slices_of
from featprobe.errors import ConfigError
from featprobe.imaging import (
    AUTO,
    Raster,
    Reference,
    decode_raster,
    encode_raster,
    parse_intensity,
    print_of,
    print_of_raster,
)
from featprobe.loading import Batch, batches
from featprobe.loading import volumes as volume_inputs
from featprobe.records import Preprocessing

WHOLE = SliceRule("axial", "volume")
CUBE = Preprocessing((12, 10), "squash", None, "trilinear", (0.5,), (0.25,), depth=8)
RNG = np.random.default_rng(0)


def smooth(*sides: int) -> np.ndarray[Any, Any]:
    coarse = RNG.normal(100, 40, (3, 3, 3)).astype(np.float32)
    grown = functional.interpolate(torch.from_numpy(coarse)[None, None], size=sides, mode="trilinear")
    return np.asarray(grown[0, 0])


def save(path: Path, data: Any, spacing: tuple[float, float, float] = (1, 1, 1)) -> None:
    nibabel.save(nibabel.Nifti1Image(np.asarray(data), np.diag([*spacing, 1.0])), path)


def whole(path: Path, rule: SliceRule = WHOLE) -> Raster:
    return decode(read_part(path, 0, rule))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of two volumes each, of several sizes and spacings."""
    for number, label in enumerate(("a", "a", "b", "b")):
        (tmp_path / "set" / label).mkdir(parents=True, exist_ok=True)
        path = tmp_path / "set" / label / f"v{number}.nii.gz"
        save(path, smooth(9 + number, 14, 11), (1, 1, 1 + number))
    return tmp_path / "set"


def opened(folder: Path, slices: str = "volume") -> Any:
    return open_dataset(str(folder), DatasetOptions(slices=slices, group_regex="v."))


def loaded(data: Any, *rules: Preprocessing, workers: int = 0) -> Batch:
    (batch,) = batches(data, np.arange(len(data.samples)), rules, batch_size=8, workers=workers)
    return batch


def test_a_volume_is_one_row(folder: Path) -> None:
    data = opened(folder)
    assert data.samples.id.tolist() == ["a/v0.nii.gz", "a/v1.nii.gz", "b/v2.nii.gz", "b/v3.nii.gz"]
    assert "4 volumes of 44 slices, one row each (--slices volume)" in data.notes
    assert len(opened(folder, "all").samples) == 44
    assert parse_slices(" Volume ") == ("volume", 0)
    with pytest.raises(ConfigError, match="volume takes no number"):
        SliceRule("axial", "volume:2")
    with pytest.raises(ConfigError, match=r"can't be used with this data set; .*type --slices all"):
        slices_of(smooth(3, 3, 3), 0, "volume")


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_the_slices_of_a_volume_are_those_read_alone(axis: str, tmp_path: Path) -> None:
    values = smooth(7, 9, 11).transpose(1, 0, 2)
    affine = np.array([[0, -1.0, 0, 3], [1, 0, 0, 2], [0, 0, 1, 1], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "a.nii")
    volume = whole(tmp_path / "a.nii", SliceRule(axis, "volume"))
    levels = volume.levels()
    assert volume.is_volume
    assert levels.dtype == np.uint8
    for number in range(len(levels)):
        alone = decode(read_part(tmp_path / "a.nii", number, SliceRule(axis)))
        assert np.array_equal(volume.values[number], alone.values)
        assert np.array_equal(levels[number], np.asarray(alone.rgb())[..., 0])
        for rule in ("window:90:60", "zscore-nonzero:2", "percentile:5:95"):
            way = parse_intensity(rule)
            assert np.array_equal(volume.levels(way)[number], np.asarray(alone.rgb(way))[..., 0])


def test_spacing_follows_the_axes(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", smooth(4, 5, 6), (1.0, 2.0, 3.0))
    for axis, shape, spacing in (
        ("axial", (6, 5, 4), (3.0, 2.0, 1.0)),
        ("coronal", (5, 6, 4), (2.0, 3.0, 1.0)),
        ("sagittal", (4, 6, 5), (1.0, 3.0, 2.0)),
    ):
        volume = whole(tmp_path / "a.nii", SliceRule(axis, "volume"))
        assert volume.values.shape == shape
        assert volume.spacing == spacing
        assert (volume.height, volume.width) == shape[1:]


def test_pages_and_frames_are_volumes_where_they_fit_together(tmp_path: Path) -> None:
    pages = RNG.integers(0, 4000, (4, 12, 10), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    tifffile.imwrite(tmp_path / "single.tif", pages[0])
    tifffile.imwrite(tmp_path / "flat.tif", np.full((3, 8, 8), 7, np.uint16), photometric="minisblack")
    tifffile.imwrite(tmp_path / "colour.tif", RNG.integers(0, 9, (2, 8, 8, 3), np.uint8), photometric="rgb")
    with tifffile.TiffWriter(tmp_path / "sizes.tif") as writer:
        writer.write(pages[0], photometric="minisblack")
        writer.write(pages[0, 1:], photometric="minisblack")
    names = ["stack.tif", "single.tif", "flat.tif", "colour.tif", "sizes.tif"]
    rows = expand(tmp_path, names, WHOLE)
    assert rows.part.tolist() == [0, -1, 0, 0, 0]
    assert rows.suffix == [""] * 5
    volume = whole(tmp_path / "stack.tif")
    assert np.array_equal(volume.values, pages)
    assert volume.spacing == (1.0, 1.0, 1.0)
    assert volume.reference is not None
    for name, words in (("flat", "one grey level"), ("colour", "coloured"), ("sizes", "several sizes")):
        with pytest.raises(UnreadableImageError, match=words):
            whole(tmp_path / f"{name}.tif")


def test_frames_of_a_dicom_file_are_a_volume(tmp_path: Path) -> None:
    from tests.unit.test_stacks import multiframe

    frames = RNG.integers(0, 3000, (3, 8, 9), dtype=np.uint16)
    multiframe(tmp_path / "mr.dcm", frames)
    multiframe(tmp_path / "one.dcm", frames[:1])
    rows = expand(tmp_path, ["mr.dcm", "one.dcm"], WHOLE)
    assert (rows.part.tolist(), rows.patient) == ([0, -1], ["secret"] * 2)
    assert np.array_equal(whole(tmp_path / "mr.dcm").values, frames)


def test_a_flat_volume_is_quarantined(tmp_path: Path) -> None:
    save(tmp_path / "flat.nii", np.full((4, 4, 4), 7, np.int16))
    save(tmp_path / "good.nii", smooth(4, 4, 4))
    rows = expand(tmp_path, ["flat.nii", "good.nii"], WHOLE)
    assert rows.part.tolist() == [-1, 0]
    assert "1 volumes are of one grey level and are quarantined" in rows.notes
    with pytest.raises(UnreadableImageError, match="one grey level"):
        decode(read_part(tmp_path / "flat.nii", -1, WHOLE))


def test_a_volume_survives_being_written_down() -> None:
    values = RNG.integers(-500, 500, (3, 4, 5)).astype(np.int16)
    volume = Raster(values, "NIfTI", reference=Reference.of(values), spacing=(2.5, 1.0, 0.5))
    back = decode_raster(encode_raster(volume))
    assert back.spacing == (2.5, 1.0, 0.5)
    assert np.array_equal(back.values, values)
    assert encode_raster(back) == encode_raster(volume)
    assert b"spacing" not in encode_raster(Raster(values[0], "NIfTI"))


def test_prints_of_volumes_cover_every_voxel_and_show_the_middle() -> None:
    values = RNG.integers(0, 256, (5, 20, 30)).astype(np.uint8)
    volume = Raster(values, "TIFF", spacing=(1, 1, 1))
    look, middle = print_of_raster(volume), print_of(Raster(values[2], "TIFF").rgb())
    assert look.pixel_sha256 == hashlib.sha256(b"5x20x30:" + values.tobytes()).hexdigest()
    assert look.phash == middle.phash
    assert np.array_equal(look.thumbnail, middle.thumbnail)
    changed = values.copy()
    changed[0, 0, 0] ^= 1
    assert print_of_raster(Raster(changed, "TIFF", spacing=(1, 1, 1))).pixel_sha256 != look.pixel_sha256
    flat = Raster(values[2], "TIFF")
    assert print_of_raster(flat).pixel_sha256 == print_of(flat.rgb()).pixel_sha256
    assert flat.middle() is flat
    assert np.array_equal(np.asarray(volume.middle().rgb())[..., 0], values[2])


def test_images_and_volumes_are_not_taken_for_each_other(folder: Path) -> None:
    flat = dataclasses.replace(CUBE, depth=None, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ConfigError, match=r"^a/v0\.nii\.gz: a volume of 11 x 14 x 9 .*type --slices all"):
        loaded(opened(folder), flat)
    with pytest.raises(ConfigError, match=r"^a/v0\.nii\.gz#z000: an image of .*type --slices volume"):
        loaded(opened(folder, "all"), CUBE, workers=1)
    for slices in ("volume", "all"):
        with pytest.raises(ConfigError, match="2-D and 3-D backbones can't be run over the same rows"):
            loaded(opened(folder, slices), CUBE, flat)
    volume = Raster(smooth(3, 4, 5), "NIfTI", spacing=(1, 1, 1))
    with pytest.raises(ConfigError, match="3 x 4 x 5 voxels is no image"):
        volume.rgb()
    with pytest.raises(ConfigError, match="three channels; a volume has one"):
        volume.levels(parse_intensity("window:1:2,window:2:3,window:3:4"))


@pytest.mark.parametrize("workers", [0, 2])
def test_volumes_become_batches(folder: Path, workers: int) -> None:
    other = dataclasses.replace(CUBE, fit="pad", pad_value=20)
    batch = loaded(opened(folder), CUBE, other, CUBE.one("hflip"), CUBE.one("vflip"), workers=workers)
    assert [tuple(images.shape) for images in batch.images] == [(4, 1, 8, 12, 10)] * 4
    assert {images.dtype for images in batch.images} == {torch.float32}
    assert batch.size.tolist() == [[14, 9], [14, 10], [14, 11], [14, 12]]
    assert torch.equal(batch.images[2], batch.images[0].flip(-1))
    assert torch.equal(batch.images[3], batch.images[0].flip(-2))
    data = opened(folder)
    for row in range(4):
        levels = data.decode(data.read(row)).levels(AUTO)
        expected = (volume_inputs.resized(levels, (8, 12, 10)) / np.float32(255) - 0.5) / 0.25
        np.testing.assert_allclose(batch.images[0][row, 0], expected, atol=1e-6)
    good = (folder / "a" / "v0.nii.gz").read_bytes()
    (folder / "a" / "v0.nii.gz").write_bytes(good[:40])
    (empty,) = batches(data, np.array([0]), [CUBE], batch_size=1, workers=workers)
    assert empty.images[0].shape == (0, 1, 8, 12, 10)
    assert empty.quarantined == ((0, "the NIfTI file is truncated or damaged"),)


def test_growing_is_trilinear_and_shrinking_is_antialiased() -> None:
    levels = RNG.integers(0, 256, (6, 7, 5)).astype(np.uint8)
    grown = volume_inputs.resized(levels, (11, 9, 13))
    plain = functional.interpolate(
        torch.from_numpy(levels)[None, None].float(), size=(11, 9, 13), mode="trilinear"
    )
    assert np.abs(grown - np.asarray(plain[0, 0])).max() <= 0.501
    # A plane is resized as Pillow resizes an image of one channel, but for one rounding.
    flat = RNG.integers(0, 256, (1, 40, 50)).astype(np.uint8)
    theirs = np.asarray(Image.fromarray(flat[0]).resize((12, 9), Image.Resampling.BILINEAR))
    ours = volume_inputs.resized(flat, (1, 9, 12))
    assert np.abs(ours[0].astype(int) - theirs).max() <= 1
    fine = np.zeros((64, 4, 4), dtype=np.uint8)
    fine[::2] = 200
    assert np.abs(volume_inputs.resized(fine, (8, 4, 4)).astype(int) - 100).max() <= 13
    assert volume_inputs.resized(levels, (6, 7, 5)) is levels


def test_a_resize_does_not_depend_on_how_much_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = RNG.integers(0, 256, (9, 17, 15)).astype(np.uint8)
    at_once = volume_inputs.resized(levels, (5, 20, 6))
    monkeypatch.setattr(volume_inputs, "_VOXELS_AT_ONCE", 1)
    assert np.array_equal(volume_inputs.resized(levels, (5, 20, 6)), at_once)


def fitted(values: np.ndarray[Any, Any], spacing: tuple[float, float, float], rule: Preprocessing) -> Any:
    raster = Raster(values, "TIFF", spacing=spacing)
    (pixels,), _ = volume_inputs.volume_inputs_of(raster, [rule])
    return pixels[0]


def test_pad_keeps_the_aspect_that_the_spacing_gives() -> None:
    bright = np.full((10, 20, 20), 200, dtype=np.uint8)
    bright[0, 0, 0] = 199
    rule = Preprocessing((40, 40), "pad", None, "trilinear", (0.0,), (1.0,), depth=40, pad_value=9)
    for spacing, inner in (((1, 1, 1), (20, 40, 40)), ((2, 1, 1), (40, 40, 40)), ((4, 1, 2), (40, 20, 40))):
        found = fitted(bright, spacing, rule)
        inside = np.argwhere(found > 150)
        assert tuple(inside.max(0) - inside.min(0) + 1) == inner
        assert set(np.unique(found)) <= {9, *range(190, 201)}
        assert abs(int(inside.min(0).sum() * 2 + sum(inner)) - 120) <= 3  # it lies in the middle


def test_crop_covers_the_input_and_cuts_its_middle_or_a_corner() -> None:
    ramp = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None] * 10, (20, 20, 20)) + np.arange(
        20, dtype=np.uint8
    )
    rule = Preprocessing((10, 10), "crop", 20, "trilinear", (0.0,), (1.0,), depth=10)
    cube = np.ascontiguousarray(ramp, dtype=np.uint8)
    assert np.array_equal(fitted(cube, (1, 1, 1), rule), cube[5:15, 5:15, 5:15])
    assert np.array_equal(fitted(cube, (1, 1, 1), rule.one("crop:tl")), cube[5:15, :10, :10])
    assert np.array_equal(fitted(cube, (1, 1, 1), rule.one("crop:tr")), cube[5:15, :10, 10:])
    assert np.array_equal(fitted(cube, (1, 1, 1), rule.one("crop:bl")), cube[5:15, 10:, :10])
    assert np.array_equal(fitted(cube, (1, 1, 1), rule.one("crop:br")), cube[5:15, 10:, 10:])
    thick = cube[::2]  # the same body in slices of 2 mm: its spacing makes cubes of the voxels again
    assert np.abs(fitted(thick, (2, 1, 1), rule).astype(int) - cube[5:15, 5:15, 5:15]).max() <= 1
    wide = Preprocessing((6, 12), "crop", 6, "trilinear", (0.0,), (1.0,), depth=6)
    assert fitted(cube, (1, 1, 1), wide).shape == (6, 6, 12)
    thin = RNG.integers(0, 9, (2, 200, 200)).astype(np.uint8)
    large = Preprocessing((96, 96), "crop", 96, "trilinear", (0.0,), (1.0,), depth=96)
    with pytest.raises(ConfigError, match="scales it to 96 x 9600 x 9600 voxels"):
        fitted(thin, (1, 1, 1), large)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interpolation": "bicubic"}, "known: trilinear"),
        ({"fit": "stretch"}, "fits are crop, pad, squash"),
        ({"fit": "crop"}, "no size to resize to"),
        ({"fit": "crop", "resize": 9}, "at least as large"),
        ({"antialias": False}, "antialias"),
        ({"views": ("hflip", "plain")}, "2 views"),
        ({"intensity": "windw"}, "no rule for intensities"),
    ],
)
def test_what_can_not_be_done_to_volumes_is_refused(folder: Path, changes: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        loaded(opened(folder), dataclasses.replace(CUBE, **changes))
