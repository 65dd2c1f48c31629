"""Plans, gates and their errors, on data small enough to read."""

from __future__ import annotations

import numpy as np
import pytest

from featprobe.errors import ConfigError, LeakError, SplitError
from featprobe.records import Samples, texts
from featprobe.splitting import drop_leaks, find_leaks, gate, holdout, inner_folds, plan


def samples(labels, *, group=None, split=None, sha256=None, names=("a", "b", "c")):
    ids = [f"i{row:03d}" for row in range(len(labels))]
    made = Samples.build(path=ids, label=labels, label_names=names, group=group, split=split)
    return made if sha256 is None else made.replace(sha256=texts(sha256))


def grouped(per_class, images=3, names=("a", "b", "c")):
    """`per_class` groups of each class, `images` images each."""
    group = [f"g{c}-{g}" for c, count in enumerate(per_class) for g in range(count) for _ in range(images)]
    labels = [c for c, count in enumerate(per_class) for _ in range(count * images)]
    return samples(labels, group=group, names=names[: len(per_class)])


class TestComponents:
    def test_group_and_bytes_join_through_each_other(self):
        made = samples([0] * 5, group=["p", "p", "q", "r", "s"], sha256=["1", "2", "2", "3", ""])
        assert made.units().tolist() == [0, 0, 0, 1, 2]

    def test_unknown_text_joins_nothing(self):
        assert samples([0] * 3, group=["", "", ""]).units().tolist() == [0, 1, 2]


class TestUsersSplit:
    def test_is_taken_as_it_stands(self):
        made, planned = plan(
            samples(
                [0, 1, 0, 1, 0, 1, 0],
                split=["train"] * 2 + ["val"] * 2 + ["test"] * 2 + ["extra"],
                names=("a", "b"),
            )
        )
        (fold,) = planned.folds
        assert (fold.name, planned.scheme) == ("test", "user's split")
        assert [fold.train.tolist(), fold.val.tolist(), fold.test.tolist()] == [[0, 1, 6], [2, 3], [4, 5]]
        assert len(made) == 7

    def test_rows_without_label_or_split_are_left_out_and_counted(self):
        made, planned = plan(
            samples(
                [0, 1, 0, 1, -1, 0], split=["train", "train", "test", "test", "test", ""], names=("a", "b")
            )
        )
        assert made.id.tolist() == ["i000", "i001", "i002", "i003"]
        assert planned.notes == (
            "1 images without a label are left out",
            "1 images without a split are left out",
        )

    def test_without_test_images_the_remedy_is_named(self):
        with pytest.raises(
            SplitError, match=r"no test images; it has 2 train, 2 val; rename val to test .* --resplit"
        ):
            plan(samples([0, 1, 0, 1], split=["train", "train", "val", "val"], names=("a", "b")))

    def test_without_train_images(self):
        with pytest.raises(SplitError, match="no train images"):
            plan(samples([0, 1], split=["test", "test"], names=("a", "b")))

    def test_a_class_that_is_never_trained_on(self):
        with pytest.raises(SplitError, match="no train image has the class 'b'"):
            plan(samples([0, 1, 0], split=["train", "test", "test"], names=("a", "b")))

    def test_a_class_that_is_never_tested_is_noted(self):
        _, planned = plan(samples([0, 1, 0], split=["train", "train", "test"], names=("a", "b")))
        assert planned.notes == ("no test image of the class 'b'",)


