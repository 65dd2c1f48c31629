"""Intervals and comparisons of labels, grades and numbers, and what is said where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from featprobe.errors import ConfigError, ResultsError
from featprobe.metrics import default_metrics, main_metric
from featprobe.records import Predictions, RunKey, Samples
from featprobe.significance import compare, estimates
from featprobe.significance.scales import Scale

KEY = RunKey("d", "x", "w", "frozen", "cls", "p", "ridge", "f")
NAMES = {
    "ordinal": ("low", "mid", "high"),
    "multilabel": ("edema", "mass", "rare"),
    "continuous": ("age",),
}


def built(task, y, score, group=None, ids=None):
    ids = [f"{row:04d}" for row in range(len(y))] if ids is None else ids
    samples = Samples.build(path=ids, label=y, label_names=NAMES[task], group=group, task=task)
    return Predictions(KEY, samples, np.asarray(score, dtype=float), 100)


def noisy(task, groups=60, noise=1.0, seed=0):
    """Predictions whose error is shared in part within the group; the same test rows for every `noise`."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rng.integers(1, 5, groups))
    hidden = rng.standard_normal((groups, 3))[group] + 0.5 * rng.standard_normal((len(group), 3))
    gaps = rng.random(hidden.shape) < 0.1
    said = hidden + noise * rng.standard_normal((groups, 3))[group]
    names = [f"g{g}" for g in group]
    if task == "continuous":
        return built(task, 60 + 12 * hidden[:, 0], 60 + 12 * said[:, :1], names)
    if task == "multilabel":
        return built(task, np.where(gaps, -1, hidden > [0, 0.5, 0.8]), 1 / (1 + np.exp(-2 * said)), names)
    grade = np.digitize(hidden[:, 0], [-0.5, 0.5])
    odds = np.exp(-np.abs(said[:, :1] - np.array([-1, 0, 1])))
    return built(task, grade, odds / odds.sum(axis=1, keepdims=True), names)


@pytest.mark.parametrize("task", NAMES)
class TestEveryTask:
    def test_intervals_hold_the_values_and_folds_tighten_them(self, task):
        made = noisy(task)
        rows = estimates([made], default_metrics(task), resamples=300)
        assert [row.metric for row in rows] == list(default_metrics(task))
        for row in rows:
            assert row.ci_low < row.value < row.ci_high, row
            assert (row.n_groups, row.n_test) == (60, len(made.samples))
            assert row.ci_method.startswith("group bootstrap, 95 %, 300 resamples")
        folds = [
            Predictions(RunKey(**{**KEY.to_dict(), "fold": str(k)}), p.samples, p.y_score, 100)
            for k, p in enumerate(noisy(task, seed=k) for k in range(3))
        ]
        several = estimates(folds, [main_metric(task)], resamples=200)
        widths = [row.ci_high - row.ci_low for row in several]
        assert several[-1].key.fold == "mean"
        assert widths[-1] < 0.8 * min(widths[:-1])

    def test_the_order_of_rows_means_nothing(self, task):
        made = noisy(task)
        order = np.random.default_rng(5).permutation(len(made.samples))
        moved = Predictions(KEY, made.samples.take(order), made.y_score[order], 1)
        one, two = (estimates([p], default_metrics(task), resamples=100) for p in (made, moved))
        for left, right in zip(one, two, strict=True):
            np.testing.assert_allclose([left.ci_low, left.ci_high], [right.ci_low, right.ci_high], rtol=1e-9)

    def test_a_clear_difference_is_found_and_the_best_set_holds_the_near(self, task):
        systems = {
            name: [noisy(task, 150, noise)] for name, noise in (("good", 0.5), ("near", 0.52), ("bad", 5.0))
        }
        for metric in default_metrics(task):
            result = compare(systems, metric, resamples=300)
            pairs = result.pairs_frame().set_index(["a", "b"])
            assert pairs.loc["good", "bad"].p_adjusted < 0.05, metric
            for _, row in pairs.iterrows():
                assert (row.ci_low > 0 or row.ci_high < 0) == (row.p_value < 0.05)
            best = result.best_frame().set_index("system").in_best_set
            assert best["good"] or best["near"]
            assert not best["bad"], metric

    def test_rows_without_a_label_are_not_judged(self, task):
        made = noisy(task)
        blank = {"continuous": np.nan, "ordinal": -1, "multilabel": [-1, -1, -1]}[task]
        label = made.samples.label.copy()
        label[::7] = blank
        kept = np.arange(len(label)) % 7 > 0
        whole = Predictions(KEY, made.samples.replace(label=label), made.y_score, 1)
        part = Predictions(KEY, made.samples.take(kept), made.y_score[kept], 1)
        metric = main_metric(task)
        assert estimates([whole], [metric], resamples=50) == [
            *estimates([part], [metric], resamples=50),
        ]
        one, two = (
            compare(
                {
                    "a": [p],
                    "b": [Predictions(KEY, p.samples, p.y_score[:, :] * 0 + 1 / p.y_score.shape[1], 1)],
                },
                metric,
                resamples=50,
            ).best
            for p in (whole, part)
        )
        assert one[0] == two[0]

    def test_refuses_a_metric_of_another_target(self, task):
        with pytest.raises(ConfigError, match=f"'accuracy'|'mae'.*{main_metric(task)}"):
            compare({"a": [noisy(task)]}, "mae" if task != "continuous" else "accuracy")


