"""Pooling images to cases must give what a reader would compute by hand, whatever the order of the rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from featprobe import cases
from featprobe.errors import DataError
from featprobe.records import Samples


def _samples(**columns):
    count = len(columns["case"])
    values = {"label": [0, 1] * (count // 2) + [0] * (count % 2), "label_names": ("low", "high"), **columns}
    return Samples.build(
        id=[f"i{row}" for row in range(count)], path=[f"{row}.png" for row in range(count)], **values
    )


def test_a_case_is_the_mean_or_the_maximum_of_its_images():
    rng = np.random.default_rng(0)
    X, of_case = rng.normal(size=(50, 3)), rng.integers(0, 8, 50)
    frame = pd.DataFrame(X).groupby(of_case)
    np.testing.assert_allclose(cases.pool(X, of_case, 8, "mean"), frame.mean().to_numpy(), rtol=1e-12)
    np.testing.assert_array_equal(cases.pool(X, of_case, 8, "max"), frame.max().to_numpy())


def test_a_case_without_any_image_is_nan_and_other_poolings_are_refused():
    pooled = cases.pool(np.ones((2, 2)), np.array([0, 2]), 4, "mean")
    assert np.isnan(pooled[[1, 3]]).all()
    assert (pooled[[0, 2]] == 1).all()
    assert np.isnan(cases.pool(np.empty((0, 2)), np.empty(0, dtype=np.int64), 2, "max")).all()
    with pytest.raises(ValueError, match="unknown pooling"):
        cases.pool(np.ones((1, 1)), np.array([0]), 1, "median")


def test_modalities_stand_side_by_side_in_their_order_and_a_missing_one_is_nan():
    X = np.array([[1.0], [3.0], [10.0], [5.0]])
    of_case = np.array([0, 0, 0, 1])
    modality = np.array(["T1", "T1", "T2", "T1"])
    fused = cases.fuse(X, of_case, modality, 2, modalities=("T1", "T2"), how="mean")
    np.testing.assert_array_equal(fused, [[2.0, 10.0], [5.0, np.nan]])
    assert cases.complete(modality, of_case, 2, ("T1", "T2")).tolist() == [True, False]


def test_what_is_missing_is_learnt_from_the_training_rows_alone():
    X = np.array([[1.0, np.nan], [3.0, 8.0], [100.0, 50.0], [np.nan, np.nan]])
    filled = cases.fill_missing(X, np.array([0, 1]))
    np.testing.assert_array_equal(filled, [[1.0, 8.0], [3.0, 8.0], [100.0, 50.0], [2.0, 8.0]])
    nothing_known = cases.fill_missing(np.array([[np.nan], [4.0]]), np.array([0]))
    np.testing.assert_array_equal(nothing_known, [[0.0], [4.0]])


def test_cases_keep_group_label_and_split_and_say_what_modalities_they_have():
    samples = _samples(
        case=["b", "a", "b", "a"],
        group=["p1", "p2", "p1", "p2"],
        label=[1, 0, 1, 0],
        split=["train", "test", "train", "test"],
        modality=["T2", "T1", "T1", "T1"],
    )
    found = cases.cases_of(samples)
    assert found.samples.id.tolist() == ["b", "a"]  # in the order of their first image
    assert found.of_image.tolist() == [0, 1, 0, 1]
    assert found.samples.label.tolist() == [1, 0]
    assert found.samples.group.tolist() == ["p1", "p2"]
    assert found.samples.split.tolist() == ["train", "test"]
    assert found.samples.modality.tolist() == ["T1+T2", "T1"]


@pytest.mark.parametrize(
    ("column", "values", "word"),
    [
        ("label", [0, 1, 0], "labels"),
        ("group", ["p", "q", "p"], "groups"),
        ("split", ["train", "test", "train"], "splits"),
    ],
)
def test_images_of_one_case_that_contradict_each_other_are_refused(column, values, word):
    samples = _samples(case=["a", "a", "b"], **{"label": [0, 0, 1], column: values})
    with pytest.raises(DataError, match=f"1 cases have different {word}.*case a"):
        cases.cases_of(samples)


def test_cases_of_other_targets():
    many = _samples(case=["a", "a", "b"], label=[[0, 1], [0, 1], [1, -1]], task="multilabel")
    assert cases.cases_of(many).samples.label.tolist() == [[0, 1], [1, -1]]
    number = _samples(case=["a", "a", "b"], label=[2.5, 2.5, np.nan], task="continuous", label_names=("age",))
    np.testing.assert_array_equal(cases.cases_of(number).samples.label, [2.5, np.nan])
