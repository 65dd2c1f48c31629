"""Poolings, layers, sizes and views through the real command: one decode, one file for each size, values that agree."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from featprobe import backbones, loading
from featprobe.datasets import open_dataset
from featprobe.records import Preprocessing

NAME = "vit_tiny_patch16_224"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def extract(quick_featprobe, folder: Path, tmp_path: Path):
    def command(*flags: str):
        common = ("--data", str(folder), "--cache", str(tmp_path / "cache"), "--weights", "random")
        done = quick_featprobe("extract", *common, *flags)
        assert done.returncode == 0, done.stderr
        return done, sorted((tmp_path / "cache" / "images").glob("*.h5"))

    return command


def rendered(folder: Path, rule: Preprocessing, keys: list[str]) -> dict[str, np.ndarray]:
    """The embeddings of every image, in the data set's order, without the command."""
    network = backbones.load(NAME, weights="random", image_size=rule.image_size[0])
    dataset = open_dataset(str(folder))
    batch = next(loading.batches(dataset, np.arange(len(dataset.samples)), [rule], batch_size=64, workers=0))
    with torch.inference_mode():
        return {key: value.numpy() for key, value in network(batch.images[0], keys).items()}


def test_poolings_and_layers_share_one_pass_and_one_file(extract, folder: Path) -> None:
    flags = ("--backbone", NAME, "--image-size", "32", "--pooling", "cls", "mean", "--layer", "last", "last4")
    _, (file,) = extract(*flags, "blocks.5")
    keys = ["cls", "mean", "last4/cls", "last4/mean", "blocks.5/cls", "blocks.5/mean"]
    rule = backbones.preprocessing(NAME, image_size=32)
    expected = rendered(folder, rule, keys)
    with h5py.File(file) as cached:
        for key in keys:
            stored = cached[f"embeddings/{key}"][:]
            assert np.allclose(stored, expected[key], rtol=0, atol=1e-4 * np.abs(expected[key]).max()), key
        assert cached["embeddings/last4/cls"].shape == (8, 4 * 192)


def test_each_image_size_is_a_file_of_its_own(extract) -> None:
    done, files = extract("--backbone", NAME, "--image-size", "32", "48")
    assert len(files) == 2
    assert "one pass over 8 images for 2 files" in done.stdout


