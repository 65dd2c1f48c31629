"""The metrics of labels, grades and numbers equal scikit-learn's and SciPy's, weights, ties, gaps and all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from featprobe.metrics import evaluate


def over_labels(binary):
    """The plain way: each label on the rows where it is known and has both values, then the mean."""

    def value(y, score, weight):
        found = []
        for label in range(y.shape[1]):
            known = (y[:, label] >= 0) & (weight > 0)
            truth = y[known, label]
            if len(set(truth)) == 2:
                found.append(binary(truth, score[known, label], weight[known]))
        return np.mean(found) if found else np.nan

    return value


def brier(y, score, weight):
    known = (y >= 0) & (weight > 0)[:, None]
    columns = [
        np.average((score[k, i] - y[k, i]) ** 2, weights=weight[k]) for i, k in enumerate(known.T) if k.any()
    ]
    return np.mean(columns) if columns else np.nan


LABELS = {
    "macro_auroc": over_labels(lambda y, s, w: reference.roc_auc_score(y, s, sample_weight=w)),
    "macro_average_precision": over_labels(
        lambda y, s, w: reference.average_precision_score(y, s, sample_weight=w)
    ),
    "macro_balanced_accuracy": over_labels(
        lambda y, s, w: reference.balanced_accuracy_score(y, s > 0.5, sample_weight=w)
    ),
    "macro_label_f1": over_labels(lambda y, s, w: reference.f1_score(y, s > 0.5, sample_weight=w)),
    "macro_brier": brier,
}
GRADES = {
    "quadratic_kappa": lambda y, s, w: reference.cohen_kappa_score(
        y, s.argmax(1), weights="quadratic", labels=np.arange(s.shape[1]), sample_weight=w
    ),
    "ordinal_mae": lambda y, s, w: reference.mean_absolute_error(y, s.argmax(1), sample_weight=w),
}
NUMBERS = {
    "mae": lambda y, s, w: reference.mean_absolute_error(y, s, sample_weight=w),
    "r2": lambda y, s, w: reference.r2_score(y, s, sample_weight=w) if len(set(y[w > 0])) > 1 else np.nan,
}


def compare(name, expected, case):
    y, score, weights = case
    found = evaluate(name, y, score, weights)
    for value, weight in zip(found, weights, strict=True):
        held = weight > 0
        np.testing.assert_allclose(value, expected(y[held], score[held], weight[held]), rtol=1e-9, atol=1e-10)


@st.composite
def cases(draw, kind):
    rows, levels = draw(st.integers(2, 40)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.integers(0, 4, (3, rows)).astype(float) * rng.choice([1.0, 0.37])
    weights[:, 0] += 1
    if kind == "number":
        # Few levels make ties; the offset would cost a careless variance its digits.
        return rng.integers(0, levels + 1, rows) + 1e5, rng.integers(0, levels + 1, (rows, 1)) + 1e5, weights
    columns = draw(st.integers(1 if kind == "label" else 2, 4))
    score = rng.integers(0, levels + 1, (rows, columns)) / levels
    if kind == "label":
        return rng.integers(-1, 2, (rows, columns)), score, weights
    score = score + 1e-3
    return rng.integers(0, columns, rows), score / score.sum(axis=1, keepdims=True), weights


@pytest.mark.parametrize("name", LABELS)
@settings(max_examples=40, deadline=None)
@given(case=cases("label"))
def test_labels(name, case):
    compare(name, LABELS[name], case)


@pytest.mark.parametrize("name", GRADES)
@settings(max_examples=40, deadline=None)
@given(case=cases("grade"))
@pytest.mark.filterwarnings("ignore")
def test_grades(name, case):
    y, score, weights = case
    for weight in weights:
        held = weight > 0
        if name == "quadratic_kappa" and len({*y[held], *score[held].argmax(1)}) == 1:
            assert np.isnan(evaluate(name, y, score, weight[None])).all()
            return
    compare(name, GRADES[name], case)


@pytest.mark.parametrize("name", NUMBERS)
@settings(max_examples=40, deadline=None)
@given(case=cases("number"))
def test_numbers(name, case):
    compare(name, NUMBERS[name], case)


@settings(max_examples=60, deadline=None)
@given(case=cases("number"))
def test_spearman_with_whole_weights_is_scipy_on_repeated_rows(case):
    y, score, weights = case
    times = np.round(weights / weights[weights > 0].min()).astype(int)
    for found, count in zip(evaluate("spearman", y, score, times.astype(float)), times, strict=True):
        true, said = np.repeat(y, count), np.repeat(score[:, 0], count)
        if len(set(true)) < 2 or len(set(said)) < 2:
            assert np.isnan(found)
        else:
            np.testing.assert_allclose(found, stats.spearmanr(true, said).statistic, atol=1e-10)


def test_a_label_known_nowhere_counts_nowhere():
    rng = np.random.default_rng(0)
    y, score = rng.integers(0, 2, (40, 3)), rng.random((40, 3))
    gone = np.column_stack([y, np.full(40, -1)])
    for name in LABELS:
        without = evaluate(name, y, score)
        np.testing.assert_array_equal(evaluate(name, gone, np.column_stack([score, score[:, 0]])), without)
        assert np.isnan(evaluate(name, np.full((5, 2), -1), score[:5, :2])).all()


def test_what_does_not_vary_has_no_rank_and_no_variance():
    flat, rising = np.full(6, 3.7), np.arange(6.0)
    assert np.isnan(evaluate("spearman", rising, flat[:, None])).all()
    assert np.isnan(evaluate("spearman", flat, rising[:, None])).all()
    assert np.isnan(evaluate("r2", flat, rising[:, None])).all()
    np.testing.assert_allclose(evaluate("mae", flat, rising[:, None]), np.abs(flat - rising).mean())
    np.testing.assert_allclose(evaluate("spearman", rising, -rising[:, None]), -1)
