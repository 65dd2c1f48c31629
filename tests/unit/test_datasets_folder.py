from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from featprobe.datasets import DatasetOptions, open_dataset
from featprobe.datasets.decoding import IMAGE_SUFFIXES
from featprobe.errors import ConfigError, DataError


def fill(root: Path, *names: str) -> str:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(root)


def test_class_folders_give_labels_in_a_fixed_order_and_nested_files_count(tmp_path: Path) -> None:
    spec = fill(tmp_path, "dog/b.PNG", "cat/deep/er/z.jpg", "cat/a.tif", "dog/a.bmp")
    samples = open_dataset(spec).samples
    assert samples.path.tolist() == ["cat/a.tif", "cat/deep/er/z.jpg", "dog/a.bmp", "dog/b.PNG"]
    assert samples.id.tolist() == samples.path.tolist()
    assert samples.label_names == ("cat", "dog")
    assert samples.label.tolist() == [0, 0, 1, 1]
    assert set(samples.split.tolist()) == {""}


def test_split_folders_stand_above_class_folders(tmp_path: Path) -> None:
    spec = fill(tmp_path, "Training/x/a.png", "Training/y/b.png", "valid/x/c.png", "testing/y/d.png")
    samples = open_dataset(spec).samples
    assert dict(zip(samples.id.tolist(), samples.split.tolist(), strict=True)) == {
        "Training/x/a.png": "train",
        "Training/y/b.png": "train",
        "testing/y/d.png": "test",
        "valid/x/c.png": "val",
    }
    assert samples.label_names == ("x", "y")


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    spec = fill(tmp_path, "x/a.png", "y/b.png", "y/.b.png", ".git/c.png", "notes.txt", "y/Thumbs.db")
    data = open_dataset(spec)
    assert len(data.samples) == 2
    assert "ignored 2 hidden files and folders" in data.notes
    assert "ignored 2 files that are not images (.db, .txt)" in data.notes


def test_the_group_comes_from_the_path(tmp_path: Path) -> None:
    spec = fill(tmp_path, "x/p1_a.png", "y/p1_b.png", "y/p2_a.png", "y/other.png")
    data = open_dataset(spec, DatasetOptions(group_regex=r"(p\d)_"))
    assert data.samples.group.tolist() == ["p1", "y/other.png (no group)", "p1", "p2"]
    assert any("1 of 4 images have no group" in note for note in data.notes)


def test_a_flat_folder_can_be_extracted_without_labels(tmp_path: Path) -> None:
    spec = fill(tmp_path, "b.png", "a.png")
    samples = open_dataset(spec, DatasetOptions(label_column="none")).samples
    assert (samples.id.tolist(), samples.label_names) == (["a.png", "b.png"], ())
    with pytest.raises(DataError, match=r"images but no class folders.*--label none"):
        open_dataset(spec)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "holds no images; it is empty"),
        (["x/readme.txt"], r"holds no images; ignored 1 files that are not images \(.txt\)"),
        (["x/a.png", "x/b.png"], "one class only, 'x'"),
        (["train/a.png", "test/b.png"], "no class folders.*FOLDER/SPLIT/CLASS/IMAGE"),
        (["x/a.png", "y/b.png", "stray.png"], r"outside them: stray\.png"),
        (["train/x/a.png", "test/y/b.png", "masks/m.png"], "test, train are split folders but masks are not"),
        (["images/x/a.png", "images/y/b.png"], r"one level down: --data .*/images$"),
        (["images/x/a.png", "labels.csv"], r"use its manifest: --data .*/labels\.csv"),
        (["x/a.png", "y/b.nrrd"], r"y/b\.nrrd: NRRD volumes are not supported"),
    ],
)
def test_a_bad_folder_is_refused_with_what_is_known(names: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        open_dataset(fill(tmp_path, *names))


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    fill(tmp_path / "store", "a.png")
    spec = fill(tmp_path / "data", "x/b.png")
    (tmp_path / "data" / "y").symlink_to(tmp_path / "store")
    (tmp_path / "data" / "x" / "loop").symlink_to(tmp_path / "data")
    assert open_dataset(spec).samples.id.tolist() == ["x/b.png", "y/a.png"]


def test_options_about_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--group-column"):
        open_dataset(fill(tmp_path, "x/a.png", "y/b.png"), DatasetOptions(group_column="patient"))


def test_a_folder_is_called_by_its_name_or_the_one_around_it(tmp_path: Path) -> None:
    spec = fill(tmp_path / "pets" / "train", "x/a.png", "y/b.png")
    assert open_dataset(spec).name == "pets"


def test_every_suffix_that_counts_as_an_image_is_known_to_pillow() -> None:
    assert set(Image.registered_extensions()) >= IMAGE_SUFFIXES
