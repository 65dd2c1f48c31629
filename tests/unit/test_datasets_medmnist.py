from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featprobe.datasets import DatasetOptions, open_dataset
from featprobe.errors import DataError


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
    assert np.array_equal(np.asarray(data.decode(data.read(6))), expected)


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
        ({"shape": (28, 28, 28)}, "volumes are not supported yet"),
        ({"train_labels": np.zeros((5, 14), dtype=np.uint8)}, "14 labels per image"),
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


@pytest.mark.shared
def test_the_shared_set_opens() -> None:
    shared = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "medmnist"
    if not shared.is_dir():
        pytest.skip("the shared folder of real images is missing")
    data = open_dataset(str(shared / "pneumoniamnist.npz"))
    assert len(data.samples) == 3882 + 524 + 624
    assert data.decode(data.read(5000)).size == (28, 28)
