"""What the report says of trust: of folds, of groups, of every kind of target, and what it leaves out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from featprobe.config import ProbeConfig
from featprobe.errors import OutputError, ProbeError
from featprobe.options import fields_of
from featprobe.probes.logistic import LogisticModel
from featprobe.records import ESTIMATE_COLUMNS, Predictions, ReportContent, RunKey, Samples
from featprobe.report import write_report
from featprobe.results.single import SingleTable
from featprobe.stages.model_files import ModelError
from featprobe.stages.onnx_graphs import Graph, converted
from featprobe.stages.ood import logits_of
from featprobe.stages.spans import group_means, mean_span, resampled_span, share_span
from featprobe.stages.trusting import LEVELS, trust_panel
from featprobe.trust import METHODS, Isotonic, Recalibrated
from featprobe.trust.outliers import mahalanobis
from featprobe.trust.reliability import asked, bins_of
from featprobe.trust.selective import losses

KEY = RunKey("d", "b", "pretrained", "frozen", "gap", "p", "logistic", "f" * 64)


def predictions(*, folds=1, groups=30, rows=3, classes=3, task="classes", skill=2.0, seed=0):
    """One system's, `rows` of each of `groups` groups a fold."""
    found = []
    for fold in range(folds):
        rng = np.random.default_rng([seed, fold])
        unit = np.repeat(np.arange(groups), rows)
        names = tuple("abcdefg"[:classes])
        if task == "multilabel":
            label = rng.integers(0, 2, (len(unit), classes))
            y_score = 1 / (1 + np.exp(-rng.normal(skill * (2 * label - 1), 1.5)))
            label[:5, 0] = -1
        else:
            label = rng.integers(0, classes, len(unit))
            odds = np.exp(rng.normal(0, 1, (len(unit), classes)) + skill * np.eye(classes)[label])
            y_score = odds / odds.sum(axis=1, keepdims=True)
        ids = [f"{fold}-{n}" for n in range(len(unit))]
        samples = Samples.build(
            path=ids, label=label, label_names=names, group=[f"{fold}-g{g}" for g in unit], task=task
        )
        key = dataclasses.replace(KEY, fold=str(fold) if folds > 1 else "test")
        found.append(Predictions(key, samples, y_score, 100))
    return found


def panel(systems, **changes):
    return trust_panel("d", "image", systems, resamples=changes.pop("resamples", 60), seed=0)


def test_folds_are_averaged_for_areas_and_pooled_for_reliability():
    own = predictions(folds=3)
    found = panel({"s": own})
    (curve,) = found.reliability
    assert curve.rows.sum() == 270
    right = sum(int((one.y_score.argmax(axis=1) == one.y_true).sum()) for one in own)
    assert (curve.rows * curve.true).sum() == pytest.approx(right)
    assert (curve.low <= curve.true).all()
    assert (curve.true <= curve.high).all()
    alone = [panel({"s": [one]}).areas.set_index("measure")["value"] for one in own]
    together = found.areas.set_index("measure")
    pd.testing.assert_series_equal(together["value"], sum(alone) / 3)
    assert (together["ci_low"] < together["value"]).all()
    assert (together["value"] < together["ci_high"]).all()
    (line,) = found.selective
    errors = np.mean([np.mean(one.y_score.argmax(axis=1) != one.y_true) for one in own])
    assert line.risk[-1] == pytest.approx(errors)  # all rows are answered
    assert (line.low <= line.risk).all()  # also where nothing is wrong yet: by the exact bound
    assert (line.risk < line.high).all()


