"""Fusing learns from training rows alone, gives every view its say, and refuses what can't be fused in one line."""

from __future__ import annotations

import dataclasses
import pickle
import sys

import numpy as np
import pytest

from featprobe.config import FUSIONS as NAMED
from featprobe.errors import ConfigError, MissingExtraError, ProbeError
from featprobe.fusion import Training, average, components, describe, fuse, group_pca, need_suitable
from featprobe.probes import Rule
from featprobe.records import TASKS
from featprobe.registry import FUSIONS
from featprobe.stages.fusing import Learn

QUICK = Rule(grid=(1e-3, 1e-1))
PAIRS = [(name, task) for name, member in FUSIONS.items() for task in member.tasks]


@pytest.fixture(autouse=True)
def _few_sources(monkeypatch):
    """MultiView ICA with few sources: quick."""
    monkeypatch.setattr("featprobe.fusion.multiview_ica.SIZES", (2, 4))


def data(task="classes", rows=90, widths=(12, 30), seed=0):
    """(views, target, classes): every view shows the same few hidden numbers, each in its own noise."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 3
    hidden = 2.0 * np.eye(3, 5)[y] + 0.7 * rng.laplace(size=(rows, 5))
    turns = np.random.default_rng(99)
    views = [
        hidden @ turns.standard_normal((5, width)) + 0.5 * rng.standard_normal((rows, width))
        for width in widths
    ]
    if task == "continuous":
        return views, 40 + hidden[:, :2].sum(axis=1), 1
    if task == "multilabel":
        labels = (hidden[:, :3] > 0.7).astype(np.int64)
        labels[rng.random(labels.shape) < 0.1] = -1
        return views, labels, 3
    return views, y, 3


def parts(rows, folds=4):
    fold = np.arange(rows) // 3 % folds
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]


def training(y, task="classes", classes=3, cut=None, names=("a", "b"), rule=QUICK, probe=None, **changes):
    name = probe or ("ridge" if task == "continuous" else "logistic")
    learn = Learn(name, rule, task, tuple("xyzuvw"[:classes]), 0)
    folds = cut or parts(len(y))
    whole = Training(y, task, tuple(names), folds, folds, 0, learn)
    return dataclasses.replace(whole, **changes)


def fused(method, task="classes", **changes):
    views, y, classes = data(task)
    return fuse(method, views, training(y, task, classes, **changes)), views


def test_the_configuration_names_what_is_registered():
    assert tuple(FUSIONS.names()) == NAMED
    assert all(describe(name) for name in NAMED)


@pytest.mark.parametrize(("method", "task"), PAIRS)
def test_every_method_predicts_new_rows_one_by_one_and_pickles(method, task):
    quick = {"probe": "lda"} if task in {"classes", "ordinal"} else {}
    found, views = fused(method, task, **quick)
    new, truth, classes = data(task, seed=1)
    said = found.predict(new)
    assert said.shape == (90, classes)
    again = pickle.loads(pickle.dumps(found))  # noqa: S301 - made on this line
    np.testing.assert_array_equal(again.predict(new), said)
    np.testing.assert_allclose(found.predict([X[[7]] for X in new]), said[[7]], rtol=1e-9, atol=1e-12)
    assert found.predict([X[:0] for X in new]).shape == (0, classes)
    if (method, task) == ("multiview-ica", "classes"):  # the one that draws random numbers
        np.testing.assert_array_equal(fused(method, task, **quick)[0].predict(views), found.predict(views))
    if task == "continuous":
        assert np.corrcoef(said[:, 0], truth)[0, 1] > 0.8
    elif task == "multilabel":
        assert ((said > 0.5) == truth)[truth >= 0].mean() > 0.75
    else:
        np.testing.assert_allclose(said.sum(axis=1), 1, atol=1e-9)
        assert (said.argmax(axis=1) == truth).mean() > 0.8
    assert found.chosen


@pytest.mark.parametrize("task", TASKS)
def test_an_unsuitable_or_unknown_method_names_those_that_fit(task):
    for name in NAMED:
        if (name, task) not in PAIRS:
            with pytest.raises(ProbeError, match=r"can't be used for a target of kind .*average"):
                need_suitable(name, task)
    with pytest.raises(ConfigError, match=r"unknown fusion 'stak'; did you mean stack"):
        need_suitable("stak", task)


def test_the_library_of_an_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "multiviewica", None)
    with pytest.raises(MissingExtraError, match=r"multiviewica.*featprobe\[fusion\]"):
        need_suitable("multiview-ica", "classes")


class TestRefusals:
    def test_one_view(self):
        views, y, _ = data()
        with pytest.raises(ProbeError, match=r"at least two views; there is a; extract another"):
            fuse("average", views[:1], training(y, names=("a",)))

    def test_views_of_different_rows(self):
        views, y, _ = data()
        with pytest.raises(ProbeError, match=r"different rows: b is \(89, 30\)"):
            fuse("concat", [views[0], views[1][:-1]], training(y))
        found, _ = fused("average")
        with pytest.raises(ProbeError, match="a has 90, b has 80"):
            found.predict([views[0], views[1][:80]])

    @pytest.mark.parametrize("method", NAMED)
    def test_a_constant_view(self, method):
        views, y, _ = data()
        with pytest.raises(ProbeError, match="b is constant over the 90 training rows"):
            fuse(method, [views[0], np.full((90, 4), 0.1)], training(y))

    def test_values_that_are_not_finite(self):
        views, y, _ = data()
        broken = views[1].copy()
        broken[[3, 8], 1] = np.nan, np.inf
        with pytest.raises(ProbeError, match=r"2 of 90 training embeddings of b .*the first is row 3"):
            fuse("stack", [views[0], broken], training(y))
        with pytest.raises(ProbeError, match="test embeddings of b"):
            fused("average")[0].predict([views[0], broken])

    def test_other_widths(self):
        found, views = fused("concat")
        with pytest.raises(ProbeError, match=r"learnt from were a \[N, 12\], b \[N, 30\]"):
            found.predict(views[::-1])

    @pytest.mark.parametrize("method", ["group-pca", "multiview-ica"])
    def test_more_components_than_rows(self, method):
        views, y, _ = data(widths=(120, 130))
        member = type(FUSIONS.get(method))(sizes=(4, 80))
        with pytest.raises(
            ProbeError, match=r"80 components can't be had of every view; .*ask for 65 at most"
        ):
            member.fit(views, training(y, cut=parts(90)))

    def test_stacking_needs_three_folds(self):
        views, y, _ = data()
        with pytest.raises(ProbeError, match=r"needs three grouped folds.*there are 2.*--fuse average"):
            fuse("stack", views, training(y, cut=parts(90, folds=2)))


class TestConcat:
    def test_views_have_the_same_total_variance(self):
        found, views = fused("concat")
        columns = found.model.columns(views)
        spread = columns.var(axis=0)
        assert spread[:12].sum() == pytest.approx(21)
        assert spread[12:].sum() == pytest.approx(21)
        np.testing.assert_allclose(spread[:12], 21 / 12)

    def test_constant_columns_count_for_nothing(self):
        views, y, _ = data()
        padded = [views[0], np.hstack([views[1], np.full((90, 500), 0.1)])]
        plain, more = (fuse("concat", own, training(y)) for own in (views, padded))
        np.testing.assert_allclose(more.predict(padded), plain.predict(views), atol=1e-6)

    def test_a_wide_view_does_not_drown_a_narrow_one(self):
        # The narrow view knows the classes, the wide one is noise: standardised alike, 400 columns hide 5.
        rng = np.random.default_rng(0)
        views, y, _ = data(widths=(5, 5))
        noise = [rng.standard_normal((90, 400)) for _ in range(2)]
        new, truth, _ = data(widths=(5, 5), seed=1)
        rule = Rule(grid=(1e-3,))
        right = {}
        for method in ("concat", "plain-concat"):
            found = fuse(method, [views[0], noise[0]], training(y, rule=rule))
            right[method] = (found.predict([new[0], noise[1]]).argmax(axis=1) == truth).mean()
        assert right["concat"] > right["plain-concat"] + 0.1

    def test_plain_is_the_probe_on_both(self):
        found, views = fused("plain-concat")
        own = training(data()[1])
        alone = own.learn(np.hstack(views), own.y, selection=own.selection, calibration=own.calibration)
        np.testing.assert_array_equal(found.predict(views), alone.predict(np.hstack(views)))


def test_averages_by_hand():
    class Says:
        def __init__(self, *rows):
            self.rows = np.array(rows)

        def predict(self, X):
            return self.rows[: len(X)]

    X = np.zeros((2, 1))
    pair = (Says([0.9, 0.1], [1.0, 0.0]), Says([0.5, 0.5], [0.2, 0.8]))
    np.testing.assert_allclose(average.Vote(pair, "arithmetic").predict([X, X]), [[0.7, 0.3], [0.6, 0.4]])
    # sqrt(0.9 * 0.5) : sqrt(0.1 * 0.5) = 3 : 1; a 0 counts as 1e-12: sqrt(0.2) against sqrt(0.8e-12), 5e5 : 1
    found = average.Vote(pair, "geometric").predict([X, X])
    np.testing.assert_allclose(found[0], [0.75, 0.25])
    assert found[1, 1] == pytest.approx(2e-6, rel=1e-3)
    # labels: mean log odds of 0.9 (odds 9) and 0.5 (odds 1) are those of odds 3
    np.testing.assert_allclose(average.Vote(pair, "odds").predict([X, X])[0], [0.75, 0.25])


class Spy:
    """A learner that notes which rows each probe saw: column 0 of every view is the row's number."""

    def __init__(self, inner):
        self.inner, self.seen = inner, []

    def __call__(self, X, y, **how):
        learned = self.inner(X, y, **how)
        if not how.get("final"):
            self.seen.append(({round(v) for v in X[:, 0]}, learned, how))
        return learned


