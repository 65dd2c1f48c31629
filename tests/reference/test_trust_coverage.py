"""Intervals of abstention, prediction sets and strangeness cover what they name, also where groups have several rows."""

from __future__ import annotations

import numpy as np

from featprobe.significance import group_weights
from featprobe.stages.spans import group_means, mean_span, resampled_span
from featprobe.trust.conformal import halves, lac, threshold
from featprobe.trust.outliers import accepted_strangers
from featprobe.trust.selective import areas

SIMULATIONS = 300
"""The standard error of a coverage of 95 % is then 1.3 points."""


def groups_of(rng, count):
    """Group of each row: 1 to 5 rows each."""
    return np.repeat(np.arange(count), rng.integers(1, 6, count))


def answers(rng, count):
    """(confidence, loss, group): some groups are wrong more often than their confidence tells."""
    unit = groups_of(rng, count)
    odds = rng.normal(1.5, 1, len(unit))
    wrong = rng.random(len(unit)) > 1 / (1 + np.exp(-odds + rng.normal(0, 2, count)[unit]))
    return 1 / (1 + np.exp(-odds)), wrong.astype(float), unit


def abstention(count, simulations):
    """(share of intervals that hold the expected value, for AURC, E-AURC and AUGRC; of naive ones by rows for AURC)."""
    rng = np.random.default_rng(0)
    truth = np.mean([_point(rng, count) for _ in range(2000)], axis=0)
    held, naive = np.zeros(3), 0.0
    for number in range(simulations):
        sure, loss, unit = answers(rng, count)
        value = areas(sure, loss, np.ones((1, len(loss))))[:, 0]
        drawn = areas(sure, loss, group_weights(unit, resamples=200, seed=number))
        rows = areas(sure, loss, group_weights(np.arange(len(unit)), resamples=200, seed=number))
        for m in range(3):
            low, high = resampled_span(float(value[m]), drawn[m], count - 1)
            held[m] += low <= truth[m] <= high
        low, high = resampled_span(float(value[0]), rows[0], len(unit) - 1)
        naive += low <= truth[0] <= high
    return held / simulations, naive / simulations


def _point(rng, count):
    sure, loss, _ = answers(rng, count)
    return areas(sure, loss, np.ones((1, len(loss))))[:, 0]


def stranger(count, simulations):
    """Share of intervals of FPR95 that hold its value on very many rows."""
    rng = np.random.default_rng(1)

    def scores(number, shift):
        unit = groups_of(rng, number)
        return rng.normal(shift, 0.7, number)[unit] + rng.normal(0, 0.7, len(unit)), unit

    (known, a), (strange, b) = scores(100_000, 0), scores(100_000, 1.5)
    truth = accepted_strangers(known, strange, np.ones((1, len(a))), np.ones((1, len(b))))[0]
    held = 0
    for number in range(simulations):
        (known, a), (strange, b) = scores(count, 0), scores(count, 1.5)
        ones = np.ones((1, len(a))), np.ones((1, len(b)))
        value = accepted_strangers(known, strange, *ones)[0]
        own = group_weights(a, resamples=200, seed=number)
        other = group_weights(b, resamples=200, seed=number + 10**6)
        low, high = resampled_span(float(value), accepted_strangers(known, strange, own, other), count - 1)
        held += low <= truth <= high
    return held / simulations


def prediction_sets(count, simulations, splits=3):
    """Share of intervals that hold the coverage of the very thresholds on very many new groups."""
    rng = np.random.default_rng(2)

    def drawn(number):
        unit = groups_of(rng, number)
        y = rng.integers(0, 3, number)[unit]
        logits = rng.normal(0, 1, (len(unit), 3))
        logits[np.arange(len(unit)), y] += rng.normal(1.5, 1, number)[unit]
        p = np.exp(logits)
        return lac(p / p.sum(axis=1, keepdims=True), y), y, unit

    strange, y, unit = drawn(100_000)
    fresh = strange[np.arange(len(y)), y]
    order = np.argsort(fresh)
    mass = np.cumsum((1 / np.bincount(unit)[unit] / (unit.max() + 1))[order])
    held = 0
    for number in range(simulations):
        strange, y, unit = drawn(count)
        done = halves(strange, y, unit, (0.9,), splits=splits, seed=number)
        own, half = strange[np.arange(len(y)), y], np.random.default_rng([number, 0xC0F])
        limits = []
        for _ in range(splits):
            first = half.permutation(count)[: count // 2]
            sides = (np.isin(unit, first), ~np.isin(unit, first))
            limits += [threshold(own[side], unit[side], 0.9) for side in sides]
        place = np.searchsorted(fresh[order], limits, side="right")
        truth = np.mean(np.concatenate([[0.0], mass])[place])
        _, low, high = mean_span([group_means(done.covered[0], unit)])
        held += low <= truth <= high
    return held / simulations


def test_intervals_of_abstention_cover_by_group():
    held, naive = abstention(60, SIMULATIONS)
    assert (held > 0.91).all()
    assert (held < 0.985).all()
    assert naive < 0.92  # rows taken as if each were a group


def test_intervals_of_accepted_strangers_cover_by_group():
    assert 0.91 < stranger(60, SIMULATIONS) < 0.985


def test_intervals_of_prediction_sets_cover_by_group():
    assert 0.91 < prediction_sets(60, SIMULATIONS) < 0.985
