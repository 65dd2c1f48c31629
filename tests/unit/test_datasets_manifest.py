from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from featprobe.datasets import Dataset, DatasetOptions, open_dataset
from featprobe.errors import DataError, FeatprobeError


def write(root: Path, text: str, name: str = "scans.csv", images: str = "a b c d") -> str:
    for image in images.split():
        Image.new("L", (4, 4)).save(root / f"{image}.png")
    (root / name).write_bytes(text.encode())
    return str(root / name)


def opened(root: Path, text: str, **options: object) -> Dataset:
    return open_dataset(write(root, text), DatasetOptions(**options))  # type: ignore[arg-type]


def refusal(root: Path, text: str, **options: object) -> str:
    with pytest.raises(FeatprobeError) as caught:
        opened(root, text, **options)
    return str(caught.value)


def test_every_column_of_the_contract_is_read_as_text(tmp_path: Path) -> None:
    data = opened(
        tmp_path,
        "id,image,label,split,group,case,site,modality,age,sex\n"
        "007,a.png,none,Training,01,c1,s,T1,64,f\n"
        "008,b.png,x,valid,01,,s,,1e3,\n",
        keep_column=("age", "sex"),
    )
    samples = data.samples
    assert samples.id.tolist() == ["007", "008"]
    assert samples.path.tolist() == ["a.png", "b.png"]
    assert samples.label_names == ("none", "x")
    assert samples.split.tolist() == ["train", "val"]
    assert samples.group.tolist() == ["01", "01"]
    assert samples.case.tolist() == ["c1", "008"]
    assert samples.site.tolist() == ["s", "s"]
    assert samples.modality.tolist() == ["T1", ""]
    assert {name: column.tolist() for name, column in samples.columns.items()} == {
        "age": ["64", "1e3"],
        "sex": ["f", ""],
    }
    assert samples.groups_declared
    assert data.notes == ()


def test_numbers_sort_as_numbers_and_an_empty_label_is_missing(tmp_path: Path) -> None:
    data = opened(tmp_path, "path,label\na.png,10\nb.png,2\nc.png,\nd.png,-1\n")
    assert data.samples.label_names == ("-1", "2", "10")
    assert data.samples.label.tolist() == [2, 1, -1, 0]
    assert "1 of 4 images have no label" in data.notes
    mixed = "path,label\na.png,10\nb.png,2\nc.png,x\n"
    assert opened(tmp_path, mixed, target="classes").samples.label_names == ("10", "2", "x")


def test_aliases_of_the_group_are_taken_in_their_order_and_flags_win(tmp_path: Path) -> None:
    text = "path,label,lesion_id,patient_id,eye\na.png,x,l1,p1,L\nb.png,y,l2,p1,R\n"
    data = opened(tmp_path, text)
    assert data.samples.group.tolist() == ["p1", "p1"]
    assert data.notes == ("groups are read from the column patient_id",)
    assert opened(tmp_path, text, group_column="eye").samples.group.tolist() == ["L", "R"]
    assert opened(tmp_path, text, group_regex=r"(.)\.png").samples.group.tolist() == ["a", "b"]
    assert opened(tmp_path, text, label_column="eye").samples.label_names == ("L", "R")
    assert not opened(tmp_path, text, group_column="none").samples.groups_declared
    assert "leave one of them out" in refusal(tmp_path, text, group_column="eye", group_regex="x")


def test_rows_without_a_group_become_their_own_and_are_counted(tmp_path: Path) -> None:
    data = opened(tmp_path, "path,label,group\na.png,x,p\nb.png,y,\nc.png,y,\nd.png,x,p\n")
    assert len(set(data.samples.group.tolist())) == 3
    assert data.samples.groups_declared
    assert data.notes == ("2 of 4 images have no group: each of them counts as its own group",)
    empty = opened(tmp_path, "path,label,group\na.png,x,\nb.png,y,\n")
    assert not empty.samples.groups_declared


def test_unlabelled_data_need_no_label_column(tmp_path: Path) -> None:
    assert opened(tmp_path, "path\na.png\nb.png\n", label_column="none").samples.label.tolist() == [-1, -1]


