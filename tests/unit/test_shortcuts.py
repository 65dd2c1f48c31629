"""A planted shortcut is found and named; where there is none, nothing is flagged."""

from __future__ import annotations

import numpy as np
import pytest

from featprobe.records import Samples
from featprobe.shortcuts import METHOD, metadata_shortcut, site_shortcut


def made(rng, groups=80, per=2, classes=2, **columns):
    of = np.repeat(np.arange(groups), per)
    label = rng.integers(0, classes, groups)[of]
    return Samples.build(
        path=[f"i{n:05d}" for n in range(len(of))],
        label=label,
        label_names=tuple("abcd"[:classes]),
        group=[f"p{n}" for n in of],
        **columns,
    )


def noise(rng, samples):
    """Metadata that are equal within a patient and say nothing of the class."""
    _, of = np.unique(samples.group, return_inverse=True)
    count = of.max() + 1
    return {
        "width": rng.integers(200, 260, count)[of],
        "format": np.array(["PNG", "JPEG"])[rng.integers(0, 2, count)][of],
        "bytes": rng.normal(20_000, 4000, len(of)).round(),
        "constant": np.full(len(of), "L"),
    }


def test_a_planted_width_is_found_and_named():
    rng = np.random.default_rng(0)
    samples = made(rng)
    table = noise(rng, samples)
    table["width"] = table["width"] + 40 * samples.label
    answer = metadata_shortcut(samples, table)
    assert answer.flagged
    assert answer.column == "width"
    assert answer.low < answer.value < answer.high
    assert answer.low > answer.chance == 0.5
    assert answer.column_value > 0.75
    assert "class can be predicted from the metadata alone" in answer.words
    assert "width alone" in answer.words


def test_a_planted_text_column_is_found():
    rng = np.random.default_rng(1)
    samples = made(rng, classes=3)
    table = noise(rng, samples) | {"site": np.array(["A", "B", "C"])[samples.label]}
    answer = metadata_shortcut(samples, table)
    assert answer.flagged
    assert (answer.column, answer.column_value) == ("site", pytest.approx(1))
    assert answer.effect > 0.9


def test_a_column_that_only_names_the_patient_is_no_shortcut():
    rng = np.random.default_rng(2)
    samples = made(rng, per=6)
    _, of = np.unique(samples.group, return_inverse=True)
    assert not metadata_shortcut(samples, {"serial": of, "name": samples.group}).flagged


@pytest.mark.slow
def test_without_a_shortcut_few_are_flagged():
    flagged, doubtful = 0, 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        samples = made(rng, groups=60, classes=2 + seed % 3)
        answer = metadata_shortcut(samples, noise(rng, samples))
        flagged += answer.flagged
        doubtful += answer.p_value < 0.05
    assert flagged <= 2
    assert doubtful <= 6


def test_the_site_shows_in_the_embedding_or_not():
    wrong = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        samples = made(rng)
        _, of = np.unique(samples.group, return_inverse=True)
        sites = rng.integers(0, 3, of.max() + 1)[of]
        samples = samples.replace(site=np.array(["A", "B", "C"])[sites])
        X = rng.normal(size=(of.max() + 1, 48))[of] + rng.normal(size=(len(of), 48))
        wrong += site_shortcut(samples, X).flagged
        if seed == 0:
            X[:, 0] += 3 * sites
            answer = site_shortcut(samples, X)
            assert answer.flagged
            assert answer.words.startswith("site can be predicted from the embedding alone")
            assert answer.chance == pytest.approx(1 / 3)
    assert wrong <= 2


def test_every_kind_of_target_is_asked_about():
    rng = np.random.default_rng(3)
    samples = made(rng)
    table = noise(rng, samples)
    table["width"] = table["width"] + 60 * samples.label
    labels = np.column_stack([rng.integers(0, 2, len(samples)), samples.label])
    several = samples.replace(task="multilabel", label=labels)
    assert metadata_shortcut(several, table).target == "b"
    assert metadata_shortcut(several, table).flagged
    number = samples.replace(
        task="continuous",
        label=50.0 + 10 * samples.label + rng.normal(size=len(samples)),
        label_names=("age",),
    )
    answer = metadata_shortcut(number, table)
    assert answer.flagged
    assert answer.target == "age above the median"


def test_what_can_t_be_tested_says_why():
    rng = np.random.default_rng(4)
    few = made(rng, groups=8)
    assert "10 groups" in metadata_shortcut(few, noise(rng, few)).untested
    assert "same metadata" in metadata_shortcut(few, {"width": np.full(len(few), 9)}).words
    unlabelled = Samples.build(path=["a", "b"], label=[-1, -1], label_names=())
    answer = metadata_shortcut(unlabelled, {"width": np.array([1, 2])})
    assert not answer.flagged
    assert "no labels" in answer.words
    assert "fewer than two" in site_shortcut(few, rng.normal(size=(len(few), 4))).untested


def test_the_order_of_rows_means_nothing_and_large_sets_are_cut():
    rng = np.random.default_rng(5)
    samples = made(rng)
    table = noise(rng, samples)
    order = rng.permutation(len(samples))
    moved = metadata_shortcut(samples.take(order), {k: v[order] for k, v in table.items()})
    assert moved == metadata_shortcut(samples, table)
    many = made(rng, groups=4000)
    assert metadata_shortcut(many, {"width": rng.integers(0, 9, len(many))}).rows <= 5000
    assert "bootstrap" in METHOD
