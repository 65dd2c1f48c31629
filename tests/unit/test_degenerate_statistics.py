"""Where rows are few, alike or perfectly told apart, a number is stated that holds, or the reason why there is none."""

from __future__ import annotations

import numpy as np
import pytest

from featprobe.records import Predictions, RunKey, Samples
from featprobe.significance import compare, estimates
from featprobe.significance.bootstrap import held_out, suitable
from featprobe.significance.datasets import across_datasets
from featprobe.significance.least import least_p, within
from featprobe.significance.multiplicity import step_down
from featprobe.significance.resampled_t import corrected_resampled_t

EVERY = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "auroc",
    "average_precision",
    "brier",
    "log_loss",
    "ece",
    "mce",
    "sce",
    "ace",
    "mcc",
    "cohen_kappa",
    "sensitivity_at_90_specificity",
    "specificity_at_90_sensitivity",
)


def made(y, positive, name="a", group=None):
    ids = [f"{row:03d}" for row in range(len(y))]
    samples = Samples.build(path=ids, label=np.array(y), label_names=("no", "yes"), group=group or ids)
    score = np.asarray(positive, dtype=float)
    key = RunKey("d", name, "w", "frozen", "cls", "p", "logistic", "f" * 64)
    return [Predictions(key, samples, np.stack([1 - score, score], axis=1), 100)]


CASES = {
    "five rows": ([0, 1, 0, 1, 1], [0.2, 0.7, 0.6, 0.8, 0.4]),
    "one class": ([1] * 12, np.linspace(0.1, 0.9, 12)),
    "all right": ([0, 1] * 15, [0.1, 0.9] * 15),
    "all wrong": ([0, 1] * 15, [0.9, 0.1] * 15),
    "equal scores": ([0, 1] * 15, [0.5] * 30),
    "one row": ([1], [0.3]),
    "two of a class": ([0] * 30 + [1] * 2, np.r_[np.linspace(0.05, 0.6, 30), 0.2, 0.3]),
}


@pytest.mark.parametrize("case", CASES)
def test_an_interval_is_finite_and_holds_its_value_or_says_why_there_is_none(case):
    for row in estimates(made(*CASES[case]), EVERY, resamples=60):
        if row.ci_method.startswith("undefined: "):
            assert np.isnan([row.ci_low, row.ci_high]).all(), row
        else:
            assert row.ci_low <= row.value + 1e-9, row
            assert row.value - 1e-9 <= row.ci_high, row


def test_a_value_at_the_end_of_its_range_is_said_to_be_there():
    # Half of the rows are of the class that all are called, with a probability of one half: no calibration error.
    (row,) = estimates(made(*CASES["equal scores"]), ["ece"], resamples=60)
    assert row.value == 0
    assert row.ci_method == (
        "undefined: the value lies at an end of its range, where the logit scale has no room for an interval"
    )


@pytest.mark.parametrize(
    ("metric", "test"),
    [
        ("accuracy", "bootstrap"),
        ("auroc", "bootstrap"),
        ("auroc", "delong"),
        ("balanced_accuracy", "bootstrap"),
        ("brier", "bootstrap"),
    ],
)
def test_a_difference_stays_where_differences_can_be(metric, test):
    y, score = CASES["five rows"]
    systems = {"a": made(y, score), "b": made(y, np.roll(score, 1), "b")}
    (pair,) = compare(systems, metric, resamples=100, test=test).pairs
    assert -1 <= pair.ci_low <= pair.difference <= pair.ci_high <= 1
    assert within(-3.0, 0.5, 1.0) == (-1.0, 0.5)
    assert np.isnan(within(np.nan, np.nan, 1.0)).all()


class TestLeast:
    def test_six_groups_with_two_of_a_class_show_no_separation(self):
        # A system that knows nothing puts the 2 on top one time in 15, and at the bottom another: 2/15, not 2^-5.
        y = [1, 1, 0, 0, 0, 0]
        systems = {"a": made(y, [0.9, 0.8, 0.3, 0.2, 0.2, 0.1]), "b": made(y, [0.5] * 6, "b")}
        found = compare(systems, "auroc", resamples=100)
        assert found.pairs[0].difference == 0.5
        assert found.pairs[0].p_value == pytest.approx(2 / 15)
        assert [row.in_best_set for row in found.best] == [True, True]

    def test_it_is_that_of_signs_where_classes_have_no_part_of_their_own(self):
        (part,) = [held_out(p) for p in made([0, 1] * 4, [0.5] * 8)]
        (accuracy, auroc) = suitable(["accuracy", "auroc"], "classes")
        assert least_p([part], accuracy) == 2.0**-7
        assert least_p([part], auroc) == pytest.approx(2 / 70)
        assert least_p([part, part], auroc) == pytest.approx(2 / 70**2)

    def test_rows_that_all_differ_alike_need_no_number_of_groups(self):
        y, score = CASES["all right"]
        systems = {"a": made(y, score), "b": made(y, 1 - np.array(score), "b")}
        (pair,) = compare(systems, "accuracy", resamples=100).pairs
        assert (pair.difference, pair.p_value) == (1.0, 2.0**-29)
        assert np.isnan(pair.groups_needed)


def test_all_patterns_of_signs_need_no_observed_one_beside_them():
    # 6 groups that agree: 2 of 64 patterns reach the sum, adjusted over one pair as well.
    y = [0, 1, 0, 1, 0, 1]
    systems = {"a": made(y, [0.1, 0.9] * 3), "b": made(y, [0.9, 0.1] * 3, "b")}
    (pair,) = compare(systems, "accuracy", resamples=100, test="sign-flip").pairs
    assert pair.p_value == pair.p_adjusted == 2 / 64
    drawn = np.array([[3.0, 1.0, 0.5, 0.1]])
    assert step_down(np.array([3.0]), drawn) == [2 / 5]
    assert step_down(np.array([3.0]), drawn, whole=True) == [1 / 4]


def test_differences_that_are_equal_but_for_rounding_have_no_spread():
    gaps = np.array([0.983 - 0.967, 0.95 - 0.934])
    assert gaps[0] != gaps[1]
    found = corrected_resampled_t(gaps, 0.25)
    assert found.mean == pytest.approx(0.016)
    assert np.isnan([found.low, found.high, found.p_value]).all()


def test_the_same_order_with_ties_has_the_chance_of_its_own_orders():
    # (1.5, 1.5, 3) comes in 3 orders: five data sets agree with the chance 3^-4, where 3! orders would make it 6^-4.
    found = across_datasets(np.array([[0.9, 0.9, 0.5]] * 5))
    assert found.statistic == np.inf
    assert found.p_value == pytest.approx(3.0**-4)
    assert across_datasets(np.array([[0.9, 0.8, 0.5]] * 5)).p_value == pytest.approx(6.0**-4)