class TestStack:
    def test_no_probe_has_seen_the_rows_that_it_answers_for(self, monkeypatch):
        views, y, _ = data()
        numbered = [np.hstack([np.arange(90.0)[:, None], X]) for X in views]
        answered = []

        def predict(self, X):
            answered.append((id(self), {round(v) for v in X[:, 0]}))
            return original(self, X)

        own = training(y)
        spy = Spy(own.learn)
        original = type(own.learn(views[0], y, selection=parts(90), calibration=parts(90))).predict
        monkeypatch.setattr("featprobe.probes.FittedProbe.predict", predict)
        found = fuse("stack", numbered, dataclasses.replace(own, learn=spy))
        fitted = {id(learned): rows for rows, learned, _ in spy.seen}
        assert len(answered) == 8  # two views, four folds; nothing else was asked before the test
        for probe, rows in answered:
            assert not rows & fitted[probe]
        assert sorted(row for _, rows in answered for row in rows) == sorted([*range(90), *range(90)])
        # Tuned without them, too: positions lie in the rows that were handed over, never a fold's own.
        for rows, _, how in spy.seen[:4]:
            assert len(rows) < 90
            assert all(max(fit.max(), held.max()) < len(rows) for fit, held in how["selection"])
            assert all(not set(fit) & set(held) for fit, held in how["selection"])
            assert len(how["selection"]) == 3
        assert [len(rows) for rows, _, _ in spy.seen[-2:]] == [90, 90]
        assert "C of the stack" in found.chosen

    def test_a_given_validation_part_chooses_in_every_fold(self):
        views, y, _ = data()
        given = [(np.arange(60), np.arange(60, 90))]
        own = training(y, selection=given)
        spy = Spy(own.learn)
        fuse("stack", views, dataclasses.replace(own, learn=spy))
        assert all(len(how["selection"]) == 1 for _, _, how in spy.seen)

    def test_a_class_that_an_inner_fold_lacks(self):
        # Class 2 has four rows in two of four folds: leaving both out leaves none to learn it from.
        views, y, _ = data()
        y = y.copy()
        y[y == 2] = 0
        y[[0, 1, 3, 4]] = 2
        found = fuse("stack", views, training(y))
        np.testing.assert_allclose(found.predict(views).sum(axis=1), 1, atol=1e-9)

    def test_nothing_is_found_in_labels_that_mean_nothing(self):
        right = []
        for seed in range(6):
            views, y, _ = data(seed=seed, widths=(40, 40))
            noise = np.random.default_rng(seed).permutation(y)
            found = fuse("stack", [X[:60] for X in views], training(noise[:60], probe="lda"))
            right.append((found.predict([X[60:] for X in views]).argmax(axis=1) == noise[60:]).mean())
        assert np.mean(right) < 0.45  # chance is 1/3; 180 guesses spread by 0.035


