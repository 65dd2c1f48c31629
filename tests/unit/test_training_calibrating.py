"""Recalibrated trained models: fitted on validation rows alone, under a name of their own."""

from __future__ import annotations

import numpy as np
import pytest

from featprobe import trust
from featprobe.errors import SplitError
from featprobe.records import RunKey, Samples
from featprobe.stages.training_calibrating import need_every_class, recalibrated, stored_as

KEY = RunKey("d", "b", "w", "head", "gap", "p", "linear-head", "f")


def key(variant: str) -> RunKey:
    return RunKey("d", "b", "w", "head", "gap", "p", "linear-head", "f", variant=variant)


def samples(labels: list[int], groups: list[str]) -> Samples:
    paths = [str(row) for row in range(len(labels))]
    return Samples.build(path=paths, label=labels, label_names=("a", "b", "rare"), group=groups)


def test_a_plain_key_asks_for_no_validation_scores() -> None:
    scores = np.array([[0.3, 0.7]])
    found, notes = recalibrated(scores, key("3 trials"), samples([0], ["g"]), np.array([0]), held=pytest.fail)
    assert (found is scores, notes) == (True, ())
    assert stored_as("hash", key("3 trials")) == "hash"
    assert len({stored_as("hash", key(variant)) for variant in ("", "temperature", "isotonic")}) == 3


def test_the_temperature_is_that_of_the_validation_rows() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    logits = rng.normal(size=(300, 3)) + 2 * np.eye(3)[truth]
    held = np.exp(3 * logits) / np.exp(3 * logits).sum(axis=1, keepdims=True)
    base = samples([0, 1, 2], ["g", "h", "i"])
    found, notes = recalibrated(held[:5], key("3 trials, temperature"), base, truth, lambda: held)
    wanted, chosen, _ = trust.calibrate("temperature", held, truth)
    assert np.array_equal(found, wanted(held[:5]))
    assert chosen["temperature"] > 1, "they were sharpened"
    assert notes[0].startswith(
        f"scores recalibrated (temperature {chosen['temperature']:.3g}) on 300 validation"
    )


def test_isotonic_scores_need_every_class_among_the_validation_rows() -> None:
    base = samples([0, 1, 2, 2, 0, 1], ["g", "h", "i", "i", "j", "k"])
    learn, watch = np.arange(4), np.arange(4, 6)
    with pytest.raises(
        SplitError, match="class 'rare' has 1 group to learn from and none in the 2 validation"
    ):
        need_every_class("isotonic", base, learn, watch)
    need_every_class("temperature", base, learn, watch)
    need_every_class("isotonic", base, np.array([0, 1]), watch)
