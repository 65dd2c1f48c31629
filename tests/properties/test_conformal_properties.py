"""The promise of prediction sets by simulation: it holds by group, where a rule that counts rows breaks it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featprobe.trust.conformal import SCORES, halves, sets, threshold

LEVEL = 0.9


def population(rng, groups, classes=3):
    """(probabilities, classes, groups): hard groups have one row, easy ones twelve; rows of a group are alike."""
    hard = rng.random(groups) < 0.25
    unit = np.repeat(np.arange(groups), np.where(hard, 1, 12))
    skill = np.where(hard, -1.0, 3.0)[unit] + rng.normal(0, 0.5, groups)[unit]
    y = rng.integers(0, classes, groups)[unit]
    logits = rng.normal(0, 1, (len(unit), classes))
    logits[np.arange(len(unit)), y] += skill
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), y, unit


def by_group(hit, unit):
    return float((np.bincount(unit, hit) / np.bincount(unit)).mean())


@pytest.mark.parametrize("name", list(SCORES))
def test_sets_cover_new_groups_at_their_level(name):
    rng = np.random.default_rng(0)
    by_groups, by_rows = [], []
    for _ in range(400):
        p, y, unit = population(rng, 60)
        own = SCORES[name](p, rng.random(len(y)))[np.arange(len(y)), y]
        new_p, new_y, new_unit = population(rng, 60)
        strange = SCORES[name](new_p, rng.random(len(new_y)))
        every_row = np.arange(len(y))
        for limit, found in (
            (threshold(own, unit, LEVEL), by_groups),
            (threshold(own, every_row, LEVEL), by_rows),
        ):
            hit = sets(strange, limit)[np.arange(len(new_y)), new_y]
            found.append(by_group(hit, new_unit))
    assert np.mean(by_groups) > LEVEL - 3 * np.std(by_groups) / 20
    assert (
        np.mean(by_rows) < LEVEL - 0.05
    )  # rows taken as if each were a group: easy groups drown the hard ones
    # Scores have no ties: what is too much is no more than a group's mass.
    assert np.mean(by_groups) < LEVEL + 1 / 61 + 3 * np.std(by_groups) / 20


def test_half_splits_keep_the_promise_and_say_where_they_can_not():
    rng = np.random.default_rng(1)
    found = []
    for number in range(150):
        p, y, unit = population(rng, 40)
        done = halves(SCORES["LAC"](p, y), y, unit, (LEVEL, 0.99), splits=2, seed=number)
        found.append(by_group(done.covered[0], unit))
        assert done.least == 20
        assert done.unlimited.tolist() == [0, 1]  # 20 groups can't say anything at 99 %
        assert (done.size[1] == 3).all()
    assert np.mean(found) > LEVEL - 3 * np.std(found) / np.sqrt(150)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(list(SCORES)))
def test_sets_grow_with_their_level_and_do_not_see_the_order_of_rows(seed, name):
    rng = np.random.default_rng(seed)
    p, y, unit = population(rng, 25)
    strange = SCORES[name](p, rng.random(len(y)))
    own = strange[np.arange(len(y)), y]
    limits = [threshold(own, unit, level) for level in (0.5, 0.8, 0.9, 0.95)]
    assert limits == sorted(limits)
    mixed = rng.permutation(len(y))
    assert threshold(own[mixed], unit[mixed], LEVEL) == limits[2]
    assert (strange[np.arange(len(y)), p.argmax(axis=1)] == strange.min(axis=1)).all()
