"""The studies that come with featprobe parse and plan, and say what they lack and how to get it."""

from __future__ import annotations

from pathlib import Path

import pytest

from featprobe.config_training import MONITORED, TRAINING_MODES, TRAINING_PROTOCOLS
from featprobe.heads import MODES, MONITORS
from featprobe.heads.protocols import TRAININGS
from featprobe.registry import PROTOCOLS
from featprobe.study import pipeline, run


def test_the_names_of_the_command_line_are_those_of_the_heads() -> None:
    assert tuple(MODES) == TRAINING_MODES
    assert MONITORS == MONITORED
    assert tuple(TRAININGS) == TRAINING_PROTOCOLS
    assert set(TRAININGS) <= {name for name, _ in PROTOCOLS.items()}, "rows are drawn by the probe's protocol"


def test_the_study_says_what_is_missing_and_how_to_get_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert run(pipeline("huang2024"), dry_run=True) == 1
    said = capsys.readouterr().out
    assert "3. finetune: " in said
    assert "mode huang-frozen full; protocol huang2024" in said
    for name in ("clinical", "chest", "fundus", "dermoscopy"):
        assert f"MISSING: data {name}=" in said
    assert (
        "get data dermoscopy=data/dermoscopy/labels.csv: there is no data/dermoscopy/labels.csv; HAM10000"
        in said
    )
    assert "featprobe backbones fetch dinov2_vitl14_lc --to DIR" in said
    assert "10 of 10 data sets and weights are missing" in said
    assert not list(tmp_path.rglob("*.csv")), "nothing is computed"


def test_a_study_that_has_all_it_needs_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(pipeline("demo"), dry_run=True) == 0
    assert "here: weights of efficientnet_lite0 (pretrained)" in capsys.readouterr().out
    study = tmp_path / "study.toml"
    study.write_text(
        '[study.get]\nmine = "ask the clinic"\n[[extract]]\ndata = "mine=a.csv"\nweights = "efficientnet_lite0=w.pth"\n'
    )
    assert run(study, dry_run=True) == 1
    said = capsys.readouterr().out
    assert "get data mine=a.csv: there is no a.csv; ask the clinic" in said
    assert "there is no file w.pth; put it there: efficientnet_lite0=w.pth" in said
    (tmp_path / "a.csv").write_text("path,label\n")
    (tmp_path / "w.pth").write_bytes(b"")
    assert run(study, dry_run=True) == 0


@pytest.mark.shared
def test_the_small_study_has_all_it_needs_here(
    shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    assert shared.is_dir()
    assert run(pipeline("huang2024_small"), dry_run=True) == 0
    assert "everything is here" in capsys.readouterr().out
