"""Every registered metric, also one that an outside package brings, keeps the contract for every target it declares."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from featprobe.errors import ConfigError
from featprobe.metrics import (
    DEFAULT_METRICS,
    Metric,
    default_metrics,
    evaluate,
    higher_is_better,
    label,
    main_metric,
    metrics_for,
    need_suitable,
)
from featprobe.records import TASKS, Predictions, RunKey, Samples
from featprobe.registry import METRICS, PROTOCOLS
from featprobe.report import wording
from featprobe.significance import estimates

PAIRS = [(name, task) for name, metric in METRICS.items() for task in metric.tasks]
NAMES = metrics_for("classes")
RANKED = [(name, task) for name, task in PAIRS if task in {"classes", "ordinal"}]
RNG = np.random.default_rng(0)
KEY = RunKey("d", "b", "w", "frozen", "gap", "p", "logistic", "f")


def data(classes, rows=60):
    y = np.arange(rows) % classes
    logits = RNG.standard_normal((rows, classes)) + 1.5 * np.eye(classes)[y]
    score = np.exp(logits)
    return y, score / score.sum(axis=1, keepdims=True)


def target(task, rows=60, classes=4):
    """(y_true, perfect, good, bad y_score, names) of each kind of target."""
    if task == "continuous":
        y = RNG.standard_normal(rows) * 12 + 60
        return y, y[:, None], y[:, None] + 6 * RNG.standard_normal((rows, 1)), 120 - y[:, None], ("age",)
    if task == "multilabel":
        y = RNG.integers(0, 2, (rows, classes))
        noise = RNG.random(y.shape)
        good = np.clip(0.35 * y + 0.65 * noise, 0, 1)
        y = np.where(RNG.random(y.shape) < 0.1, -1, y)
        right = np.where(y < 0, 0.5, y * 0.98 + 0.01)
        return y, right, good, 1 - right, tuple("abcd"[:classes])
    y, good = data(classes, rows)
    far = np.where(y < classes / 2, classes - 1, 0)
    return (
        y,
        np.eye(classes)[y] * 0.98 + 0.005,
        good,
        np.eye(classes)[far] * 0.98 + 0.005,
        tuple("abcd"[:classes]),
    )


def test_the_defaults_are_registered_and_judge_their_target():
    assert default_metrics("classes") == DEFAULT_METRICS
    for task in TASKS:
        assert main_metric(task) in default_metrics(task)
        assert set(default_metrics(task)) <= set(metrics_for(task))


@pytest.mark.parametrize("name", METRICS.names())
def test_describes_itself(name):
    metric = METRICS.get(name)
    assert isinstance(metric, Metric)
    assert metric.name == name
    assert set(metric.tasks) <= set(TASKS)
    assert metric.tasks
    low, high = metric.bounds(3)
    assert low < high
    assert high == metric.largest(3)


@pytest.mark.parametrize("name", METRICS.names())
def test_the_report_says_the_same_words(name):
    # The report's room does not know the metrics: a new one is told to it in `wording.METRICS`.
    assert name in wording.METRICS, "add its label and definition to featprobe/report/wording.py"
    shown, definition = wording.METRICS[name]
    assert shown == label(name) == wording.metric_label(name)
    assert len(definition) > 20
    assert wording.lower_is_better(name) != higher_is_better(name)
    measured = METRICS.get(name).tasks == ("continuous",) and METRICS.get(name).bounds(1) == (0.0, np.inf)
    assert (name in wording.MEASURED) == measured


@pytest.mark.parametrize(("name", "task"), PAIRS)
class TestEveryTask:
    def test_values_per_resample_within_bounds_and_blind_to_order(self, name, task):
        y, _, score, _, _ = target(task)
        weights = RNG.integers(0, 3, (5, len(y))).astype(float)
        values = evaluate(name, y, score, weights, task=task)
        low, high = METRICS.get(name).bounds(score.shape[1])
        assert values.shape == (5,)
        assert values.dtype == np.float64
        assert ((values >= low) & (values <= high)).all()
        order = RNG.permutation(len(y))
        moved = evaluate(name, y[order], score[order], weights[:, order], task=task)
        np.testing.assert_allclose(moved, values, atol=1e-12)
        np.testing.assert_allclose(evaluate(name, y, score, 2.5 * weights, task=task), values, atol=1e-12)

    def test_integer_weights_are_repeated_rows(self, name, task):
        y, _, score, _, _ = target(task)
        times = RNG.integers(0, 4, len(y))
        weighted = evaluate(name, y, score, times[None, :].astype(float), task=task)
        repeated = evaluate(name, np.repeat(y, times, axis=0), np.repeat(score, times, axis=0), task=task)
        np.testing.assert_allclose(weighted, repeated, atol=1e-12)

    def test_better_scores_go_the_stated_way(self, name, task):
        y, perfect, good, bad, _ = target(task)
        values = [float(evaluate(name, y, score, task=task)[0]) for score in (bad, good, perfect)]
        assert values == sorted(values, reverse=not higher_is_better(name))
        assert values[0] != values[2]

    def test_refuses_what_does_not_fit(self, name, task):
        y, _, score, _, _ = target(task)
        wrong = [score[:-1], np.where(score > np.median(score), np.nan, score), score[:, :0]]
        for other in [*wrong, *([np.hstack([score, score])] if task == "continuous" else [])]:
            with pytest.raises(ValueError, match=r"fit|finite|columns"):
                evaluate(name, y, other, task=task)
        with pytest.raises(ValueError, match=r"columns|finite"):
            evaluate(name, y * np.nan if task == "continuous" else y + 1, score, task=task)
        with pytest.raises(ValueError, match="weights"):
            evaluate(name, y, score, np.ones((3, len(y) + 1)), task=task)
        assert np.isnan(evaluate(name, y, score, np.zeros((2, len(y))), task=task)).all()

    def test_no_interval_leaves_the_range(self, name, task):
        y, _, score, _, names = target(task)
        samples = Samples.build(
            path=[f"{i:02d}" for i in range(len(y))], label=y, label_names=names, task=task
        )
        (row,) = estimates([Predictions(KEY, samples, score, 10)], [name], resamples=200)
        low, high = METRICS.get(name).bounds(len(names))
        assert row.value == pytest.approx(evaluate(name, y, score, task=task)[0], abs=1e-12)
        assert low <= row.ci_low < row.value < row.ci_high <= high


@pytest.mark.parametrize("name", METRICS.names())
@pytest.mark.parametrize("task", TASKS)
def test_an_unsuitable_metric_names_those_that_fit(name, task):
    if (name, task) in PAIRS:
        need_suitable(name, task)
        return
    y, _, score, _, names = target(task)
    samples = Samples.build(path=[f"{i:02d}" for i in range(len(y))], label=y, label_names=names, task=task)
    with pytest.raises(ConfigError, match=main_metric(task)):
        evaluate(name, y, score, task=task)
    with pytest.raises(ConfigError, match=main_metric(task)):
        estimates([Predictions(KEY, samples, score, 10)], [name], resamples=10)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_one_column_is_no_choice(name, classes):
    y, score = data(classes)
    with pytest.raises(ValueError, match="fit"):
        evaluate(name, y, score[:, :1])


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("name", "task"), RANKED)
def test_the_largest_value_is_reached(name, task, classes):
    y = np.arange(40) % classes
    if task == "ordinal":
        y = np.where(y < classes / 2, 0, classes - 1)
    right = np.eye(classes)[y]
    wrong = np.eye(classes)[(classes - 1 - y) % classes]
    # Bins of equal weight mix what is wrong both ways; where all rows are of one class, nothing is mixed.
    one, said, every = (
        np.zeros(40, dtype=int),
        np.eye(classes)[np.ones(40, dtype=int)],
        np.arange(40) % classes,
    )
    cases = [(y, right), (y, wrong), (one, said), (every, np.eye(classes)[every])]
    extreme = np.nanmax([evaluate(name, truth, score, task=task)[0] for truth, score in cases])
    assert extreme == pytest.approx(METRICS.get(name).largest(classes))


def test_no_interval_leaves_the_range_of_its_metric():
    rng = np.random.default_rng(5)
    y = np.arange(12) % 2
    confident = np.where(rng.random(12) < 0.6, y, 1 - y).astype(float)
    score = np.column_stack([1 - confident, confident])
    samples = Samples.build(path=[f"{i:02d}" for i in range(12)], label=y, label_names=("a", "b"))
    for row in estimates([Predictions(KEY, samples, score, 10)], NAMES, resamples=200):
        if np.isfinite(row.ci_low):
            low, high = METRICS.get(row.metric).bounds(2)
            assert low <= row.ci_low <= row.value <= row.ci_high <= high


def test_protocols_report_metrics_that_exist_and_judge_one_of_their_targets():
    # The rooms do not know each other: a protocol names metrics by their names alone.
    reporting = {name: member for name, member in PROTOCOLS.items() if member.metrics}
    assert {"huang2024", "medmnistplus-knn"} <= set(reporting)
    for name, member in reporting.items():
        for metric in member.metrics:
            assert set(METRICS.get(metric).tasks) & set(member.tasks), (name, metric)
        assert dataclasses.replace(member, metrics=()).sha256 != member.sha256, "results know their metrics"
        assert any(", ".join(member.metrics) in words for words in member.sentences())
