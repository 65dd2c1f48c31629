from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from featprobe.datasets import DatasetOptions, open_dataset, split_spec
from featprobe.errors import ConfigError, DataError


def test_importing_the_room_brings_in_no_heavy_library() -> None:
    code = (
        "import sys, featprobe.datasets; "
        "print(sorted({'PIL', 'pandas', 'pyarrow', 'sklearn', 'torch'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_is_split_off_but_an_equals_sign_in_a_path_is_not(tmp_path: Path) -> None:
    odd = tmp_path / "b=c.csv"
    odd.touch()
    assert split_spec("cxr=labels.csv") == ("cxr", "labels.csv")
    assert split_spec("cxr=a/b=c.csv") == ("cxr", "a/b=c.csv")
    assert split_spec("a/b=c.csv") == ("", "a/b=c.csv")
    assert split_spec(str(odd)) == ("", str(odd))


@pytest.mark.parametrize(
    ("spec", "words"), [("", "names no data"), ("x=", "names no data"), ("=x", "no name")]
)
def test_a_spec_without_name_or_data_is_refused(spec: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_dataset(spec)


def test_a_path_that_is_not_there_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "chest_xray").mkdir()
    with pytest.raises(DataError, match=r"no data at .*did you mean chest_xray\?"):
        open_dataset(str(tmp_path / "chest_xrays"))
    with pytest.raises(DataError, match=r"did you mean digits\?"):
        open_dataset("digit")
    with pytest.raises(DataError, match="not a kind of data"):
        open_dataset(__file__)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("set a/labels.csv", "set_a"),
        ("set a/metadata.csv", "set_a"),
        ("set a/scans v1.2.csv", "scans_v1.2"),
        ("Ärzte/fälle.csv", "f_lle"),
    ],
)
def test_a_data_set_is_called_after_its_file_or_folder(file: str, name: str, tmp_path: Path) -> None:
    from featprobe.datasets import safe_name
    from featprobe.registry import DATASETS

    path = tmp_path / file
    assert safe_name(DATASETS.get("manifest").default_name(str(path)), str(path)) == name


def test_a_name_without_a_usable_letter_is_refused() -> None:
    with pytest.raises(DataError, match="--data NAME="):
        open_dataset("日本=digits")


def test_digits_are_all_there_and_split_by_blocks() -> None:
    from sklearn.datasets import load_digits

    data = open_dataset("digits")
    samples = data.samples
    bunch = load_digits()
    assert (samples.id[0], samples.id[-1]) == ("digits-0000", "digits-1796")
    assert samples.label.tolist() == bunch.target.tolist()
    assert samples.split.tolist() == ["train"] * 1078 + ["val"] * 359 + ["test"] * 360
    pixels = np.asarray(data.decode(data.read(5)).rgb())
    expected = np.rint(bunch.images[5] * 255 / 16)
    assert np.array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))
    assert not samples.groups_declared
    assert any("most writers on one side" in note for note in data.notes)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (DatasetOptions(label_column=("x",)), "--label-column"),
        (DatasetOptions(keep_column=("x",)), "--keep-column"),
        (DatasetOptions(group_regex="x"), "--group-regex"),
    ],
)
def test_an_option_that_digits_do_not_know_is_not_ignored(options: DatasetOptions, flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        open_dataset("digits", options)


def test_a_given_name_is_used_as_it_is_or_refused():
    with pytest.raises(DataError, match=r"type: --data sp_=digits"):
        open_dataset("sp ä=digits")


def test_a_name_with_a_slash_is_told_from_a_path(tmp_path):
    (tmp_path / "labels.csv").touch()
    with pytest.raises(DataError, match="the name 'a/b' can't be used"):
        open_dataset(f"a/b={tmp_path / 'labels.csv'}")
