"""One holdout, one site after another, and one data set against another."""

from __future__ import annotations

import numpy as np
import pytest

from featprobe.errors import ConfigError, SplitError
from featprobe.records import Samples
from featprobe.splitting import find_leaks, plan, transfer


def samples(labels, *, names=("a", "b"), **given):
    ids = given.pop("id", [f"i{row:03d}" for row in range(len(labels))])
    return Samples.build(path=ids, id=ids, label=labels, label_names=names, **given)


class TestHoldout:
    def test_is_one_fold_of_the_asked_size_with_every_class_on_both_sides(self):
        group = [f"g{g}" for g in np.repeat(np.arange(60), 3)]
        base = samples(([0] * 3 + [1] * 3 + [0] * 3) * 20, group=group)
        used, planned = plan(base, holdout=0.3)
        (fold,) = planned.folds
        assert (fold.name, planned.scheme) == ("test", "grouped holdout of 30 %")
        assert len(fold.test) == 54
        assert np.bincount(used.label[fold.test]).tolist() == [36, 18]
        assert planned.notes == ("54 of 180 images are held out (30.0 %)",)
        assert plan(base, holdout=0.3, seed=1)[1].folds[0].test.tolist() != fold.test.tolist()

    def test_a_class_of_two_groups_is_on_both_sides(self):
        used, planned = plan(samples([0] * 50 + [1] * 2), holdout=0.1)
        (fold,) = planned.folds
        assert set(used.label[fold.test]) == set(used.label[fold.train]) == {0, 1}

    def test_a_class_of_one_group_is_named(self):
        with pytest.raises(SplitError, match="class 'b' has 1 group, fewer than the 2 sides"):
            plan(samples([0] * 50 + [1]), holdout=0.1)

    @pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 20.0])
    def test_impossible_shares(self, share):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            plan(samples([0, 1] * 5), holdout=share)

    @pytest.mark.parametrize(
        ("ways", "named"),
        [
            ({"holdout": 0.2, "folds": 3}, "--folds 3 and --holdout 0.2"),
            ({"holdout": 0.2, "leave_out": "site"}, "--holdout 0.2 and --leave-out site"),
            ({"leave_out": "modality"}, "--leave-out modality is unknown; known: site"),
        ],
    )
    def test_two_splits_at_once(self, ways, named):
        with pytest.raises(ConfigError, match=named):
            plan(samples([0, 1] * 5), **ways)

    @pytest.mark.parametrize("way", [{"holdout": 0.2}, {"leave_out": "site"}])
    def test_the_users_own_split_comes_first(self, way):
        base = samples(
            [0, 1] * 20, split=["train", "train", "test", "test"] * 10, site=["x", "x", "y", "y"] * 10
        )
        with pytest.raises(ConfigError, match=r"the data bring their own; .* --resplit"):
            plan(base, **way)
        assert plan(base, **way, resplit=True)[1].scheme != "user's split"


class TestSites:
    def test_each_site_is_tested_once_without_its_groups_in_training(self):
        base = samples(
            [0, 1] * 9,
            group=[f"g{row // 2}" for row in range(18)],
            site=["x"] * 6 + ["y"] * 5 + ["z"] * 6 + [""],
        )
        used, planned = plan(base, leave_out="site")
        assert planned.scheme == "leave one site out"
        assert [fold.name for fold in planned.folds] == ["site=x", "site=y", "site=z"]
        assert used.id.tolist() == base.id[:17].tolist()
        x, y, z = planned.folds
        assert x.train.tolist() == list(range(6, 17))
        assert y.test.tolist() == [6, 7, 8, 9, 10]
        assert 11 not in y.train  # of site z, but its group was at y
        assert 10 not in z.train
        assert planned.notes == (
            "1 images without a site are left out",
            "site 'y': 1 images of other sites are not trained on, their groups were here too",
            "site 'z': 1 images of other sites are not trained on, their groups were here too",
        )

    def test_extra_of_the_site_is_not_trained_on(self):
        base = samples(
            [0, 1] * 4, site=["x", "x", "y", "y"] * 2, split=["", "", "", "", "extra", "extra", "extra", ""]
        )
        _, planned = plan(base, leave_out="site")
        x, y = planned.folds
        assert x.test.tolist() == [0, 1]
        assert x.train.tolist() == [2, 3, 6, 7]
        assert y.train.tolist() == [0, 1, 4, 5]

    def test_a_site_of_one_class_is_kept_with_a_note(self):
        base = samples([0, 1, 0, 1, 0, 0], site=["x", "x", "y", "y", "z", "z"])
        _, planned = plan(base, leave_out="site")
        assert len(planned.folds) == 3
        assert planned.notes == (
            "site 'z' has one class only, 'a': what tells classes apart is undefined there",
        )

    def test_a_site_that_alone_has_a_class_is_not_tested(self):
        base = samples([0, 1, 0, 1, 2, 0], names=("a", "b", "c"), site=["x", "x", "y", "y", "z", "z"])
        _, planned = plan(base, leave_out="site")
        assert [fold.name for fold in planned.folds] == ["site=x", "site=y"]
        assert "site 'z' is not tested: the others have no image of the class 'c'" in planned.notes

    @pytest.mark.parametrize("site", [["x"] * 4, [""] * 4])
    def test_one_site_is_not_enough(self, site):
        with pytest.raises(SplitError, match=r"needs at least two sites, and there is (1, 'x'|0)"):
            plan(samples([0, 1, 0, 1], site=site), leave_out="site")

    def test_classes_that_never_leave_their_site(self):
        with pytest.raises(SplitError, match="no site can be left out"):
            plan(samples([0, 0, 1, 1], site=["x", "x", "y", "y"]), leave_out="site")


