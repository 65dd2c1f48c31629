"""Results that are written together are what writing them one by one gives, and none is lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from featprobe.errors import ResultsError
from featprobe.records import Estimate, Predictions, RunKey, Samples
from featprobe.results import Batch, ResultsFolder, batching

KEY = RunKey("d", "vgg16", "pretrained", "frozen", "gap", "native", "logistic", "ab" * 32)


def unit(number, probe="logistic", fold="test"):
    key = dataclasses.replace(KEY, seed=number, probe=probe, fold=fold)
    ids = [f"i{row}" for row in range(4)]
    samples = Samples.build(id=ids, path=ids, label=[0, 1, 0, 1], label_names=("a", "b"), split=["test"] * 4)
    scores = np.random.default_rng(number).dirichlet(np.ones(2), size=4)
    estimate = Estimate(key, 9, 4, 4, "accuracy", number / 7, 0.0, 1.0, "m")
    identity = {"identity": f"{probe} {number}"}
    return f"u{probe}{number}{fold}", [Predictions(key, samples, scores, 9)], [estimate], identity


def contents(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in ("results.csv", "predictions.parquet", "run.json")}


class Clock:
    """Time passes only when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_together_or_one_by_one_the_files_are_the_same(tmp_path):
    # The last replaces the first: the same model, and the same identity with other rows.
    units = [unit(0), unit(1), unit(1, "svm"), unit(0), unit(1, "svm", "0")]
    one, together = ResultsFolder(tmp_path / "one"), ResultsFolder(tmp_path / "together")
    for each in units:
        one.add(*each)
    with Batch(together) as batch:
        for each in units:
            batch.add(*each)
    assert contents(tmp_path / "one") == contents(tmp_path / "together")
    assert not together.has("usvm1test")
    assert together.has("usvm10")


def test_what_was_computed_before_an_error_is_kept(tmp_path):
    folder = ResultsFolder(tmp_path)

    def interrupted():
        with Batch(folder) as batch:
            batch.add(*unit(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert folder.has("ulogistic0test")


def test_a_result_waits_its_seconds_and_longer_where_writing_is_slow(tmp_path, monkeypatch):
    clock, folder, writings = Clock(), ResultsFolder(tmp_path), []

    def slow(additions):
        writings.append(len(additions))
        clock.now += 3.0

    monkeypatch.setattr(folder, "add_all", slow)
    with Batch(folder, clock=clock) as batch:
        batch.add(*unit(0))
        assert writings == []
        clock.now = batching.WAIT
        batch.add(*unit(1))
        assert writings == [2]
        clock.now += batching.SHARE * 3.0 - 1
        batch.add(*unit(2))
        assert writings == [2]
        clock.now += 1
        batch.add(*unit(3))
        assert writings == [2, 2]
    assert writings == [2, 2]


def test_numbers_that_are_none_are_refused_at_once(tmp_path):
    name, (good,), estimates, info = unit(0)
    bad = dataclasses.replace(good, y_score=np.full((4, 2), np.nan))
    with Batch(ResultsFolder(tmp_path)) as batch, pytest.raises(ResultsError, match="NaN or infinity"):
        batch.add(name, [bad], estimates, info)
