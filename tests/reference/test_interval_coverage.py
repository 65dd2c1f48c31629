"""Shown by simulation: a 95 % interval holds the truth 95 % of the time, a p-value lies 5 % of the time.

Groups have 1 to 6 images, half of whose score they share. Bands are the nominal rate and three binomial
standard errors, and a little for the approximation where it is stated.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from featprobe.records import Predictions, RunKey, Samples
from featprobe.significance import compare, estimates

SHARED = 0.5
EFFECT = 1.6
TRUTH = {"accuracy": stats.norm.cdf(EFFECT / 2), "auroc": stats.norm.cdf(EFFECT / np.sqrt(2))}


def draw(rng, groups, systems=1, effects=None, common=0.7):
    """Predictions of `systems` models on the same images of new groups, and the same with each image alone.

    The score is normal around +- effect / 2, so that both true values follow from the effect.
    """
    group = np.repeat(np.arange(groups), rng.integers(1, 7, groups))
    y = (rng.random(groups) < 0.5).astype(int)
    y[:4] = 0, 0, 1, 1
    y = y[group]

    def error():
        return np.sqrt(SHARED) * rng.standard_normal(groups)[group] + np.sqrt(
            1 - SHARED
        ) * rng.standard_normal(len(y))

    ids = [f"{row:05d}" for row in range(len(y))]
    both = error()
    found = []
    for effect in effects or [EFFECT] * systems:
        p = stats.norm.cdf(np.sqrt(common) * both + np.sqrt(1 - common) * error() + effect * (y - 0.5))
        made = [
            Samples.build(path=ids, label=y, label_names=("a", "b"), group=declared)
            for declared in ([f"g{g}" for g in group], None)
        ]
        key = RunKey("d", "x", "w", "frozen", "cls", "p", "logistic", "f")
        found.append([Predictions(key, samples, np.stack([1 - p, p], axis=1), 1) for samples in made])
    return found


def band(rate, count, slack=0.0):
    error = 3 * np.sqrt(rate * (1 - rate) / count)
    return rate - error - slack, rate + error + slack


@pytest.mark.parametrize(("groups", "simulations"), [(60, 300), (200, 200)])
def test_intervals_cover_and_those_over_images_do_not(groups, simulations):
    rng = np.random.default_rng(groups)
    held = {(name, kind): 0 for name in TRUTH for kind in (0, 1)}
    for _ in range(simulations):
        for kind, made in enumerate(draw(rng, groups)[0]):
            for row in estimates([made], list(TRUTH), resamples=300):
                held[row.metric, kind] += row.ci_low <= TRUTH[row.metric] <= row.ci_high
    low, high = band(0.95, simulations)
    for name in TRUTH:
        assert low <= held[name, 0] / simulations <= high, held
        assert held[name, 1] / simulations < low, held


def test_p_values_under_the_null_and_the_best_set_with_a_tie():
    rng = np.random.default_rng(7)
    simulations, false, kept, dropped = 250, 0, 0, 0
    for _ in range(simulations):
        made = draw(rng, 60, effects=[1.6, 1.6, 0.2])
        result = compare({str(k): [own[0]] for k, own in enumerate(made)}, "auroc", resamples=300)
        false += result.pairs[0].p_value <= 0.05
        inside = [standing.in_best_set for standing in result.best]
        kept += inside[0] and inside[1]
        dropped += not inside[2]
    low, high = band(0.05, simulations, slack=0.01)
    assert low <= false / simulations <= high, false
    # Both of the tied best stay in at least 95 % of the time, and the one that is worse does leave.
    assert kept / simulations >= band(0.95, simulations)[0], kept
    assert dropped / simulations > 0.8, dropped
