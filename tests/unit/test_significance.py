"""Intervals and comparisons on data whose answer is known, and what is said where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from featprobe.errors import ConfigError, ResultsError
from featprobe.metrics import DEFAULT_METRICS, evaluate
from featprobe.records import Predictions, RunKey, Samples, texts
from featprobe.significance import compare, estimates, group_weights, step_down

NAMES = ("a", "b")


def predictions(y, score, group=None, *, fold="test", prefix="", names=NAMES, n_train=100, **key):
    ids = [f"{prefix}{row:04d}" for row in range(len(y))]
    samples = Samples.build(path=ids, label=y, label_names=names, group=group)
    values = np.asarray(score, dtype=np.float64)
    if values.ndim == 1:
        values = np.stack([1 - values, values], axis=1)
    fields = {
        "dataset": "d", "backbone": "x", "weights": "random", "mode": "frozen", "pooling": "cls",
        "preprocessing": "p", "probe": "logistic", "fingerprint": "f", "fold": fold,
    }  # fmt: skip
    return Predictions(RunKey(**(fields | key)), samples, values, n_train)


def noisy(groups=60, seed=0, *, signal=1.5, **changes):
    """Two classes by group, 1 to 6 images each, with a score shared in part within the group."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rng.integers(1, 7, groups))
    y = group % 2
    logit = signal * (2 * y - 1) + rng.standard_normal(groups)[group] + rng.standard_normal(len(y))
    return predictions(y, 1 / (1 + np.exp(-logit)), [f"g{g}" for g in group], **changes)


class TestWeights:
    def test_rows_of_a_group_weigh_the_same_and_the_mean_is_one(self):
        group = np.repeat(["p", "q", "r", "s"], [1, 4, 2, 3])
        weights = group_weights(group, resamples=4000, seed=0)
        assert weights.shape == (4000, 10)
        assert all((weights[:, group == g].min(1) == weights[:, group == g].max(1)).all() for g in "pqrs")
        np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.06)
        # n - 1 draws of n groups, rescaled: every resample has the same total, and the variance is 1.
        np.testing.assert_allclose(weights[:, [0, 1, 5, 7]].sum(axis=1), 4)
        np.testing.assert_allclose(weights[:, 0].var(), 1, atol=0.08)

    def test_the_draw_belongs_to_groups_and_seed(self):
        group = np.array(["p", "q", "r", "q", "s"])
        order = np.array([3, 1, 4, 0, 2])
        one, two = (
            group_weights(group, resamples=50, seed=1),
            group_weights(group[order], resamples=50, seed=1),
        )
        np.testing.assert_array_equal(one[:, order], two)
        assert (one != group_weights(group, resamples=50, seed=2)).any()

    def test_a_stratum_never_drops_out(self):
        group = np.arange(10)
        weights = group_weights(group, resamples=500, seed=0, strata=(group < 2).astype(int))
        np.testing.assert_allclose(weights[:, :2].sum(axis=1), 2)
        np.testing.assert_allclose(weights[:, 2:].sum(axis=1), 8)

    def test_byte_equal_images_of_two_groups_are_one_unit(self):
        samples = Samples.build(path=list("wxyz"), label=[0, 0, 1, 1], label_names=NAMES, group=list("pqrs"))
        assert samples.replace(sha256=texts(["1", "2", "2", "3"])).units().tolist() == [0, 1, 1, 2]


