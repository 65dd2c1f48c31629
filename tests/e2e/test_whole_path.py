"""The path of a researcher through the real command: extract, probe, finetune, compare, again, and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from featprobe.records import ESTIMATE_COLUMNS, KEY_COLUMNS, Recipe

QUICK = ("--backbone", "resnet18", "--weights", "random", "--image-size", "32")

STUDY = """
[study]
title = "A study of two backbones"

[[extract]]
data = "{manifest}"
backbone = ["resnet18", "efficientnet_lite0"]
weights = ["resnet18=random", "efficientnet_lite0=pretrained"]
image-size = 32

[[probe]]
resamples = 100

[[finetune]]
data = "{manifest}"
backbone = "resnet18"
weights = "random"
image-size = 32
epochs = 1
mode = ["full", "head"]
folds = 5
resamples = 100

[compare]
resamples = 100
"""


class Resources(HTMLParser):
    """Every address that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attributes):
        loading = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}
        self.found += [value for name, value in attributes if name == loading.get(tag) and value]


@pytest.fixture
def study(manifest, tmp_path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY.format(manifest=manifest))
    return path


@pytest.mark.slow
def test_a_study_runs_whole_and_a_second_run_computes_nothing(featprobe, study, tmp_path):
    first = featprobe("run", study)
    assert first.returncode == 0, first.stdout + first.stderr
    out = tmp_path / "results" / "study"

    results = pd.read_csv(out / "results.csv")
    assert list(results.columns) == list(ESTIMATE_COLUMNS)
    assert set(results["mode"]) == {"frozen", "full", "head", "shuffled labels"}
    assert set(results["fold"].astype(str)) == {"0", "1", "2", "3", "4", "mean"}
    assert results["value"].notna().all()
    inside = results.dropna(subset=["ci_low", "ci_high"])
    assert len(inside) > len(results) / 2
    assert (inside.ci_low <= inside.value + 1e-12).all()
    assert (inside.value <= inside.ci_high + 1e-12).all()
    assert results.ci_method.notna().all()

    predictions = pd.read_parquet(out / "predictions.parquet")
    assert {*KEY_COLUMNS, "id", "case", "group", "modality", "split", "y_true", "labels_sha256"} <= set(
        predictions.columns
    )
    scores = predictions[["y_score_benign", "y_score_malignant"]]
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-9)
    # Every image is judged once by every model, and frozen and fine-tuned models share the folds.
    for _, model in predictions.groupby(["backbone", "weights", "mode", "probe"]):
        assert sorted(model.id) == sorted(set(model.id))
        assert len(model) == 48
    folds = predictions.groupby("id")["fold"].nunique()
    assert (folds == 1).all(), "an image stands in different folds of different models"

    page = (out / "report.html").read_text()
    parser = Resources()
    parser.feed(page)
    assert not [address for address in parser.found if not address.startswith(("data:", "#"))]
    assert "resnet18" in page
    for kind in ("tables/*.md", "tables/*.tex", "figures/*.svg", "figures/*.png"):
        assert list(out.glob(kind)), kind
    assert "units" in json.loads((out / "run.json").read_text())

    stamps = {
        file: file.stat().st_mtime_ns
        for file in (
            *out.glob("*.csv"),
            *out.glob("*.parquet"),
            *(tmp_path / "cache").rglob("*.h5"),
            out / "report.html",
        )
    }
    second = featprobe("run", study)
    assert second.returncode == 0, second.stderr
    assert "nothing to compute" in second.stdout
    assert {file: file.stat().st_mtime_ns for file in stamps if file.suffix != ".h5"} == {
        f: s for f, s in stamps.items() if f.suffix != ".h5"
    }


def test_the_cache_keeps_its_contract(quick_featprobe, manifest, tmp_path):
    result = quick_featprobe("extract", "--data", manifest, *QUICK, "--pooling", "gap", "pre_logits")
    assert result.returncode == 0, result.stderr
    path = next((tmp_path / "cache").rglob("*.h5"))
    with h5py.File(path) as file:
        recipe = Recipe.from_json(file.attrs["recipe"])
        assert file.attrs["fingerprint"] == recipe.fingerprint
        assert path.name == f"resnet18-{recipe.fingerprint[:12]}.h5"
        assert path.parent.name == manifest.parent.name
        assert file["embeddings/gap"].shape == (48, 512)
        assert file["embeddings/gap"].attrs["complete"]
        assert file["samples/group"].asstr()[0].startswith("patient")
        assert file["samples/label"][:].tolist() == [0] * 24 + [1] * 24
        # resnet18's pre-logits are its global average: two ways to the same numbers.
        np.testing.assert_allclose(
            file["embeddings/gap"][:], file["embeddings/pre_logits"][:], rtol=1e-5, atol=1e-6
        )


def test_labels_are_refreshed_without_a_forward_pass(quick_featprobe, manifest, tmp_path):
    assert quick_featprobe("extract", "--data", manifest, *QUICK).returncode == 0
    manifest.write_text(manifest.read_text().replace(",malignant,", ",suspicious,"))
    again = quick_featprobe("extract", "--data", manifest, *QUICK)
    assert again.returncode == 0, again.stderr
    assert "0 computed, 1 there already" in again.stdout
    with h5py.File(next((tmp_path / "cache").rglob("*.h5"))) as file:
        assert [name.decode() for name in file["label_names"][:]] == ["benign", "suspicious"]