def test_systems_of_another_kind_of_target_are_not_compared():
    y = np.arange(20) % 3
    score = np.eye(3)[y]
    samples = Samples.build(path=[f"{i:02d}" for i in range(20)], label=y, label_names=NAMES["ordinal"])
    grades = samples.replace(task="ordinal")
    with pytest.raises(ResultsError, match=r"kinds of target \(classes and ordinal\)"):
        compare(
            {"a": [Predictions(KEY, samples, score, 1)], "b": [Predictions(KEY, grades, score, 1)]}, "auroc"
        )


def test_a_label_with_one_group_has_no_interval_where_it_counts_for_itself():
    made = noisy("multilabel")
    label = made.samples.label.copy()
    label[:, 2] = 0
    label[made.samples.group == "g7", 2] = 1
    alone = Predictions(KEY, made.samples.replace(label=label), made.y_score, 1)
    rows = {row.metric: row for row in estimates([alone], default_metrics("multilabel"), resamples=100)}
    assert np.isfinite(rows["macro_auroc"].value)
    assert np.isnan(rows["macro_auroc"].ci_low)
    assert rows["macro_auroc"].ci_method == "undefined: label 'rare' present has 1 group in the test rows"
    assert np.isfinite(rows["macro_brier"].ci_low)
    # A label with one value in the test rows has no part in the metric, so it keeps nothing from an interval.
    label[:, 2] = -1
    label[made.samples.group == "g7", 2] = 0
    (row,) = estimates(
        [Predictions(KEY, made.samples.replace(label=label), made.y_score, 1)], ["macro_auroc"]
    )
    assert row.ci_low < row.value < row.ci_high
    assert "left out" not in row.ci_method


def test_a_thin_label_leaves_the_resamples_without_it_and_that_is_said():
    made = noisy("multilabel")
    label = made.samples.label.copy()
    label[:, 2] = np.isin(made.samples.group, ["g3", "g8", "g9"])
    (row,) = estimates(
        [Predictions(KEY, made.samples.replace(label=label), made.y_score, 1)], ["macro_auroc"]
    )
    assert row.ci_low < row.value < row.ci_high
    assert "labels with under 10 groups of a value left out of resamples without it" in row.ci_method


