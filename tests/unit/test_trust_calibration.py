"""What a calibrator does at the edges: perfect rows, rows without signal, classes and labels that are not there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featprobe import trust
from featprobe.errors import ConfigError
from featprobe.trust.calibration import COLDEST, HOTTEST


def test_rows_that_are_all_right_have_no_best_temperature():
    scores, y = np.array([[0.6, 0.4], [0.3, 0.7]]), np.array([0, 1])
    calibrator, chosen, notes = trust.calibrate("temperature", scores, y)
    assert chosen == {"temperature": 1.0}
    assert "every held-out row is right" in notes[0]
    np.testing.assert_allclose(calibrator(scores), scores)


def test_scores_that_mislead_are_flattened_and_that_is_said():
    scores, y = np.array([[0.9, 0.1], [0.1, 0.9], [0.8, 0.2]]), np.array([1, 0, 1])
    calibrator, chosen, notes = trust.calibrate("temperature", scores, y)
    assert chosen["temperature"] == HOTTEST
    assert "say little" in notes[0]
    assert np.abs(calibrator(scores) - 0.5).max() < 0.06


def test_scores_that_are_far_too_shy_stop_at_the_coldest():
    y = np.arange(400) % 2
    right = np.arange(400) % 100 != 0
    second = np.where(right == (y == 1), 0.501, 0.499)
    calibrator, chosen, notes = trust.calibrate("temperature", np.column_stack([1 - second, second]), y)
    assert chosen["temperature"] == COLDEST
    assert "lowest" in notes[0]
    assert calibrator(np.array([[0.499, 0.501]]))[0, 1] == pytest.approx(0.52, abs=0.001)


def test_a_class_that_training_had_not_stays_impossible():
    scores = np.array([[0.7, 0.3, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0]])
    calibrator, _, _ = trust.calibrate("temperature", scores, np.array([0, 1, 1]))
    np.testing.assert_allclose(calibrator(scores)[:, 2], 0)


def test_a_label_with_one_value_is_left_as_it_is():
    scores = np.array([[0.7, 0.3], [0.2, 0.8], [0.4, 0.1], [0.6, 0.9]])
    y = np.array([[1, 0], [0, 0], [1, -1], [0, -1]])
    for method in trust.METHODS:
        calibrator, _, notes = trust.calibrate(method, scores, y, names=("a", "b"))
        assert any("label b" in note for note in notes) or method == "temperature"
        assert calibrator(scores).shape == (4, 2)
    np.testing.assert_allclose(trust.calibrate("isotonic", scores, y)[0](scores)[:, 1], scores[:, 1])
    nobody = trust.calibrate("temperature", scores, np.array([[1, -1]] * 4))
    assert any("no held-out row knows" in note for note in nobody[2])


def test_a_row_that_no_class_wants_becomes_uniform():
    zero = (np.array([0.0, 0.5]), np.array([0.0, 0.0]))
    calibrator = trust.Isotonic((zero[0],) * 3, (zero[1],) * 3, several=False)
    np.testing.assert_allclose(calibrator(np.array([[0.2, 0.3, 0.5]])), 1 / 3)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(ConfigError, match="isotonic"):
        trust.calibrate("isotonik", np.ones((2, 2)) / 2, np.array([0, 1]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 5), method=st.sampled_from(trust.METHODS))
def test_probabilities_stay_probabilities(seed, classes, method):
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.full(classes, 0.3), 40)
    y = rng.integers(0, classes, 40)
    found = trust.calibrate(method, scores, y)[0](rng.dirichlet(np.ones(classes), 15))
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    if method == "temperature":  # the order of the classes is never touched
        np.testing.assert_array_equal(
            trust.calibrate(method, scores, y)[0](scores).argmax(axis=1), scores.argmax(axis=1)
        )