def test_sets_are_told_with_what_they_promise_and_hold():
    found = panel({"s": predictions(groups=40, rows=2)})
    sets = found.sets.set_index(["rule", "nominal", "what"])
    for rule in ("LAC", "APS"):
        for level in LEVELS:
            row = sets.loc[rule, level, "coverage"]
            assert row["value"] == pytest.approx(level, abs=0.06)
            assert row["ci_low"] < row["value"] < row["ci_high"]
            assert row["n_groups"] == 40
        sizes = [sets.loc[(rule, level, "size"), "value"] for level in LEVELS]
        assert sizes == sorted(sizes)
        assert 1 < sizes[1] < 3
        assert {f"coverage of {name}" for name in "abc"} <= set(found.sets["what"])
    assert "exchangeable" in found.promise
    assert "can only hold every class" not in found.promise


def test_too_few_groups_to_calibrate_on_are_said():
    found = panel({"s": predictions(groups=10, rows=1)})
    assert "With 5 groups to calibrate on, sets at 90 % and 95 % can only hold every class" in found.promise
    sets = found.sets.set_index(["rule", "nominal", "what"])["value"]
    assert sets["LAC", 0.95, "size"] == 3
    assert sets["LAC", 0.95, "coverage"] == 1


def test_several_labels_have_no_sets_and_numbers_no_panel():
    found = panel({"s": predictions(task="multilabel")})
    assert found.sets.empty
    assert found.promise == ""
    assert found.reliability[0].rows.sum() == 90 * 3 - 5
    assert "every label" in found.asked
    samples = Samples.build(path=["a", "b"], label=[1.0, 2.0], label_names=("size",), task="continuous")
    assert panel({"s": [Predictions(KEY, samples, np.ones((2, 1)), 5)]}) is None


def test_systems_share_the_resamples_so_that_equal_ones_have_equal_intervals():
    found = panel({"a": predictions(), "b": list(reversed(predictions()))})
    a, b = (found.areas[found.areas["system"] == name].drop(columns="system") for name in "ab")
    pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True))


def test_what_is_asked_of_each_kind_of_target():
    two = asked(np.array([[0.3, 0.7], [0.8, 0.2]]), np.array([1, -1]), "classes")
    assert (two.said.tolist(), two.true.tolist(), two.row.tolist(), two.what) == ([0.7], [True], [0], "two")
    three = asked(np.array([[0.3, 0.6, 0.1]]), np.array([0]), "ordinal")
    assert (three.said.tolist(), three.true.tolist()) == ([0.6], [False])
    sure, wrong = losses(np.array([[0.9, 0.4], [0.2, 0.6]]), np.array([[1, -1], [1, 0]]), "multilabel")
    assert sure.tolist() == [0.9, pytest.approx(0.7)]
    assert wrong.tolist() == [0, 1]
    assert bins_of(np.array([0.5] * 20 + [0.9])).max() <= 1  # equal scores are never torn apart
    assert len(bins_of(np.empty(0))) == 0


def test_spans_at_their_edges():
    assert np.isnan(resampled_span(0.5, np.full(50, np.nan), 10)).all()
    assert np.isnan(resampled_span(0.5, np.full(50, 0.5), 10)).all()
    assert np.isnan(resampled_span(0.5, np.linspace(0.4, 0.6, 50), 0)).all()
    assert share_span(1.0, np.ones(50), 10) == (
        pytest.approx(0.025**0.1),
        1.0,
    )  # Clopper and Pearson, 10 of 10
    assert share_span(0.0, np.zeros(50), 10) == (0.0, pytest.approx(1 - 0.025**0.1))
    assert mean_span([np.ones(10)])[1:] == (pytest.approx(0.025**0.1), 1.0)
    assert np.isnan(mean_span([])[0])
    assert np.isnan(mean_span([np.array([0.5])])[1])
    value, low, high = mean_span([np.array([0.2, 0.4, 0.9]), np.array([0.5, 0.7])])
    assert value == pytest.approx(0.55)
    assert low < value < high
    assert group_means(np.array([1.0, 0.0, 1.0]), np.array([4, 4, 9])).tolist() == [0.5, 1.0]


