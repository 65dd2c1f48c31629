"""Files that hold several images become rows; the rows are read without opening a file again and again."""

from __future__ import annotations

import io
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image

from featprobe.datasets import UnreadableImageError, UnsupportedImageError
from featprobe.datasets.decoding import decode
from featprobe.datasets.formats import opened
from featprobe.datasets.stacks import (
    SliceRule,
    expand,
    is_stack_candidate,
    otsu,
    parse_slices,
    read_part,
    slices_of,
)
from featprobe.errors import ConfigError

RNG = np.random.default_rng(0)


def volume(path: Path, data: Any) -> None:
    nibabel.save(nibabel.Nifti1Image(np.asarray(data), np.eye(4)), path)


def ball(sides: tuple[int, int, int] = (20, 22, 24), radius: float = 7) -> np.ndarray[Any, Any]:
    """A bright ball in faint noise; noise, too, where there is no ball."""
    middle = [(side - 1) / 2 for side in sides]
    grid = np.stack(np.meshgrid(*(np.arange(side) for side in sides), indexing="ij"), axis=-1)
    inside = ((grid - middle) ** 2).sum(axis=-1) <= radius**2
    return (RNG.integers(0, 20, sides) + inside * 1000).astype(np.int16)


def parts(root: Path, *names: str, rule: str = "all", axis: str = "axial") -> list[tuple[int, int, str]]:
    rows = expand(root, names, SliceRule(axis, rule))
    return list(zip(rows.file.tolist(), rows.part.tolist(), rows.suffix, strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", ("all", 0)),
        ("every:4", ("every", 4)),
        (" Central:3 ", ("central", 3)),
        ("foreground", ("foreground", 0.05)),
        ("foreground:0.2", ("foreground", 0.2)),
    ],
)
def test_rules_for_slices_are_read(text: str, expected: tuple[str, float]) -> None:
    assert parse_slices(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("evry:3", "did you mean every"),
        ("every", "every takes a number"),
        ("every:0", "whole number from 1"),
        ("central:2.5", "whole number from 1"),
        ("central:x", "'x' is no number"),
        ("central:nan", "whole number from 1"),
        ("central:inf", "whole number from 1"),
        ("foreground:0", "above 0 and is at most 1"),
        ("foreground:5", "above 0 and is at most 1"),
        ("all:1", "all takes no number"),
        ("", "known: all, every:K"),
    ],
)
def test_rules_that_are_none_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"is no rule for slices; .*{words}.*; type: --slices"):
        SliceRule("axial", text)


def test_views_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="'sagital' is no view of a volume; did you mean sagittal"):
        SliceRule("sagital")


@pytest.mark.parametrize(
    ("which", "count", "expected"),
    [
        ("every:1", 3, [0, 1, 2]),
        ("every:4", 10, [1, 5, 9]),
        ("every:5", 10, [2, 7]),
        ("every:100", 10, [4]),
        ("every:100", 1, [0]),
        ("central:1", 5, [2]),
        ("central:2", 5, [1, 2]),
        ("central:4", 10, [3, 4, 5, 6]),
        ("central:99", 3, [0, 1, 2]),
    ],
)
def test_slices_are_counted_as_the_module_says(which: str, count: int, expected: list[int]) -> None:
    values = RNG.normal(size=(5, 6, count))
    assert slices_of(values, 2, which) == (expected, len(expected))
    assert slices_of(np.moveaxis(values, 2, 0), 0, which)[0] == expected


def test_foreground_is_what_lies_above_otsus_threshold() -> None:
    data = ball()
    threshold = otsu(data)
    assert 19 <= threshold < 1000
    for axis, side in enumerate(data.shape):
        others = tuple(other for other in range(3) if other != axis)
        shares = (data > threshold).mean(axis=others)
        for least in (0.05, 0.25):
            kept, chosen = slices_of(data, axis, f"foreground:{least}")
            assert kept == np.flatnonzero(shares >= least).tolist()
            assert 0 < chosen == len(kept) < side
    two = np.repeat([3.0, 9.0], 500)
    assert 3 <= otsu(two) < 9


def test_slices_of_one_grey_level_are_no_rows(tmp_path: Path) -> None:
    data = ball((8, 8, 6))
    data[:, :, [0, 3]] = 5
    volume(tmp_path / "a.nii.gz", data)
    volume(tmp_path / "one.nii", data[:, :, 1:2])
    volume(tmp_path / "flat.nii", np.full((4, 4, 4), 7, np.int16))
    rows = parts(tmp_path, "a.nii.gz", "one.nii", "flat.nii")
    assert rows == [
        (0, 1, "#z001"),
        (0, 2, "#z002"),
        (0, 4, "#z004"),
        (0, 5, "#z005"),
        (1, 0, "#z000"),
        (2, -1, ""),
    ]
    notes = expand(tmp_path, ["a.nii.gz", "one.nii", "flat.nii"], SliceRule()).notes
    assert notes == (
        "3 volumes: 5 of 11 axial slices are images (--slices all)",
        "6 slices of one grey level are left out",
        "1 volumes have no slice left and are quarantined",
    )
    with pytest.raises(UnreadableImageError, match="a volume without a slice to show"):
        decode(read_part(tmp_path / "flat.nii", -1, SliceRule()))
    assert [row[2] for row in parts(tmp_path, "one.nii", axis="sagittal")][:2] == ["#x000", "#x001"]