def test_a_grown_list_takes_over_what_is_cached(quick_featprobe, manifest, tmp_path):
    everything = manifest.read_text().splitlines()
    manifest.write_text("\n".join([everything[0], *everything[5:]]) + "\n")
    assert quick_featprobe("extract", "--data", manifest, *QUICK).returncode == 0
    old = next((tmp_path / "cache").rglob("*.h5"))
    with h5py.File(old) as file:
        before = dict(zip(file["samples/id"].asstr()[:], file["embeddings/gap"][:], strict=True))
    manifest.write_text("\n".join(everything) + "\n")
    assert quick_featprobe("extract", "--data", manifest, *QUICK).returncode == 0
    new = next(path for path in (tmp_path / "cache").rglob("*.h5") if path != old)
    with h5py.File(new) as file:
        after = dict(zip(file["samples/id"].asstr()[:], file["embeddings/gap"][:], strict=True))
    assert len(after) == len(before) + 4
    for name, row in before.items():
        np.testing.assert_array_equal(after[name], row)
    listed = quick_featprobe("cache", "ls")
    assert "superseded" in listed.stdout
    assert old.name in quick_featprobe("cache", "gc").stdout
    assert new.exists()
    assert not old.exists()


def test_unreadable_images_are_quarantined_and_come_back(quick_featprobe, manifest, tmp_path):
    broken = tmp_path / "images" / "benign" / "patient000_0.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    first = quick_featprobe("extract", "--data", manifest, *QUICK)
    assert first.returncode == 0, first.stderr
    assert "quarantine" in first.stdout
    assert broken.name in first.stdout
    broken.write_bytes(whole)
    second = quick_featprobe("extract", "--data", manifest, *QUICK)
    assert second.returncode == 0, second.stderr
    with h5py.File(max((tmp_path / "cache").rglob("*.h5"), key=os.path.getmtime)) as file:
        assert len(file["samples/id"]) == 48
        assert len(file["quarantine/id"]) == 0


def test_cache_verify_recheck_and_export(quick_featprobe, manifest, tmp_path):
    assert quick_featprobe("extract", "--data", manifest, *QUICK).returncode == 0
    path = next((tmp_path / "cache").rglob("*.h5"))
    assert quick_featprobe("cache", "verify").returncode == 0
    checked = quick_featprobe("cache", "recheck")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert quick_featprobe("cache", "export", "--out", "table.npz").returncode == 0
    assert quick_featprobe("cache", "export", "--out", "table.parquet").returncode == 0
    with np.load(tmp_path / "table.npz") as table, h5py.File(path) as file:
        np.testing.assert_array_equal(table["embeddings"], file["embeddings/gap"][:])
    assert len(pd.read_parquet(tmp_path / "table.parquet")) == 48
    with h5py.File(path) as file:
        place = file["embeddings/gap"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as raw:
        raw.seek(place + 100)
        byte = raw.read(1)[0]
        raw.seek(place + 100)
        raw.write(bytes([byte ^ 1]))
    damaged = quick_featprobe("cache", "verify")
    assert damaged.returncode == 1
    assert "DAMAGED" in damaged.stdout


@pytest.mark.slow
def test_kill_and_resume_give_the_bytes_of_an_unbroken_run(featprobe, manifest, tmp_path):
    command = ["extract", "--data", str(manifest), *QUICK, "--batch-size", "4"]
    assert featprobe(*command, "--cache", "whole").returncode == 0
    with h5py.File(next((tmp_path / "whole").rglob("*.h5"))) as file:
        whole = file["embeddings/gap"][:]
    process = subprocess.Popen(
        [sys.executable, "-m", "featprobe.cli", *command, "--cache", "killed"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FEATPROBE_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while (
        not list((tmp_path / "killed").rglob("*.part"))
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert featprobe(*command, "--cache", "killed").returncode == 0
    with h5py.File(next((tmp_path / "killed").rglob("*.h5"))) as file:
        np.testing.assert_array_equal(file["embeddings/gap"][:], whole)


def test_several_backbones_share_one_call(quick_featprobe, image_folder, tmp_path):
    result = quick_featprobe(
        "extract",
        "--data",
        image_folder,
        "--backbone",
        "resnet18",
        "vit_tiny_patch16_224",
        "--weights",
        "random",
        "--image-size",
        "32",
    )
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "cache").rglob("*.h5"))) == 2
    assert "2 computed" in result.stdout


def test_help_needs_neither_torch_nor_pandas(featprobe):
    assert featprobe("--help").returncode == 0
    code = (
        "import featprobe.cli, sys; print({'torch', 'timm', 'pandas', 'sklearn', 'h5py'} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"


def test_completion_scripts_are_printed(featprobe):
    for shell in ("bash", "zsh"):
        result = featprobe("--print-completion", shell)
        assert result.returncode == 0
        assert "extract" in result.stdout


def test_backbones_are_listed_and_shown(quick_featprobe):
    listed = quick_featprobe("backbones", "ls")
    assert listed.returncode == 0, listed.stderr
    assert "dinov2_vitb14" in listed.stdout
    shown = quick_featprobe("backbones", "show", "dinov2_vits14")
    assert shown.returncode == 0, shown.stderr
    assert "resize256-crop224-bicubic" in shown.stdout
    assert "(default)" in next(line for line in shown.stdout.splitlines() if "authors" in line)
    assert "518" in shown.stdout