def test_four_backbones_with_three_poolings_decode_each_image_once(
    extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    from featprobe.datasets import decoding

    original = decoding.decode
    monkeypatch.setattr(
        "featprobe.datasets.base.decode", lambda data: decoded.append(len(data)) or original(data)
    )
    names = ("resnet18", "efficientnet_lite0", "convnext_atto", "resnet10t")
    done, files = extract(
        "--backbone", *names, "--image-size", "64", "--pooling", "gap", "gem", "pre_logits", "--workers", "0"
    )
    assert len(files) == 4
    assert len(decoded) == 8
    assert "one pass over 8 images for 4 files, 12 embeddings each" in done.stdout


def test_views_are_averaged_and_kept_apart(extract, folder: Path) -> None:
    flags = ("--backbone", NAME, "--image-size", "32", "--tta", "hflip", "scale:1.5", "--tta-keep")
    _, (file,) = extract(*flags)
    rule = backbones.preprocessing(NAME, image_size=32)
    views = {view: rendered(folder, rule.one(view), ["cls"])["cls"] for view in ("plain", "hflip", "size:48")}
    with h5py.File(file) as cached:
        for view, expected in views.items():
            stored = cached[f"embeddings/@{view}/cls"][:]
            assert np.allclose(stored, expected, rtol=0, atol=1e-4 * np.abs(expected).max()), view
        mean = np.mean([cached[f"embeddings/@{view}/cls"][:] for view in views], axis=0)
        assert np.allclose(cached["embeddings/cls"][:], mean, atol=1e-6)
    assert not np.allclose(views["plain"], views["hflip"], atol=1e-3)


def test_patches_are_a_dense_data_set(extract) -> None:
    _, (file,) = extract("--backbone", NAME, "--image-size", "32", "--pooling", "cls", "patches", "mean")
    with h5py.File(file) as cached:
        patches = cached["embeddings/patches"][:]
        assert patches.shape == (8, 2, 2, 192)
        assert np.allclose(patches.mean(axis=(1, 2)), cached["embeddings/mean"][:], atol=1e-5)


def test_a_pooling_may_be_for_one_backbone(extract) -> None:
    _, files = extract(
        "--backbone", NAME, "resnet18", "--image-size", "64", "--pooling", f"{NAME}=cls", "resnet18=gem"
    )
    found = {}
    for file in files:
        with h5py.File(file) as cached:
            found[file.name.rpartition("-")[0]] = list(cached["embeddings"])
    assert found == {NAME: ["cls"], "resnet18": ["gem"]}


def test_two_names_of_one_backbone_are_one_file(extract) -> None:
    _, files = extract("--backbone", "timm:resnet10t", "resnet10t", "--image-size", "32")
    assert len(files) == 1


def test_patches_are_not_fine_tuned(quick_featprobe, folder: Path, tmp_path: Path) -> None:
    flags = ("--backbone", NAME, "--weights", "random", "--image-size", "32", "--pooling", "patches")
    done = quick_featprobe("finetune", "--data", folder, *flags, "--folds", "2", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "can't be fine-tuned" in done.stderr
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize("command", ["extract", "finetune"])
def test_a_pooling_that_one_backbone_lacks_is_answered_with_a_call_that_works(
    quick_featprobe, folder: Path, command: str
) -> None:
    call = (command, "--data", folder, "--backbone", NAME, "resnet18", "--weights", "random")
    done = quick_featprobe(*call, "--image-size", "32", "--pooling", "cls", "gap", "gem")
    assert done.returncode == 2
    assert not done.stdout, "it is said before the data set is read"
    advice = f"{NAME}=cls resnet18=gap resnet18=gem"
    assert done.stderr.endswith(f"type --pooling {advice}\n")
    if command == "extract":
        done = quick_featprobe(*call, "--image-size", "32", "--pooling", *advice.split())
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--pooling", "clss"), ("unknown --pooling 'clss'", "did you mean cls")),
        (("--pooling", "gap"), ("has no pooling 'gap'", "cls, mean, cls+mean")),
        (("--pooling", "resnt=gap"), ("'resnt', which is no --backbone",)),
        (("--layer", "blocks.99"), ("there is no layer 'blocks.99'", "did you mean blocks.9")),
        (("--layer", "nope"), (f"see featprobe backbones show {NAME}",)),
        (("--layer", "last13"), ("there is no layer 'last13'", "12 transformer blocks", "last12")),
        (("--image-size", "33"), ("33 x 33", "patches are 16 pixels wide", "--image-size 32")),
        (("--tta", "spin"), ("unknown --tta 'spin'", "five-crops")),
        (("--tta", "scale:big"), ("scale:big is no factor", "--tta scale:1.25")),
        (("--tta-keep",), ("--tta-keep without --tta",)),
        (("--tta", "scale:1.25"), ("no view of its own", "scale:1.5")),
        (("--tta", "hflip", "--pooling", "patches"), ("patches can't be averaged",)),
        (("--tta", "five-crops", "--fit", "squash"), ("crop:tl",)),
    ],
)
def test_what_can_not_be_is_said_in_one_line(
    quick_featprobe, folder: Path, tmp_path: Path, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    size = () if "--image-size" in flags else ("--image-size", "32")
    common = ("--data", str(folder), "--cache", str(tmp_path / "cache"), "--weights", "random")
    done = quick_featprobe("extract", *common, "--backbone", NAME, *size, *flags)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert not list((tmp_path / "cache").rglob("*.h5*"))


def test_a_cached_file_is_called_what_its_weights_are_called_now(
    quick_featprobe, folder: Path, tmp_path: Path
) -> None:
    torch.save(backbones.load("resnet10t", weights="random").model.state_dict(), tmp_path / "mine.pth")
    flags = ("--data", str(folder), "--backbone", "resnet10t", "--image-size", "32", "--cache", "cache")
    for weights, label in ((tmp_path / "mine.pth", "mine"), ("random", "random")):
        done = quick_featprobe("extract", *flags, "--weights", str(weights))
        (file,) = (tmp_path / "cache").rglob("*.h5")
        assert f"resnet10t ({label})" in done.stdout
        with h5py.File(file) as cached:
            assert cached.attrs["weights_label"] == label
    assert "weights called mine before" in done.stdout


def test_authors_is_called_native_where_it_is_and_shares_the_file(extract) -> None:
    flags = ("--backbone", "resnet10t", "--image-size", "32")
    done, (file,) = extract(*flags, "--preprocessing", "authors")
    assert "resnet10t (random): authors (= native): " in done.stdout
    with h5py.File(file) as cached:
        assert json.loads(cached.attrs["environment"])["preprocessing"] == "native"
    done, files = extract(*flags, "--preprocessing", "native")
    assert (files, "1 there already" in done.stdout) == ([file], True)
