"""Label fractions and n-shot draws on data small enough to count."""

from __future__ import annotations

import numpy as np
import pytest

from featprobe.errors import ConfigError, SplitError
from featprobe.records import Samples
from featprobe.splitting import smallest_fraction, subset


def grouped(per_class, images=2, **given):
    """`per_class` groups of each class, `images` images each."""
    group = [f"g{c}-{g}" for c, count in enumerate(per_class) for g in range(count) for _ in range(images)]
    labels = [c for c, count in enumerate(per_class) for _ in range(count * images)]
    ids = [f"{name}/{row}" for row, name in enumerate(group)]
    names = tuple("abcd"[: len(per_class)])
    return Samples.build(path=ids, label=labels, label_names=names, group=group, **given)


def drawn(base, **amount):
    return subset(base, np.arange(len(base)), **{"seed": 0, **amount})


class TestFractions:
    def test_whole_groups_in_the_proportions_of_the_classes(self):
        base = grouped([100, 40])
        rows = drawn(base, fraction=0.1)
        assert np.bincount(base.label[rows]).tolist() == [20, 8]
        assert (np.unique(base.group[rows], return_counts=True)[1] == 2).all()

    def test_all_is_all(self):
        base = grouped([3, 1])
        assert drawn(base).tolist() == list(range(8))

    def test_only_the_given_rows_in_their_order(self):
        base = grouped([30, 30])
        rows = np.arange(119, 0, -2)
        some = subset(base, rows, fraction=0.3, seed=3)
        assert set(some) < set(rows)
        assert (np.diff(some) < 0).all()

    def test_another_seed_is_another_draw(self):
        base = grouped([100, 40])
        assert set(drawn(base, fraction=0.1)) != set(drawn(base, fraction=0.1, seed=1))

    def test_one_more_group_hardly_changes_the_draw(self):
        base = grouped([101, 40])
        fewer = base.take(base.group != "g0-50")
        before, after = (set(data.id[drawn(data, fraction=0.2)].tolist()) for data in (fewer, base))
        assert len(before ^ after) <= 6

    def test_too_little_names_the_smallest_fraction_that_works(self):
        base = grouped([100, 5])
        with pytest.raises(SplitError) as caught:
            drawn(base, fraction=0.05)
        assert "class 'b' has 0 groups" in str(caught.value)
        works = float(str(caught.value).split()[-1])
        rows = drawn(base, fraction=works)
        assert len(set(base.group[rows][base.label[rows] == 1])) == 1
        with pytest.raises(SplitError):
            drawn(base, fraction=works - 0.001)

    def test_a_class_of_one_group_is_drawn_or_missed_as_a_whole(self):
        base = grouped([10, 1])
        assert (base.label[drawn(base, fraction=0.9)] == 1).sum() == 2
        with pytest.raises(SplitError, match=r"class 'b' has 0 groups; .* works here is 0\.5"):
            drawn(base, fraction=0.3)

    def test_extra_goes_with_its_group_and_is_not_counted(self):
        base = grouped([20, 20])
        split = np.where(np.arange(80) % 2 == 1, "extra", "train")
        base = base.replace(split=split)
        rows = drawn(base, fraction=0.25)
        assert (split[rows] == "train").sum() == 10
        assert (split[rows] == "extra").sum() == 10
        alone = base.replace(group=np.array([f"{s}{r}" for r, s in enumerate(split)]))
        rows = drawn(alone.replace(case=alone.id), fraction=0.25)
        assert (split[rows] == "extra").sum() == 40  # of no group that was left out

    @pytest.mark.parametrize("task", ["multilabel", "continuous"])
    def test_other_targets(self, task):
        rng = np.random.default_rng(0)
        values = (
            rng.normal(size=300)
            if task == "continuous"
            else (rng.random((300, 3)) < [0.1, 0.3, 0.5]).astype(int)
        )
        names = ("age",) if task == "continuous" else ("a", "b", "c")
        base = Samples.build(path=[f"i{r}" for r in range(300)], label=values, label_names=names, task=task)
        rows = drawn(base, fraction=0.2)
        assert len(rows) == 60
        assert np.abs(base.label[rows].mean(axis=0) - base.label.mean(axis=0)).max() < 0.1
        with pytest.raises(SplitError, match="too little"):
            drawn(base, fraction=0.004)

    def test_impossible_amounts(self):
        for wrong in ({"fraction": 0.0}, {"fraction": 1.1}, {"shots": -1}, {"fraction": 0.5, "shots": 2}):
            with pytest.raises(ConfigError):
                drawn(grouped([5, 5]), **wrong)


class TestShots:
    def test_n_groups_per_class_and_one_image_of_each(self):
        base = grouped([20, 10, 5], images=3)
        rows = drawn(base, shots=5)
        assert np.bincount(base.label[rows]).tolist() == [5, 5, 5]
        assert len(set(base.group[rows])) == 15
        assert set(drawn(base, shots=2)) < set(rows)
        assert len(drawn(base, shots=1)) == 3

    def test_groups_with_both_classes_count_for_one(self):
        base = Samples.build(
            path=[f"i{r:02d}" for r in range(20)],
            label=[0, 1] * 10,
            label_names=("a", "b"),
            group=[f"g{r // 2}" for r in range(20)],
        )
        rows = drawn(base, shots=5)
        assert np.bincount(base.label[rows]).tolist() == [5, 5]
        assert len(set(base.group[rows])) == 10
        with pytest.raises(SplitError, match=r"--shots 6 needs 6 groups of every class, and class '.' has 5"):
            drawn(base, shots=6)

    @pytest.mark.parametrize(("task", "told"), [("multilabel", "several labels"), ("continuous", "a number")])
    def test_without_classes_there_are_no_shots(self, task, told):
        label = [[0], [1]] if task == "multilabel" else [0.0, 1.0]
        base = Samples.build(path=["x", "y"], label=label, label_names=("a",), task=task)
        with pytest.raises(SplitError, match=f"the target is {told}"):
            drawn(base, shots=1)


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_smallest_fraction_is_where_so_many_groups_of_every_class_are_drawn(groups, seed):
    base = grouped([60, 9, 4])
    rows = np.arange(len(base))
    works = smallest_fraction(base, rows, groups=groups, seed=seed)

    def fewest(fraction):
        try:
            some = drawn(base, fraction=fraction, seed=seed)
        except SplitError:
            return 0
        return min(len(np.unique(base.group[some[base.label[some] == c]])) for c in range(3))

    assert fewest(works) >= groups
    assert fewest(works - 2e-4) < groups
    assert smallest_fraction(base, rows, groups=5, seed=seed) == 1, "the third class has 4"


def test_the_smallest_fraction_of_labels_and_numbers():
    rows = np.arange(40)
    several = Samples.build(
        path=[str(row) for row in rows],
        label=np.array([rows % 2, rows % 10 == 0]).T,
        label_names=("often", "rare"),
        task="multilabel",
    )
    works = smallest_fraction(several, rows, groups=2, seed=0)
    kept = several.label[subset(several, rows, fraction=works, seed=0)]
    assert min(kept.sum(axis=0).min(), (1 - kept).sum(axis=0).min()) == 2
    number = Samples.build(
        path=[str(row) for row in rows], label=rows / 7, label_names=("size",), task="continuous"
    )
    works = smallest_fraction(number, rows, groups=3, seed=0)
    assert len(subset(number, rows, fraction=works, seed=0)) == 3
