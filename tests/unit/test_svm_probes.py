"""The margin probes follow a rule, say what they could not do, and can be saved whatever their calibration."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from featprobe.errors import ConfigError, ProbeError
from featprobe.probes import Rule, fit_probe
from featprobe.probes.margins import MarginLabels
from featprobe.probes.scaling import Scaling
from featprobe.probes.solvers import svm_hinge, svm_path
from featprobe.probes.solvers.svm_path import SVMPath
from featprobe.probes.solvers.svm_scores import Scores
from featprobe.probes.solvers.svm_systems import line_search
from featprobe.stages.model_files import ModelError, read_model, write_model

PROBES = ("svm", "svm_squared")


def data(rows=90, columns=10, signal=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 3
    return rng.standard_normal((rows, columns)) + signal * np.eye(3, columns)[y], y


def parts(rows, folds=3):
    fold = np.arange(rows) // 3 % folds
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]


def fit(name, X, y, rule=None, **changes):
    cut = parts(len(y))
    given = {"n_classes": 3, "selection": cut, "calibration": cut, "seed": 0, "rule": rule or Rule()}
    return fit_probe(name, X, y, **(given | changes))


@pytest.mark.parametrize("name", PROBES)
class TestRule:
    @pytest.mark.parametrize("scale", ["standard", "none", "l2", "centre+l2"])
    def test_scale(self, name, scale):
        X, y = data()
        X = 3 * X + 5
        fitted = fit(name, X, y, Rule(scale=scale, grid=(0.1,)))
        loss = "hinge" if name == "svm" else "squared_hinge"
        scaled = Scaling.of(X, scale)(X)
        expected = SVMPath([0.1], loss, gap=1e-9).fit(scaled, y).path_decision_function(scaled)[0]
        inner = getattr(fitted.model, "inner", fitted.model)
        np.testing.assert_allclose(
            inner.decide(scaled if scale.endswith("l2") else X), expected, rtol=0, atol=1e-6
        )

    def test_a_grid_of_one_value_is_not_judged(self, name):
        fitted = fit(name, *data(), Rule(grid=(0.03,)))
        assert fitted.chosen == {"C": 0.03}
        assert dict(fitted.scores) == {}
        assert fitted.notes == ()

    def test_pick(self, name):
        X, y = data(signal=20.0)
        grid = (0.01, 0.1, 1.0)
        scores = fit(name, X, y, Rule(grid=grid)).scores
        assert set(scores.values()) == {1.0}
        assert fit(name, X, y, Rule(grid=grid)).chosen["C"] == 0.01
        last = fit(name, X, y, Rule(grid=grid, pick="last best"))
        assert last.chosen["C"] == 1.0
        assert "weak end" in last.notes[0]

    def test_score(self, name):
        X, y = data(rows=120)
        y = np.where(np.arange(120) < 96, 0, y)  # balanced accuracy and accuracy part here
        cut = [(np.arange(0, 120, 2), np.arange(1, 120, 2))]
        found = {
            score: fit(name, X, y, Rule(grid=(1e-3, 1.0), score=score), selection=cut).scores
            for score in ("accuracy", "balanced_accuracy")
        }
        assert found["accuracy"][1e-3] > found["balanced_accuracy"][1e-3] + 0.1
        with pytest.raises(ConfigError, match="can't be judged by 'log_loss'"):
            fit(name, X, y, Rule(score="log_loss"))

    def test_without_refit_the_other_rows_are_not_seen(self, name):
        X, y = data()
        spoiled = X.copy()
        spoiled[60:] = np.random.default_rng(5).standard_normal((30, 10)) * 100
        only = [(np.arange(60), np.arange(60, 90))]
        rule = Rule(refit=False, grid=(0.01,))
        plain, beside = (fit(name, table, y, rule, selection=only) for table in (X, spoiled))
        np.testing.assert_array_equal(plain.predict(X), beside.predict(X))
        refitted = fit(name, spoiled, y, Rule(grid=(0.01,)), selection=only)
        assert np.abs(refitted.predict(X) - plain.predict(X)).max() > 0.01

    def test_class_weight(self, name):
        X, y = data(rows=240, signal=0.5)
        kept = (y != 2) | (np.arange(240) % 12 == 2)
        X, y = X[kept], y[kept]
        cut = list(StratifiedKFold(3).split(X, y))
        new, truth = data(rows=240, signal=0.5, seed=1)
        found = {}
        for weight in ("none", "balanced"):
            rule = Rule(grid=(0.01,), options={"class_weight": weight})
            model = fit(name, X, y, rule, selection=cut, calibration=cut).model
            found[weight] = (model.decide(new).argmax(axis=1) == truth)[truth == 2].mean()
        assert found["balanced"] > found["none"] + 0.2

    def test_unknown_options_are_named(self, name):
        for options, words in (
            ({"calibrations": "platt"}, "calibration"),
            ({"calibration": "beta"}, "known: platt, isotonic"),
            ({"class_weight": "heavy"}, "known: none, balanced"),
        ):
            with pytest.raises(ConfigError, match=words):
                fit(name, *data(), Rule(options=options))


@pytest.mark.parametrize("calibration", ["platt", "isotonic"])
@pytest.mark.parametrize("name", PROBES)
def test_a_saved_machine_gives_the_same_probabilities(tmp_path, name, calibration):
    X, y = data()
    fitted = fit(name, X, y, Rule(grid=(0.01, 0.1), options={"calibration": calibration}))
    write_model(tmp_path / "m.skops", fitted, {})
    np.testing.assert_array_equal(read_model(tmp_path / "m.skops").fitted.predict(X), fitted.predict(X))


def test_isotonic_probabilities_are_no_onnx():
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    from featprobe.stages import onnx_files, onnx_graphs

    assert onnx_files  # it registers what can be converted
    for calibration in ("platt", "isotonic"):
        fitted = fit("svm", *data(), Rule(grid=(0.1,), options={"calibration": calibration}))
        if calibration == "platt":
            assert onnx_graphs.scores_of(fitted, onnx_graphs.Graph(), "X")
            continue
        with pytest.raises(ModelError, match="isotonic probabilities can't be written as ONNX"):
            onnx_graphs.scores_of(fitted, onnx_graphs.Graph(), "X")


def test_isotonic_needs_every_class_too():
    X, y = data()
    lacking = [(np.flatnonzero(y != 2), np.flatnonzero(y == 2))]
    with pytest.raises(ProbeError, match="a fold for isotonic calibration lacks a class"):
        fit("svm", X, y, Rule(options={"calibration": "isotonic"}), calibration=lacking)


def test_a_part_of_one_class_is_said():
    X, y = data()
    lacking = [(np.flatnonzero(y == 2), np.flatnonzero(y != 2))]
    with pytest.raises(ProbeError, match="one class only, so that C can't be chosen"):
        fit("svm", X, y, selection=lacking)


def test_fits_without_certificate_are_noted(monkeypatch):
    monkeypatch.setattr(svm_hinge, "OUTER", 0)
    notes = fit("svm", *data(), Rule(grid=(0.1, 1.0))).notes
    assert any(
        "fits of the machine did not converge: C = 0.1 (relative duality gap" in note for note in notes
    )


def test_labels_that_cannot_be_fitted_get_their_share():
    X, y = data(columns=6)
    labels = np.stack([y == 0, np.ones(90), np.full(90, -1), np.arange(90) == 4, y == 1], axis=1).astype(int)
    fitted = fit(
        "svm", X, labels, Rule(grid=(0.01, 0.1)), n_classes=5, task="multilabel", label_names=list("abcde")
    )
    assert isinstance(fitted.model, MarginLabels)
    assert sorted(fitted.chosen) == ["C of a", "C of e"]
    said = "\n".join(fitted.notes)
    assert "label b: its 90 known training rows hold one value: it always gets the probability 1" in said
    assert "label c: no training row knows it: it always gets the probability 0.5" in said
    assert "label d: the rows held out of the folds do not hold both its values" in said
    found = fitted.predict(X)
    np.testing.assert_array_equal(found[:, 1:4], np.tile([1.0, 0.5, 1 / 90], (90, 1)))
    assert (((found[:, 0] > 0.5) == (y == 0)).mean()) > 0.75


def test_scores_refuse_what_does_not_fit():
    labels = np.arange(30) % 3
    for values, found in (
        (np.zeros((30, 2)), "do not fit together"),
        (np.zeros((29, 3)), "do not fit together"),
        (np.full((30, 3), np.nan), "30 of 30 decision values are not finite"),
        (np.zeros((30, 4)), "do not hold every class"),
    ):
        with pytest.raises(ProbeError, match=found):
            Scores().fit(values, labels)
    with pytest.raises(ProbeError, match="unknown calibration 'beta'"):
        Scores("beta")
    even = Scores("isotonic").fit(np.zeros((30, 3)), labels).predict(np.zeros((2, 3)))
    np.testing.assert_allclose(even, 1 / 3)
    assert Scores().fit(np.eye(3)[labels], labels).predict(np.empty((0, 3))).shape == (0, 3)


def test_votes_of_pairs_are_counted_by_hand():
    # Pairs 0-1, 0-2, 1-2: classes 0, 2 and 1 win one each.
    values = np.array([[2.0, -1.0, 0.5]])
    np.testing.assert_array_equal(svm_path.votes(values, 3), [[1, 1, 1]])
    totals = np.array([2.0 - 1.0, -2.0 + 0.5, 1.0 - 0.5])
    np.testing.assert_allclose(
        svm_path.one_vs_rest(values, 3), [1 + totals / (3 * (np.abs(totals) + 1))], rtol=1e-15
    )


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_a_row_that_counts_twice_is_two_rows(method):
    X, labels = data(rows=60)
    times = 1 + (np.arange(60) % 4 == 1) + 2 * (labels == 2)
    weighed = Scores(method).fit(X[:, :3], labels, times.astype(float))
    repeated = Scores(method).fit(np.repeat(X[:, :3], times, axis=0), np.repeat(labels, times))
    plain = Scores(method).fit(X[:, :3], labels)
    np.testing.assert_allclose(weighed.predict(X[:, :3]), repeated.predict(X[:, :3]), atol=1e-5)
    assert np.abs(weighed.predict(X[:, :3]) - plain.predict(X[:, :3])).max() > 0.05


def test_a_line_along_which_nothing_bends_ends_the_search():
    nothing = np.zeros(3)
    assert line_search(nothing, nothing, nothing, np.ones(3), -1e-20, 0.0) == 1.0
    assert line_search(nothing, nothing, nothing, np.ones(3), -1.0, 1e-300) == 1.0
    # Where the slope grows, however slowly, the step is a long one.
    assert line_search(nothing, np.full(3, 1e-9), np.ones(3), np.full(3, np.inf), -1.0, 0.0) > 1.0


def test_groups_of_equal_rows_in_a_small_part():
    rng = np.random.default_rng(0)
    for rows in (6, 9, 14):
        X = np.repeat(rng.standard_normal((rows // 3 + 1, 30)), 3, axis=0)[:rows]
        y = np.arange(rows) // 3 % 2
        path = SVMPath(10.0 ** np.arange(-6, 6), n_jobs=1).fit(X, y)
        assert np.isfinite(path.coefs_).all()