def test_absolute_paths_byte_order_marks_blank_lines_and_tabs_are_read(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("L", (4, 4), 7).save(images / "z.png")
    text = f"﻿path\tlabel\r\n{images / 'z.png'}\t x \r\n\r\na.png\ty\r\n\t\r\n"
    data = open_dataset(write(tmp_path, text, "labels.tsv"))
    assert data.name == tmp_path.name.replace("[", "_").replace("]", "_")
    assert data.samples.label_names == ("x", "y")
    assert data.decode(data.read(0)).rgb().getpixel((0, 0)) == (7, 7, 7)


def test_a_parquet_file_says_the_same_as_the_csv(tmp_path: Path) -> None:
    write(tmp_path, "")
    frame = pd.DataFrame(
        {"path": ["a.png", "b.png", "c.png"], "label": [10, 2, 2], "patient": ["007", None, "008"]}
    )
    frame.astype({"patient": "category"}).to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    one, other = (open_dataset(str(tmp_path / name)).samples for name in ("t.parquet", "t.csv"))
    assert one.label_names == other.label_names == ("2", "10")
    assert one.label.tolist() == other.label.tolist()
    assert one.group.tolist() == other.group.tolist() == ["007", "b.png (no group)", "008"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        ("path,label\n", ["no rows", "path, label"]),
        (
            "path,diagnosis\na.png,x\n",
            ["no column 'label'", "path, diagnosis", "--label-column", "--label none"],
        ),
        ("file,label\na.png,x\n", ["no column 'path'", "file, label", "--path-column"]),
        ("path,Label\na.png,x\n", ["did you mean Label?"]),
        ("path,label\na.png,x\nb.png,x\n", ["one class only, 'x'"]),
        ("path,label\na.png,\nb.png,\n", ["holds no label"]),
        (
            "path,label\na.png,x\n\n1.png,x\n2.png,y\n3.png,y\n4.png,y\n",
            ["4 of 5 rows", "row 4 (its file is missing: '1.png')", "row 7 (", "paths are relative to"],
        ),
        (
            "path,label,split\na.png,x,Train\nb.png,y,dev\nc.png,y,hold-out\n",
            ["2 of 3 rows", "row 3 (an unknown split: 'dev'), row 4", "hold-out", "validation", "--resplit"],
        ),
        (
            "path,label,id\na.png,x,1\nb.png,y,1\n",
            ["row 2 (its id is not unique: '1'), row 3", "--id-column none"],
        ),
        ("path,label,id\na.png,x,1\nb.png,y,\n", ["1 of 2 rows", "row 3 (its id is empty)"]),
        (
            "path,label\na.png,x\na.png,y\n",
            ["row 2 (its path is not unique: 'a.png'), row 3", "list each image once"],
        ),
        ("path,label,label\na.png,x,y\n", ["two columns called 'label'"]),
        ("path,label\na.png,x\nb.png,y,z\n", ["row 3 (it has 3 cells, the header 2)", "double quotes"]),
        ("path,label\na.png\nb.png,y\n", ["row 2 (it has 1 cells, the header 2)"]),
        ('path,label\n"a.png,x\nb.png,y\n', ["can't be read as a table"]),
        ("path;label\na.png;x\n", ["separated by commas"]),
    ],
)
def test_a_bad_manifest_is_refused_with_what_is_known(text: str, words: list[str], tmp_path: Path) -> None:
    message = refusal(tmp_path, text)
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message


def test_options_that_name_no_column_are_refused(tmp_path: Path) -> None:
    text = "path,label\na.png,x\nb.png,y\n"
    for flag in ("path_column", "label_column", "group_column", "split_column"):
        message = refusal(tmp_path, text, **{flag: "oops"})
        assert "no column 'oops'" in message
        assert f"--{flag.replace('_', '-')}" in message
    assert "--keep-column" in refusal(tmp_path, text, keep_column=("oops",))
    assert "in none of 2 paths" in refusal(tmp_path, text, group_regex="patient")
    assert "not a regular expression" in refusal(tmp_path, text, group_regex="(")


def test_an_unknown_split_can_be_left_out(tmp_path: Path) -> None:
    text = "path,label,split\na.png,x,odd\nb.png,y,even\n"
    assert opened(tmp_path, text, split_column="none").samples.split.tolist() == ["", ""]


def test_other_files_than_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("path,label\nä.png,x\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        open_dataset(str(tmp_path / "latin.csv"))
    (tmp_path / "no.parquet").write_bytes(b"PAR0")
    with pytest.raises(DataError, match="can't be read as Parquet"):
        open_dataset(str(tmp_path / "no.parquet"))
    with pytest.raises(DataError, match=r"did you mean latin\.csv\?"):
        open_dataset(str(tmp_path / "latn.csv"))


def test_kinds_of_volumes_that_can_not_be_read_are_refused_by_row_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.nrrd").touch()
    with pytest.raises(DataError, match=r"row 3 \(.*NRRD.*: 'x.nrrd'\)"):
        opened(tmp_path, "path,label\na.png,x\nx.nrrd,y\n")


def test_a_file_that_goes_away_is_an_error_not_an_unreadable_image(tmp_path: Path) -> None:
    data = opened(tmp_path, "path,label\na.png,x\nb.png,y\n")
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png of scans is no longer there"):
        data.read(0)
