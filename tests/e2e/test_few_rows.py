"""Amounts of labels that some fold, class or seed has no rows for are refused before anything is fitted."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from featprobe.stages import probe as stage

TINY = ("--backbone", "timm:test_vit", "--weights", "random", "--image-size", "32")


@pytest.fixture
def unequal(manifest: Path) -> Path:
    """The manifest with 12 patients of one class and 5 of the other."""
    table = pd.read_csv(manifest)
    rare = table[table.label == "malignant"].patient_id.unique()[5:]
    table[~table.patient_id.isin(rare)].to_csv(manifest, index=False)
    return manifest


def test_a_study_of_fractions_is_refused_before_its_first_fit(
    quick_featprobe, unequal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quick_featprobe("extract", "--data", f"few={unequal}", "--cache", "cache", *TINY).returncode == 0
    monkeypatch.setattr(stage, "fit", lambda _: pytest.fail("something was fitted"))
    words = ("probe", "--cache", "cache", "--out", "out", "--probe", "logistic", "--jobs", "1")
    # The whole amount, which could be fitted, stands first.
    done = quick_featprobe(*words, "--fraction", "1", "0.3", "--repeats", "2")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "data set 'few', fold 0, seed 0: --fraction 0.3: class 'malignant' has 1 group" in line
    assert "needs at least 2 groups of every class; nothing was fitted; type --fraction 0." in line
    assert not (tmp_path / "out" / "results.csv").exists()
    for flags, said in (
        (
            ("--shots", "2", "9"),
            "fold 0, seed 0: --shots 9 needs 9 groups of every class, and class 'malignant' has 4",
        ),
        (
            ("--fraction", "0.01"),
            "--fraction 0.01: leaves too little: class 'malignant' has 0 groups; it takes 2",
        ),
        (
            ("--protocol", "dinov2-knn", "--pooling", "cls", "--shots", "3"),
            "--shots 3: 10% of 6 training rows can't be held out",
        ),
        (
            ("--protocol", "medmnistplus-knn", "--pooling", "cls", "--shots", "3"),
            "--shots 3: 6 rows to look for 11 nearest neighbours in",
        ),
    ):
        refused = quick_featprobe("probe", "--cache", "cache", "--out", "out", *flags)
        assert refused.returncode == 2
        assert said in refused.stderr
    # What is named instead can be drawn in every fold, for both seeds.
    works = re.search(r"type --fraction (\S+) or more", line)
    assert works is not None
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    done = quick_featprobe(*words, "--fraction", works.group(1), "--repeats", "2", "--resamples", "50")
    assert done.returncode == 0, done.stderr
    assert "2 computed" in done.stdout


def test_a_dry_run_says_so_where_the_cache_is_there(quick_featprobe, unequal: Path, tmp_path: Path) -> None:
    study = '[[extract]]\ndata = ["few=labels.csv"]\nbackbone = ["timm:test_vit"]\nweights = ["random"]\nimage-size = [32]\n'
    (tmp_path / "study.toml").write_text(study + "[[probe]]\nfraction = [0.3, 1]\n")
    words = ("run", "study.toml", "--dry-run", "--cache", "cache")
    done = quick_featprobe(*words)
    assert (done.returncode, "REFUSED" in done.stdout) == (0, False), "nothing is cached: nothing is known"
    assert quick_featprobe("extract", "--data", f"few={unequal}", "--cache", "cache", *TINY).returncode == 0
    done = quick_featprobe(*words)
    assert done.returncode == 1
    assert "REFUSED: 2. probe: data set 'few', fold 0, seed 0: --fraction 0.3: class" in done.stdout
    (tmp_path / "study.toml").write_text(study + "[[probe]]\n")
    assert quick_featprobe(*words).returncode == 0


def test_fine_tuning_refuses_them_before_its_first_training(
    quick_featprobe, unequal: Path, tmp_path: Path
) -> None:
    words = ("finetune", "--data", f"few={unequal}", "--out", "out", *TINY, "--mode", "head", "--epochs", "1")
    for flags, said in (
        (
            ("--fraction", "1", "0.01"),
            "seed 0: --fraction 0.01: leaves too little: class 'malignant' has 0 groups",
        ),
        (("--shots", "2", "9"), "--shots 9 needs 9 groups of every class, and class 'malignant' has 4"),
    ):
        done = quick_featprobe(*words, *flags)
        assert done.returncode == 2
        assert said in done.stderr
        assert "nothing was fitted" in done.stderr
        assert not list((tmp_path / "out").iterdir())
