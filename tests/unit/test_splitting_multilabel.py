"""Several labels at once, and numbers: iterative stratification by its definition, bins, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from featprobe.errors import SplitError
from featprobe.records import Samples
from featprobe.splitting import holdout, inner_folds, plan
from featprobe.splitting.multilabel import _deal, iterative_parts, prevalence_bound


def several(labels, *, group=None, split=None, site=None):
    label = np.asarray(labels)
    ids = [f"i{row:04d}" for row in range(len(label))]
    names = tuple("abcdefghijklmn"[: label.shape[1]])
    return Samples.build(
        path=ids, label=label, label_names=names, group=group, split=split, site=site, task="multilabel"
    )


def numbers(values, *, group=None, split=None):
    ids = [f"i{row:04d}" for row in range(len(values))]
    return Samples.build(
        path=ids, label=values, label_names=("age",), group=group, split=split, task="continuous"
    )


def patients(rng, images, units, labels=14):
    """Correlated labels of very unequal prevalence, about images / units images per patient."""
    unit = rng.integers(0, units, images)
    common = rng.normal(size=(units, 1))[unit] + rng.normal(size=(images, 1))
    score = 0.5 * common + 0.7 * rng.normal(size=(images, labels))
    cuts = np.quantile(score, 1 - np.geomspace(0.01, 0.4, labels))
    return (score > cuts).astype(np.int64), unit


def by_definition(counts, size, shares, rng):
    """Algorithm 1 of Sechidis et al. as printed, everything counted anew at each step."""
    lots = rng.random((len(size), len(shares)))
    shuffled = rng.permutation(len(size)).tolist()
    part = np.full(len(size), -1)

    def lacking(values, k):
        return values.sum() * shares[k] - values[part == k].sum()

    while (part < 0).any():
        left = [(counts[part < 0, t] > 0).sum() for t in range(counts.shape[1])]
        open_ = [t for t, count in enumerate(left) if count]
        label = min(open_, key=lambda t: left[t]) if open_ else None
        values = size if label is None else counts[:, label]
        members = sorted((u for u in shuffled if part[u] < 0 and values[u] > 0), key=lambda u: -values[u])
        for u in members:
            keys = [(lacking(values, k), lacking(size, k), lots[u, k]) for k in range(len(shares))]
            part[u] = keys.index(max(keys))
    return part


class TestIterative:
    @pytest.mark.parametrize("seed", range(6))
    def test_deals_as_the_algorithm_is_printed(self, seed):
        rng = np.random.default_rng(seed)
        counts = rng.poisson([0.1, 0.4, 1.0, 2.0], size=(60, 4))
        size = np.maximum(1, counts.max(axis=1) + rng.integers(0, 3, 60))
        shares = [0.5, 0.25, 0.25]  # exact in binary, so that ties are ties in both
        dealt = _deal(counts, size, shares, np.random.default_rng(seed))
        expected = by_definition(counts, size, shares, np.random.default_rng(seed))
        assert dealt.tolist() == expected.tolist()

    def test_single_images_with_disjoint_labels_are_dealt_evenly(self):
        label = np.eye(4, dtype=np.int64)[np.repeat(np.arange(4), [3, 7, 20, 50])]
        part = iterative_parts(label, np.arange(80), [0.25] * 4, 0)
        held = np.array([label[part == k].sum(axis=0) for k in range(4)])
        assert np.ptp(held, axis=0).max() <= 1
        assert np.bincount(part).tolist() == [20] * 4

    def test_real_sized_data_stay_within_two_images_of_the_ideal(self):
        for seed in range(3):
            label, unit = patients(np.random.default_rng(seed), 3000, 600)
            label[np.random.default_rng(9).random(label.shape) < 0.3 * (seed > 0)] = -1
            part = iterative_parts(label, unit, [0.2] * 5, seed)
            known, positive = label >= 0, label == 1
            prevalence = positive.sum(axis=0) / known.sum(axis=0)
            stray = [
                positive[part == k].sum(axis=0) - prevalence * known[part == k].sum(axis=0) for k in range(5)
            ]
            assert np.abs(stray).max() <= 2
            assert np.ptp(np.bincount(part)) <= 30  # of 600
            assert (np.abs(stray).max(axis=0) <= prevalence_bound(label, unit, [0.2] * 5)).all()

    def test_moving_units_ends_where_no_move_helps(self):
        # One label in whole patients of very unequal size: dealing alone can't level it.
        sizes = np.array([40, 30, 20, 20, 10, 10, 10, 5, 5, 5, 5])
        unit = np.repeat(np.arange(11), sizes)
        label = np.stack([unit % 2, unit < 4], axis=1).astype(np.int64)
        part = iterative_parts(label, unit, [0.5, 0.5], 0)
        bound = prevalence_bound(label, unit, [0.5, 0.5])
        stray = label[part == 0].sum(axis=0) - label.mean(axis=0) * (part == 0).sum()
        assert (np.abs(stray) <= bound).all()

    def test_seeds_differ_and_repeat(self):
        label, unit = patients(np.random.default_rng(0), 400, 100)
        first, again, other = (iterative_parts(label, unit, [0.5, 0.5], seed) for seed in (0, 0, 1))
        assert (first == again).all()
        assert (first != other).any()


class TestPlan:
    def test_every_label_is_tested_in_both_states_and_the_notes_say_how_even(self):
        label, unit = patients(np.random.default_rng(0), 1000, 250, labels=5)
        used, planned = plan(several(label, group=[f"g{u}" for u in unit]))
        assert len(used) == 1000
        (note,) = planned.notes
        assert "5 labels" in note
        assert "points of the whole" in note
        for fold in planned.folds:
            assert ((used.label[fold.test] == 1).any(axis=0)).all()

    def test_rows_of_which_nothing_is_known_are_left_out(self):
        label = np.tile([[0, 1], [1, 0], [1, -1], [-1, -1]], (10, 1))
        used, planned = plan(several(label), folds=2)
        assert len(used) == 30
        assert planned.notes[0] == "10 images without a label are left out"

    def test_a_rare_label_stops_with_both_remedies_and_min_groups_leaves_it_out(self):
        label = np.zeros((40, 2), dtype=np.int64)
        label[::2, 0] = 1
        label[:3, 1] = 1
        with pytest.raises(SplitError) as caught:
            plan(several(label))
        text = str(caught.value)
        assert "label 'b' has 3 positive groups, fewer than the 5 folds" in text
        assert "--min-groups 5 or use --folds 3" in text
        used, planned = plan(several(label), min_groups=5)
        assert used.label_names == ("a",)
        assert "'b' (3 positive and 37 negative groups)" in planned.notes[0]
        assert used.label.shape == (40, 1)

    def test_labels_that_are_all_alike(self):
        with pytest.raises(SplitError, match=r"a label that some images have .* \(the same in every image\)"):
            plan(several(np.ones((10, 2), dtype=np.int64)))

    def test_a_label_that_the_users_training_part_lacks_is_left_out(self):
        label = [[0, 0], [1, 0], [0, 1], [1, 0]]
        used, planned = plan(several(label, split=["train", "train", "test", "test"]))
        assert used.label_names == ("a",)
        assert planned.notes == ("label left out: no train image positive for 'b'",)
        with pytest.raises(SplitError, match="no label is both present and absent"):
            plan(several([[0], [0], [1]], split=["train", "train", "test"]))

    def test_holdout(self):
        label, unit = patients(np.random.default_rng(1), 1000, 250, labels=5)
        used, planned = plan(several(label, group=[f"g{u}" for u in unit]), holdout=0.3)
        (fold,) = planned.folds
        assert abs(len(fold.test) - 300) <= 10
        spread = used.label[fold.test].mean(axis=0) - used.label.mean(axis=0)
        assert np.abs(spread).max() < 0.01

    def test_what_only_one_group_shows_is_trained_on_not_tested(self):
        label = np.array([[1, 0]] * 4 + [[0, 0]] * 4 + [[0, 1]] * 2)
        group = [*"abcdefgh", "i", "j"]
        for seed in range(10):
            _, planned = plan(several(label, group=group), holdout=0.5, seed=seed)
            trained = label[planned.folds[0].train]
            assert trained.any(axis=0).all()


class TestInner:
    label = np.array([[1, 0]] * 10 + [[0, 0]] * 9 + [[0, 1]])

    def test_a_label_of_one_group_is_fitted_on_in_every_fold(self):
        base = several(self.label)
        cut = inner_folds(base, np.arange(20), folds=4, seed=0)
        assert len(cut) == 4
        assert all(19 in fit and 19 not in held for fit, held in cut)
        assert sorted(np.concatenate([held for _, held in cut]).tolist()) == list(range(19))

    def test_holdout_keeps_it_too(self):
        for seed in range(5):
            train, val = holdout(several(self.label), np.arange(20), seed=seed)
            assert 19 in train
            assert len(val) == 4

    def test_one_group_can_not_be_split(self):
        with pytest.raises(SplitError, match="needs at least 2 groups; the training rows hold 1"):
            inner_folds(several([[0], [1]], group=["a", "a"]), np.arange(2), seed=0)
        with pytest.raises(SplitError, match="early stopping"):
            holdout(several([[0], [1]], group=["a", "a"]), np.arange(2), seed=0)


class TestNumbers:
    def test_folds_are_alike_in_their_means_by_stated_bins(self):
        rng = np.random.default_rng(0)
        group = np.repeat(np.arange(200), rng.integers(1, 6, 200))
        values = rng.normal(60, 15, 200)[group] + rng.normal(0, 3, len(group))
        used, planned = plan(numbers(values, group=[f"g{g}" for g in group]))
        assert planned.notes == ("stratified by 10 bins of the groups' mean target",)
        means = [used.label[fold.test].mean() for fold in planned.folds]
        assert np.ptp(means) < 3  # the standard deviation is 15
        assert np.ptp([len(fold.test) for fold in planned.folds]) < 20

    def test_few_groups_get_fewer_bins(self):
        _, planned = plan(numbers(np.arange(12.0)))
        assert "2 bins" in planned.notes[0]

    def test_missing_and_min_groups(self):
        used, planned = plan(numbers([1.0, np.nan, 2.0, 3.0, 4.0]), folds=2, min_groups=3)
        assert len(used) == 4
        assert planned.notes[:2] == (
            "1 images without a label are left out",
            "--min-groups 3 has no meaning for a number and is ignored",
        )

    @pytest.mark.parametrize("values", [[2.0] * 6, [np.nan] * 6])
    def test_one_value_can_not_be_learned(self, values):
        with pytest.raises(SplitError, match=r"1 value in all images: 2|no target is known"):
            plan(numbers(values))

    def test_fewer_groups_than_folds(self):
        with pytest.raises(SplitError, match="3 groups, fewer than the 5 folds"):
            plan(numbers([1.0, 2.0, 3.0]))

    def test_inside_the_training_rows(self):
        base = numbers(np.arange(40.0))
        cut = inner_folds(base, np.arange(40), folds=4, seed=0)
        assert all(abs(base.label[held].mean() - 19.5) < 3 for _, held in cut)
        train, val = holdout(base, np.arange(40), seed=0)
        assert (len(train), len(val)) == (32, 8)
