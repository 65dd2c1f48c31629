"""Volumes as hospitals and the internet have them: odd headers, holes in the numbers, damaged files."""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from featprobe.datasets import UnreadableImageError, UnsupportedImageError
from featprobe.datasets.decoding import decode
from featprobe.datasets.formats.nifti import MAX_VOXELS, open_volume, sampled, squared
from featprobe.errors import MissingExtraError

RNG = np.random.default_rng(0)
DATA = RNG.integers(-500, 3000, (4, 5, 6)).astype(np.int16)


def saved(
    path: Path, data: Any = DATA, spacing: tuple[float, ...] = (1, 1, 1), kind: Any = nibabel.Nifti1Image
) -> Path:
    nibabel.save(kind(data, np.diag([*spacing, 1.0])), path)
    return path


def patched(path: Path, *changes: tuple[int, bytes]) -> Path:
    data = bytearray(path.read_bytes())
    for at, value in changes:
        data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


def coded(qform: int, sform: int, spacing: tuple[float, float, float]) -> tuple[tuple[int, bytes], ...]:
    return ((76, struct.pack("<4f", 1, *spacing)), (252, struct.pack("<2h", qform, sform)))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_both_versions_plain_and_packed(suffix: str, kind: Any, tmp_path: Path) -> None:
    plain = saved(tmp_path / "v.nii", kind=kind)
    path = tmp_path / f"v{suffix}"
    path.write_bytes(gzip.compress(plain.read_bytes()) if suffix != ".nii" else plain.read_bytes())
    volume = open_volume(path)
    assert (volume.values.dtype, volume.remarks) == (np.float32, ())
    assert np.array_equal(volume.values, DATA)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i4", "f4", "f8", "i8"])
def test_every_kind_of_number(order: str, dtype: str, tmp_path: Path) -> None:
    data = np.abs(DATA % 100).astype(f"{order}{dtype}")
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(data.dtype)
    path = tmp_path / "v.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4), header), path)
    assert np.array_equal(open_volume(path).values, data)


def test_trailing_sides_of_one_and_flat_images_are_volumes(tmp_path: Path) -> None:
    assert open_volume(saved(tmp_path / "a.nii", DATA[..., None, None])).values.shape == (4, 5, 6)
    flat = open_volume(saved(tmp_path / "b.nii", DATA[..., 0]))
    assert flat.values.shape == (4, 5, 1)
    assert flat.slice("axial", 0).shape == (5, 4)
    assert open_volume(saved(tmp_path / "c.nii", DATA[:1, :1, :1])).values.shape == (1, 1, 1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            np.zeros((4, 5, 6, 2), np.int16),
            "v.nii.gz holds several volumes: its shape is 4 x 5 x 6 x 2; .*column modality",
        ),
        (np.zeros((4, 5, 1, 3), np.int16), "its shape is 4 x 5 x 1 x 3"),
        (np.zeros((4, 5, 6), np.complex64), "v.nii.gz: NIfTI volumes of complex numbers are not supported"),
        (np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "NIfTI volumes of colours"),
    ],
)
def test_what_is_no_grey_volume_stops_the_data_set(data: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedImageError, match=words):
        open_volume(saved(tmp_path / "v.nii.gz", data))


def test_voxels_without_a_number_take_the_smallest_one_and_are_told(tmp_path: Path) -> None:
    data = DATA.astype(np.float32)
    data[0, 0, :3] = np.nan, np.inf, -np.inf
    volume = open_volume(saved(tmp_path / "v.nii", data))
    assert volume.values[0, 0, :3].tolist() == [float(data[np.isfinite(data)].min())] * 3
    assert np.array_equal(volume.values[1:], data[1:])
    assert any("without a finite value" in remark for remark in volume.remarks)
    with pytest.raises(UnreadableImageError, match="no finite number"):
        open_volume(saved(tmp_path / "n.nii", np.full((2, 2, 2), np.nan, np.float32)))


def test_slices_of_unequal_spacing_become_square_pixels(tmp_path: Path) -> None:
    volume = open_volume(saved(tmp_path / "v.nii", DATA, (0.5, 0.5, 2.0)))
    assert volume.spacing == (0.5, 0.5, 2.0)
    assert volume.slice("axial", 0).shape == (5, 4)
    coronal = volume.slice("coronal", 2)
    assert coronal.shape == (24, 4)
    plane = np.ascontiguousarray(DATA[::-1, 2, ::-1].T.astype(np.float32))
    expected = Image.fromarray(plane).resize((4, 24), Image.Resampling.BILINEAR)
    assert np.array_equal(coronal, np.asarray(expected))
    assert volume.slice("sagittal", 0).shape == (24, 5)
    turned = open_volume(saved(tmp_path / "t.nii", DATA, (2.0, -0.5, 0.5)))
    assert turned.spacing == (2.0, 0.5, 0.5)
    assert turned.slice("axial", 0).shape == (5, 16)


def test_spacing_is_not_believed_without_limit() -> None:
    plane = np.zeros((10, 10), np.float32)
    assert squared(plane, 1.0, 1.009).shape == (10, 10)
    assert squared(plane, 1.0, 1.2).shape == (10, 12)
    assert squared(plane, 1.0, 50.0).shape == (10, 500)
    assert squared(plane, 1.0, 51.0).shape == (10, 10)
    wide = np.broadcast_to(np.float32(0), (20_000, 1_000))
    assert squared(wide, 1.0, 40.0).shape == (20_000, 1_000)


