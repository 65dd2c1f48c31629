"""Each metric equals scikit-learn's with sample weights, ties and all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from featprobe.metrics import DEFAULT_METRICS, evaluate


def hard(score):
    return score.argmax(axis=1)


def one_versus_rest(binary, y, score, weight):
    if score.shape[1] == 2:
        return binary(y == 1, score[:, 1], sample_weight=weight) if len(set(y)) == 2 else np.nan
    values = [
        binary(y == c, score[:, c], sample_weight=weight)
        for c in range(score.shape[1])
        if 0 < (y == c).sum() < len(y)
    ]
    return np.mean(values) if values else np.nan


REFERENCES = {
    "accuracy": lambda y, s, w: reference.accuracy_score(y, hard(s), sample_weight=w),
    "balanced_accuracy": lambda y, s, w: reference.recall_score(
        y, hard(s), sample_weight=w, labels=np.unique(y), average="macro"
    ),
    "macro_f1": lambda y, s, w: reference.f1_score(y, hard(s), sample_weight=w, average="macro"),
    "auroc": lambda y, s, w: one_versus_rest(reference.roc_auc_score, y, s, w),
    "average_precision": lambda y, s, w: one_versus_rest(reference.average_precision_score, y, s, w),
    "brier": lambda y, s, w: (
        reference.brier_score_loss(y, s[:, 1], sample_weight=w)
        if s.shape[1] == 2
        else reference.brier_score_loss(y, s, sample_weight=w, labels=np.arange(s.shape[1]))
    ),
}


@st.composite
def scored(draw):
    classes, rows, levels = draw(st.integers(2, 4)), draw(st.integers(2, 40)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Few levels of score make ties, also between the classes of a row; weight 0 makes classes vanish.
    score = rng.integers(0, levels + 1, (rows, classes)) + 1e-3
    weights = rng.integers(0, 4, (3, rows)).astype(float) * rng.choice([1.0, 0.37])
    weights[:, 0] += 1
    return rng.integers(0, classes, rows), score / score.sum(axis=1, keepdims=True), weights


@pytest.mark.parametrize("name", DEFAULT_METRICS)
@settings(max_examples=40, deadline=None)
@given(case=scored())
def test_weighted_metric_equals_scikit_learn(name, case):
    y, score, weights = case
    found = evaluate(name, y, score, weights)
    for value, weight in zip(found, weights, strict=True):
        held = weight > 0
        expected = REFERENCES[name](y[held], score[held], weight[held])
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)


def test_integer_weights_are_repeated_rows():
    rng = np.random.default_rng(0)
    y, score, times = rng.integers(0, 3, 50), rng.dirichlet([1, 1, 1], 50), rng.integers(0, 4, 50)
    for name in DEFAULT_METRICS:
        weighted = evaluate(name, y, score, times[None, :].astype(float))
        repeated = evaluate(name, np.repeat(y, times), np.repeat(score, times, axis=0))
        np.testing.assert_allclose(weighted, repeated, atol=1e-12)


def test_chunks_do_not_change_values(monkeypatch):
    rng = np.random.default_rng(1)
    y, score = rng.integers(0, 2, 30), rng.dirichlet([1, 1], 30)
    weights = rng.integers(0, 3, (17, 30)).astype(float)
    whole = {name: evaluate(name, y, score, weights) for name in DEFAULT_METRICS}
    monkeypatch.setattr("featprobe.metrics.CHUNK", 70)
    for name, values in whole.items():
        np.testing.assert_allclose(evaluate(name, y, score, weights), values, atol=1e-14)


def test_one_class_has_no_ranking():
    score = np.array([[0.3, 0.7], [0.6, 0.4]])
    assert np.isnan(evaluate("auroc", np.array([1, 1]), score)).all()
    assert np.isnan(evaluate("average_precision", np.array([1, 1]), score)).all()
    np.testing.assert_array_equal(evaluate("accuracy", np.array([1, 1]), score), [0.5])
