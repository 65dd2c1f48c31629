"""Slices are nibabel's numbers in nibabel's canonical frame, shown as radiologists look at them."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from featprobe.datasets.decoding import decode
from featprobe.datasets.formats.nifti import open_volume
from featprobe.datasets.stacks import SliceRule, expand, read_part


def shown(data: np.ndarray[Any, Any], axis: str, number: int) -> np.ndarray[Any, Any]:
    """The slice of a canonical volume: top row anterior (axial) or superior, left column the patient's right, or,
    in sagittal slices, anterior."""
    x, y, z = data.shape
    if axis == "axial":
        rows = [[data[x - 1 - c, y - 1 - r, number] for c in range(x)] for r in range(y)]
    elif axis == "coronal":
        rows = [[data[x - 1 - c, number, z - 1 - r] for c in range(x)] for r in range(z)]
    else:
        rows = [[data[number, y - 1 - c, z - 1 - r] for c in range(y)] for r in range(z)]
    return np.array(rows, dtype=np.float32)


def canonical(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).get_fdata())


def orientations() -> list[np.ndarray[Any, Any]]:
    """The rotations and reflections that map axes to axes: 48 3 x 3 matrices."""
    found = []
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[list(order), range(3)] = signs
            found.append(matrix)
    return found


def tilted(matrix: np.ndarray[Any, Any], degrees: float) -> np.ndarray[Any, Any]:
    turn = np.radians(degrees)
    around_z = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    return np.array(around_z) @ matrix


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_all_48_orientations_give_nibabels_canonical_slices(axis: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number, matrix in enumerate(orientations()):
        affine = np.eye(4)
        affine[:3, :3] = tilted(matrix, 20.0 * (number % 2)) * 1.5
        affine[:3, 3] = rng.normal(size=3) * 50
        image = nibabel.Nifti1Image(rng.integers(-900, 3000, (3, 4, 5)).astype(np.int16), affine)
        image.header.set_slope_inter(0.37, -11.0)
        path = tmp_path / f"{number}.nii.gz"
        nibabel.save(image, path)
        data = canonical(path)
        assert np.array_equal(open_volume(path).values, data.astype(np.float32))
        at = 1 + number % 2
        raster = decode(read_part(path, at, SliceRule(axis)))
        assert np.array_equal(raster.values, shown(data, axis, at)), matrix


def test_the_patients_sides_lie_where_they_are_said_to(tmp_path: Path) -> None:
    """Three bright points at the patient's right, anterior and superior ends, stored in a left-posterior-superior file."""
    data = np.zeros((11, 13, 15), np.float32)  # axes of the file: to the left, to posterior, to superior
    data[0, 6, 7] = 1  # right
    data[5, 0, 7] = 2  # anterior
    data[5, 6, 14] = 3  # superior
    path = tmp_path / "lps.nii"
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.0, -1.0, 1.0, 1.0])), path)

    def where(axis: str, number: int, value: int) -> list[int]:
        values = decode(read_part(path, number, SliceRule(axis))).values
        return np.argwhere(values == value)[0].tolist()

    assert where("axial", 7, 1) == [6, 0]  # the patient's right is the image's left
    assert where("axial", 7, 2) == [0, 5]  # anterior is at the top
    assert where("coronal", 6, 1) == [7, 0]
    assert where("coronal", 6, 3) == [0, 5]  # superior is at the top
    assert where("sagittal", 5, 2) == [7, 0]  # anterior is at the left
    assert where("sagittal", 5, 3) == [0, 6]


@pytest.mark.shared
def test_real_volumes_give_nibabels_slices(shared: Path) -> None:
    folder = shared / "data" / "hippocampus_volumes" / "images"
    if not folder.is_dir():
        pytest.skip("the shared volumes are missing")
    names = sorted(path.name for path in folder.glob("*.nii.gz"))[::13]
    for axis in ("axial", "coronal", "sagittal"):
        rule = SliceRule(axis, "every:9")
        rows = expand(folder, names, rule)
        assert len(rows.part) >= 3 * len(names)
        for file, part in zip(rows.file.tolist(), rows.part.tolist(), strict=True):
            data = canonical(folder / names[file])
            raster = decode(read_part(folder / names[file], part, rule))
            assert np.array_equal(raster.values, shown(data, axis, part))
            assert raster.reference is not None
            assert raster.reference.percentile(99.5) == pytest.approx(np.percentile(data, 99.5), rel=1e-6)
