"""The labels that a shuffled probe learns: another group's, whole, so that nothing but their meaning is lost."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featprobe.stages.fitting import shuffled as shuffle


@given(st.lists(st.integers(1, 4), min_size=4, max_size=30), st.integers(0, 5))
def test_groups_stay_alike_inside_and_no_class_is_lost(sizes: list[int], seed: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.repeat(np.arange(len(sizes)) % 3, sizes)
    shuffled = shuffle(labels, groups, seed)
    assert set(shuffled.tolist()) == set(labels.tolist())
    assert np.array_equal(shuffled, shuffle(labels, groups, seed))
    assert all(len(set(shuffled[groups == group].tolist())) == 1 for group in set(groups.tolist()))


def test_it_is_a_permutation_that_forgets_the_labels() -> None:
    labels, groups = np.arange(4000) % 2, np.arange(4000)
    shuffled = shuffle(labels, groups, 0)
    assert shuffled.sum() == labels.sum()
    assert abs(np.corrcoef(labels, shuffled)[0, 1]) < 0.05
    assert not np.array_equal(shuffled, shuffle(labels, groups, 1))


def test_rows_of_several_labels_stay_together() -> None:
    labels = np.array([[0, 1], [1, 0], [1, 1], [0, 0]])
    shuffled = shuffle(labels, np.arange(4), 3)
    assert sorted(map(tuple, shuffled.tolist())) == sorted(map(tuple, labels.tolist()))


def test_unequal_groups_take_the_other_groups_labels_in_turn() -> None:
    labels = np.array([0, 1, 0, 1, 0, 1, 0])
    groups = np.array([0, 0, 1, 1, 2, 2, 2])
    shuffled = shuffle(labels, groups, 0)
    assert len(shuffled) == len(labels)
    assert set(shuffled.tolist()) == {0, 1}
