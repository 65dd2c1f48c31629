"""What the manifest says of a row beyond its label travels with its prediction, and only where it says something."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from featprobe import cases
from featprobe.config import ProbeConfig, RetrieveConfig
from featprobe.errors import ConfigError
from featprobe.metrics import default_metrics, metrics_for
from featprobe.records import Predictions, RunKey, Samples
from featprobe.results import to_predictions
from featprobe.results.tables import drop, from_parquet, merge, model_ids, prediction_frame, to_parquet_bytes
from featprobe.stages.evaluation import metrics_of, question
from featprobe.stages.retrieve import retrieve

KEY = RunKey("d", "b", "w", "frozen", "gap", "p", "logistic", "f")


def samples(**changes):
    names = [f"i{k}" for k in range(6)]
    about = {"id": names, "path": names, "label": [0, 1] * 3, "label_names": ("a", "b"), "group": names}
    return Samples.build(**{**about, **changes})


def predicted(own, dataset="d"):
    return Predictions(dataclasses.replace(KEY, dataset=dataset), own, np.full((6, 2), 0.5), 9)


def test_site_and_columns_come_back_as_they_went():
    ages = ["30", "", "41.5", "30", "x y", "é"]
    own = predicted(samples(site=["A", "B"] * 3, columns={"age": ages, "empty": [""] * 6}))
    plain = predicted(samples(), dataset="plain")
    frame = from_parquet(to_parquet_bytes(prediction_frame([own, plain])))
    assert "column_empty" not in frame
    back = {one.key.dataset: one.samples for one in to_predictions(frame)}
    assert back["d"].site.tolist() == ["A", "B"] * 3
    assert {name: column.tolist() for name, column in back["d"].columns.items()} == {"age": ages}
    assert back["plain"].site.tolist() == [""] * 6
    assert back["plain"].columns == {}
    assert {"site", "column_age"}.isdisjoint(prediction_frame([plain]).columns)


def test_columns_leave_with_the_model_that_had_them():
    with_age, plain = (
        predicted(samples(columns={"age": list("123456")})),
        predicted(samples(), dataset="plain"),
    )
    frame = merge([prediction_frame([with_age]), prediction_frame([plain])], ["dataset"])
    gone = set(model_ids(frame[frame["dataset"] == "d"]))
    assert "column_age" in frame
    assert "column_age" not in drop(frame, gone)


def test_a_case_has_what_all_its_images_agree_on():
    own = samples(
        case=list("aabbcc"), label=[0, 0, 1, 1, 0, 0], group=list("ppqqrr"), columns={"sex": list("ffmfmm")}
    )
    found = cases.cases_of(own).samples
    assert dict(zip(found.id.tolist(), found.columns["sex"].tolist(), strict=True)) == {
        "a": "f",
        "b": "",
        "c": "m",
    }


def test_stored_results_are_renewed_when_their_columns_change_but_not_without_any():
    config = ProbeConfig(folds=2)

    def unit(**changes):
        return question("d", samples(**changes), config).unit("f")

    assert unit(columns={"age": [""] * 6}) == unit()
    hashes = {unit(), unit(columns={"age": list("123456")}), unit(columns={"age": list("123457")})}
    hashes.add(unit(site=["A", "B"] * 3))
    assert len(hashes) == 4


class TestMetricsAskedFor:
    def test_are_added_to_the_usual_ones_once(self):
        usual = default_metrics("classes")
        assert metrics_of(ProbeConfig(), "classes") == usual
        assert metrics_of(ProbeConfig(metrics=("mcc", "auroc", "mcc")), "classes") == (*usual, "mcc")
        assert set(metrics_of(ProbeConfig(metrics=("all",)), "multilabel")) == set(metrics_for("multilabel"))

    @pytest.mark.parametrize(("name", "words"), [("mae", "--metrics balanced_accuracy"), ("aurocc", "auroc")])
    def test_are_refused_before_anything_is_fitted(self, name, words):
        with pytest.raises(ConfigError, match=words):
            question("d", samples(), ProbeConfig(folds=2, metrics=(name,)))

    def test_change_what_is_stored(self):
        plain = question("d", samples(), ProbeConfig(folds=2)).unit("f")
        assert question("d", samples(), ProbeConfig(folds=2, metrics=("mcc",))).unit("f") != plain
        assert question("d", samples(), ProbeConfig(folds=2, metrics=("auroc",))).unit("f") == plain

    def test_retrieve_has_none(self):
        with pytest.raises(ConfigError, match="retrieve has no metrics to choose"):
            retrieve(RetrieveConfig(metrics=("mcc",)))
