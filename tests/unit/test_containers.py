from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from featprobe.datasets import Dataset, DatasetOptions, UnreadableImageError, open_dataset
from featprobe.errors import DataError


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), seed, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def shard(path: Path, members: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def sample(key: str, seed: int, **about: object) -> list[tuple[str, bytes]]:
    return [(f"{key}.png", png(seed)), (f"{key}.json", json.dumps(about).encode())]


def level(data: Dataset, row: int) -> int:
    return int(np.asarray(data.decode(data.read(row)).rgb()).max())


def test_members_of_a_key_are_one_sample_with_the_columns_of_its_json(tmp_path: Path) -> None:
    members = sample("a/x.1", 1, label="no", patient="p", case="c", split="Train", site=3, age=64.0)
    members = [("a/x1.png", members[0][1]), ("a/x1.json", members[1][1])]
    members += sample("./b", 2, label="yes", patient="q", case="d", split="test", modality="T1")
    data = open_dataset(shard(tmp_path / "s.tar", members), DatasetOptions(keep_column=("age",)))
    samples = data.samples
    assert (data.kind, data.name) == ("webdataset", "s")
    assert samples.id.tolist() == ["a/x1", "b"]
    assert samples.path.tolist() == ["s.tar/a/x1.png", "s.tar/./b.png"]
    assert samples.label_names == ("no", "yes")
    assert samples.group.tolist() == ["p", "q"]
    assert samples.case.tolist() == ["c", "d"]
    assert samples.split.tolist() == ["train", "test"]
    assert samples.site.tolist() == ["3", ""]
    assert samples.modality.tolist() == ["", "T1"]
    assert samples.columns["age"].tolist() == ["64", ""]
    assert [level(data, row) for row in (1, 0)] == [2, 1]


@pytest.mark.parametrize("suffix", ["cls", "txt"])
def test_labels_come_from_members_too_and_missing_ones_are_missing(suffix: str, tmp_path: Path) -> None:
    members = [(f"{key}.jpg", png(0)) for key in "abc"] + [(f"a.{suffix}", b"1\n"), (f"c.{suffix}", b"0")]
    samples = open_dataset(shard(tmp_path / "s.tar", members)).samples
    assert samples.label_names == ("0", "1")
    assert samples.label.tolist() == [1, -1, 0]


def test_a_list_of_labels_is_multilabel_where_it_is_declared(tmp_path: Path) -> None:
    members = sample("a", 1, label=["x", "y"]) + sample("b", 2, label=["y"]) + sample("c", 3, label=["x"])
    spec = shard(tmp_path / "s.tar", members)
    assert open_dataset(spec, DatasetOptions(target="multilabel")).samples.label.tolist() == [
        [1, 1],
        [0, 1],
        [1, 0],
    ]


def test_shards_are_a_folder_or_a_pattern_and_equal_keys_are_told_apart(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for number in (0, 1):
        shard(root / f"s-{number:02d}.tar", sample("a", number, label=number) + sample("b", 5, label=number))
    shard(root / "s-02.tar", sample("c", 9, label=2))
    data = open_dataset(str(root))
    assert (data.name, data.kind) == ("set", "webdataset")
    assert data.samples.id.tolist() == ["s-00/a", "s-00/b", "s-01/a", "s-01/b", "s-02/c"]
    part = open_dataset(str(root / "s-{01..02}.tar"))
    assert part.name == "s"
    assert part.samples.id.tolist() == ["a", "b", "c"]
    assert open_dataset(str(root / "s-{00,02}.tar")).samples.id.tolist() == ["a", "b", "c"]
    with pytest.raises(DataError, match=r"2 of 4 shards are missing: s-03\.tar, s-04\.tar"):
        open_dataset(str(root / "s-{01..04}.tar"))


def test_the_image_is_the_member_with_an_image_suffix_or_the_one_that_is_asked_for(tmp_path: Path) -> None:
    members = [("a.seg.png", png(7)), ("a.jpg", png(1)), ("b.jpg", png(2)), ("b.seg.png", png(8))]
    members += [("a.cls", b"0"), ("b.cls", b"1"), ("note.cls", b"1")]
    spec = shard(tmp_path / "s.tar", members)
    data = open_dataset(spec)
    assert [level(data, row) for row in (0, 1)] == [1, 2]
    assert "1 samples of the shards hold no image: they are left out" in data.notes
    masks = open_dataset(spec, DatasetOptions(path_column="seg.png"))
    assert [level(masks, row) for row in (0, 1)] == [7, 8]
    with pytest.raises(DataError, match=r"holds no images; its members end in cls, jpg, seg\.png"):
        open_dataset(spec, DatasetOptions(path_column="bmp"))


def test_samples_that_can_not_be_used_are_all_listed(tmp_path: Path) -> None:
    members = [("a.png", png(1)), ("a.jpg", png(1)), ("b.png", png(1)), ("b.png", png(2))]
    members += [("c.png", png(1)), ("c.json", b"{"), ("d.png", png(1)), ("d.json", b"[1]"), ("e.png", png(1))]
    with pytest.raises(DataError) as caught:
        open_dataset(shard(tmp_path / "s.tar", members), DatasetOptions(label_column=("none",)))
    for words in (
        "4 of 5 rows",
        "sample a (several images: png, jpg)",
        "sample b (two members .png)",
        "sample c (its .json can't be read)",
        "sample d (its .json is no object",
        "--path-column",
    ):
        assert words in str(caught.value)


def test_compressed_and_damaged_shards_are_refused_and_an_unended_one_is_told(tmp_path: Path) -> None:
    spec = shard(tmp_path / "s.tar", sample("a", 1, label=0) + sample("b", 2, label=1))
    whole = (tmp_path / "s.tar").read_bytes()
    for name in ("z.tar.gz", "z.tar"):
        (tmp_path / name).write_bytes(gzip.compress(whole))
        with pytest.raises(DataError, match=rf"{name} is compressed.*gunzip"):
            open_dataset(str(tmp_path / name))
    with tarfile.open(spec) as archive:
        last = archive.getmembers()[-1]
    cuts = {"data": last.offset_data + 1, "header": last.offset + 100}
    for name, cut in cuts.items():
        (tmp_path / f"{name}.tar").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=f"{name}.tar is damaged or cut off"):
            open_dataset(str(tmp_path / f"{name}.tar"))
    broken = bytearray(whole)
    broken[last.offset + 10 : last.offset + 20] = b"\xff" * 10
    (tmp_path / "broken.tar").write_bytes(broken)
    with pytest.raises(DataError, match="damaged or cut off"):
        open_dataset(str(tmp_path / "broken.tar"))
    (tmp_path / "unended.tar").write_bytes(whole[: last.offset_data + 512])
    notes = open_dataset(str(tmp_path / "unended.tar")).notes
    assert any("no end mark and may be cut off: unended.tar" in note for note in notes)
    (tmp_path / "empty.tar").touch()
    with pytest.raises(DataError, match=r"empty\.tar is damaged"):
        open_dataset(str(tmp_path / "empty.tar"))


def test_a_shard_that_changes_later_is_told_when_it_is_read(tmp_path: Path) -> None:
    data = open_dataset(shard(tmp_path / "s.tar", sample("a", 1, label=0) + sample("b", 2, label=1)))
    (tmp_path / "s.tar").write_bytes((tmp_path / "s.tar").read_bytes()[:600])
    with pytest.raises(UnreadableImageError, match="ends before the image does"):
        data.read(1)
    (tmp_path / "s.tar").unlink()
    with pytest.raises(DataError, match=r"s\.tar of s is no longer there"):
        data.read(0)


datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def quiet() -> Any:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def table(rows: int, start: int = 0, **more: list[Any]) -> Any:
    features = datasets.Features(
        {
            "scan": datasets.Image(),
            "diagnosis": datasets.ClassLabel(names=["none", "tumour"]),
            "patient": datasets.Value("string"),
            **{name: datasets.Value("string") for name in more},
        }
    )
    columns = {
        "scan": [{"bytes": png(start + row), "path": f"{start + row}.png"} for row in range(rows)],
        "diagnosis": [row % 2 for row in range(rows)],
        "patient": [f"p{row // 2}" for row in range(rows)],
        **more,
    }
    return datasets.Dataset.from_dict(columns, features=features)


def test_a_saved_dataset_dict_is_read_as_its_own_package_reads_it(tmp_path: Path) -> None:
    splits = datasets.DatasetDict({"train": table(7), "validation": table(3, 50), "test": table(2, 90)})
    splits.save_to_disk(str(tmp_path / "set"), num_shards={"train": 3, "validation": 1, "test": 1})
    data = open_dataset(str(tmp_path / "set"))
    assert (data.name, data.kind, data.samples.label_names) == ("set", "huggingface", ("none", "tumour"))
    assert data.samples.split.tolist() == ["train"] * 7 + ["val"] * 3 + ["test"] * 2
    assert data.samples.id[[0, 7, 11]].tolist() == ["train-000000", "validation-000000", "test-000001"]
    assert data.samples.path[7] == "validation/50.png"
    own = datasets.load_from_disk(str(tmp_path / "set"))
    rows = [
        row
        for split in ("train", "validation", "test")
        for row in own[split].cast_column("scan", datasets.Image(decode=False))
    ]
    assert [data.read(row) for row in range(12)] == [row["scan"]["bytes"] for row in rows]
    assert data.samples.label.tolist() == [row["diagnosis"] for row in rows]
    assert data.samples.group.tolist() == [row["patient"] for row in rows]
    assert level(pickle.loads(pickle.dumps(data)), 8) == 51  # noqa: S301 - what this test itself has pickled


def test_one_saved_split_and_other_columns_are_read(tmp_path: Path) -> None:
    one = table(4, grade=["low", "high", "low", None]).add_column("score", [0.5, 1.5, None, 2.0])
    one.select([3, 1, 0, 2]).save_to_disk(str(tmp_path / "set"))
    spec = str(tmp_path / "set")
    assert open_dataset(spec).samples.split.tolist() == [""] * 4
    assert [level(open_dataset(spec), row) for row in range(4)] == [3, 1, 0, 2]
    grades = open_dataset(spec, DatasetOptions(label_column=("grade",), keep_column=("score",)))
    assert grades.samples.label_names == ("high", "low")
    assert grades.samples.label.tolist() == [-1, 0, 1, 1]
    assert grades.samples.columns["score"].tolist() == ["2", "1.5", "0.5", ""]
    assert open_dataset(spec, DatasetOptions(label_column=("score",))).samples.task == "continuous"
    assert open_dataset(spec, DatasetOptions(group_regex=r"^(\d)")).samples.group.tolist() == [
        "3",
        "1",
        "0",
        "2",
    ]


def test_parquet_files_of_the_hub_are_read_by_row_group_with_splits_from_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    table(7).to_parquet(str(folder / "train-00000-of-00001.parquet"), batch_size=2)
    table(3, 50).to_parquet(str(folder / "test-00000-of-00001.parquet"), batch_size=2)
    before = sorted(tmp_path.rglob("*"))
    data = open_dataset(str(tmp_path / "set"))
    assert data.samples.split.tolist() == ["test"] * 3 + ["train"] * 7
    order = [9, 0, 4, 2, 1, 8, 3, 5, 7, 6]
    assert [level(data, row) for row in order] == [[50, 51, 52, 0, 1, 2, 3, 4, 5, 6][row] for row in order]
    assert sorted(tmp_path.rglob("*")) == before


def test_images_beside_the_data_are_found_and_missing_ones_are_told(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(png(5))
    images = [{"bytes": None, "path": name} for name in ("a.png", "gone.png", "")]
    rows = pa.table(
        {"image": [*images, None, {"bytes": png(6), "path": ""}], "label": ["x", "y", "x", "y", "y"]}
    )
    pq.write_table(rows, tmp_path / "set" / "x.parquet")
    data = open_dataset(str(tmp_path / "set"))
    assert [level(data, row) for row in (0, 4)] == [5, 6]
    with pytest.raises(DataError, match=r"the image gone\.png"):
        data.read(1)
    for row in (2, 3):
        with pytest.raises(UnreadableImageError, match="holds no image"):
            data.read(row)


def test_damaged_and_foreign_folders_are_told_apart(tmp_path: Path) -> None:
    table(4).save_to_disk(str(tmp_path / "set"))
    spec = str(tmp_path / "set")
    with pytest.raises(DataError, match=r"no column 'img'; .*its images are in scan"):
        open_dataset(spec, DatasetOptions(path_column="img"))
    file = next((tmp_path / "set").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"arrow can't be read"):
        open_dataset(spec)
    file.unlink()
    with pytest.raises(DataError, match="lacks files that it lists"):
        open_dataset(spec)
    folder = tmp_path / "classes"
    for name in ("x", "y"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.png").write_bytes(png(1))
    datasets.Dataset.from_dict({"path": ["x/a.png"], "label": ["x"]}).to_parquet(
        str(folder / "labels.parquet")
    )
    (folder / "old.tar").touch()
    assert open_dataset(str(folder)).kind == "folder"


def test_splits_with_other_names_are_refused_but_can_be_left_out(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": table(2), "fold7": table(2)}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match="does not know: fold7"):
        open_dataset(str(tmp_path / "set"))
    data = open_dataset(str(tmp_path / "set"), DatasetOptions(split_column="none"))
    assert data.samples.id.tolist() == ["train-000000", "train-000001", "fold7-000000", "fold7-000001"]
    (tmp_path / "hub").mkdir()
    for name in ("train", "more"):
        table(2).to_parquet(str(tmp_path / "hub" / f"{name}.parquet"))
    with pytest.raises(DataError, match="does not know: files without one"):
        open_dataset(str(tmp_path / "hub"))
