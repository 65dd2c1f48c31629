"""Every registered kind of data set keeps the same promises; a new kind needs a tiny instance below."""

from __future__ import annotations

import csv
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featprobe.datasets import DatasetOptions, open_dataset
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


INSTANCES: dict[str, Callable[[Path], str]] = {
    "digits": digits,
    "folder": folder,
    "manifest": manifest,
    "medmnist": medmnist,
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
        assert (image.mode, copy.read(row)) == ("RGB", data.read(row))
        assert min(image.size) >= 1
        assert image.tobytes() == copy.decode(copy.read(row)).tobytes()
    assert data.read(0) != data.read(1)


@pytest.mark.parametrize("kind", DATASETS.names())
def test_a_kind_can_be_opened_without_labels_and_without_splits(kind: str, tmp_path: Path) -> None:
    spec = instance(kind, tmp_path)
    data = open_dataset(spec, DatasetOptions(label_column="none", split_column="none"))
    assert data.samples.label_names == ()
    assert set(data.samples.label.tolist()) == {-1}
    assert set(data.samples.split.tolist()) == {""}
    assert data.samples.id.tolist() == open_dataset(spec).samples.id.tolist()