class TestTransfer:
    def pair(self, **given):
        one = samples([0, 1, 0], id=["p", "q", "r"], group=["1", "1", ""], split=["train", "extra", "test"])
        two = samples(
            [0, 1, -1],
            id=["p", "s", "t"],
            group=["1", "2", "3"],
            names=("b", "a"),
            split=["", "test", "extra"],
            **given,
        )
        return one, two

    def test_ids_and_groups_are_told_apart_and_labels_numbered_as_in_the_first(self):
        both = transfer(*self.pair(columns={"age": ["40", "50", "60"]}), names=("A", "B"))
        assert both.id.tolist() == ["A/p", "A/q", "A/r", "B/p", "B/s"]
        assert both.group.tolist() == ["A/1", "A/1", "", "B/1", "B/2"]
        assert both.split.tolist() == ["train", "extra", "train", "test", "test"]
        assert both.label_texts().tolist() == ["a", "b", "a", "b", "a"]
        assert both.columns["age"].tolist() == ["", "", "", "40", "50"]
        assert both.groups_declared

    def test_only_the_own_sides(self):
        both = transfer(*self.pair(), names=("A", "B"), own_sides=True)
        assert both.id.tolist() == ["A/p", "A/q", "B/s"]
        with pytest.raises(SplitError, match="'B' has no images to test on"):
            transfer(self.pair()[0], self.pair()[1].take([0, 2]), names=("A", "B"), own_sides=True)

    def test_copies_between_the_sets_are_still_found(self):
        one, two = self.pair()
        both = transfer(
            one.replace(sha256=np.array(["1", "2", "3"])),
            two.replace(sha256=np.array(["9", "1", "7"])),
            names=("A", "B"),
        )
        assert ("bytes", "A/p", "B/s") in {(leak.kind, leak.id_a, leak.id_b) for leak in find_leaks(both)}

    def test_several_labels_change_places(self):
        def made(names, label):
            return Samples.build(path=["x"], label=label, label_names=names, task="multilabel")

        both = transfer(made(("a", "b"), [[0, 1]]), made(("b", "a"), [[-1, 1]]), names=("A", "B"))
        assert both.label.tolist() == [[0, 1], [1, -1]]

    def test_what_differs_is_named(self):
        one, two = self.pair()
        with pytest.raises(SplitError, match="both data sets are called 'A'"):
            transfer(one, one, names=("A", "A"))
        with pytest.raises(SplitError, match="only in 'A': 'b'; only in 'B': 'c', 'd'"):
            transfer(one, two.replace(label_names=("c", "a", "d")), names=("A", "B"))
        with pytest.raises(SplitError, match="the targets differ: classes in 'A', ordinal in 'B'"):
            transfer(one, two.replace(task="ordinal"), names=("A", "B"))
        with pytest.raises(SplitError, match="a < b against b < a"):
            transfer(one.replace(task="ordinal"), two.replace(task="ordinal"), names=("A", "B"))
        with pytest.raises(SplitError, match="thumbnails"):
            transfer(one.replace(thumbnail=np.zeros((3, 4), dtype=np.uint8)), two, names=("A", "B"))
