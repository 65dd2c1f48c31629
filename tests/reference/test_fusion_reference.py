"""Fusing says what scikit-learn says, where scikit-learn has the method, and what a plain rendering of the paper says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import gmean
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from featprobe.fusion import Training, components, fuse, group_pca
from featprobe.probes import Rule
from featprobe.stages.fusing import Learn

WIDTHS = (10, 25)
C = 0.01


def data(classes, seed=0, rows=120):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) // 2 % classes
    hidden = np.eye(classes, 6)[y] + 0.8 * rng.standard_normal((rows, 6))
    turns = np.random.default_rng(9)
    return [hidden @ turns.standard_normal((6, w)) + rng.standard_normal((rows, w)) for w in WIDTHS], y


def cut(rows):
    """Five folds in which the two rows of a group stay together."""
    return list(GroupKFold(5).split(np.zeros(rows), groups=np.arange(rows) // 2))


def learnt(method, classes, rule):
    views, y = data(classes)
    folds = cut(len(y))
    learn = Learn("logistic", rule, "classes", tuple("abcde"[:classes]), 0)
    return fuse(method, views, Training(y, "classes", ("a", "b"), folds, folds, 0, learn)), views, y


def plain(strength):
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-11, max_iter=50_000))


def block(X, number):
    """One view of views side by side."""
    return np.split(X, [WIDTHS[0]], axis=1)[number]


def bases():
    cuts = [FunctionTransformer(block, kw_args={"number": number}) for number in (0, 1)]
    return [(str(number), make_pipeline(own, *plain(C))) for number, own in enumerate(cuts)]


@pytest.mark.parametrize("classes", [2, 3])
def test_stack_is_sklearns_stacking_with_grouped_folds(classes):
    found, views, y = learnt("stack", classes, Rule(grid=(C,)))
    new, _ = data(classes, seed=1)
    top = found.chosen["C of the stack"]
    sklearns = StackingClassifier(
        bases(), final_estimator=plain(top), cv=cut(len(y)), stack_method="decision_function"
    ).fit(np.hstack(views), y)
    np.testing.assert_allclose(found.predict(new), sklearns.predict_proba(np.hstack(new)), atol=1e-5)


def test_the_stacks_own_strength_is_chosen_by_grouped_folds_of_the_same_answers():
    found, views, y = learnt("stack", 2, Rule(grid=(C,)))
    folds = cut(len(y))
    said = np.column_stack(
        [cross_val_predict(plain(C), X, y, cv=folds, method="decision_function") for X in views]
    )
    for strength, score in found.model.top.scores.items():
        losses = [
            log_loss(y[held], plain(strength).fit(said[fit], y[fit]).predict_proba(said[held]))
            for fit, held in folds
        ]
        assert -np.mean(losses) == pytest.approx(score, abs=1e-6)


def test_base_probes_are_tuned_without_the_fold_that_they_answer_for():
    """The plain way: for each fold, two loops inside the others."""
    grid = (1e-4, 1e-2, 1.0)
    found, views, y = learnt("stack", 2, Rule(grid=grid, pick="best"))
    folds = cut(len(y))
    number = np.empty(len(y), dtype=int)
    for k, (_, held) in enumerate(folds):
        number[held] = k
    said = np.empty((len(y), 2))
    for k in range(5):
        rest = [j for j in range(5) if j != k]
        for column, X in enumerate(views):
            losses = {
                strength: np.mean(
                    [
                        log_loss(
                            y[number == j],
                            plain(strength)
                            .fit(X[(number != k) & (number != j)], y[(number != k) & (number != j)])
                            .predict_proba(X[number == j]),
                        )
                        for j in rest
                    ]
                )
                for strength in grid
            }
            chosen = min(losses, key=losses.__getitem__)
            model = plain(chosen).fit(X[number != k], y[number != k])
            said[number == k, column] = model.decision_function(X[number == k])
    top = plain(found.chosen["C of the stack"]).fit(said, y)
    new, _ = data(2, seed=1)
    own = np.column_stack(
        [
            plain(found.chosen[f"C of {name}"]).fit(X, y).decision_function(Z)
            for name, X, Z in zip(("a", "b"), views, new, strict=True)
        ]
    )
    np.testing.assert_allclose(found.predict(new), top.predict_proba(own), atol=1e-5)


def test_average_is_sklearns_soft_vote():
    found, views, y = learnt("average", 3, Rule(grid=(C,)))
    new, _ = data(3, seed=1)
    vote = VotingClassifier(bases(), voting="soft").fit(np.hstack(views), y)
    np.testing.assert_allclose(found.predict(new), vote.predict_proba(np.hstack(new)), atol=1e-6)


def test_geometric_average_is_the_normalised_geometric_mean():
    found, views, y = learnt("geometric-average", 3, Rule(grid=(C,)))
    new, _ = data(3, seed=1)
    each = [plain(C).fit(X, y).predict_proba(Z) for X, Z in zip(views, new, strict=True)]
    mean = gmean(each, axis=0)
    np.testing.assert_allclose(found.predict(new), mean / mean.sum(axis=1, keepdims=True), atol=1e-6)


def test_concat_is_one_regression_on_blocks_of_equal_variance():
    found, views, y = learnt("concat", 3, Rule(grid=(C,)))
    new, _ = data(3, seed=1)
    scalers = [StandardScaler().fit(X) for X in views]
    weights = [np.sqrt(np.mean(WIDTHS) / width) for width in WIDTHS]

    def side_by_side(own):
        return np.hstack([w * s.transform(X) for w, s, X in zip(weights, scalers, own, strict=True)])

    model = LogisticRegression(C=C, tol=1e-11, max_iter=50_000).fit(side_by_side(views), y)
    np.testing.assert_allclose(found.predict(new), model.predict_proba(side_by_side(new)), atol=1e-6)


@pytest.mark.parametrize("count", [3, 8])
def test_group_pca_is_pca_of_whitened_pcas(count):
    """mvlearn's GroupPCA(n_components=count, prewhiten=True, multiview_output=False), by scikit-learn; signs are free."""
    views, _ = data(3)
    new, _ = data(3, seed=1)
    first = [PCA(count, whiten=True, svd_solver="full").fit(X) for X in views]
    stacked = np.hstack([pca.transform(X) for pca, X in zip(first, views, strict=True)])
    second = PCA(count, svd_solver="full").fit(stacked)
    expected = second.transform(np.hstack([pca.transform(X) for pca, X in zip(first, new, strict=True)]))
    found, _ = group_pca.find(views, [components.Whitening.of(X, count) for X in views], count, 0)
    projected = found(new)
    signs = np.sign((projected * expected).sum(axis=0))
    np.testing.assert_allclose(projected * signs, expected, atol=1e-8)