class TestEstimates:
    def test_values_are_the_metrics_and_intervals_hold_them(self):
        made = noisy()
        rows = estimates([made], DEFAULT_METRICS, resamples=400)
        assert [row.metric for row in rows] == list(DEFAULT_METRICS)
        for row in rows:
            assert row.value == pytest.approx(evaluate(row.metric, made.y_true, made.y_score)[0], abs=1e-12)
            assert row.ci_low < row.value < row.ci_high
            assert (row.n_test, row.n_groups, row.n_train) == (len(made.y_true), 60, 100)
            assert row.ci_method == (
                "group bootstrap, 95 %, 400 resamples, t on the logit scale; "
                "estimand: this fitted model on new groups"
            )

    def test_the_mean_is_over_folds_and_never_pooled(self):
        # Each fold ranks perfectly but on another scale: pooled AUROC would be 0.75.
        y = np.repeat([0, 1], 20)
        wobble = np.linspace(0, 0.05, 20)
        low = predictions(y, np.concatenate([0.1 + wobble, 0.3 + wobble]), fold="0", prefix="l")
        high = predictions(y, np.concatenate([0.6 + wobble, 0.8 + wobble]), fold="1", prefix="h", n_train=51)
        rows = estimates([low, high], ["auroc"], resamples=100)
        assert [(row.key.fold, row.value) for row in rows] == [("0", 1.0), ("1", 1.0), ("mean", 1.0)]
        assert (rows[2].n_test, rows[2].n_groups, rows[2].n_train) == (80, 80, 76)

    def test_the_mean_of_folds_is_tighter_than_a_fold(self):
        folds = [noisy(seed=k, fold=str(k), prefix=str(k)) for k in range(4)]
        rows = estimates(folds, ["auroc"], resamples=300)
        widths = [row.ci_high - row.ci_low for row in rows]
        assert widths[-1] < 0.7 * min(widths[:-1])
        assert rows[-1].value == pytest.approx(np.mean([row.value for row in rows[:-1]]))
        assert "within folds" in rows[-1].ci_method
        assert "these fitted models" in rows[-1].ci_method

    def test_the_order_of_rows_means_nothing(self):
        made = noisy()
        order = np.random.default_rng(5).permutation(len(made.y_true))
        moved = Predictions(made.key, made.samples.take(order), made.y_score[order], made.n_train)
        one, two = (estimates([p], DEFAULT_METRICS, resamples=200) for p in (made, moved))
        for left, right in zip(one, two, strict=True):
            np.testing.assert_allclose([left.ci_low, left.ci_high], [right.ci_low, right.ci_high], atol=1e-9)

    def test_a_thin_class_is_resampled_within_strata_where_the_metric_needs_it(self):
        rng = np.random.default_rng(0)
        y = np.array([1] * 4 + [0] * 30)
        rows = estimates([predictions(y, np.clip(0.3 * y + rng.random(34) * 0.7, 0, 1))], DEFAULT_METRICS)
        for row in rows:
            assert ("within strata" in row.ci_method) == (row.metric not in {"accuracy", "brier"})
            assert row.ci_low < row.value < row.ci_high
            assert "new images" in row.ci_method

    def test_perfect_accuracy_has_the_exact_bound(self):
        y = np.arange(40) % 2
        accuracy, balanced, auroc = estimates(
            [predictions(y, y * 0.8 + 0.1)], ["accuracy", "balanced_accuracy", "auroc"]
        )
        assert (accuracy.ci_low, accuracy.ci_high) == (pytest.approx(0.025 ** (1 / 40)), 1.0)
        assert "Clopper-Pearson" in accuracy.ci_method
        assert balanced.ci_low == pytest.approx(0.025 ** (1 / 40))
        assert np.isnan([auroc.ci_low, auroc.ci_high]).all()
        assert auroc.ci_method.startswith("undefined: every resample")
        (wrong,) = estimates([predictions(y, 0.9 - y * 0.8)], ["accuracy"])
        assert (wrong.ci_low, wrong.ci_high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 40)))

    @pytest.mark.parametrize(
        ("y", "group", "reason"),
        [
            ([0, 1, 0, 1], ["p"] * 4, "1 group in the test rows"),
            ([0, 0, 0, 1], list("pqrs"), "class 'b' has 1 group"),
            ([1, 1, 1, 1], list("pqrs"), "one class only"),
        ],
    )
    def test_what_cannot_be_known_is_not_printed(self, y, group, reason):
        (row,) = estimates([predictions(y, [0.2, 0.7, 0.6, 0.4], group)], ["auroc"])
        assert np.isnan([row.ci_low, row.ci_high]).all()
        assert row.ci_method.startswith("undefined")
        assert reason in row.ci_method

    def test_no_test_rows(self):
        with pytest.raises(ResultsError):
            estimates([], ["auroc"])