class TestCrossValidation:
    def test_too_few_groups_names_class_count_and_both_remedies(self):
        with pytest.raises(SplitError) as caught:
            plan(grouped([8, 4, 8]))
        text = str(caught.value)
        assert "class 'b' has 4 groups, fewer than the 5 folds" in text
        assert "--min-groups 5 or use --folds 4" in text

    def test_of_many_thin_classes_ten_are_named(self):
        names = tuple(f"c{k:02d}" for k in range(30))
        with pytest.raises(SplitError, match=r"'c10' has 2 and 19 more too; use --folds 2$"):
            plan(grouped([2] * 30, names=names))

    def test_min_groups_drops_relabels_and_says_so(self):
        made, planned = plan(grouped([8, 4, 8]), min_groups=5)
        assert made.label_names == ("a", "c")
        assert np.bincount(made.label).tolist() == [24, 24]
        assert "'b' (4 groups, 12 images)" in planned.notes[0]

    def test_a_class_without_images_is_left_out(self):
        made, planned = plan(samples([0, 0, 0, 2, 2, 2]), folds=2)
        assert made.label_names == ("a", "c")
        assert "no image" in planned.notes[0]

    @pytest.mark.parametrize("labels", [[0] * 6, [-1] * 6, [0, -1, 0]])
    def test_one_class_only(self, labels):
        with pytest.raises(SplitError, match="at least two classes"):
            plan(samples(labels, names=("a",)))

    def test_resplit_ignores_the_column_but_extra_is_never_tested(self):
        base = grouped([10, 10])
        split = np.where(np.arange(60) % 3 == 0, "extra", "train")
        _, planned = plan(base.replace(split=split), resplit=True)
        assert planned.scheme == "grouped 5-fold cross-validation"
        units = base.units()
        for fold in planned.folds:
            assert (split[fold.test] != "extra").all()
            assert not set(units[fold.test]) & set(units[fold.train])

    def test_unequal_groups_still_give_every_class_to_every_fold(self):
        rng = np.random.default_rng(0)
        sizes = [int(s) for s in rng.integers(1, 40, 30)]
        group = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)]
        labels = [int(g < 5) for g, size in enumerate(sizes) for _ in range(size)]
        made, planned = plan(samples(labels, group=group, names=("a", "b")))
        assert planned.notes == ()
        for fold in planned.folds:
            assert set(made.label[fold.test]) == set(made.label[fold.train]) == {0, 1}

    def test_many_units_are_dealt_out_quickly(self):
        rng = np.random.default_rng(0)
        group = rng.integers(0, 6000, 20_000)
        made = samples((group % 3).tolist(), group=[f"g{g}" for g in group])
        _, planned = plan(made)
        units = made.units()
        for fold in planned.folds:
            assert not set(units[fold.test]) & set(units[fold.train])
            assert abs(len(fold.test) - 4000) < 200

    def test_impossible_numbers(self):
        for wrong in ({"folds": 1}, {"min_groups": 0}):
            with pytest.raises(ConfigError):
                plan(grouped([8, 8]), **wrong)


class TestInner:
    def test_fewer_folds_where_a_class_has_fewer_groups(self):
        base = grouped([9, 3])
        cut = inner_folds(base, np.arange(len(base)), folds=5, seed=0)
        assert len(cut) == 3
        assert all(set(base.label[fit]) == set(base.label[held]) == {0, 1} for fit, held in cut)

    def test_positions_count_within_rows(self):
        base = grouped([6, 6])
        rows = np.flatnonzero(np.arange(len(base)) % 2 == 0)
        held = np.concatenate([held for _, held in inner_folds(base, rows, folds=3, seed=0)])
        assert sorted(held.tolist()) == list(range(len(rows)))

    def test_a_class_with_one_group_is_refused(self):
        with pytest.raises(SplitError, match="class 'b' has 1 group in the training rows"):
            inner_folds(grouped([9, 1]), np.arange(30), folds=5, seed=0)

    def test_extra_is_never_validated(self):
        base = grouped([8, 8])
        base = base.replace(split=np.where(np.arange(48) < 6, "extra", "train"))
        for fit, held in inner_folds(base, np.arange(48), folds=3, seed=0):
            assert (base.split[held] == "train").all()
            assert (base.split[fit] == "extra").any()

    def test_holdout_is_a_fifth_and_keeps_every_class_in_training(self):
        base = grouped([20, 10, 1])
        train, val = holdout(base, np.arange(len(base)), seed=0)
        assert set(base.label[train]) == {0, 1, 2}
        assert set(base.label[val]) == {0, 1}
        assert 0.15 < len(val) / len(base) < 0.25
        assert not set(base.group[train]) & set(base.group[val])

    def test_holdout_of_one_group(self):
        with pytest.raises(SplitError, match="early stopping"):
            holdout(grouped([1, 1]), np.arange(6), seed=0)