def test_the_page_shows_it_and_the_tables_hold_it(tmp_path):
    systems = {name: predictions(seed=0, skill=skill) for name, skill in (("s one", 2.0), ("s two", 0.5))}
    rows, frames = [], []
    for name, (own,) in systems.items():
        rows.append(
            {
                **dict.fromkeys(ESTIMATE_COLUMNS, ""),
                **own.key.to_dict(),
                "metric": "accuracy",
                "value": 0.5,
                "ci_low": 0.4,
                "ci_high": 0.6,
                "n_train": 5,
                "n_test": 90,
                "n_groups": 30,
                "system": name,
            }
        )
        frame = pd.DataFrame({**own.key.to_dict(), "id": own.samples.id, "y_true": own.samples.label_texts()})
        frames.append(
            frame.assign(system=name, **{f"y_score_{c}": own.y_score[:, k] for k, c in enumerate("abc")})
        )
    content = ReportContent(
        title="t", metric="accuracy", estimates=pd.DataFrame(rows), predictions=pd.concat(frames),
        comparisons=pd.DataFrame(), best=pd.DataFrame(), classes={"d": ("a", "b", "c")}, maps=(), findings={},
        notes=(), provenance={}, trust=(panel(systems),),
    )  # fmt: skip
    page = write_report(content, tmp_path).read_text(encoding="utf-8")
    assert "Can the scores be believed?" in page
    assert "Prediction sets" in page
    for name in ("reliability", "risk-coverage"):
        assert (tmp_path / "figures" / f"d-{name}.png").stat().st_size > 10_000
        assert f'id="figure-d-{name}"' in page
    table = pd.read_csv(tmp_path / "tables" / "d-sets.csv")
    assert set(table["system"]) == set(systems)
    assert "AUGRC" in (tmp_path / "tables" / "d-areas.md").read_text(encoding="utf-8")
    assert "Can the scores be believed?" not in write_report(
        dataclasses.replace(content, trust=()), tmp_path / "other"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize("classes", [2, 4])
def test_logits_are_those_of_the_probabilities(classes):
    rng = np.random.default_rng(0)
    rows = 1 if classes == 2 else classes
    model = LogisticModel(rng.normal(0, 1, (rows, 5)), rng.normal(0, 1, rows))
    X = rng.normal(0, 1, (20, 5))
    np.testing.assert_allclose(softmax(logits_of(model, X), axis=1), model.predict(X))


def test_a_single_table_keeps_what_it_vouches_for(tmp_path):
    table = SingleTable(tmp_path / "deep", "found", ("name", "value"), ("name",))
    assert table.rows() == []
    table.add(
        [{"name": "b", "value": 0.1 + 0.2, "unit": "1"}, {"name": "a", "value": float("nan"), "unit": "1"}],
        {},
    )
    table.add([{"name": "b", "value": 1, "unit": "2"}], {"run": {"x": 1}})
    assert table.rows() == [
        {"name": "a", "value": "", "unit": "1"},
        {"name": "b", "value": "1", "unit": "2"},
    ]
    table.record.write_text("{", encoding="utf-8")
    assert table.rows() == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="can't write"):
        SingleTable(tmp_path / "file", "found", ("name",), ("name",)).add([{"name": "a", "unit": "1"}], {})


def test_the_calibrations_of_the_command_are_those_of_the_room():
    assert fields_of(ProbeConfig)["calibrate"][1].metadata["choices"] == ("none", *METHODS)


def test_embeddings_that_do_not_vary_have_no_distance():
    X = np.ones((6, 3))
    with pytest.raises(ProbeError, match="no inverse"):
        mahalanobis(X, np.array([0, 0, 0, 1, 1, 1]), X)


def test_steps_have_no_form_in_onnx():
    steps = Isotonic((np.array([0.0, 1.0]),), (np.array([0.0, 1.0]),), several=False)
    model = Recalibrated(LogisticModel(np.ones((1, 2)), np.zeros(1)), steps)
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    with pytest.raises(ModelError, match="Isotonic can't be written as ONNX"):
        converted(model, Graph(), "x")