def blurred(made, amount, seed):
    """The same rows, scored with noise on top."""
    rng = np.random.default_rng(seed)
    logit = np.log(made.y_score[:, 1] / made.y_score[:, 0]) + amount * rng.standard_normal(len(made.y_score))
    p = 1 / (1 + np.exp(-logit))
    return Predictions(made.key, made.samples, np.stack([1 - p, p], axis=1), made.n_train)


class TestCompare:
    def test_a_clear_difference_is_found_and_the_interval_agrees_with_p(self):
        made = noisy(200, signal=2.0)
        systems = {"good": [made], "near": [blurred(made, 0.05, 1)], "bad": [blurred(made, 6.0, 2)]}
        for metric in ("auroc", "brier"):
            result = compare(systems, metric, resamples=500)
            pairs = result.pairs_frame().set_index(["a", "b"])
            gap = pairs.loc["good", "bad"]
            assert (gap.difference > 0) == (metric == "auroc")
            assert gap.p_adjusted < 0.01
            assert (pairs.p_value <= pairs.p_adjusted).all()
            for _, row in pairs.iterrows():
                assert (row.ci_low > 0 or row.ci_high < 0) == (row.p_value < 0.05)
            best = result.best_frame().set_index("system").in_best_set
            assert best.to_dict() == {"good": True, "near": True, "bad": False}
            assert "adjusted over 3 pairs" in gap.method

    def test_pairing_sees_what_two_intervals_hide(self):
        made = noisy(80)
        other = blurred(made, 1.0, 3)
        rows = estimates([made], ["auroc"], resamples=500) + estimates([other], ["auroc"], resamples=500)
        (pair,) = compare({"a": [made], "b": [other]}, "auroc", resamples=500).pairs
        assert pair.ci_high - pair.ci_low < 0.7 * min(row.ci_high - row.ci_low for row in rows)

    def test_identical_predictions(self):
        made = noisy()
        (pair,) = compare({"a": [made], "b": [made]}, "auroc", resamples=100).pairs
        assert (pair.difference, pair.ci_low, pair.ci_high, pair.p_value) == (0.0, 0.0, 0.0, 1.0)
        assert pair.method == "identical predictions"

    def test_equal_errors_of_unequal_predictions_are_bounded(self):
        y = np.arange(30) % 2
        systems = {"a": [predictions(y, y * 0.8 + 0.1)], "b": [predictions(y, y * 0.6 + 0.2)]}
        (pair,) = compare(systems, "accuracy", resamples=100).pairs
        assert pair.ci_high == -pair.ci_low == pytest.approx(1 - 0.025 ** (1 / 30))
        assert pair.p_value == 1.0

    def test_few_groups_cannot_show_much(self):
        y = np.array([0, 1, 0, 1])
        systems = {"right": [predictions(y, y * 0.8 + 0.1)], "wrong": [predictions(y, 0.9 - y * 0.8)]}
        result = compare(systems, "accuracy", resamples=100)
        assert result.pairs[0].p_value == 0.125
        assert [standing.in_best_set for standing in result.best] == [True, True]

    def test_the_order_of_rows_and_folds_means_nothing(self):
        folds = [noisy(seed=k, fold=str(k), prefix=str(k)) for k in range(2)]
        other = [blurred(made, 1.0, 7) for made in folds]
        moved = [
            Predictions(p.key, p.samples.take(slice(None, None, -1)), p.y_score[::-1], 1) for p in other[::-1]
        ]
        (one,) = compare({"a": folds, "b": other}, "auroc", resamples=100).pairs
        (two,) = compare({"a": folds, "b": moved}, "auroc", resamples=100).pairs
        assert one.p_value == two.p_value
        assert one.ci_low == pytest.approx(two.ci_low, abs=1e-12)

    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"prefix": "other"}, "test ids"),
            ({"names": ("a", "c")}, "test labels"),
            ({"fold": "3"}, "folds"),
            ({"dataset": "e"}, "data sets or levels"),
            ({"level": "case"}, "data sets or levels"),
        ],
    )
    def test_refuses_other_test_rows_and_names_the_system(self, changes, what):
        with pytest.raises(ResultsError, match=f"one and two have unequal {what}"):
            compare({"one": [noisy()], "two": [noisy(**changes)]}, "auroc")

    def test_refuses_other_labels_groups_and_nothing(self):
        made = noisy()
        flipped = Predictions(made.key, made.samples.replace(label=1 - made.samples.label), made.y_score, 1)
        regrouped = Predictions(made.key, made.samples.replace(group=made.samples.id), made.y_score, 1)
        with pytest.raises(ResultsError, match="unequal test labels in fold test"):
            compare({"one": [made], "two": [flipped]}, "auroc")
        with pytest.raises(ResultsError, match="unequal groups"):
            compare({"one": [made], "two": [regrouped]}, "auroc")
        with pytest.raises(ResultsError, match="nothing to compare"):
            compare({}, "auroc")
        with pytest.raises(ConfigError, match="auroc"):
            compare({"one": [made]}, "auroch")

    def test_one_system_is_its_own_best(self):
        result = compare({"one": [noisy()]}, "auroc", resamples=50)
        assert result.pairs == ()
        assert list(result.pairs_frame().columns)[:5] == ["dataset", "level", "metric", "a", "b"]
        assert result.best[0].in_best_set


