"""Values by subgroup are those of the subgroup's rows, paired, by group, and silent where they can't be judged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from featprobe.errors import ResultsError
from featprobe.metrics import evaluate
from featprobe.records import Predictions, RunKey, Samples
from featprobe.significance import by_subgroup, estimates

KEY = RunKey("d", "b", "w", "frozen", "gap", "p", "logistic", "f")
RNG = np.random.default_rng(0)


def made(y, score, *, group=None, fold="test", start=0, task="classes", names=("ill", "well")):
    ids = [f"{start + i:04d}" for i in range(len(y))]
    samples = Samples.build(id=ids, path=ids, label=y, label_names=names, group=group, task=task)
    return Predictions(dataclasses.replace(KEY, fold=fold), samples, score, 50)


def binary(rows, *, seed=0, skill=0.4):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, rows)
    p = np.clip(0.5 * rng.random(rows) + skill * y, 0, 1)
    return y, np.column_stack([1 - p, p])


def table(systems, metric, names, codes, **options):
    rows, spreads = by_subgroup(systems, metric, "site", names, codes, **{"resamples": 200, **options})
    return {(row.system, row.subgroup): row for row in rows}, {row.system: row for row in spreads}


@pytest.mark.parametrize("metric", ["accuracy", "auroc", "brier"])
def test_a_subgroup_of_all_rows_is_the_whole(metric):
    y, score = binary(80)
    group = [f"g{i // 2}" for i in range(80)]
    whole = made(y, score, group=group)
    (expected,) = estimates([whole], [metric], resamples=200)
    rows, spreads = table({"s": [whole]}, metric, ("all",), [np.zeros(80, dtype=int)])
    row = rows["s", "all"]
    assert (row.value, row.n_rows, row.n_groups) == (pytest.approx(expected.value), 80, 40)
    np.testing.assert_allclose([row.ci_low, row.ci_high], [expected.ci_low, expected.ci_high], rtol=1e-10)
    assert row.ci_method == expected.ci_method
    assert np.isnan(row.gap)
    assert np.isnan(spreads["s"].gap)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "auroc", "ece"])
@pytest.mark.parametrize("count", [2, 3])
def test_values_are_those_of_the_rows_and_gaps_those_to_the_rest(metric, count):
    y, score = binary(150)
    code = RNG.integers(-1, count, 150)
    names = tuple("ABC"[:count])
    rows, spreads = table({"s": [made(y, score)]}, metric, names, [code])
    values = []
    for k, name in enumerate(names):
        inside, rest = code == k, (code >= 0) & (code != k)
        value, other = (evaluate(metric, y[part], score[part])[0] for part in (inside, rest))
        row = rows["s", name]
        assert row.value == pytest.approx(value)
        assert row.gap == pytest.approx(value - other)
        assert row.ci_low < row.value < row.ci_high
        assert row.gap_low < row.gap < row.gap_high
        assert row.judged
        assert row.n_rows == row.n_groups == inside.sum()
        values.append(row.value)
    spread = spreads["s"]
    assert spread.gap == pytest.approx(max(values) - min(values))
    assert (spread.lowest, spread.highest) == (names[np.argmin(values)], names[np.argmax(values)])
    assert 0 <= spread.ci_low <= spread.gap <= spread.ci_high


def test_the_order_of_rows_and_of_systems_changes_nothing():
    y, score = binary(120)
    other = binary(120, seed=3)[1]
    code, order = RNG.integers(0, 2, 120), RNG.permutation(120)
    first, second = made(y, score), made(y, other)
    moved = {
        "b": [Predictions(KEY, second.samples.take(order), other[order], 50)],
        "a": [Predictions(KEY, first.samples.take(order), score[order], 50)],
    }
    plain, _ = table({"a": [first], "b": [second]}, "auroc", ("A", "B"), [code])
    turned, _ = table(moved, "auroc", ("A", "B"), [code[order]])
    for place, row in plain.items():
        found = dataclasses.astuple(turned[place])
        for own, its in zip(dataclasses.astuple(row), found, strict=True):
            assert own == (pytest.approx(its, abs=1e-12) if isinstance(own, float) else its)


def test_a_group_with_rows_in_both_subgroups_moves_both():
    y, score = binary(60)
    both = made(np.tile(y, 2), np.tile(score, (2, 1)), group=[f"g{i % 60}" for i in range(120)])
    rows, spreads = table({"s": [both]}, "accuracy", ("left", "right"), [np.repeat([0, 1], 60)])
    left, right = rows["s", "left"], rows["s", "right"]
    assert (left.ci_low, left.ci_high) == (right.ci_low, right.ci_high)
    # The same rows of the same groups: no resample can tell them apart, and so no interval is claimed.
    assert left.gap == right.gap == spreads["s"].gap == 0
    assert np.isnan([left.gap_low, left.gap_high, spreads["s"].ci_low]).all()


def test_a_value_is_the_mean_over_the_folds_that_have_one():
    y, score = binary(100)
    y[50:75] = 1
    folds = [made(y[:50], score[:50], fold="0"), made(y[50:], score[50:], fold="1", start=50)]
    code = np.tile(np.repeat([0, 1], 25), 2)
    rows, _ = table({"s": folds}, "auroc", ("A", "B"), np.split(code, 2))
    alone, other = rows["s", "A"], rows["s", "B"]
    assert alone.value == pytest.approx(
        evaluate("auroc", y[:25], score[:25])[0]
    )  # all of A are of one class in fold 1
    assert alone.remark == "a value in 1 of 2 folds"
    means = [evaluate("auroc", y[part], score[part])[0] for part in (slice(25, 50), slice(75, 100))]
    assert other.value == pytest.approx(np.mean(means))
    assert (other.remark, other.n_rows) == ("", 50)


def test_what_is_too_small_or_lacks_a_class_is_shown_but_not_judged():
    y, score = binary(100)
    code = np.repeat([0, 1, 2], [60, 34, 6])
    y[60:94] = 0
    rows, spreads = table({"s": [made(y, score)]}, "balanced_accuracy", ("A", "B", "C"), [code])
    assert not rows["s", "C"].judged
    assert rows["s", "C"].remark == "6 groups, fewer than 10"
    assert not rows["s", "B"].judged
    assert rows["s", "B"].remark == "no rows of class 'well': its value is over the other classes"
    assert np.isfinite(rows["s", "B"].value)
    assert spreads["s"].method.startswith("undefined: fewer than two")
    # A share of right rows needs no class of its own.
    rows, spreads = table({"s": [made(y, score)]}, "accuracy", ("A", "B", "C"), [code])
    assert rows["s", "B"].judged
    assert np.isfinite(spreads["s"].ci_low)


def test_thin_classes_keep_their_place_within_their_subgroup():
    y = np.concatenate([np.arange(60) < 5, np.arange(60) < 30]).astype(int)
    score = binary(120)[1]
    rows, _ = table({"s": [made(y, score)]}, "auroc", ("A", "B"), [np.repeat([0, 1], 60)])
    assert "within strata of label patterns" in rows["s", "A"].ci_method
    assert "left out" not in rows["s", "A"].ci_method
    assert rows["s", "A"].judged


def test_a_class_with_few_groups_in_all_folds_together_is_not_judged():
    rng = np.random.default_rng(5)
    for rare, judged in ((4, False), (5, True)):
        y = np.concatenate([np.arange(60) < rare, rng.integers(0, 2, 60)]).astype(int)
        score, place = binary(120, seed=1)[1], np.arange(120) % 5
        # Every fold has one such group at most, which alone must not silence the subgroup.
        folds = [made(y[place == f], score[place == f], fold=str(f), start=1000 * f) for f in range(5)]
        codes = [np.repeat([0, 1], 60)[place == f] for f in range(5)]
        rows, _ = table({"s": folds}, "balanced_accuracy", ("A", "B"), codes)
        assert rows["s", "A"].judged == judged
        wanted = "" if judged else "class 'well' has 4 groups, fewer than 5"
        assert rows["s", "A"].remark == wanted
        assert np.isfinite(rows["s", "A"].ci_low)


@pytest.mark.parametrize("task", ["multilabel", "continuous", "ordinal"])
def test_other_targets(task):
    rng = np.random.default_rng(1)
    code = rng.integers(0, 2, 90)
    if task == "multilabel":
        y = rng.integers(0, 2, (90, 3))
        y[code == 0, 2] = 0
        score, names, metric = (
            np.clip(0.4 * y + 0.6 * rng.random((90, 3)), 0, 1),
            ("x", "y", "z"),
            "macro_auroc",
        )
    elif task == "continuous":
        y, names, metric = rng.normal(60, 10, 90), ("age",), "mae"
        score = (y + rng.normal(0, 3, 90))[:, None]
    else:
        y, names, metric = rng.integers(0, 3, 90), ("0", "1", "2"), "quadratic_kappa"
        score = np.full((90, 3), 0.2)
        score[np.arange(90), np.where(rng.random(90) < 0.7, y, 1)] = 0.6
    rows, spreads = table({"s": [made(y, score, task=task, names=names)]}, metric, ("A", "B"), [code])
    own = evaluate(metric, y[code == 0], score[code == 0], task=task)[0]
    assert rows["s", "A"].value == pytest.approx(own)
    assert rows["s", "A"].judged
    assert rows["s", "A"].remark == ("without both values of 1 labels" if task == "multilabel" else "")
    assert np.isfinite(spreads["s"].ci_high)


def test_moved_thresholds_move_decisions_here_too():
    y, score = binary(100)
    plain = made(y, score)
    moved = dataclasses.replace(plain, thresholds=np.array([0.25, 0.75]))
    code = np.repeat([0, 1], 50)
    rows, _ = table({"plain": [plain], "moved": [moved]}, "accuracy", ("A", "B"), [code])
    decided = evaluate("accuracy", y[:50], moved.decision_score[:50])[0]
    assert rows["moved", "A"].value == pytest.approx(decided)
    assert rows["plain", "A"].value == pytest.approx(evaluate("accuracy", y[:50], score[:50])[0])
    assert rows["moved", "A"].value != rows["plain", "A"].value


def test_systems_on_other_rows_are_refused():
    y, score = binary(40)
    with pytest.raises(ResultsError, match="unequal"):
        table({"a": [made(y, score)], "b": [made(1 - y, score)]}, "accuracy", ("A", "B"), [np.arange(40) % 2])


def test_intervals_of_values_gaps_and_spreads_hold_their_level():
    """200 data sets of 120 groups of two rows; the rate of right rows is 0.9, 0.8, 0.6 by subgroup."""
    rng = np.random.default_rng(7)
    sizes, rates = (60, 36, 24), np.array([0.9, 0.8, 0.6])
    code = np.repeat([0, 1, 2], [2 * size for size in sizes])
    group = [f"g{i // 2}" for i in range(240)]
    others = [np.average(np.delete(rates, k), weights=np.delete(sizes, k)) for k in range(3)]
    held: dict[str, list[bool]] = {"value": [], "gap": [], "spread": []}
    for seed in range(200):
        # Both rows of a group are right together half of the time: rows are not independent, groups are.
        together = np.repeat(rng.random(120) < 0.5, 2)
        draw = np.where(together, np.repeat(rng.random(120), 2), rng.random(240))
        right = draw < rates[code]
        score = np.where(right[:, None], [0.8, 0.2], [0.2, 0.8])
        own = made(np.zeros(240, dtype=int), score, group=group)
        rows, spreads = table({"s": [own]}, "accuracy", ("A", "B", "C"), [code], seed=seed)
        for k, row in enumerate(rows.values()):
            held["value"].append(row.ci_low <= rates[k] <= row.ci_high)
            held["gap"].append(row.gap_low <= rates[k] - others[k] <= row.gap_high)
        held["spread"].append(spreads["s"].ci_low <= 0.3 <= spreads["s"].ci_high)
    rates_held = {name: float(np.mean(values)) for name, values in held.items()}
    assert 0.93 <= rates_held["value"] <= 0.985, rates_held
    assert 0.93 <= rates_held["gap"] <= 0.985, rates_held
    assert rates_held["spread"] >= 0.93, rates_held
