"""A study runs its canaries unasked, the report warns of what does not beat them, and one word switches them off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from featprobe.study import _plan, _read

STUDY = """
[study]
{switch}

[[extract]]
data = "labels.csv"
backbone = "efficientnet_lite0"
image-size = 32
offline = true

[[probe]]
probe = "logistic"
resamples = 100

[compare]
resamples = 100
map = "none"
"""


@pytest.fixture
def study(tmp_path: Path):
    """Two classes that differ in brightness alone: image statistics tell them apart as well as any backbone."""
    generator = np.random.default_rng(0)
    rows = []
    (tmp_path / "images").mkdir()
    for number in range(60):
        label = ("dark", "bright")[number % 2]
        pixels = generator.integers(0, 120, (36, 36, 3)) + (60 if label == "bright" else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / f"{number}.png")
        rows.append({"path": f"images/{number}.png", "label": label, "patient": f"P{number:02d}"})
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)

    def write(switch: str = "") -> Path:
        path = tmp_path / "study.toml"
        path.write_text(STUDY.format(switch=switch), encoding="utf-8")
        return path

    return write


def test_canaries_run_with_a_study_and_the_report_warns(
    quick_featprobe, study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = quick_featprobe("run", study(), "--out", "out", "--cache", "cache")
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / "out" / "results.csv", keep_default_na=False)
    systems = {(row.backbone, row.weights, row.mode) for row in found.itertuples()}
    assert systems == {
        ("efficientnet_lite0", "pretrained", "frozen"),
        ("efficientnet_lite0", "pretrained", "shuffled labels"),
        ("efficientnet_lite0", "random", "frozen"),
        ("image_stats", "none", "frozen"),
    }
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "is not shown to beat" in page
    assert "image statistics" in page.lower() or "image-statistics" in page.lower()
    assert "WARNING" in done.stdout
    again = quick_featprobe("run", study(), "--out", "out", "--cache", "cache")
    assert "nothing to compute" in again.stdout
    units = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert "signature" in json.dumps(units)


def test_canaries_are_switched_off_by_one_word(
    quick_featprobe, study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = quick_featprobe("run", study("canaries = false"), "--out", "out", "--cache", "cache")
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / "out" / "results.csv", keep_default_na=False)
    assert set(found.backbone) == {"efficientnet_lite0"}
    assert set(found["mode"]) == {"frozen"}
    assert set(found.weights) == {"pretrained"}


def test_a_switch_that_is_no_switch_is_refused(
    quick_featprobe, study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = quick_featprobe("run", study('canaries = "yes"'), "--out", "out", "--cache", "cache")
    assert done.returncode == 2
    assert "canaries = 'yes' in [study] of " in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_report_is_headed_as_the_study_is_titled(study) -> None:
    for switch, title in (("", "Which backbone?"), ('title = "Chests"', "Chests")):
        path = study(switch)
        plan = _plan(_read(path), path, Path("out"), None)
        assert [config.title for name, config in plan if name == "compare"] == [title]
