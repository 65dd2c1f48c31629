from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featprobe.datasets import DatasetOptions, open_dataset
from featprobe.errors import ConfigError, DataError


def write(path: Path, shape: tuple[int, ...] = (28, 28), classes: int = 2, **changes: Any) -> str:
    arrays: dict[str, Any] = {}
    for number, (split, count) in enumerate({"train": 5, "val": 3, "test": 4}.items()):
        rng = np.random.default_rng(number)
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % classes
    arrays.update(changes)
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
    return str(path)


@pytest.mark.parametrize("shape", [(28, 28), (64, 64, 3)])
def test_rows_are_train_val_test_with_the_pixels_of_the_file(shape: tuple[int, ...], tmp_path: Path) -> None:
    spec = write(tmp_path / "pneumoniamnist.npz", shape)
    data = open_dataset(spec)
    assert data.samples.split.tolist() == ["train"] * 5 + ["val"] * 3 + ["test"] * 4
    assert (data.samples.id[0], data.samples.id[5]) == ("train-000000", "val-000000")
    assert data.samples.label_names == ("normal", "pneumonia")
    assert data.samples.label[5:8].tolist() == [0, 1, 0]
    with np.load(spec) as archive:
        pixels = archive["val_images"][1]
    expected = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    assert np.array_equal(np.asarray(data.decode(data.read(6)).rgb()), expected)


def test_classes_of_an_unknown_set_are_called_by_their_numbers(tmp_path: Path) -> None:
    assert open_dataset(write(tmp_path / "mine.npz", classes=3)).samples.label_names == ("0", "1", "2")
    more = write(tmp_path / "breastmnist.npz", classes=3)
    assert open_dataset(more).samples.label_names == ("0", "1", "2")


def test_a_name_is_looked_for_where_medmnist_keeps_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, home, here = (tmp_path / name for name in ("root", "home", "here"))
    for folder in (root, home / ".medmnist", here):
        folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MEDMNIST_ROOT", str(root))
    monkeypatch.chdir(here)
    with pytest.raises(DataError, match=r"no octmnist_64\.npz .*\.medmnist.*MEDMNIST_ROOT"):
        open_dataset("medmnist:octmnist@64")
    with pytest.raises(DataError, match=r"did you mean octmnist"):
        open_dataset("medmnist:octmnst")
    with pytest.raises(DataError, match="sizes are 28, 64, 128, 224"):
        open_dataset("medmnist:octmnist@32")
    write(here / "octmnist_64.npz", classes=4)
    write(home / ".medmnist" / "octmnist.npz", classes=4)
    data = open_dataset("medmnist:OCTMNIST@64")
    assert (data.name, data.samples.label_names[0]) == ("octmnist_64", "choroidal neovascularization")
    assert open_dataset("medmnist:octmnist@28").name == "octmnist_28"
    write(root / "octmnist.npz", classes=3)
    assert len(set(open_dataset("medmnist:octmnist").samples.label.tolist())) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": (28, 28, 28, 28)}, "of shape 28x28x28x28"),
        ({"train_labels": np.zeros((5, 14), dtype=np.uint8)}, "different numbers of labels"),
        ({"train_images": np.zeros((5, 28, 28), dtype=np.uint16)}, "uint16"),
        ({"train_images": np.zeros((4, 28, 28), dtype=np.uint8)}, "4 images but 5 labels"),
        ({"val_images": np.zeros((3, 20, 28), dtype=np.uint8)}, "different shapes"),
        ({"test_labels": None}, "test_labels"),
        ({"val_images": None}, "val_images"),
        ({"train_labels": np.array([{}] * 5)}, "pickle"),
        ({"classes": 1}, "one class only, 'normal'"),
    ],
)
def test_a_file_that_can_not_be_used_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        open_dataset(write(tmp_path / "pneumoniamnist.npz", **changes))


def test_a_truncated_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pneumoniamnist.npz"
    write(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="can't be read as a MedMNIST file"):
        open_dataset(str(path))
    with pytest.raises(DataError, match=r"no file .*did you mean pneumoniamnist\.npz"):
        open_dataset(str(tmp_path / "pneumonia.npz"))


def test_one_class_is_enough_without_labels(tmp_path: Path) -> None:
    spec = write(tmp_path / "pneumoniamnist.npz", classes=1)
    assert open_dataset(spec, DatasetOptions(label_column="none")).samples.label_names == ()


def volumes(path: Path, **changes: Any) -> str:
    """Volumes of 6 x 7 x 8 in which the first and the last slice along every axis are empty."""
    arrays = {}
    for number, split in enumerate(("train", "val", "test")):
        inner = np.random.default_rng(number).integers(1, 200, (4, 4, 5, 6), dtype=np.uint8)
        arrays[f"{split}_images"] = np.pad(inner, ((0, 0), (1, 1), (1, 1), (1, 1)))
    return write(
        path,
        **{
            **arrays,
            **{f"{split}_labels": np.arange(4, dtype=np.uint8) % 2 for split in ("train", "val", "test")},
            **changes,
        },
    )