def test_step_down_equals_its_definition_and_never_falls_with_rank():
    rng = np.random.default_rng(3)
    statistics = np.array([0.4, 3.1, 1.7, 2.2])
    draws = np.abs(rng.normal(size=(4, 999)))
    adjusted = step_down(statistics, draws)
    left, floor = set(range(4)), 0.0
    for k in np.argsort(-statistics):
        largest = draws[sorted(left)].max(axis=0)
        floor = max(floor, (1 + (largest >= statistics[k]).sum()) / 1000)
        assert adjusted[k] == pytest.approx(floor)
        left.remove(int(k))


def test_a_clear_difference_among_many_systems_is_still_found():
    # With 2,000 resamples Holm's correction over 120 pairs could not go below 0.06, whatever the data.
    rng = np.random.default_rng(0)
    statistics = np.concatenate([[30.0], np.zeros(119)])
    assert step_down(statistics, np.abs(rng.normal(size=(120, 2000))))[0] < 0.001


def test_no_system_of_the_best_set_is_behind_the_best_in_its_pair():
    # Systems far behind widen the common bound; the step-down forgets them once they are told apart.
    rng = np.random.default_rng(5)
    contradictions = found = 0
    for trial in range(30):
        truth = rng.integers(0, 2, 300)
        names = [f"i{row}" for row in range(300)]
        samples = Samples.build(
            id=names, path=names, label=truth, label_names=("a", "b"), split=["test"] * 300
        )
        systems = {}
        for number, share in enumerate((0.93, 0.88, 0.77, 0.64, 0.5, 0.36)):
            right = rng.random(300) < share
            said = np.where(right, truth, 1 - truth)
            key = RunKey("d", f"b{number}", "w", "frozen", "cls", "p", "x", "f")
            systems[f"s{number}"] = [Predictions(key, samples, np.eye(2)[said] * 0.8 + 0.1, 9)]
        outcome = compare(systems, "accuracy", resamples=300, seed=trial)
        ranked = sorted(outcome.best, key=lambda one: -one.value)
        leader, kept = ranked[0].system, {one.system for one in outcome.best if one.in_best_set}
        for pair in outcome.pairs:
            if leader in {pair.a, pair.b} and pair.p_adjusted <= 0.05:
                found += 1
                contradictions += ({pair.a, pair.b} - {leader}).pop() in kept
    assert found > 120
    assert contradictions == 0