@pytest.mark.parametrize("bad", [0.0, -2.0, float("nan"), float("inf")])
def test_a_spacing_that_is_none_counts_as_one_and_is_told(bad: float, tmp_path: Path) -> None:
    for number, codes in enumerate(((1, 0), (0, 0))):
        path = patched(saved(tmp_path / f"{number}.nii"), *coded(*codes, (bad, 3.0, 3.0)))
        volume = open_volume(path)
        assert all(np.isfinite(side) and side > 0 for side in volume.spacing)
        assert any("no positive number" in remark for remark in volume.remarks), volume.remarks
        assert volume.values.shape == (4, 5, 6)


def test_a_volume_without_orientation_is_told(tmp_path: Path) -> None:
    none = open_volume(patched(saved(tmp_path / "a.nii"), *coded(0, 0, (2, 3, 4))))
    assert none.spacing == (2, 3, 4)
    assert any("no stated orientation" in remark for remark in none.remarks)
    flat = patched(
        saved(tmp_path / "b.nii"), *coded(0, 1, (2, 3, 4)), (280, bytes(16))
    )  # no first row of the affine
    volume = open_volume(flat)
    assert any("axes are taken for right, anterior, superior" in remark for remark in volume.remarks)
    assert (volume.spacing, np.array_equal(volume.values, DATA)) == ((2, 3, 4), True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((42, struct.pack("<h", 0)), "a volume of 0 x 5 x 6 voxels"),
        ((42, struct.pack("<h", -3)), "a volume of -3 x 5 x 6 voxels"),
        (
            (42, struct.pack("<3h", 32000, 32000, 32000)),
            r"32000 x 32000 x 32000 voxels, more than the limit of 1,000,000,000",
        ),
        ((42, struct.pack("<h", 999)), "truncated or damaged"),
        ((70, struct.pack("<h", 777)), "not a NIfTI volume"),
        ((344, b"none"), "not a NIfTI volume"),
        ((108, struct.pack("<f", 1e9)), "truncated or damaged"),
        ((108, struct.pack("<f", float("nan"))), "not a NIfTI volume"),
    ],
)
def test_a_damaged_header_is_unreadable_for_a_reason(
    change: tuple[int, bytes], reason: str, tmp_path: Path
) -> None:
    path = patched(saved(tmp_path / "v.nii"), change)
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        open_volume(path)
    assert str(tmp_path) not in str(caught.value)
    if reason[:3] != "not":
        packed = tmp_path / "v.nii.gz"  # a small file that promises much
        packed.write_bytes(gzip.compress(path.read_bytes()))
        with pytest.raises(UnreadableImageError, match=reason):
            open_volume(packed)
        with pytest.raises(UnreadableImageError, match=reason):
            decode(packed.read_bytes())


def test_a_truncated_file_is_unreadable(tmp_path: Path) -> None:
    data = saved(tmp_path / "v.nii.gz", RNG.normal(size=(20, 20, 20)).astype(np.float32)).read_bytes()
    for size in (0, 10, 100, 400, len(data) // 2, len(data) - 20):
        path = tmp_path / "cut.nii.gz"
        path.write_bytes(data[:size])
        with pytest.raises(UnreadableImageError):
            open_volume(path)
        with pytest.raises(UnreadableImageError):
            decode(data[:size])
    wrong = bytearray(data)
    wrong[len(data) // 2] ^= 255
    path.write_bytes(wrong)
    with pytest.raises(UnreadableImageError):
        open_volume(path)
    with pytest.raises(FileNotFoundError):
        open_volume(tmp_path / "none.nii")


def test_a_volume_read_as_one_image_says_why(tmp_path: Path) -> None:
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        for suffix in (".nii", ".nii.gz"):
            path = saved(tmp_path / f"v{suffix}", np.ones((3, 3, 3), np.int16), kind=kind)
            with pytest.raises(UnreadableImageError, match="a volume without a slice to show"):
                decode(path.read_bytes())


def test_the_extra_is_named_where_nibabel_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "v.nii")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingExtraError, match=r"NIfTI volumes .* nibabel.*featprobe\[nifti\]"):
        open_volume(path)


def test_a_sample_of_a_large_volume_stands_for_it() -> None:
    values = RNG.gamma(2.0, 100.0, (64, 64, 65)).astype(np.float32)
    some = sampled(values, 10_000)
    assert 10_000 <= some.size < 2.5 * 10_000
    shares = [1, 50, 99]
    assert np.percentile(some, shares) == pytest.approx(np.percentile(values, shares), rel=0.05)
    columns = np.broadcast_to(np.arange(64, dtype=np.float32)[:, None, None], (64, 64, 64)).copy()
    for axis in range(3):  # no column, row or layer is passed over
        assert len(np.unique(sampled(np.moveaxis(columns, 0, axis), 10_000))) == 64
    assert sampled(values, values.size).size == values.size
    assert MAX_VOXELS == 10**9
