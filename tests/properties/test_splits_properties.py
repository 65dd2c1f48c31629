"""For any target, group sizes, copies and seeds: units stay whole, draws are nested, the order of rows means nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from featprobe.errors import SplitError
from featprobe.records import Samples, texts
from featprobe.splitting import holdout, inner_folds, plan, subset, transfer
from featprobe.splitting.multilabel import (
    _counts,
    _excess,
    _mend,
    _terms,
    iterative_parts,
    prevalence_bound,
)

TASKS = ("classes", "ordinal", "multilabel", "continuous")
EXAMPLES = settings(max_examples=30, deadline=None)


def labels_for(task, rng, count, group, kinds):
    """Labels that belong to the group more than to the image; some are missing."""
    if task == "continuous":
        values = rng.normal(size=group.max() + 1)[group] + 0.3 * rng.normal(size=count)
        return np.where(rng.random(count) < 0.05, np.nan, np.round(values, 1))
    if task == "multilabel":
        rates = np.geomspace(0.1, 0.6, kinds)
        values = (rng.random((group.max() + 1, kinds)) < rates)[group].astype(np.int64)
        return np.where(rng.random((count, kinds)) < 0.1, -1, values)
    values = rng.integers(0, kinds, group.max() + 1)[group]
    values = np.where(rng.random(count) < 0.15, rng.integers(0, kinds, count), values)
    return np.where(rng.random(count) < 0.05, -1, values)


@st.composite
def datasets(draw, tasks=TASKS, *, extra=True):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    task, kinds = draw(st.sampled_from(tasks)), draw(st.integers(2, 4))
    groups, largest = draw(st.integers(8, 60)), draw(st.integers(1, 9))
    group = np.repeat(np.arange(groups), rng.integers(1, largest + 1, groups))
    count = len(group)
    marked = rng.random(count) < draw(st.sampled_from([0.0, 0.1, 0.4])) if extra else np.zeros(count, bool)
    made = Samples.build(
        path=[f"{x:08x}" for x in rng.permutation(10**6)[:count]],
        label=labels_for(task, rng, count, group, kinds),
        label_names=("age",) if task == "continuous" else tuple("abcd"[:kinds]),
        group=[f"g{g}" for g in group] if draw(st.booleans()) else None,
        case=[f"c{c}" for c in rng.integers(0, 3 * count, count)] if draw(st.booleans()) else None,
        site=[f"s{s}" for s in (group + (rng.random(count) < 0.1)) % 3],
        split=np.where(marked, "extra", ""),
        task=task,
    )
    spread = draw(st.integers(5, 50)) * count
    pixels = texts(rng.integers(0, spread, count))
    twins = np.where(rng.random(count) < 0.1, texts(rng.integers(0, count, count)), "")
    return made.replace(
        sha256=texts(rng.integers(0, spread, count)),
        pixel_sha256=pixels,
        phash=np.where(rng.random(count) < 0.9, pixels, ""),
        twin=texts(twins),
    )


def units_of(samples, used):
    """The units of the rows of `used`, by all rows of `samples`: a row that was left out still joins others."""
    of = dict(zip(samples.id.tolist(), samples.units().tolist(), strict=True))
    return np.array([of[name] for name in used.id.tolist()], dtype=np.int64)


def planned(samples, **options):
    try:
        return plan(samples, **options)
    except SplitError:
        assume(False)
        raise


WAYS = ({"folds": 3}, {"holdout": 0.2}, {"holdout": 0.55}, {"leave_out": "site"})


@pytest.mark.parametrize("way", WAYS, ids=str)
@EXAMPLES
@given(samples=datasets(), seed=st.integers(0, 2**31))
def test_no_unit_is_on_two_sides_and_extra_is_never_tested(way, samples, seed):
    kwargs = {"folds": 5, **way}
    used, result = planned(samples, seed=seed, **kwargs)
    unit = units_of(samples, used)
    ordinary = np.flatnonzero(used.split != "extra")
    for fold in result.folds:
        assert len(fold.train)
        assert len(fold.test)
        assert not set(unit[fold.train]) & set(unit[fold.test])
        assert (used.split[fold.test] != "extra").all()
        if "leave_out" in way:
            assert set(fold.test) == set(ordinary[used.site[ordinary] == fold.name.removeprefix("site=")])
            assert not (used.site[fold.train] == fold.name.removeprefix("site=")).any()
            assert not np.isin(unit[fold.train], unit[used.site == fold.name.removeprefix("site=")]).any()
        else:  # all that is not tested is trained on, but for copies of what is tested
            left = np.setdiff1d(np.arange(len(used)), np.concatenate([fold.train, fold.test]))
            assert (used.split[left] == "extra").all()
            assert np.isin(unit[left], unit[fold.test]).all()
        if used.task == "multilabel":
            values = used.label[fold.train]
            assert ((values == 1).any(axis=0) & (values == 0).any(axis=0)).all()
        elif used.task != "continuous":
            assert set(used.label[fold.train]) == set(range(len(used.label_names)))
    if "folds" in way:
        tested = np.concatenate([fold.test for fold in result.folds])
        assert sorted(tested.tolist()) == ordinary.tolist()


@EXAMPLES
@given(samples=datasets(), seed=st.integers(0, 2**31))
def test_inner_parts_keep_units_whole(samples, seed):
    used, result = planned(samples, folds=2, seed=seed)
    rows = result.folds[0].train
    unit, split = used.units()[rows], used.split[rows]
    try:
        cut = inner_folds(used, rows, folds=4, seed=seed)
        early = holdout(used, rows, seed=seed)
    except SplitError:
        assume(False)
        raise
    validated = np.concatenate([held for _, held in cut])
    assert len(set(validated.tolist())) == len(validated)
    for fit, held in cut:
        assert len(held)
        assert not set(unit[fit]) & set(unit[held])
        assert (split[held] != "extra").all()
        if used.task == "multilabel":  # what the training rows show, every part that is fitted on shows
            ordinary = np.flatnonzero(split != "extra")
            for value in (0, 1):
                shown = (used.label[rows[ordinary]] == value).any(axis=0)
                assert ((used.label[rows[fit]] == value).any(axis=0) | ~shown).all()
        left = np.setdiff1d(np.arange(len(rows)), np.concatenate([fit, held]))
        assert (split[left] == "extra").all()
        assert np.isin(unit[left], unit[held]).all()
    if used.task != "multilabel":
        assert sorted(validated.tolist()) == np.flatnonzero(split != "extra").tolist()
    units = used.units()
    assert not set(units[early[0]]) & set(units[early[1]])
    assert (used.split[early[1]] != "extra").all()
    assert len(early[1])


@pytest.mark.parametrize("way", WAYS, ids=str)
@settings(max_examples=15, deadline=None)
@given(samples=datasets(), seed=st.integers(0, 2**31), shuffle=st.integers(0, 2**31))
def test_the_order_of_rows_means_nothing(way, samples, seed, shuffle):
    moved_samples = samples.take(np.random.default_rng(shuffle).permutation(len(samples)))
    used, one = planned(samples, seed=seed, **way)
    moved, two = plan(moved_samples, seed=seed, **way)
    assert one.notes == two.notes
    for left, right in zip(one.folds, two.folds, strict=True):
        assert left.name == right.name
        assert set(used.id[left.test]) == set(moved.id[right.test])
        assert set(used.id[left.train]) == set(moved.id[right.train])
    train, other = one.folds[0].train, two.folds[0].train
    for amount in ({"fraction": 0.5}, {"shots": 2}):
        try:
            drawn = subset(used, train, seed=seed, **amount)
        except SplitError:
            continue
        assert set(used.id[drawn]) == set(moved.id[subset(moved, other, seed=seed, **amount)])
    try:
        cut = inner_folds(used, train, folds=3, seed=seed)
    except SplitError:
        return
    for (_, held), (_, again) in zip(cut, inner_folds(moved, other, folds=3, seed=seed), strict=True):
        assert set(used.id[train[held]]) == set(moved.id[other[again]])


@EXAMPLES
@given(
    samples=datasets(),
    seed=st.integers(0, 2**31),
    fractions=st.lists(st.floats(0.02, 1.0), min_size=2, max_size=4).map(sorted),
)
def test_fractions_are_nested_whole_stratified_and_of_the_stated_size(samples, seed, fractions):
    used = samples.take(samples.labelled)
    rows, unit = np.arange(len(used)), used.units()
    ordinary = used.split != "extra"
    largest = np.bincount(unit[ordinary]).max(initial=0)
    before: set[int] = set()
    for fraction in fractions:
        try:
            drawn = subset(used, rows, fraction=fraction, seed=seed)
        except SplitError as error:
            assert not before  # a larger fraction never fails where a smaller one worked
            works = float(error.next_step.split()[-1])
            assert fraction < works <= 1
            subset(used, rows, fraction=works, seed=seed)
            continue
        assert before <= set(drawn.tolist())
        before = set(drawn.tolist())
        inside = np.isin(rows, drawn)
        real = inside & ordinary
        assert not set(unit[real]) & set(unit[~inside & ordinary])
        assert abs(real.sum() - fraction * ordinary.sum()) <= largest / 2 + 1e-9
        missed = set(unit[ordinary].tolist()) - set(unit[real].tolist())
        assert (inside[~ordinary] == [u not in missed for u in unit[~ordinary].tolist()]).all()
        if used.task in {"classes", "ordinal"} and fraction < 1:
            for c in set(used.label[ordinary].tolist()):
                assert (real & (used.label == c)).any()


@EXAMPLES
@given(samples=datasets(("classes", "ordinal")), seed=st.integers(0, 2**31))
def test_shots_are_nested_and_each_of_another_unit(samples, seed):
    used = samples.take(samples.labelled)
    rows, unit = np.arange(len(used)), used.units()
    before: set[int] = set()
    for shots in (1, 2, 5):
        try:
            drawn = subset(used, rows, shots=shots, seed=seed)
        except SplitError:
            break
        real = drawn[used.split[drawn] != "extra"]
        assert before <= set(real.tolist())
        before = set(real.tolist())
        present = np.unique(used.label[used.split != "extra"])
        counts = np.bincount(used.label[real], minlength=len(used.label_names))
        assert (counts[present] == shots).all()
        assert len(set(unit[real].tolist())) == len(real)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_prevalences_stay_within_the_stated_bound(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    units, labels = data.draw(st.integers(3, 80)), data.draw(st.integers(1, 12))
    sizes = np.maximum(1, rng.pareto(data.draw(st.floats(0.5, 5.0)), units).clip(0, 60)).astype(np.int64)
    unit = np.repeat(np.arange(units), sizes)
    together = rng.random((units, 1)) < 0.3  # labels that occur together, some rare, some in whole units
    rates = np.geomspace(data.draw(st.floats(0.001, 0.3)), 0.7, labels)
    of_unit = (rng.random((units, labels)) < rates) & (together | (rng.random((units, labels)) < 0.5))
    label = (of_unit[unit] ^ (rng.random((len(unit), labels)) < 0.05)).astype(np.int64)
    label[rng.random(label.shape) < data.draw(st.sampled_from([0.0, 0.3, 0.9]))] = -1
    shares = data.draw(st.sampled_from([[0.2] * 5, [0.5, 0.5], [0.9, 0.1], [0.7, 0.2, 0.1]]))
    bound = prevalence_bound(label, unit, shares)
    part = iterative_parts(label, unit, shares, data.draw(st.integers(0, 99)))
    assert all(len(set(part[unit == u].tolist())) == 1 for u in range(units))
    assert (strays(label, part, len(shares)) <= bound + 1e-6).all()
    # The proof needs no good beginning: the worst one is mended as well.
    positive, known = _counts(label, unit, units)
    sorted_apart = np.argsort(np.argsort(-_excess(positive, known)[:, 0])) * len(shares) // units
    mended = _mend(sorted_apart, _terms(positive, known, sizes), shares)
    assert (strays(label, mended[unit], len(shares)) <= bound + 1e-6).all()


def strays(label, part, parts):
    """|prevalence in a part - prevalence overall| x known rows of the part, [parts, L]."""
    own = [label[part == k] for k in range(parts)]
    here = np.array([(rows >= 0).sum(axis=0) for rows in own])
    positive = np.array([(rows == 1).sum(axis=0) for rows in own])
    prevalence = (label == 1).sum(axis=0) / np.maximum(1, (label >= 0).sum(axis=0))
    return np.abs(np.where(here > 0, positive / np.maximum(1, here) - prevalence, 0.0)) * here


@EXAMPLES
@given(one=datasets(("classes",)), two=datasets(("classes",)))
def test_transfer_trains_on_all_of_one_and_tests_all_of_the_other(one, two):
    assume(one.label_names == two.label_names)
    both = transfer(one, two, names=("A", "B"))
    ordinary = two.split != "extra"
    assert sorted(both.id) == sorted([f"A/{i}" for i in one.id] + [f"B/{i}" for i in two.id[ordinary]])
    assert set(both.split[: len(one)]) <= {"train", "extra"}
    assert ((both.split[: len(one)] == "extra") == (one.split == "extra")).all()
    assert set(both.split[len(one) :]) == {"test"}
    assert not set(both.group[: len(one)]) & set(both.group[len(one) :])
