"""Which leaks are found, each once, for every kind, split and kind of target."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from featprobe.imaging import print_of
from featprobe.records import Samples
from featprobe.splitting import LEAK_KINDS, drop_leaks, find_leaks, with_twins


def picture(seed):
    rng = np.random.default_rng(seed)
    field = np.asarray(
        Image.fromarray(rng.normal(size=(12, 12)).astype(np.float32)).resize(
            (64, 64), Image.Resampling.BICUBIC
        )
    )
    return Image.fromarray((128 + 45 * field).clip(0, 255).astype(np.uint8)).convert("RGB")


BLANK = Image.new("RGB", (64, 64), (90, 90, 90))
A, MIRRORED_A, B, C = picture(1), ImageOps.mirror(picture(1)), picture(2), picture(3)
SMALL_A = picture(1).resize((40, 40))


def made(images, split, *, label=None, sha256=None, names=("n", "y"), **columns):
    """Rows i0, i1, ... of `images`; their bytes differ where `sha256` is not given."""
    prints = [print_of(image) for image in images]
    count = len(images)
    return Samples.build(
        path=[f"i{n}" for n in range(count)],
        label=np.zeros(count, dtype=int) if label is None else label,
        label_names=names,
        split=split,
        **columns,
    ).replace(
        sha256=np.array(sha256 or [f"h{n}" for n in range(count)]),
        pixel_sha256=np.array([one.pixel_sha256 for one in prints]),
        phash=np.array([one.phash for one in prints]),
        thumbnail=np.stack([one.thumbnail for one in prints]),
    )


def short(leaks):
    return [(leak.kind, leak.id_a, leak.id_b, leak.split_a, leak.split_b) for leak in leaks]


def test_the_kinds_are_those_of_leaks_csv():
    assert LEAK_KINDS == ("group", "case", "bytes", "pixels", "near", "label-conflict")


class TestCopies:
    def test_each_pair_is_told_under_the_strictest_kind_alone(self):
        same = made([A, A], ["train", "test"], sha256=["h", "h"])
        assert short(find_leaks(same)) == [("bytes", "i0", "i1", "train", "test")]
        assert short(find_leaks(made([A, A], ["train", "test"]))) == [("pixels", "i0", "i1", "train", "test")]
        assert short(find_leaks(made([A, SMALL_A], ["train", "test"]))) == [
            ("near", "i0", "i1", "train", "test")
        ]
        assert find_leaks(made([A, B], ["train", "test"])) == []

    def test_other_bytes_beside_equal_bytes_are_told_too(self):
        leaks = find_leaks(made([A, A, A], ["train", "train", "test"], sha256=["x", "h", "h"]))
        assert short(leaks) == [
            ("bytes", "i1", "i2", "train", "test"),
            ("pixels", "i0", "i2", "train", "test"),
        ]

    def test_the_closest_pair_of_a_cluster_is_shown_with_its_distance(self):
        noisy = Image.fromarray(
            (np.asarray(SMALL_A).astype(int) + np.random.default_rng(0).integers(-25, 26, (40, 40, 1)))
            .clip(0, 255)
            .astype(np.uint8)
        )
        leaks = find_leaks(made([noisy, SMALL_A, A], ["train", "train", "test"]))
        assert short(leaks) == [("near", "i1", "i2", "train", "test")]
        assert 0 <= leaks[0].distance < 0.02

    def test_near_copies_stand_on_every_pair_of_sides(self):
        leaks = find_leaks(made([A, MIRRORED_A, SMALL_A], ["extra", "val", "test"]))
        assert short(leaks) == [
            ("near", "i0", "i1", "train", "val"),
            ("near", "i0", "i2", "train", "test"),
            ("near", "i1", "i2", "val", "test"),
        ]

    def test_near_copies_of_one_group_are_a_leak_of_the_group_alone(self):
        leaks = find_leaks(made([A, SMALL_A], ["train", "test"], group=["p", "p"]))
        assert [leak.kind for leak in leaks] == ["group"]

    def test_a_pair_of_one_group_never_stands_for_the_cluster(self):
        noisy = Image.fromarray(
            (np.asarray(A).astype(int) + np.random.default_rng(0).integers(-25, 26, (64, 64, 1)))
            .clip(0, 255)
            .astype(np.uint8)
        )
        leaks = find_leaks(made([A, SMALL_A, noisy], ["train", "test", "train"], group=["p", "p", "q"]))
        assert short(leaks)[1:] == [("near", "i2", "i1", "train", "test")]

    def test_blank_images_are_copies_of_nothing_but_their_bytes(self):
        assert find_leaks(made([BLANK, BLANK], ["train", "test"])) == []
        leaks = find_leaks(made([BLANK, BLANK], ["train", "test"], sha256=["h", "h"]))
        assert [leak.kind for leak in leaks] == ["bytes"]

    def test_a_filled_twin_is_taken_as_it_is(self):
        given = made([A, SMALL_A], ["train", "test"])
        assert find_leaks(given.replace(twin=with_twins(given).twin)) == find_leaks(given)

    def test_copies_on_one_side_or_none_leak_nothing(self):
        assert find_leaks(made([A, A, SMALL_A], ["train", "extra", "train"])) == []
        assert find_leaks(made([A, A, SMALL_A], ["test", "", ""])) == []


class TestCases:
    def test_a_case_on_two_sides_is_told_beside_its_group(self):
        leaks = find_leaks(
            made([A, B, C], ["train", "test", "test"], group=["p", "p", "p"], case=["c", "c", "d"])
        )
        assert short(leaks) == [
            ("group", "i0", "i1", "train", "test"),
            ("case", "i0", "i1", "train", "test"),
        ]

    def test_cases_without_groups(self):
        leaks = find_leaks(made([A, B], ["train", "test"], case=["c", "c"]))
        assert [leak.kind for leak in leaks] == ["case"]

    def test_undeclared_cases_leak_nothing(self):
        assert find_leaks(made([A, B], ["train", "test"])) == []


class TestConflicts:
    def test_copies_of_every_kind_conflict_across_sides_and_within(self):
        for images, sha256 in (([A, A], ["h", "h"]), ([A, A], None), ([A, SMALL_A], None)):
            across = find_leaks(made(images, ["train", "test"], label=[0, 1], sha256=sha256))
            assert [leak.kind for leak in across][1:] == ["label-conflict"]
            within = find_leaks(made(images, ["train", "train"], label=[0, 1], sha256=sha256))
            assert short(within) == [("label-conflict", "i0", "i1", "train", "train")]
            assert not within[0].crosses
            assert (within[0].distance > 0) == (images[1] is SMALL_A)

    def test_missing_targets_conflict_with_nothing(self):
        assert find_leaks(made([A, A], ["", ""], label=[0, -1])) == []

    def test_of_several_labels_each_is_compared_where_both_are_known(self):
        def conflicts(label):
            return find_leaks(made([A, A], ["", ""], label=label, task="multilabel"))

        assert conflicts([[0, -1], [-1, 1]]) == []
        assert conflicts([[0, 1], [0, 1]]) == []
        assert short(conflicts([[0, 1], [1, 0]])) == [("label-conflict", "i0", "i1", "", "")]

    def test_numbers_and_ordered_classes(self):
        kinds = [
            leak.kind
            for leak in find_leaks(
                made([A, A, B], ["", "", ""], label=[1.0, 2.0, 1.0], task="continuous", names=("age",))
            )
        ]
        assert kinds == ["label-conflict"]
        nan = made([A, A], ["", ""], label=[1.0, np.nan], task="continuous", names=("age",))
        assert find_leaks(nan) == []
        assert len(find_leaks(made([A, A], ["", ""], label=[0, 1], task="ordinal"))) == 1


class TestDropping:
    @pytest.mark.parametrize("images", [[A, A], [A, SMALL_A], [A, MIRRORED_A]])
    def test_the_training_copy_goes(self, images):
        samples = with_twins(made([*images, B], ["train", "test", "train"]))
        kept, removed = drop_leaks(samples, find_leaks(samples))
        assert kept.id.tolist() == ["i1", "i2"]
        assert removed == 1
        assert find_leaks(kept) == []

    def test_a_conflict_within_one_side_removes_nothing(self):
        samples = made([A, A], ["train", "train"], label=[0, 1])
        assert drop_leaks(samples, find_leaks(samples))[1] == 0


def test_hundred_thousand_rows_take_seconds():
    import time

    count = 100_000
    rng = np.random.default_rng(0)
    big = Samples.build(
        path=[f"i{n}" for n in range(count)],
        label=rng.integers(0, 2, count),
        label_names=("a", "b"),
        group=rng.integers(0, count // 3, count),
        split=rng.choice(["train", "val", "test"], count),
    )
    big = big.replace(sha256=rng.integers(0, count, count).astype(str))
    began = time.perf_counter()
    assert find_leaks(big)
    assert time.perf_counter() - began < 60