class TestComponents:
    def test_a_part_whitens_on_its_own_rows_alone(self, monkeypatch):
        views, y, _ = data()
        sizes = []
        original = components.Whitening.of

        def of(X, most):
            sizes.append(len(X))
            return original(X, most)

        monkeypatch.setattr(components.Whitening, "of", of)
        fuse("group-pca", views, training(y))
        assert sizes[:2] == [len(parts(90)[0][0])] * 2
        assert sizes[-2:] == [90, 90]
        assert len(sizes) == 2 * (4 + 1)

    def test_chosen_are_few_where_few_are_shared(self):
        found, _ = fused("group-pca")
        assert found.chosen["components"] <= 8
        assert found.chosen["C"] in QUICK.grid

    def test_a_view_of_low_rank_limits_the_components(self):
        views, y, _ = data()
        thin = [views[0], views[1][:, :3]]
        assert fuse("group-pca", thin, training(y)).chosen["components"] == 3

    def test_whitened_components_have_unit_variance_and_constant_rows_none(self):
        X = data()[0][1]
        white = components.Whitening.of(X, 6)
        np.testing.assert_allclose(np.cov(white(X, 6).T), np.eye(6), atol=1e-9)
        assert components.Whitening.of(np.full((20, 5), 0.1), 4).rank == 0
        padded = np.hstack([X + 1e6, np.full((90, 2), 1e6)])  # large means, and columns that never vary
        np.testing.assert_allclose(components.Whitening.of(padded, 6)(padded, 6), white(X, 6), atol=1e-6)

    def test_shared_directions_come_first(self):
        # Two views that share one number and have a larger one each: group PCA takes the shared one first.
        rng = np.random.default_rng(0)
        common, one, two = rng.standard_normal((3, 500))
        views = [np.column_stack([common, 20 * one]), np.column_stack([30 * two, common])]
        whitenings = [components.Whitening.of(X, 2) for X in views]
        found, _ = group_pca.find(views, whitenings, 2, 0)
        assert abs(np.corrcoef(found(views)[:, 0], common)[0, 1]) > 0.99


def test_multiview_ica_finds_sources_in_rows_it_never_saw():
    pytest.importorskip("multiviewica")
    from featprobe.fusion import multiview_ica

    rng = np.random.default_rng(0)
    hidden = rng.laplace(size=(800, 4))
    views = [hidden @ rng.standard_normal((4, 6)) + 0.05 * rng.standard_normal((800, 6)) for _ in range(3)]
    learnt = [X[:600] for X in views]
    whitenings = [components.Whitening.of(X, 4) for X in learnt]
    found, notes = multiview_ica.find(learnt, whitenings, 4, 0)
    assert notes == ()
    met = np.abs(np.corrcoef(found([X[600:] for X in views]).T, hidden[600:].T)[:4, 4:]).max(axis=1)
    assert (met > 0.95).all()