def test_components_and_strength_are_chosen_together_by_the_plain_loop():
    grid, sizes = (1e-3, 1e-2, 1e-1), (4, 8)
    found, views, y = learnt("group-pca", 3, Rule(grid=grid))
    losses = {}
    for count in sizes:
        for strength in grid:
            each = []
            for fit, held in cut(len(y)):
                whitenings = [components.Whitening.of(X[fit], count) for X in views]
                project, _ = group_pca.find([X[fit] for X in views], whitenings, count, 0)
                Z, Z_held = (project([X[rows] for X in views]) for rows in (fit, held))
                each.append(log_loss(y[held], plain(strength).fit(Z, y[fit]).predict_proba(Z_held)))
            losses[count, strength] = np.mean(each)
    assert (found.chosen["components"], found.chosen["C"]) == min(losses, key=losses.__getitem__)


def test_multiview_ica_projects_training_rows_to_the_librarys_sources():
    multiviewica = pytest.importorskip("multiviewica")
    from featprobe.fusion import multiview_ica

    rng = np.random.default_rng(0)
    hidden = rng.laplace(size=(400, 3))
    views = [hidden @ rng.standard_normal((3, 5)) + 0.1 * rng.standard_normal((400, 5)) for _ in range(3)]
    first = [PCA(3, whiten=True, svd_solver="full").fit(X) for X in views]
    rows = np.stack([pca.transform(X).T for pca, X in zip(first, views, strict=True)])
    _, _, sources = multiviewica.multiviewica(rows, max_iter=multiview_ica.STEPS, random_state=0)
    found, _ = multiview_ica.find(views, [components.Whitening.of(X, 3) for X in views], 3, 0)
    match = np.abs(np.corrcoef(found(views).T, sources)[:3, 3:])
    np.testing.assert_allclose(np.sort(match.max(axis=1)), 1, atol=1e-4)
