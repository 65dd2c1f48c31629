"""Whatever the blocks and the order of the index, the same neighbours are found."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from featprobe.retrieval import DISTANCES, Measure, rank, scores

WIDTH = st.integers(1, 6)
COARSE = st.integers(-2, 2).map(float)  # many equal rows, equal distances and rows of zeros
FINE = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


@st.composite
def searches(draw):
    """(index, queries, k, distance, groups of both)."""
    width, rows, queries = draw(WIDTH), draw(st.integers(1, 60)), draw(st.integers(1, 8))
    values = draw(st.sampled_from([COARSE, FINE]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    index = draw(arrays.arrays(dtype, (rows, width), elements=values))
    asked = draw(arrays.arrays(dtype, (queries, width), elements=values))
    groups = [np.array(draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))) for n in (rows, queries)]
    return index, asked, draw(st.integers(1, 7)), draw(st.sampled_from(DISTANCES)), groups


def ranked(search, **options):
    index, queries, k, distance, (index_group, query_group) = search
    return rank(
        index, queries, distance=distance, k=k, index_group=index_group, query_group=query_group, **options
    )


@settings(max_examples=150, deadline=None)
@given(searches(), st.integers(1, 70))
def test_blocks_do_not_change_a_bit(search, block):
    whole, cut = ranked(search), ranked(search, block=block)
    np.testing.assert_array_equal(whole.neighbour, cut.neighbour)
    np.testing.assert_array_equal(whole.distance, cut.distance)
    np.testing.assert_array_equal(whole.own_group, cut.own_group)


@settings(max_examples=150, deadline=None)
@given(searches(), st.randoms(use_true_random=False))
def test_the_order_of_the_index_decides_ties_alone(search, random):
    index, queries, k, distance, (index_group, query_group) = search
    order = np.array(random.sample(range(len(index)), len(index)))
    moved = (index[order], queries, k, distance, (index_group[order], query_group))
    whole, other = ranked(search), ranked(moved)
    np.testing.assert_array_equal(whole.distance, other.distance)
    back = np.where(other.neighbour >= 0, order[other.neighbour], -1)
    for line, (first, second, far) in enumerate(zip(whole.neighbour, back, whole.distance, strict=True)):
        # Within one distance the rows may be others only where that distance goes on beyond the last.
        for value in np.unique(far[~np.isnan(far)][:-1]) if len(far) else ():
            if value != far[-1]:
                same = far == value
                assert set(first[same]) == set(second[same]), line
        places = other.neighbour[line][other.neighbour[line] >= 0]
        tied = np.diff(far[: len(places)]) == 0
        assert (np.diff(places)[tied] > 0).all()


@settings(max_examples=150, deadline=None)
@given(searches())
def test_a_plain_loop_finds_the_same(search):
    index, queries, k, distance, (index_group, query_group) = search
    found = ranked(search)
    far = found.distance
    for line, query in enumerate(queries.astype(float)):
        allowed = np.flatnonzero(index_group != query_group[line])
        points, point = index[allowed].astype(float), query
        if distance == "cosine":
            lengths = np.linalg.norm(points, axis=1) * np.linalg.norm(point)
            zero = lengths == 0
            exact = np.where(zero, 1.0, 1 - points @ point / np.where(zero, 1, lengths))
        else:
            exact = np.sqrt(((points - point) ** 2).sum(axis=1))
        there = found.neighbour[line] >= 0
        assert there.sum() == min(k, len(allowed))
        assert found.own_group[line] == len(index) - len(allowed)
        assert set(found.neighbour[line][there]) <= set(allowed.tolist())
        tolerance = 1e-12 * max(1.0, np.abs(exact).max(initial=0))
        np.testing.assert_allclose(far[line][there], np.sort(exact)[: there.sum()], atol=tolerance)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda k: st.lists(st.lists(st.integers(-1, 3), min_size=k, max_size=k), min_size=1, max_size=9)
    ),
    st.integers(0, 3),
)
def test_measures_keep_their_bounds_and_order(found, truth):
    table = np.array(found)
    k = table.shape[1]
    truths = np.full(len(table), truth)
    values = scores(truths, table, [Measure(kind, k) for kind in ("ACC", "precision", "mAP", "mMV")])
    hit, precision, ap, vote = values.T
    assert ((values >= 0) & (values <= 1)).all()
    assert (precision <= hit).all()
    assert (ap <= hit).all()
    assert (vote <= hit).all()
    # A class with more than half of the places is the majority; a hit's precision is 1/k at least.
    assert (vote[precision > 0.5] == 1).all()
    assert (ap >= hit / k - 1e-12).all()