def test_a_damaged_file_is_one_row_and_an_unfit_one_stops(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii.gz", ball())
    data = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.dcm").write_text("no DICOM at all")
    (tmp_path / "text.tif").write_text("no TIFF at all")
    (tmp_path / "empty.nii").write_bytes(b"")
    names = ["cut.nii.gz", "text.dcm", "text.tif", "empty.nii"]
    assert parts(tmp_path, *names) == [(number, -1, "") for number in range(4)]
    for name in names:
        with pytest.raises(UnreadableImageError):
            decode(read_part(tmp_path / name, -1, SliceRule()))
    volume(tmp_path / "four.nii", np.zeros((3, 3, 3, 2), np.int16))
    with pytest.raises(UnsupportedImageError, match=r"four\.nii holds several volumes"):
        expand(tmp_path, ["a.nii.gz", "four.nii"], SliceRule())


def test_all_slices_share_the_grey_levels_of_their_volume(tmp_path: Path) -> None:
    data = ball()
    volume(tmp_path / "a.nii", data)
    first, middle = (decode(read_part(tmp_path / "a.nii", part, SliceRule())) for part in (0, 12))
    assert first.reference is not None
    assert middle.reference is not None
    assert np.array_equal(first.reference.quantiles, np.percentile(data, np.linspace(0, 100, 1001)))
    assert np.array_equal(first.reference.quantiles, middle.reference.quantiles)
    assert np.asarray(first.rgb()).max() < 20  # noise stays dark where the ball is the white of the volume
    assert np.asarray(middle.rgb()).max() == 255


def test_candidates_are_told_by_name_or_by_first_bytes(tmp_path: Path) -> None:
    for name in ("a.nii", "B.NII.GZ", "c.dcm", "d.DICOM", "e.tif", "x/f.TIFF"):
        assert is_stack_candidate(name)
    for name in ("a.png", "b.jpg", "c.nii.txt", "d", "e.csv"):
        assert not is_stack_candidate(name)
    (tmp_path / "1.2.840.113").write_bytes(bytes(128) + b"DICM" + bytes(9))
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM" + bytes(9))
    (tmp_path / "IM0002").write_bytes(bytes(200))
    (tmp_path / "x.png").write_bytes(bytes(128) + b"DICM")
    found = [path.name for path in sorted(tmp_path.iterdir()) if is_stack_candidate(str(path))]
    assert found == ["1.2.840.113", "IM0001"]


def test_pages_of_a_tiff_are_rows_and_thumbnails_are_not(tmp_path: Path) -> None:
    pages = RNG.integers(0, 4000, (4, 12, 10), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    tifffile.imwrite(tmp_path / "single.tif", pages[0])
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as writer:
        writer.write(pages[1], photometric="minisblack")
        writer.write(pages[1, ::2, ::2], photometric="minisblack", subfiletype=1)
    rows = parts(tmp_path, "stack.tif", "single.tif", "pyramid.tif")
    stack = [(0, page, f"#page{page:03d}") for page in range(4)]
    assert rows == [*stack, (1, -1, ""), (2, 0, "")]
    for page in range(4):
        raster = decode(read_part(tmp_path / "stack.tif", page, SliceRule()))
        assert np.array_equal(raster.values, pages[page])
        assert raster.reference is not None
        assert raster.reference.mean == pytest.approx(pages.mean())
    assert np.array_equal(decode(read_part(tmp_path / "pyramid.tif", 0, SliceRule())).values, pages[1])
    with pytest.raises(UnsupportedImageError, match="several pages"):
        decode((tmp_path / "stack.tif").read_bytes())


def test_pages_of_several_sizes_modes_and_makers(tmp_path: Path) -> None:
    colour = RNG.integers(0, 256, (9, 8, 3), dtype=np.uint8)
    grey = RNG.integers(0, 65536, (7, 6), dtype=np.uint16)
    with tifffile.TiffWriter(tmp_path / "mixed.tif", byteorder=">") as writer:
        writer.write(colour, photometric="rgb")
        writer.write(grey, photometric="miniswhite")  # which Pillow does not know in this byte order
        writer.write(grey.astype(np.float32), photometric="minisblack")
    rasters = [decode(read_part(tmp_path / "mixed.tif", page, SliceRule())) for page in range(3)]
    assert np.array_equal(np.asarray(rasters[0].rgb()), colour)
    assert np.array_equal(rasters[1].values, grey)
    assert [raster.inverted for raster in rasters] == [False, True, False]
    assert [raster.reference for raster in rasters] == [None] * 3
    eight = [Image.fromarray(colour[..., 0]), Image.fromarray(colour[..., 1] // 4)]
    stream = io.BytesIO()
    eight[0].save(stream, "TIFF", save_all=True, append_images=eight[1:])
    (tmp_path / "eight.tif").write_bytes(stream.getvalue())
    for page, image in enumerate(eight):  # 8 bits are shown as they are
        raster = decode(read_part(tmp_path / "eight.tif", page, SliceRule()))
        assert np.array_equal(np.asarray(raster.rgb())[..., 0], np.asarray(image))
        assert raster.reference is not None


def test_one_damaged_page_costs_only_itself(tmp_path: Path) -> None:
    pages = RNG.integers(0, 4000, (3, 30, 30), dtype=np.uint16)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, pages, photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as file:
        at, size = file.pages[1].dataoffsets[0], file.pages[1].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[at : at + size] = bytes(size)
    path.write_bytes(data)
    assert len(parts(tmp_path, "stack.tif")) == 3
    with pytest.raises(UnreadableImageError):
        read_part(path, 1, SliceRule())
    assert np.array_equal(decode(read_part(path, 2, SliceRule())).values, pages[2])


def multiframe(path: Path, frames: np.ndarray[Any, Any]) -> None:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3"
    ds.PatientID, ds.StudyInstanceUID, ds.Modality = "secret", "1.2", "MR"
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = frames.astype("<u2").tobytes()
    ds.save_as(path, enforce_file_format=True)


def test_frames_of_a_dicom_file_are_rows(tmp_path: Path) -> None:
    frames = RNG.integers(0, 3000, (3, 8, 9), dtype=np.uint16)
    multiframe(tmp_path / "cine.dcm", frames)
    multiframe(tmp_path / "IM01", frames[:1])
    rows = expand(tmp_path, ["cine.dcm", "IM01"], SliceRule())
    assert rows.part.tolist() == [0, 1, 2, -1]
    assert rows.suffix == ["#frame000", "#frame001", "#frame002", ""]
    assert (rows.patient, rows.study, rows.modality) == (["secret"] * 2, ["1.2"] * 2, ["MR"] * 2)
    for number in range(3):
        raster = decode(read_part(tmp_path / "cine.dcm", number, SliceRule()))
        assert np.array_equal(raster.values, frames[number])
        assert raster.reference is not None
        assert raster.reference.mean == pytest.approx(frames.mean())
    whole = decode(read_part(tmp_path / "IM01", -1, SliceRule()))
    assert np.array_equal(whole.values, frames[0])
    with pytest.raises(UnreadableImageError, match="no frame 3"):
        read_part(tmp_path / "cine.dcm", 3, SliceRule())


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_each_volume_is_opened_once_when_rows_are_read_in_order(threads: int, tmp_path: Path) -> None:
    names = [f"{number}.nii" for number in range(12)]
    for name in names:
        volume(tmp_path / name, ball((6, 6, 9), 2))
    rows = expand(tmp_path, names, SliceRule())
    counted: list[Path] = []

    def load(path: Path) -> Any:
        counted.append(path)
        time.sleep(0.01)
        return opened._open_volume(path)

    volumes = opened.Opened(load, lambda each: each.volume.values.nbytes)

    def read(start: int) -> list[float]:
        end = min(start + 8, len(rows.part))
        return [
            float(volumes.get(tmp_path / names[rows.file[row]]).volume.values[..., rows.part[row]].sum())
            for row in range(start, end)
        ]

    with ThreadPoolExecutor(threads) as pool:
        assert sum(len(sums) for sums in pool.map(read, range(0, len(rows.part), 8))) == len(rows.part)
    assert sorted(counted) == sorted({tmp_path / name for name in names})


def test_large_volumes_are_dropped_and_changed_ones_are_opened_anew(tmp_path: Path) -> None:
    counted: list[str] = []

    def load(path: Path) -> str:
        counted.append(path.name)
        return path.read_text()

    files = opened.Opened(load, lambda _: opened.KEPT_BYTES)
    for name in "abc":
        (tmp_path / name).write_text(name)
    for name in "aabbaacb":
        assert files.get(tmp_path / name) == name
    assert counted == ["a", "b", "c", "b"]  # the last two used are kept
    (tmp_path / "b").write_text("new")
    assert files.get(tmp_path / "b") == "new"
    small = opened.Opened(load, lambda _: 1)
    counted.clear()
    for name in "abcabcabc":
        small.get(tmp_path / name)
    assert counted == ["a", "b", "c"]


def test_a_failure_reaches_every_thread_and_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    gate, tries = threading.Event(), []

    def load(path: Path) -> str:
        tries.append(path)
        gate.wait(5)
        raise UnreadableImageError("damaged")

    files = opened.Opened(load, lambda _: 1)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(files.get, tmp_path / "a") for _ in range(2)]
        while not tries:
            time.sleep(0.001)
        gate.set()
        assert all(isinstance(one.exception(), UnreadableImageError) for one in both)
    with pytest.raises(UnreadableImageError):
        files.get(tmp_path / "a")
    assert len(tries) >= 2
    with pytest.raises(FileNotFoundError):
        files.get(tmp_path / "none")


def test_a_rule_travels_to_other_processes() -> None:
    rule = SliceRule("coronal", "every:3")
    assert pickle.loads(pickle.dumps(rule)) == rule  # noqa: S301 - what this test itself has pickled
