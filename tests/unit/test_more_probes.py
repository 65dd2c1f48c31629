"""Neighbours are exact, awkward data give sensible probabilities, and what can't be fitted is said."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from featprobe.errors import ConfigError, MissingExtraError, ProbeError
from featprobe.probes import Rule, choosing, fit_probe, knn, linear, neighbours, ordinal

CLASSIFIERS = ("centroid", "knn", "lda", "ordinal", "ridge_classifier", "simpleshot")
NUMBERS = ("concordance", "knn", "ridge")


def plain(table, new, k, metric):
    """The definition: every row, in float64, equally near ones in the order of the rows."""
    if metric == "cosine":
        near = np.array([(table * x).sum(axis=1) for x in new])
    else:
        near = np.array([-np.square(table - x).sum(axis=1) for x in new])
    order = np.argsort(-near, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(near, order, axis=1)


def tables():
    rng = np.random.default_rng(0)
    yield "spread", rng.standard_normal((300, 16)), rng.standard_normal((40, 16))
    yield "ties", rng.integers(0, 2, (300, 6)).astype(float), rng.integers(0, 2, (40, 6)).astype(float)
    yield "one column", rng.standard_normal((200, 1)), rng.standard_normal((30, 1))
    yield "copies", np.repeat(rng.standard_normal((6, 8)), 60, axis=0), rng.standard_normal((30, 8))
    yield (
        "close together",
        1e4 + 1e-3 * rng.standard_normal((200, 8)),
        1e4 + 1e-3 * rng.standard_normal((30, 8)),
    )
    yield "far away", 1e-30 * rng.standard_normal((200, 8)), 1e30 * rng.standard_normal((30, 8))
    yield "nothing", np.zeros((100, 5)), rng.standard_normal((30, 5))


TABLES = {name: pair for name, *pair in tables()}


class TestSearch:
    @pytest.mark.parametrize("metric", neighbours.METRICS)
    @pytest.mark.parametrize("name", TABLES)
    def test_is_exact_whatever_the_blocks(self, name, metric):
        table, new = (knn.unit(x) if metric == "cosine" else x for x in TABLES[name])
        for k in (1, 7, 60):
            order, near = plain(table, new, k, metric)
            for queries, rows in ((256, 32_768), (7, 50), (1, 33)):
                found = neighbours.nearest_rows(table, new, k, metric, queries=queries, rows=rows)
                np.testing.assert_array_equal(found.rows, order)
                np.testing.assert_array_equal(found.nearness, near)

    @pytest.mark.parametrize("metric", neighbours.METRICS)
    @pytest.mark.parametrize("name", TABLES)
    def test_faiss_changes_nothing(self, name, metric, monkeypatch):
        pytest.importorskip("faiss")
        monkeypatch.setattr(neighbours, "FAISS_ROWS", 10)
        table, new = (knn.unit(x) if metric == "cosine" else x for x in TABLES[name])
        order, near = plain(table, new, 7, metric)
        found = neighbours.nearest_rows(table, new, 7, metric)
        np.testing.assert_array_equal(found.rows, order)
        np.testing.assert_array_equal(found.nearness, near)

    def test_usual_rows_need_no_second_look(self, monkeypatch):
        monkeypatch.setattr(neighbours._Screen, "all_within", lambda *_: pytest.fail("looked again"))
        neighbours.nearest_rows(*TABLES["spread"], 7, "euclidean")

    def test_without_faiss_many_rows_name_the_extra(self, monkeypatch):
        monkeypatch.setattr(neighbours, "FAISS_ROWS", 10)
        monkeypatch.setattr(neighbours, "find_spec", lambda _: None)
        assert importlib.util.find_spec("numpy")  # the name is replaced in that module alone
        with pytest.raises(MissingExtraError, match="faiss"):
            neighbours.nearest_rows(*TABLES["spread"], 7, "euclidean")


def data(rows=60, columns=8, count=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % count
    return rng.standard_normal((rows, columns)) + 2.0 * y[:, None] * (np.arange(columns) < 3), y


def folds(rows, count=3):
    fold = np.arange(rows) // 3 % count
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(count)]


def fit(name, X, y, task=None, cut=None, n_classes=3, **rule):
    task = task or ("ordinal" if name == "ordinal" else "classes")
    cut = folds(len(X)) if cut is None else cut
    return fit_probe(
        name,
        X,
        y,
        n_classes=1 if task == "continuous" else n_classes,
        selection=cut,
        calibration=cut,
        seed=0,
        task=task,
        rule=Rule(**rule),
    )


def lacking(y):
    """Parts whose fit has no class 1."""
    return [(own[y[own] != 1], held) for own, held in folds(60)]


ROWS, CODES = data()
EVEN = [(np.arange(0, 60, 2), np.arange(1, 60, 2))]
AWKWARD = {  # rows, classes, parts to choose on
    "constant and duplicate columns": (np.hstack([ROWS, ROWS[:, :2], np.full((60, 2), 7.3)]), CODES, None),
    "a class with one member": (ROWS, np.where(np.arange(60) == 4, 2, CODES % 2), None),
    "parts without a class": (ROWS, CODES, lacking(CODES)),
    "a part of one class": (ROWS, CODES, [(np.flatnonzero(CODES == 0), np.arange(1, 9)), *folds(60)]),
    "more columns than rows": (*data(12, 200), None),
    "one column": (ROWS[:, :1], CODES, None),
    "three rows": (
        ROWS[:3],
        CODES[:3],
        [(np.array([0, 1]), np.array([2])), (np.array([1, 2]), np.array([0]))],
    ),
    "classes without spread": (np.repeat(ROWS[:3], 20, axis=0), np.repeat(CODES[:3], 20), EVEN),
    "nothing but constants": (np.full((60, 4), 0.1), CODES, None),
}


@pytest.mark.parametrize("kind", AWKWARD)
@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("scale", ["standard", "none"])
def test_awkward_data_give_probabilities(name, kind, scale):
    X, y, cut = AWKWARD[kind]
    new, _ = data(30, X.shape[1], seed=1)
    fitted = fit(name, X, y, cut=cut, scale=scale)
    found = fitted.predict_proba(new)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)
    if kind == "classes without spread":
        assert (fitted.predict_proba(X).argmax(axis=1) == y).all()
    if kind == "nothing but constants" and name != "knn":
        np.testing.assert_allclose(fitted.predict_proba(X), 1 / 3, atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    [
        "constant and duplicate columns",
        "more columns than rows",
        "one column",
        "three rows",
        "nothing but constants",
    ],
)
@pytest.mark.parametrize("name", NUMBERS)
def test_awkward_data_give_numbers(name, kind):
    X, y, cut = AWKWARD[kind]
    fitted = fit(name, X, y + 0.5, "continuous", cut)
    found = fitted.predict(X)
    assert np.isfinite(found).all()
    if kind == "nothing but constants" and name != "knn":
        np.testing.assert_allclose(found, (y + 0.5).mean(), atol=1e-9)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_class_that_a_part_lacks_has_no_probability_there(name):
    X, y = data()
    own = np.flatnonzero(y != 1)
    fitted = fit(name, X, y, cut=[(own, np.flatnonzero(y == 1))], refit=False, grid=(1.0,))
    found = fitted.predict_proba(X)
    assert (found[:, 1] == 0).all()


def test_copies_of_a_row_have_no_spread():
    rows, code = np.repeat([[0.1, 1e6 + 0.3], [0.7, -3.3]], 7, axis=0), np.repeat([0, 1], 7)
    means = np.array([rows[code == k].mean(axis=0) for k in range(2)])
    assert (rows != means[code]).any()  # the mean's own rounding
    assert not linear.within_classes(rows, means, code).any()
    one_step = rows.copy()
    one_step[0, 0] += 1e-12
    assert linear.within_classes(one_step, means, code).any()


class TestNeighbours:
    def test_more_neighbours_than_rows_are_not_chosen(self):
        X, y = data(30)
        fitted = fit("knn", X, y)
        assert set(fitted.scores) == {10, 5, 1}
        assert fitted.chosen["k"] <= 10

    def test_too_many_neighbours_are_refused(self):
        X, y = data(30)
        with pytest.raises(
            ProbeError, match="31 nearest neighbours of 30 training rows; the largest k for them is 30"
        ):
            fit("knn", X, y, grid=(31,))
        with pytest.raises(ProbeError, match=r"no value of k .* tried: 500, 400; the smallest part has"):
            fit("knn", X, y, grid=(500, 400))
        labels = np.stack([y == 0, y == 1], axis=1).astype(np.int64)
        with pytest.raises(ProbeError, match="largest k for them is 29"):
            fit("knn", X, labels, "multilabel", n_classes=2, grid=(30,), options={"vote": "mlknn"})

    @pytest.mark.parametrize(
        ("rule", "told"),
        [
            ({"grid": (2.5,)}, "whole number"),
            ({"grid": (0,)}, "whole number"),
            ({"options": {"metric": "cosin"}}, "unknown metric 'cosin'; known: cosine, euclidean"),
            ({"options": {"metrik": "cosine"}}, "did you mean metric"),
            ({"options": {"temperature": 0.0}}, "temperature 0.0 is no number above 0"),
            ({"options": {"vote": "mlknn"}}, "several labels"),
        ],
    )
    def test_what_it_does_not_know(self, rule, told):
        with pytest.raises(ConfigError, match=told):
            fit("knn", *data(), **rule)

    def test_a_small_temperature_is_the_nearest_neighbour(self):
        X, y = data()
        new, _ = data(40, seed=1)
        one = fit("knn", X, y, grid=(1,)).predict_proba(new)
        many = fit("knn", X, y, grid=(50,), options={"temperature": 1e-6}).predict_proba(new)
        np.testing.assert_allclose(many, one, atol=1e-12)

    def test_one_neighbour_is_no_edge(self):
        X, y = data()
        assert fit("knn", X, y, grid=(60, 1), pick="last best").notes == ()


class TestTemperature:
    @pytest.mark.parametrize("name", ["centroid", "simpleshot"])
    def test_says_how_sure_never_which_class(self, name):
        X, y = data()
        new, _ = data(90, seed=1)
        sharp, flat = (fit(name, X, y, grid=(t,)).predict_proba(new) for t in (0.1, 100.0))
        np.testing.assert_array_equal(sharp.argmax(axis=1), flat.argmax(axis=1))
        assert sharp.max(axis=1).mean() > flat.max(axis=1).mean() + 0.2
        with pytest.raises(ConfigError, match="above 0"):
            fit(name, X, y, grid=(0.0,))


@pytest.mark.parametrize(
    ("name", "grid", "told"),
    [
        ("lda", (1.5,), "between 0 and 1"),
        ("ordinal", (0.0,), "above 0"),
        ("ridge", (-1.0,), "above 0"),
        ("concordance", (0.0,), "above 0"),
        ("ridge_classifier", (0.0,), "above 0"),
    ],
)
def test_a_value_outside_its_range_is_refused(name, grid, told):
    X, y = data()
    task = "continuous" if name in NUMBERS else None
    with pytest.raises(ConfigError, match=told):
        fit(name, X, y.astype(float) if task else y, task, grid=grid)


@pytest.mark.parametrize("name", sorted({*CLASSIFIERS, *NUMBERS}))
def test_an_unknown_option_is_refused(name):
    X, y = data()
    task = "continuous" if name in {"ridge", "concordance"} else None
    with pytest.raises(ConfigError, match="unknown option 'colour'"):
        fit(name, X, y.astype(float) if task else y, task, options={"colour": "blue"})


def test_an_ordinal_optimum_that_is_not_certified_is_not_chosen_and_said(monkeypatch):
    X, y = data()
    monkeypatch.setattr(ordinal, "ITERATIONS", 1)
    monkeypatch.setattr(ordinal, "ROUNDS", 1)
    fitted = fit("ordinal", X, y)
    assert 0 < len(fitted.scores) < len(ordinal.GRID)
    assert fitted.chosen["C"] in fitted.scores
    assert any("did not converge at C = " in note and "1000: not considered" in note for note in fitted.notes)
    alone = fit("ordinal", X, y, grid=(10.0,))
    assert "above its optimum" in alone.notes[-1]


class TestChoosing:
    def test_predictions_that_are_missing_are_no_guess(self):
        truth = np.array([0, 1, 0])
        predicted = np.array([np.eye(2)[truth], np.full((3, 2), np.nan)])
        for name in ("accuracy", "balanced_accuracy", "log_loss"):
            found = choosing.score(name)(truth, predicted)
            assert np.isfinite(found[0])
            assert np.isnan(found[1])

    def test_concordance_charges_for_shift_and_spread(self):
        truth = np.array([1.0, 2.0, 3.0, 4.0])
        predicted = np.stack([truth, truth + 1, 2 * truth, np.full(4, 2.5), -truth])[:, :, None]
        # var 1.25: shift 2.5 / (2.5 + 1); twofold 5 / (1.25 + 5 + 2.5^2); turned -2.5 / (2.5 + 5^2)
        found = choosing.score("concordance")(truth, predicted)
        np.testing.assert_allclose(found, [1, 2.5 / 3.5, 5 / 12.5, 0, -2.5 / 27.5])

    def test_a_part_that_knows_no_label_judges_nothing(self):
        found = choosing.score("log_loss")(np.full((3, 2), -1), np.full((4, 3, 2), 0.5))
        np.testing.assert_array_equal(found, np.zeros(4))


def test_only_a_probe_that_knows_no_order_is_said_to_ignore_it():
    X, y = data()
    said = {name: " ".join(fit(name, X, y, task="ordinal").notes) for name in ("ordinal", "lda", "knn")}
    assert "without order" not in said["ordinal"]
    assert "without order" in said["lda"]
    assert "without order" in said["knn"]
