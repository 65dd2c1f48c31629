"""The ratio of labels that two systems need: curves with a known saving, whose interval must hold it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.isotonic import isotonic_regression

from featprobe.significance.bootstrap import group_weights
from featprobe.significance.savings import Curve, Spread, monotone, needed, saving, seed_weights

LABELS = 10.0 * 2.0 ** np.arange(7)
GROUPS = 120


def simulated(rng, seeds, *, saves=2.0, rows_per_group=2, resamples=200):
    """Two systems whose error is a power law of the labels: the second needs `saves` times as many.

    Test groups are hard or easy for both. With several seeds a draw of labels is lucky or not, partly for both systems
    and partly for one; a single seed is the fitted models themselves, whose luck is no error.
    """
    names = np.repeat(np.arange(GROUPS), rows_per_group)
    weights = group_weights(names, resamples=resamples, seed=int(rng.integers(1_000_000)))
    hard = rng.gamma(4, 1 / 4, GROUPS)[names]

    def luck(sure, *shape):
        return rng.gamma(sure, 1 / sure, shape) if seeds > 1 else np.ones(shape)

    shared, curves = luck(100, seeds), []
    for factor in (1.0, saves):
        values = np.empty((len(LABELS), seeds))
        draws = np.empty((len(LABELS), seeds, resamples))
        own = luck(200, seeds) * shared * luck(400, len(LABELS), seeds)
        for a, count in enumerate(LABELS):
            for r in range(seeds):
                error = 0.25 * (count / factor / 10) ** -0.4 * hard * own[a, r]
                right = (rng.random(len(names)) >= error).astype(float)
                values[a, r] = right.mean()
                draws[a, r] = weights @ right / weights.sum(axis=1)
        curves.append(Curve(LABELS, values, draws))
    return curves


@pytest.mark.parametrize("seeds", [1, 3, 6])
def test_the_interval_holds_a_known_saving(seeds):
    rng = np.random.default_rng(seeds)
    found = [saving(*simulated(rng, seeds), groups=GROUPS, seed=number) for number in range(200)]
    held = np.mean([one.low <= 2 <= one.high for one in found])
    assert 0.91 <= held <= 0.99
    assert abs(np.median(np.log([one.ratio for one in found])) - np.log(2)) < 0.1
    # It also says something: the more seeds, the more often is the saving told from none.
    assert np.mean([one.low > 1 for one in found]) > {1: 0.3, 3: 0.4, 6: 0.65}[seeds]


def test_none_is_saved_where_none_is():
    rng = np.random.default_rng(7)
    found = [saving(*simulated(rng, 4, saves=1.0), groups=GROUPS, seed=number) for number in range(150)]
    assert np.mean([one.low > 1 or one.high < 1 for one in found]) < 0.1


def test_turned_round_it_is_the_inverse():
    own, other = simulated(np.random.default_rng(1), 3)
    one, two = saving(own, other, groups=GROUPS), saving(other, own, groups=GROUPS)
    assert np.isclose(one.ratio * two.ratio, 1)
    assert np.isclose(one.low * two.high, 1)
    assert one.level == two.level
    assert (one.needed_own, one.needed_other) == (two.needed_other, two.needed_own)


def test_errors_are_turned_too():
    own, other = simulated(np.random.default_rng(1), 3)
    wrong = [Curve(c.labels, 1 - c.values, 1 - c.draws) for c in (own, other)]
    plain, turned = saving(own, other, groups=GROUPS), saving(*wrong, groups=GROUPS, higher_is_better=False)
    assert np.isclose(plain.ratio, turned.ratio)
    assert np.isclose(plain.high, turned.high)
    assert np.isclose(plain.level, 1 - turned.level)


def curve(values, labels=(10.0, 20.0, 40.0)):
    values = np.array(values)[:, None]
    return Curve(np.array(labels), values, np.repeat(values[:, :, None], 50, axis=2))


def test_curves_that_share_no_level_say_so():
    good, bad = curve([0.8, 0.85, 0.9]), curve([0.5, 0.6, 0.7])
    found = saving(good, bad, groups=9)
    assert np.isnan([found.ratio, found.low, found.high, found.level]).all()
    assert "better with its fewest labels (10) than the second with its most (40)" in found.method
    assert "the second is better with its fewest labels" in saving(bad, good, groups=9).method
    assert "flat" in saving(curve([0.8, 0.8, 0.8]), good, groups=9).method
    assert "does not reach 0.95" in saving(good, curve([0.7, 0.8, 0.96]), groups=9, level=0.95).method


def test_worked_by_hand():
    found = saving(curve([0.6, 0.7, 0.8]), curve([0.5, 0.6, 0.7]), groups=9, level=0.65)
    # Straight lines on the logarithm: 10 to 20, and 20 to 40, each half way.
    assert np.isclose(found.needed_own, 10 * np.sqrt(2))
    assert np.isclose(found.needed_other, 20 * np.sqrt(2))
    assert np.isclose(found.ratio, 2)
    assert np.isclose(found.low, 2)
    assert saving(curve([0.6, 0.7, 0.8]), curve([0.5, 0.6, 0.7]), groups=9).level == pytest.approx(0.65)


def test_a_level_outside_a_resampled_curve_opens_the_interval():
    own, other = curve([0.6, 0.7, 0.8]), curve([0.5, 0.6, 0.7])
    own.draws[:, 0, :10] += 0.2  # there the first has passed 0.65 before its fewest labels
    found = saving(own, other, groups=9, level=0.65)
    assert np.isfinite(found.low)
    assert found.high == np.inf


def test_monotone_is_isotonic_regression():
    values = np.random.default_rng(0).normal(size=(30, 8)) + np.arange(8) / 4
    assert np.allclose(monotone(values), [isotonic_regression(row) for row in values])


def test_needed_lies_on_the_curve():
    fitted = np.array([[0.1, 0.2, 0.2, 0.5], [0.3, 0.4, 0.5, 0.6], [0.0, 0.1, 0.1, 0.15]])
    labels = np.array([1.0, 10.0, 100.0, 1000.0])
    found = needed(labels, fitted, 0.2)
    assert found[0] == np.log(10)
    assert found[1] == -np.inf
    assert found[2] == np.inf
    assert np.isclose(needed(labels, fitted, 0.35)[0], np.log(100) + np.log(10) / 2)


def test_seed_weights_give_the_variance_of_a_mean():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    weights = seed_weights(4, 40_000, 0)
    assert np.allclose(weights.sum(axis=1), 1)
    assert (weights @ values).var() == pytest.approx(values.var(ddof=1) / 4, rel=0.03)
    assert (seed_weights(1, 5, 0) == 1).all()


def test_what_groups_and_seeds_share_is_counted_once():
    rng = np.random.default_rng(3)
    groups, seeds, found = 60, 6, []
    for _ in range(60):
        both = (
            rng.normal(size=(1, groups)) + rng.normal(size=(seeds, 1)) + 3 * rng.normal(size=(seeds, groups))
        )
        weights = group_weights(np.arange(groups), resamples=400, seed=int(rng.integers(1_000_000)))
        draws = weights @ both.T / groups
        means = both.mean(axis=1)
        whole = (draws * seed_weights(seeds, 400, 0)).sum(axis=1)
        of_seeds = means.var(ddof=1) / seeds
        spread = Spread.of(whole.var(), draws.mean(axis=1).var(), of_seeds, groups=groups, seeds=seeds)
        found.append(spread.variance)
    assert np.mean(found) == pytest.approx(1 / groups + 1 / seeds + 9 / (seeds * groups), rel=0.2)
