"""Images and cases, one modality and several, must be judged on the folds of the same groups."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from featprobe.config import ProbeConfig
from featprobe.errors import ConfigError, DataError
from featprobe.records import Samples
from featprobe.splitting import Fold, SplitPlan
from featprobe.stages.evaluation import Question
from featprobe.stages.views import views


def _question(*, modality=("T1", "T2"), lacking=()) -> Question:
    """Six cases, one image per modality, two folds of three cases; `lacking`: cases without the last modality."""
    rows = [(c, m) for c in range(6) for m in modality if not (c in lacking and m == modality[-1])]
    samples = Samples.build(
        path=[f"{c}-{m or k}.png" for k, (c, m) in enumerate(rows)],
        label=[c % 2 for c, _ in rows],
        label_names=("low", "high"),
        group=[f"p{c}" for c, _ in rows],
        case=[f"c{c}" for c, _ in rows],
        modality=[m for _, m in rows],
    )
    of_case = np.array([c for c, _ in rows])
    empty = np.empty(0, dtype=np.int64)
    folds = tuple(
        Fold(str(k), np.flatnonzero(of_case // 3 != k), empty, np.flatnonzero(of_case // 3 == k))
        for k in (0, 1)
    )
    return Question("set", samples, SplitPlan(folds, "two halves", ()), (), {})


def _named(found):
    return [(view.level, view.inputs, view.fusion) for view in found]


def test_each_modality_alone_stands_beside_the_fusion_at_both_levels():
    found = views(_question(), ProbeConfig())
    assert _named(found) == [
        ("image", "T1", ""),
        ("image", "T2", ""),
        ("image", "", ""),
        ("case", "T1", "mean"),
        ("case", "T2", "mean"),
        ("case", "T1+T2", "concat-mean"),
    ]


def test_without_modalities_images_are_pooled_to_cases():
    question = _question(modality=("", ""))
    assert _named(views(question, ProbeConfig())) == [("image", "", ""), ("case", "", "mean")]
    both = views(question, ProbeConfig(level=("case",), case_pooling=("mean", "max")))
    assert _named(both) == [("case", "", "mean"), ("case", "", "max")]


def test_single_images_need_no_cases():
    question = _question(modality=("",))
    assert _named(views(question, ProbeConfig())) == [("image", "", "")]
    asked = views(question, ProbeConfig(level=("case",)))
    assert "every case has one image" in asked[0].notes[0]


def test_every_view_tests_the_same_groups_in_the_same_fold():
    found = views(_question(lacking=(1, 4)), ProbeConfig())
    for number in (0, 1):
        tested = {
            (view.level, view.inputs): set(view.samples.group[view.folds[number].test].tolist())
            for view in found
        }
        trained = [set(view.samples.group[view.folds[number].train].tolist()) for view in found]
        whole = tested["image", ""]
        assert all(groups <= whole for groups in tested.values())
        assert all(tested[key] == whole for key in tested if key[0] == "case")
        assert all(not groups & whole for groups in trained)


def test_features_are_pooled_per_modality_and_missing_ones_are_nan():
    question = _question(lacking=(1,))
    X = np.arange(len(question.samples), dtype=float)[:, None]
    fused = views(question, ProbeConfig(level=("case",), fusion=("concat",)))[0]
    table = fused.features(X, question.samples.modality)
    np.testing.assert_array_equal(table[:3], [[0, 1], [2, np.nan], [3, 4]])
    alone = views(question, ProbeConfig(level=("case",), fusion=("alone",)))[1]
    np.testing.assert_array_equal(alone.features(X, question.samples.modality)[:3, 0], [1, np.nan, 4])
    pooled = views(question, ProbeConfig(level=("case",), fusion=("pool",)))[0]
    assert (pooled.inputs, pooled.fusion) == ("T1+T2", "mean")
    np.testing.assert_array_equal(pooled.features(X, question.samples.modality)[:3, 0], [0.5, 2, 3.5])


def test_cases_that_lack_a_modality_are_dropped_or_said():
    kept = views(_question(lacking=(1,)), ProbeConfig(level=("case",)))[0]
    assert len(kept.samples) == 6
    assert "1 of 6 cases lack a modality: the training cases' mean" in kept.notes[0]
    dropped = views(_question(lacking=(1,)), ProbeConfig(level=("case",), missing="drop"))
    for view in dropped:
        assert view.samples.id.tolist() == ["c0", "c2", "c3", "c4", "c5"]
        assert not np.isnan(view.features(np.ones((11, 1)), _question(lacking=(1,)).samples.modality)).any()


def test_fusion_without_modalities_is_refused():
    with pytest.raises(ConfigError, match=r"needs several modalities.*column modality"):
        views(_question(modality=("T1",)), ProbeConfig(fusion=("concat",)))


def test_a_split_that_is_made_anew_does_not_matter_to_cases():
    torn = _question()
    sides = ["train", "test"] * (len(torn.samples) // 2)
    torn = dataclasses.replace(torn, samples=torn.samples.replace(split=np.array(sides)))
    assert len(views(torn, ProbeConfig(level=("case",)))) == 3
    given = dataclasses.replace(torn, plan=dataclasses.replace(torn.plan, scheme="user's split"))
    with pytest.raises(DataError, match="different splits"):
        views(given, ProbeConfig(level=("case",)))


def test_what_no_modality_is_known_of_is_said():
    question = _question(lacking=(1,))
    unnamed = question.samples.modality.copy()
    unnamed[0] = ""
    found = views(
        dataclasses.replace(question, samples=question.samples.replace(modality=unnamed)),
        ProbeConfig(level=("case",)),
    )
    assert any("1 images have no modality" in note for note in found[0].notes)
    assert any("T1 alone by case: 1 of 6 cases have none" in note for note in found[0].notes)
    assert not any("T1 alone" in note for note in found[-1].notes)
