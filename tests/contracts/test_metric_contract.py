"""Every registered metric, also one that an outside package brings, keeps the contract."""

from __future__ import annotations

import numpy as np
import pytest

from featprobe.metrics import DEFAULT_METRICS, Metric, evaluate, higher_is_better, label
from featprobe.records import Predictions, RunKey, Samples
from featprobe.registry import METRICS
from featprobe.significance import estimates

NAMES = METRICS.names()
RNG = np.random.default_rng(0)


def data(classes, rows=60):
    y = np.arange(rows) % classes
    logits = RNG.standard_normal((rows, classes)) + 1.5 * np.eye(classes)[y]
    score = np.exp(logits)
    return y, score / score.sum(axis=1, keepdims=True)


def test_the_defaults_are_registered():
    assert set(DEFAULT_METRICS) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_describes_itself(name):
    metric = METRICS.get(name)
    assert isinstance(metric, Metric)
    assert metric.name == name
    assert label(name)
    assert higher_is_better(name) in {True, False}
    assert metric.largest(2) > 0


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_values_per_resample_within_bounds_and_blind_to_order(name, classes):
    y, score = data(classes)
    weights = RNG.integers(0, 3, (5, len(y))).astype(float)
    values = evaluate(name, y, score, weights)
    assert values.shape == (5,)
    assert values.dtype == np.float64
    assert ((values >= 0) & (values <= METRICS.get(name).largest(classes))).all()
    order = RNG.permutation(len(y))
    np.testing.assert_allclose(evaluate(name, y[order], score[order], weights[:, order]), values, atol=1e-12)
    np.testing.assert_allclose(evaluate(name, y, score, 2.5 * weights), values, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_better_scores_go_the_stated_way(name):
    y, good = data(3)
    perfect = np.eye(3)[y] * 0.98 + 0.01
    bad = np.roll(perfect, 1, axis=1)
    values = [float(evaluate(name, y, score)[0]) for score in (bad, good, perfect)]
    assert values == sorted(values, reverse=not higher_is_better(name))
    assert values[0] != values[2]


@pytest.mark.parametrize("name", NAMES)
def test_refuses_what_does_not_fit(name):
    y, score = data(2)
    for wrong in (score[:-1], np.where(score > 0.5, np.nan, score), score[:, :1]):
        with pytest.raises(ValueError, match=r"fit|finite|columns"):
            evaluate(name, y, wrong)
    with pytest.raises(ValueError, match="columns"):
        evaluate(name, y + 1, score)
    with pytest.raises(ValueError, match="weights"):
        evaluate(name, y, score, np.ones((3, len(y) + 1)))
    assert np.isnan(evaluate(name, y, score, np.zeros((2, len(y))))).all()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_the_largest_value_is_reached_and_no_interval_leaves_it(name, classes):
    y = np.arange(40) % classes
    right = np.eye(classes)[y]
    wrong = np.eye(classes)[(y + 1) % classes]
    extreme = max(evaluate(name, y, score)[0] for score in (right, wrong))
    assert extreme == pytest.approx(METRICS.get(name).largest(classes))


def test_no_interval_leaves_the_range_of_its_metric():
    rng = np.random.default_rng(5)
    y = np.arange(12) % 2
    confident = np.where(rng.random(12) < 0.6, y, 1 - y).astype(float)
    score = np.column_stack([1 - confident, confident])
    samples = Samples.build(path=[f"{i:02d}" for i in range(12)], label=y, label_names=("a", "b"))
    key = RunKey("d", "b", "w", "frozen", "gap", "p", "logistic", "f")
    for row in estimates([Predictions(key, samples, score, 10)], NAMES, resamples=200):
        if np.isfinite(row.ci_low):
            assert 0 <= row.ci_low <= row.value <= row.ci_high <= METRICS.get(row.metric).largest(2)