@pytest.mark.parametrize(
    ("task", "y", "score", "reason"),
    [
        (
            "continuous",
            [1.0, 2.0, 3.0],
            [[5.0], [5.0], [5.0]],
            "true or the predicted values of the test rows",
        ),
        ("multilabel", [[1, 0, -1]] * 3, [[0.2, 0.4, 0.1]] * 3, "no label has both its values"),
        ("ordinal", [1, 1, 1], [[0.1, 0.8, 0.1]] * 3, "one class only"),
    ],
)
def test_what_cannot_be_known_is_not_printed(task, y, score, reason):
    metric = "spearman" if task == "continuous" else main_metric(task)
    (row,) = estimates([built(task, y, score)], [metric], resamples=20)
    assert np.isnan([row.value, row.ci_low, row.ci_high]).all()
    assert reason in row.ci_method
    result = compare(
        {"a": [built(task, y, score)], "b": [built(task, y, np.array(score)[::-1] * 0.99 + 0.01 / 3)]},
        metric,
        resamples=20,
    )
    assert reason in result.pairs[0].method or "identical" in result.pairs[0].method


def test_a_perfect_number_has_no_made_up_interval():
    y = np.arange(30.0)
    rows = estimates([built("continuous", y, y[:, None])], ["mae", "r2", "spearman"], resamples=50)
    assert [row.value for row in rows] == [0.0, 1.0, pytest.approx(1.0)]
    assert all(np.isnan(row.ci_low) and "every resample" in row.ci_method for row in rows)


@pytest.mark.parametrize("unit", [1e-15, 1e9])
def test_the_unit_of_the_target_changes_nothing_but_the_unit(unit):
    one, two = noisy("continuous"), noisy("continuous", noise=1.4)
    scaled = [
        Predictions(KEY, p.samples.replace(label=p.samples.label * unit), p.y_score * unit, 1)
        for p in (one, two)
    ]
    for metric, factor in (("mae", unit), ("r2", 1.0), ("spearman", 1.0)):
        (plain,), (other,) = (estimates([p], [metric], resamples=100) for p in (one, scaled[0]))
        np.testing.assert_allclose(
            [other.ci_low, other.ci_high], factor * np.array([plain.ci_low, plain.ci_high])
        )
        pair, same = (
            compare({"a": [left], "b": [right]}, metric, resamples=100).pairs[0]
            for left, right in ((one, two), scaled)
        )
        assert same.p_value == pair.p_value
        np.testing.assert_allclose(same.ci_high, factor * pair.ci_high)


class TestScale:
    @pytest.mark.parametrize(
        ("lower", "upper", "value"),
        [
            (0, 1, 0.9),
            (0, 2, 1.8),
            (-1, 1, -0.7),
            (0, np.inf, 0.02),
            (-np.inf, 1, 0.97),
            (-np.inf, np.inf, 5.0),
        ],
    )
    def test_an_interval_stays_in_the_range_and_is_the_delta_methods(self, lower, upper, value):
        scale = Scale(lower, upper)
        low, high = scale.interval(value, 0.5, 10, 0.95)
        assert lower <= low < value < high <= upper
        low, high = scale.interval(value, 1e-7, 10, 0.95)
        np.testing.assert_allclose([value - low, high - value], 2.2281388519649385e-07, rtol=1e-4)

    def test_fishers_z(self):
        low, high = Scale(-1, 1).interval(0.6, 0.1, 30, 0.95)
        half = 2.0422724563012378 * 0.1 / (1 - 0.6**2)
        np.testing.assert_allclose([low, high], np.tanh(np.arctanh(0.6) + np.array([-half, half])))
        assert Scale(-1, 1).name == "Fisher's z"

    def test_at_the_end_of_the_range_there_is_none(self):
        for scale, value in ((Scale(0, 1), 1.0), (Scale(0, np.inf), 0.0), (Scale(-np.inf, 1), 1.0)):
            assert np.isnan(scale.interval(value, 0.1, 10, 0.95)).all()
