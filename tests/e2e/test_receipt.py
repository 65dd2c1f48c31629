"""What a study leaves behind repeats it: run.json and study.toml give the same numbers, and hold no row of data."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pandas as pd

from featprobe.results import ResultsFolder
from featprobe.stages.receipt import EXPECTED, held_to

STUDY = """
[study]
title = "A small study"
canaries = false

[[extract]]
data = "labels.csv"
backbone = "efficientnet_lite0"
image-size = 32
offline = true

[[probe]]
probe = "logistic"
resamples = 60
seed = 3

[compare]
resamples = 60
map = "none"
"""


def numbers(out: Path) -> pd.DataFrame:
    frame = pd.read_csv(out / "results.csv", keep_default_na=False)
    return frame.sort_values(list(frame.columns)).reset_index(drop=True)


def test_a_receipt_repeats_the_study(quick_featprobe, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8")
    done = quick_featprobe("run", "study.toml", "--out", "out", "--cache", "cache")
    assert done.returncode == 0, done.stderr
    for file in ("methods.md", "references.bib", "checklist.md", "study.toml"):
        assert (tmp_path / "out" / file).stat().st_size > 500, file

    text = (tmp_path / "out" / "run.json").read_text(encoding="utf-8")
    rows = ResultsFolder(tmp_path / "out").predictions()
    for column in ("id", "group", "case"):
        for name in rows[column].unique():
            assert str(name) not in text, f"run.json names the {column} {name}"

    # From the receipt alone, with every embedding computed anew; study.toml says the same.
    repeated = quick_featprobe("run", "out/run.json", "--out", "again", "--cache", "cache2")
    assert repeated.returncode == 0, repeated.stderr
    assert "every estimate and interval is the same" in repeated.stdout
    pd.testing.assert_frame_equal(numbers(tmp_path / "again"), numbers(tmp_path / "out"))
    assert len(list((tmp_path / "cache2").rglob("*.h5"))) == 1

    written = tomllib.loads((tmp_path / "out" / "study.toml").read_text(encoding="utf-8"))
    assert written == json.loads(text)["study"]
    assert written["probe"][0]["seed"] == 3
    assert written["extract"][0]["data"] == [str(manifest)]

    # Another answer is said to be another one.
    assert "WARNING: the estimates are not those" in held_to(EXPECTED + 64 * "0", tmp_path / "out")
    assert held_to("a fine result", tmp_path / "out") == ""

    shown = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert 'class="gallery"' in shown


def test_what_is_no_receipt_is_refused(quick_featprobe, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"files": {}, "units": {}}', encoding="utf-8")
    done = quick_featprobe("run", "run.json")
    assert done.returncode == 2
    assert "run.json holds no study" in done.stderr
    assert "featprobe compare" in done.stderr
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    assert "is no JSON file" in quick_featprobe("run", "bad.json").stderr


def test_pseudonymized_images_are_never_shown(quick_featprobe, manifest: Path, tmp_path: Path) -> None:
    common = ("--image-size", 32, "--pseudonymize", "secret.key", "--data", manifest.name)
    assert quick_featprobe("extract", *common).returncode == 0
    assert quick_featprobe("probe", "--probe", "logistic", "--resamples", 60).returncode == 0
    done = quick_featprobe("compare", "--map", "none", "--resamples", 60)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    assert 'class="gallery"' not in page
    assert "none of its images is shown" in page
    assert not list((tmp_path / "results" / "figures").glob("*hardest*"))
    # The pictures' place in the cache is there: they were left out, not missing.
    assert any(Path("cache").rglob("*.h5"))


def test_the_receipt_of_separate_commands_is_whole(quick_featprobe, manifest: Path, tmp_path: Path) -> None:
    assert quick_featprobe("extract", "--data", manifest.name, "--image-size", 32).returncode == 0
    assert quick_featprobe("probe", "--probe", "logistic", "--resamples", 60).returncode == 0
    done = quick_featprobe("compare", "--map", "none", "--resamples", 60, "--no-images")
    assert done.returncode == 0, done.stderr
    plain = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    assert 'class="gallery"' not in plain
    tables = tomllib.loads((tmp_path / "results" / "study.toml").read_text(encoding="utf-8"))
    assert [*tables] == ["study", "extract", "probe", "compare"]
    assert tables["extract"][0]["image-size"] == [32]
    assert tables["compare"] == {"map": "none", "images": False, "resamples": 60}
