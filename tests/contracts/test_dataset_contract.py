"""Every registered kind of data set keeps the same promises; a new kind needs a tiny instance below."""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featprobe.datasets import DatasetOptions, open_dataset
from featprobe.imaging import encode_raster
from featprobe.registry import DATASETS


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def digits(_: Path) -> str:
    return "digits"


def folder(root: Path) -> str:
    for row, name in enumerate(["train/cat/a.png", "train/dog/b.png", "test/cat/c.jpg", "test/dog/d.bmp"]):
        picture(root / "pets" / name, row)
    return str(root / "pets")


def manifest(root: Path) -> str:
    rows = [("a.png", "2", "p1"), ("b.png", "10", "p1"), ("c.png", "", "p2")]
    for row, (name, _, _) in enumerate(rows):
        picture(root / name, row)
    with (root / "scans.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label", "patient"), *rows])
    return str(root / "scans.csv")


def medmnist(root: Path) -> str:
    arrays = {}
    for number, split in enumerate(["train", "val", "test"]):
        arrays[f"{split}_images"] = np.random.default_rng(number).integers(
            0, 256, (3, 28, 28), dtype=np.uint8
        )
        arrays[f"{split}_labels"] = np.array([[0], [1], [1]], dtype=np.uint8)
    np.savez_compressed(root / "breastmnist.npz", **arrays)
    return str(root / "breastmnist.npz")


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def webdataset(root: Path) -> str:
    for shard in range(2):
        with tarfile.open(root / f"scans-{shard:04d}.tar", "w") as archive:
            for row in range(2):
                about = {"patient": f"p{shard}", "split": "train"}
                members = {
                    "png": png(2 * shard + row),
                    "cls": b"%d" % row,
                    "json": json.dumps(about).encode(),
                }
                for suffix, data in members.items():
                    info = tarfile.TarInfo(f"scan{shard}{row}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return str(root / "scans-{0000..0001}.tar")


def huggingface(root: Path) -> str:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "patient": datasets.Value("string"),
        }
    )
    rows = {
        "image": [{"bytes": png(row), "path": None} for row in range(3)],
        "label": [0, 1, 1],
        "patient": ["a", "b", "b"],
    }
    split = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": split, "validation": split}).save_to_disk(str(root / "saved"))
    return str(root / "saved")


INSTANCES: dict[str, Callable[[Path], str]] = {
    "digits": digits,
    "folder": folder,
    "manifest": manifest,
    "medmnist": medmnist,
    "webdataset": webdataset,
    "huggingface": huggingface,
}


def instance(kind: str, root: Path) -> str:
    assert kind in INSTANCES, f"the data set kind {kind!r} has no instance in {Path(__file__).name}: add one"
    return INSTANCES[kind](root)


@pytest.mark.parametrize("kind", DATASETS.names())
def test_a_kind_keeps_the_contract(kind: str, tmp_path: Path) -> None:
    spec = instance(kind, tmp_path)
    assert [name for name, member in DATASETS.items() if member.accepts(spec)] == [kind]

    data, again = open_dataset(spec), open_dataset(f"My-own={spec}")
    samples = data.samples
    assert (data.kind, again.name) == (kind, "My-own")
    assert re.fullmatch(r"[A-Za-z0-9._-]+", data.name)
    assert len(samples) > 0
    assert samples.id.tolist() == again.samples.id.tolist()
    assert samples.labels_sha256() == again.samples.labels_sha256()
    assert len(samples.label_names) >= 2
    assert not any((samples.sha256 != "") | (samples.pixel_sha256 != "") | (samples.phash != ""))
    assert all(isinstance(note, str) and note for note in data.notes)
    assert samples.groups_declared or any("no groups declared" in note for note in data.notes)

    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 - what this test itself has pickled
    for row in (0, len(samples) - 1):
        image = data.decode(data.read(row))
        assert (image.rgb().mode, copy.read(row)) == ("RGB", data.read(row))
        assert min(image.width, image.height) >= 1
        assert encode_raster(image) == encode_raster(copy.decode(copy.read(row)))
    assert data.read(0) != data.read(1)


@pytest.mark.parametrize("kind", DATASETS.names())
def test_a_kind_can_be_opened_without_labels_and_without_splits(kind: str, tmp_path: Path) -> None:
    spec = instance(kind, tmp_path)
    data = open_dataset(spec, DatasetOptions(label_column=("none",), split_column="none"))
    assert data.samples.label_names == ()
    assert set(data.samples.label.tolist()) == {-1}
    assert set(data.samples.split.tolist()) == {""}
    assert data.samples.id.tolist() == open_dataset(spec).samples.id.tolist()


@pytest.mark.parametrize("kind", DATASETS.names())
def test_a_kind_can_be_opened_under_pseudonyms(kind: str, tmp_path: Path) -> None:
    spec = instance(kind, tmp_path)
    plain = open_dataset(spec)
    data = open_dataset(spec, DatasetOptions(pseudonymize=tmp_path / "secret"))
    named = re.compile(r"[0-9a-f]{16}(#[a-z]+[0-9]+)?")
    for column in ("id", "path", "group", "case"):
        values = getattr(data.samples, column).tolist()
        assert all(named.fullmatch(value) for value in values), (column, values)
        assert len(set(values)) == len(set(getattr(plain.samples, column).tolist()))
    assert data.samples.label.tolist() == plain.samples.label.tolist()
    assert data.samples.split.tolist() == plain.samples.split.tolist()
    assert data.samples.groups_declared == plain.samples.groups_declared
    assert (data.name, data.kind, data.read(1)) == (plain.name, plain.kind, plain.read(1))
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 - what this test itself has pickled
    assert copy.samples.id.tolist() == data.samples.id.tolist()
    assert copy.read(0) == data.read(0)
