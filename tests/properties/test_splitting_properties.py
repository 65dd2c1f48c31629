"""Promise 5 for any data: no group and no image on both sides, and the order of rows means nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from featprobe.errors import SplitError
from featprobe.records import Samples, texts
from featprobe.splitting import drop_leaks, find_leaks, holdout, inner_folds, plan


@st.composite
def datasets(draw, *, with_split=False):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_groups, classes = draw(st.integers(6, 40)), draw(st.integers(2, 4))
    group = np.repeat(np.arange(n_groups), rng.integers(1, 7, n_groups))
    count = len(group)
    label = rng.integers(0, classes, n_groups)[group]
    if draw(st.booleans()):
        label = np.where(rng.random(count) < 0.2, rng.integers(0, classes, count), label)
    made = Samples.build(
        path=[f"{x:08x}" for x in rng.permutation(10**6)[:count]],
        label=label,
        label_names=tuple("abcd"[:classes]),
        group=[f"g{g}" for g in group] if draw(st.booleans()) else None,
        split=rng.choice(["train", "train", "val", "test", "extra"], count) if with_split else None,
    )
    copies = rng.integers(0, draw(st.integers(1, 3)) * count, count)
    return made.replace(sha256=texts(copies))


def planned(samples, seed):
    try:
        return plan(samples, folds=3, seed=seed)
    except SplitError:
        assume(False)
        raise


@settings(max_examples=15, deadline=None)
@given(samples=datasets(), seed=st.integers(0, 2**31))
def test_no_unit_stands_on_both_sides(samples, seed):
    used, result = planned(samples, seed)
    unit = used.units()
    tested = np.concatenate([fold.test for fold in result.folds])
    assert sorted(tested.tolist()) == list(range(len(used)))
    for fold in result.folds:
        assert sorted(np.concatenate([fold.train, fold.test]).tolist()) == list(range(len(used)))
        assert not set(unit[fold.train]) & set(unit[fold.test])
        assert set(used.label[fold.train]) == set(used.label)
        try:
            cut = inner_folds(used, fold.train, folds=5, seed=seed)
            early = holdout(used, fold.train, seed=seed)
        except SplitError:
            continue
        inside = unit[fold.train]
        for fit, held in cut:
            assert not set(inside[fit]) & set(inside[held])
            assert len(fit) + len(held) == len(fold.train)
            assert set(used.label[fold.train][fit]) == set(used.label)
        assert not set(unit[early[0]]) & set(unit[early[1]])
        assert sorted(np.concatenate(early).tolist()) == fold.train.tolist()


@settings(max_examples=15, deadline=None)
@given(samples=datasets(), seed=st.integers(0, 2**31), shuffle=st.integers(0, 2**31))
def test_the_order_of_rows_means_nothing(samples, seed, shuffle):
    order = np.random.default_rng(shuffle).permutation(len(samples))
    (used, one), (moved, two) = planned(samples, seed), planned(samples.take(order), seed)
    for left, right in zip(one.folds, two.folds, strict=True):
        assert set(used.id[left.test]) == set(moved.id[right.test])
        try:
            early = holdout(used, left.train, seed=seed)
        except SplitError:
            continue
        assert set(used.id[early[1]]) == set(moved.id[holdout(moved, right.train, seed=seed)[1]])


@settings(max_examples=15, deadline=None)
@given(samples=datasets(with_split=True))
def test_leaks_are_what_pairing_all_rows_finds_and_dropping_mends_them(samples):
    side = np.where(samples.split == "extra", "train", samples.split)
    rank = {"train": 0, "val": 1, "test": 2}
    expected = set()
    for i in range(len(samples)):
        for j in range(len(samples)):
            if rank[side[i]] < rank[side[j]]:
                sides = (side[i], side[j])
                if samples.groups_declared and samples.group[i] == samples.group[j]:
                    expected.add(("group", samples.group[i], *sides))
                if samples.sha256[i] == samples.sha256[j]:
                    expected.add(("bytes", samples.sha256[i], *sides))
                    if samples.label[i] != samples.label[j]:
                        expected.add(("label-conflict", samples.sha256[i], *sides))
    row = {name: number for number, name in enumerate(samples.id)}
    leaks = find_leaks(samples)
    found = [
        (
            leak.kind,
            (samples.group if leak.kind == "group" else samples.sha256)[row[leak.id_a]],
            leak.split_a,
            leak.split_b,
        )
        for leak in leaks
        if leak.crosses
    ]
    assert set(found) == expected
    assert len(found) == len(expected)
    for leak in leaks:
        if leak.kind == "label-conflict":
            assert samples.label[row[leak.id_a]] != samples.label[row[leak.id_b]]
    kept, removed = drop_leaks(samples, leaks)
    assert not any(leak.crosses for leak in find_leaks(kept))
    assert removed == len(samples) - len(kept)
    assert (kept.split == "test").sum() == (samples.split == "test").sum()