@pytest.mark.parametrize(
    ("axis", "count", "letter"), [("axial", 4, "z"), ("coronal", 5, "y"), ("sagittal", 6, "x")]
)
def test_every_slice_of_a_volume_is_a_row_of_its_case(
    axis: str, count: int, letter: str, tmp_path: Path
) -> None:
    spec = volumes(tmp_path / "nodulemnist3d.npz")
    data = open_dataset(spec, DatasetOptions(axis=axis))
    samples = data.samples
    assert len(samples) == 12 * count
    assert samples.id[:2].tolist() == [f"train-000000#{letter}001", f"train-000000#{letter}002"]
    assert samples.path[0] == f"nodulemnist3d.npz/train_images/0#{letter}001"
    assert samples.case[: count + 1].tolist() == ["train-000000"] * count + ["train-000001"]
    assert samples.group.tolist() == samples.case.tolist()
    assert samples.label[: count + 1].tolist() == [0] * count + [1]
    assert samples.split[4 * count] == "val"
    assert samples.label_names == ("benign", "malignant")
    with np.load(spec) as archive:
        volume = archive["val_images"][2]
    row = samples.id.tolist().index(f"val-000002#{letter}003")
    raster = data.decode(data.read(row))
    expected = np.moveaxis(volume, ("axial", "coronal", "sagittal").index(axis), 0)[3]
    assert np.array_equal(raster.values, expected)
    assert np.array_equal(np.asarray(raster.rgb())[..., 0], expected)
    assert raster.reference is not None
    assert raster.reference.mean == pytest.approx(volume.mean())
    assert any(f"{12 * 2} slices of one grey level are left out" in note for note in data.notes)
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 - what this test itself has pickled
    assert copy.read(row) == data.read(row)


def test_slices_are_chosen_as_the_rule_says(tmp_path: Path) -> None:
    spec = volumes(tmp_path / "organmnist3d.npz")
    data = open_dataset(spec, DatasetOptions(slices="central:2"))
    assert [name[-4:] for name in data.samples.id[:3]] == ["z002", "z003", "z002"]
    with pytest.raises(ConfigError, match="no view of a volume; did you mean axial"):
        open_dataset(spec, DatasetOptions(axis="axail"))
    empty = np.zeros((4, 6, 7, 8), np.uint8)
    kept = open_dataset(volumes(tmp_path / "a.npz", val_images=empty))
    assert any("4 volumes have no slice left" in note for note in kept.notes)
    assert set(kept.samples.split.tolist()) == {"train", "test"}
    images = {f"{split}_images": empty for split in ("train", "val", "test")}
    with pytest.raises(DataError, match="no slice with more than one grey level"):
        open_dataset(volumes(tmp_path / "b.npz", **images))


def several(seed: int, count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 2, (count, 14)).astype(np.uint8)


def test_several_labels_per_image_are_a_multilabel_target(tmp_path: Path) -> None:
    labels = {"train_labels": several(0, 5), "val_labels": several(1, 3), "test_labels": several(2, 4)}
    spec = write(tmp_path / "chestmnist_64.npz", **labels)
    samples = open_dataset(spec).samples
    assert (samples.task, samples.label.shape) == ("multilabel", (12, 14))
    assert samples.label_names[:3] == ("atelectasis", "cardiomegaly", "effusion")
    assert np.array_equal(samples.label, np.concatenate(list(labels.values())))
    assert open_dataset(spec, DatasetOptions(label_column=("none",))).samples.label_names == ()
    with pytest.raises(ConfigError, match="--target ordinal does not fit"):
        open_dataset(spec, DatasetOptions(target="ordinal"))
    cut = {name: label[:, :3] for name, label in labels.items()}
    assert open_dataset(write(tmp_path / "chestmnist.npz", **cut)).samples.label_names == ("0", "1", "2")
    never = {name: label * (np.arange(14) != 13).astype(np.uint8) for name, label in labels.items()}
    with pytest.raises(DataError, match="all without hernia"):
        open_dataset(write(tmp_path / "chestmnist.npz", **never))
    wrong = {**labels, "val_labels": labels["val_labels"] * 2}
    with pytest.raises(DataError, match="neither 0 nor 1"):
        open_dataset(write(tmp_path / "chestmnist.npz", **wrong))


def test_ordered_classes_are_declared(tmp_path: Path) -> None:
    spec = write(tmp_path / "retinamnist.npz", (28, 28, 3), classes=5)
    assert open_dataset(spec, DatasetOptions(target="ordinal")).samples.task == "ordinal"
    assert open_dataset(spec).samples.task == "classes"
    for options in ({"uncertain": "one"}, {"class_order": ("1", "0")}, {"target": "continuous"}):
        with pytest.raises(ConfigError, match=r"does not fit retinamnist\.npz"):
            open_dataset(spec, DatasetOptions(**options))


@pytest.mark.shared
def test_the_shared_set_opens() -> None:
    shared = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "medmnist"
    if not shared.is_dir():
        pytest.skip("the shared folder of real images is missing")
    data = open_dataset(str(shared / "pneumoniamnist.npz"))
    assert len(data.samples) == 3882 + 524 + 624
    assert data.decode(data.read(5000)).rgb().size == (28, 28)


def test_a_volume_may_stay_one_row(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 28), dtype=np.uint8)
    volumes[4] = 7
    arrays: dict[str, Any] = {}
    for number, split in enumerate(("train", "val", "test")):
        arrays[f"{split}_images"] = volumes[2 * number : 2 * number + 2]
        arrays[f"{split}_labels"] = np.array([[0], [1]], dtype=np.uint8)
    np.savez(tmp_path / "organmnist3d.npz", **arrays)
    data = open_dataset(str(tmp_path / "organmnist3d.npz"), DatasetOptions(slices="volume", axis="coronal"))
    assert data.samples.id.tolist() == [
        *("train-000000", "train-000001", "val-000000", "val-000001"),
        "test-000001",
    ]
    raster = data.decode(data.read(4))
    assert raster.is_volume
    assert np.array_equal(raster.levels(), np.moveaxis(volumes[5], 1, 0))
