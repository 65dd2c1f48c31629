"""What holds of ranks, adjusted p-values and areas whatever the numbers are."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from featprobe.significance.delong import clustered_delong, contributions, delong
from featprobe.significance.multiplicity import benjamini_hochberg, holm
from featprobe.significance.ranks import beats, leads, mcb, rank_intervals
from featprobe.significance.wilson import wilson_interval

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_p_values_keep_the_order_and_holms_are_the_larger(values):
    p = np.array(values)
    strict, loose = holm(p), benjamini_hochberg(p)
    assert (p <= loose + 1e-15).all()
    assert (loose <= strict + 1e-12).all()
    assert (strict <= 1).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(strict[order]) >= 0).all()
    assert (np.diff(loose[order]) >= 0).all()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 7), st.floats(0, 3))
def test_ranks_hold_the_observed_one_and_the_leader_is_in_both_best_sets(seed, count, spread):
    rng = np.random.default_rng(seed)
    values = spread * rng.standard_normal(count)
    found = leads(values, values[:, None] + rng.standard_normal((count, 100)))
    ahead_of = beats(found, 0.95, enough=True)
    low, high = rank_intervals(ahead_of)
    observed = 1 + (values[None, :] > values[:, None]).sum(axis=1)
    assert ((low <= observed) & (observed <= high)).all()
    assert not (ahead_of & ahead_of.T).any()
    least, most = mcb(found, 0.95)
    behind = values - np.array([np.delete(values, i).max() for i in range(count)])
    assert (least <= 0).all()
    assert (most >= 0).all()
    assert most[values.argmax()] > 0
    assert ((least <= behind + 1e-12) | (behind > 0)).all()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(4, 40))
def test_areas_depend_on_ranks_alone_and_turn_round_with_the_classes(seed, rows):
    rng = np.random.default_rng(seed)
    positive = np.arange(rows) % 2 == 0
    unit = rng.integers(0, max(2, rows // 2), rows)
    scores = np.round(rng.standard_normal((2, rows)), 1)
    one, monotone = delong(positive, scores), delong(positive, np.exp(3 * scores) + 7)
    np.testing.assert_allclose(one.value, monotone.value, atol=1e-12)
    np.testing.assert_allclose(one.covariance, monotone.covariance, atol=1e-12)
    turned = delong(~positive, scores)
    np.testing.assert_allclose(turned.value, 1 - one.value, atol=1e-12)
    np.testing.assert_allclose(turned.covariance, one.covariance, atol=1e-12)
    np.testing.assert_allclose(clustered_delong(positive, scores, unit).value, one.value, atol=1e-12)
    np.testing.assert_allclose(contributions(positive, scores, unit).sum(axis=1), 0, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.data())
def test_wilsons_interval_holds_the_share_inside_the_range(total, data):
    right = data.draw(st.integers(0, total))
    low, high = wilson_interval(right, total)
    assert 0 <= low <= right / total + 1e-12
    assert right / total - 1e-12 <= high <= 1
    other = wilson_interval(total - right, total)
    np.testing.assert_allclose((1 - high, 1 - low), other, atol=1e-12)