def leaky():
    """Group p in train and test, q in extra and val, r in val and test; bytes 1 in train and test."""
    return samples(
        [0, 0, 1, 1, 0, 0, 0, 1, 1],
        group=["p", "p", "q", "q", "r", "r", "s", "t", "u"],
        split=["train", "test", "extra", "val", "val", "test", "train", "test", "train"],
        sha256=["", "", "", "", "", "", "1", "1", "2"],
        names=("a", "b"),
    )


class TestGate:
    def test_finds_each_kind_once(self):
        found = {
            (leak.kind, leak.id_a, leak.id_b, leak.split_a, leak.split_b) for leak in find_leaks(leaky())
        }
        assert found == {
            ("group", "i002", "i003", "train", "val"),
            ("group", "i000", "i001", "train", "test"),
            ("group", "i004", "i005", "val", "test"),
            ("bytes", "i006", "i007", "train", "test"),
            ("label-conflict", "i006", "i007", "train", "test"),
        }

    def test_stops_in_one_line_with_counts_pairs_and_remedies(self):
        with pytest.raises(LeakError) as caught:
            gate(leaky(), resplit=False)
        text = str(caught.value)
        assert "3 groups, 1 image (same bytes), 1 image with two labels" in text
        assert "i002 (train) and i003 (val) [group]" in text
        assert text.count("[") == 3
        assert "--resplit, --drop-leaks or --allow-leaks group bytes label-conflict" in text
        assert "featprobe inspect --data" in text
        assert "\n" not in text

    def test_allowing_one_kind_leaves_the_others(self):
        with pytest.raises(LeakError, match=r"leaks: 1 image \(same bytes\), 1 image with two labels on"):
            gate(leaky(), resplit=False, allow=["group"])
        kept, notes = gate(leaky(), resplit=False, allow=["group", "bytes", "label-conflict"])
        assert len(kept) == 9
        assert "too optimistic" in notes[0]

    def test_drop_removes_training_copies_only(self):
        kept, notes = gate(leaky(), resplit=False, drop=True)
        assert kept.id.tolist() == ["i001", "i003", "i005", "i007", "i008"]
        assert "4 images removed" in notes[0]
        assert not find_leaks(kept)

    def test_resplit_only_warns_of_conflicts(self):
        kept, notes = gate(leaky(), resplit=True)
        assert len(kept) == 9
        assert notes == ("1 image with two labels: featprobe inspect names them",)

    def test_undeclared_groups_and_unlabelled_rows_leak_nothing(self):
        made = samples([0, -1, 1], split=["train", "train", "test"], sha256=["1", "2", "2"], names=("a", "b"))
        assert gate(made, resplit=False)[1] == ()
        assert [leak.kind for leak in find_leaks(made)] == ["bytes"]

    def test_a_conflict_within_one_side_is_a_warning(self):
        made = samples([0, 1, 0], split=["train", "extra", "test"], sha256=["1", "1", "2"], names=("a", "b"))
        (leak,) = find_leaks(made)
        assert (leak.kind, leak.split_a, leak.split_b) == ("label-conflict", "train", "train")
        assert drop_leaks(made, [leak])[1] == 0
        assert len(gate(made, resplit=False)[1]) == 1

    def test_an_unknown_kind_names_the_nearest(self):
        with pytest.raises(ConfigError, match="did you mean group"):
            gate(leaky(), resplit=False, allow=["groups"])
