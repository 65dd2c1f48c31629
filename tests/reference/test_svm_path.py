"""SVMPath against libsvm, liblinear and scipy, and its certificate against the dual written out plainly."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from joblib import parallel_config
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from featprobe import SVMPath
from featprobe.probes.solvers import svm_hinge, svm_squared
from featprobe.probes.solvers.svm_certificate import Problem
from featprobe.probes.solvers.svm_hinge import Hinge
from featprobe.probes.solvers.svm_squared import Squared, squares

CS = tuple(float(C) for C in 10.0 ** np.linspace(-6, 5, 12))
LOSSES = ("hinge", "squared_hinge")


def data(rows, columns, classes, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, columns)) * np.arange(1, columns + 1.0) ** -0.3
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    truth = X @ rng.standard_normal((columns, classes)) * 2 / np.sqrt(columns)
    return X, (truth + noise * rng.gumbel(size=truth.shape)).argmax(axis=1)


def objective(X, sign, w, b, C, power, weight=1.0):
    return 0.5 * w @ w + C * (weight * np.maximum(1 - sign * (X @ w + b), 0) ** power).sum()


def pairs(classes):
    """(positive, negative) in SVC's order; of two classes the second is the positive one."""
    if classes == 2:
        return [(1, 0)]
    return [(i, j) for i in range(classes) for j in range(i + 1, classes)]


SHAPES = {
    "fewer rows than columns, separable": (60, 120, 3, 0.2),
    "many rows, separable": (400, 20, 2, 0.01),
    "two classes": (250, 30, 2, 1.0),
    "noise, many rows": (700, 5, 3, 2.0),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_libsvm_finds_no_lower_hinge_objective_and_the_same_classes(shape):
    X, y = data(*shape[:3], noise=shape[3])
    new, _ = data(*shape[:3], noise=shape[3], seed=1)
    path = SVMPath(CS).fit(X, y)
    assert path.converged_.all()
    assert (path.gaps_ <= 1e-6).all()
    decided = path.path_problem_values(new)
    near, wrong = 0, 0
    for place, C in enumerate(CS[:8]):  # beyond, libsvm takes minutes where the classes overlap
        other = SVC(C=C, kernel="linear", tol=1e-9).fit(X, y)
        for problem, (plus, minus) in enumerate(pairs(shape[2])):
            rows = (y == plus) | (y == minus)
            sign = np.where(y[rows] == plus, 1.0, -1.0)
            own = objective(
                X[rows], sign, path.coefs_[place, problem], path.intercepts_[place, problem], C, 1
            )
            assert own == pytest.approx(path.problem_objectives_[place, problem], rel=1e-9)
            rival = objective(X[rows], sign, other.coef_[problem], other.intercept_[problem], C, 1)
            assert own <= rival * (1 + 1e-6)
        tie = (np.abs(decided[place]) < 1e-4).any(axis=1)
        near += int(tie.sum())
        wrong += int((path.path_predict(new)[place] != other.predict(new))[~tie].sum())
    assert wrong == 0
    assert near <= 0.01 * 8 * len(new)


def test_decision_values_are_svcs():
    X, y = data(200, 10, 4)
    path = SVMPath([0.01, 0.1]).fit(X, y)
    for C, own in zip(path.Cs, path.path_decision_function(X), strict=True):
        other = SVC(C=C, kernel="linear", tol=1e-10).fit(X, y)
        np.testing.assert_allclose(own, other.decision_function(X), atol=1e-6)
    np.testing.assert_array_equal(path.decision_function(X), path.path_decision_function(X)[1])
    np.testing.assert_array_equal(path.predict(X), path.path_predict(X)[1])
    assert path.C_ == 0.1


def scipys(X, sign, C, weight=1.0):
    """(w, b) of the squared hinge by L-BFGS, scaled so that its tolerances mean the same at every C."""
    scale = 1 / max(1.0, C * len(X))

    def value(point):
        over = np.maximum(1 - sign * (X @ point[:-1] + point[-1]), 0)
        slope = -2 * C * weight * over * sign
        gradient = np.append(point[:-1] + slope @ X, slope.sum())
        return scale * objective(X, sign, point[:-1], point[-1], C, 2, weight), scale * gradient

    options = {"maxiter": 1500, "maxfun": 3000, "ftol": 1e-16, "gtol": 1e-12}
    found = minimize(value, np.zeros(X.shape[1] + 1), jac=True, method="L-BFGS-B", options=options).x
    return found[:-1], found[-1]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_scipy_and_liblinear_find_no_lower_squared_objective(shape):
    X, y = data(*shape[:3], noise=shape[3])
    path = SVMPath(CS, loss="squared_hinge").fit(X, y)
    assert path.converged_.all()
    equal = 0
    for place, C in list(enumerate(CS))[::3]:
        for problem, target in enumerate([1] if shape[2] == 2 else range(shape[2])):
            sign = np.where(y == target, 1.0, -1.0)
            line = path.coefs_[place, problem], path.intercepts_[place, problem]
            own = objective(X, sign, *line, C, 2)
            assert own == pytest.approx(path.problem_objectives_[place, problem], rel=1e-9)
            rivals = [objective(X, sign, *scipys(X, sign, C), C, 2)]
            if C in CS[3:7]:  # the intercept that liblinear penalises is free once its column is long
                other = LinearSVC(C=C, dual=False, tol=1e-10, max_iter=5000, intercept_scaling=1e3)
                other.fit(X, y == target)
                rivals.append(objective(X, sign, other.coef_[0], other.intercept_[0], C, 2))
            assert own <= min(rivals) * (1 + 1e-6)
            equal += min(rivals) <= own * (1 + 1e-5)
    assert equal >= 2  # the rivals do get there where the problem is easy


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("C", [1e-3, 1.0, 1e4])
def test_the_gap_is_the_dual_written_out(loss, C):
    X, y = data(90, 20, 2)
    sign, weight = np.where(y == 1, 1.0, -1.0), np.random.default_rng(1).uniform(0.1, 2, len(y))
    problem = Problem(X, sign, weight)
    cost = C * weight
    if loss == "hinge":
        solver = Hinge.of(problem)
        found = solver.solve(C, 1e-2)
        dual, power = solver.past[-1][1].dual, 1
        value = dual.sum()
        assert (dual >= 0).all()
        assert (dual <= cost).all()
    else:
        found = Squared.of(problem, squares(X, weight)).solve(C, 1e-2)
        # Any feasible point bounds the optimum from below; that of the residuals is feasible where b is best.
        dual, power = 2 * cost * np.maximum(1 - sign * (X @ found.coef + found.intercept), 0), 2
        value = dual.sum() - (dual**2 / (4 * cost)).sum()
    assert abs(sign @ dual) < 1e-9 * dual.sum()
    v = (dual * sign) @ X
    primal = objective(X, sign, found.coef, found.intercept, C, power, weight)
    assert primal == pytest.approx(found.objective, rel=1e-12)
    assert found.gap <= 1e-2
    share = (primal - (value - 0.5 * v @ v)) / primal
    if loss == "hinge":
        assert found.gap == pytest.approx(share, rel=1e-6, abs=1e-9)
    assert found.gap <= share + 1e-9  # a better dual point may have been at hand


def test_class_and_sample_weights_are_svcs():
    X, y = data(200, 8, 3)
    weight = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    mapping = {0: 1.0, 1: 3.0, 2: 0.5}
    path = SVMPath([0.05], gap=1e-10, class_weight=mapping).fit(X, y, sample_weight=weight)
    other = SVC(C=0.05, kernel="linear", tol=1e-10, class_weight=mapping).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(path.coefs_[0], other.coef_, atol=1e-6)
    np.testing.assert_allclose(path.intercepts_[0], other.intercept_, atol=1e-6)
    np.testing.assert_allclose(
        SVMPath([0.05], gap=1e-10, class_weight="balanced").fit(X, y).coefs_[0],
        SVC(C=0.05, kernel="linear", tol=1e-10, class_weight="balanced").fit(X, y).coef_,
        atol=1e-6,
    )


def test_squared_weights_are_each_rows_own():
    X, y = data(200, 8, 2)
    weight = np.random.default_rng(0).uniform(0.1, 3, len(y))
    path = SVMPath([0.05, 5.0], "squared_hinge", gap=1e-12, class_weight={0: 2.0, 1: 0.7})
    path.fit(X, y, sample_weight=weight)
    sign = np.where(y == 1, 1.0, -1.0)
    for place, C in enumerate(path.Cs):
        w, b = scipys(X, sign, C, weight * np.where(y == 1, 0.7, 2.0))
        np.testing.assert_allclose(path.coefs_[place, 0], w, atol=1e-5)
        assert path.intercepts_[place, 0] == pytest.approx(b, abs=1e-5)


def test_digits_predict_what_libsvm_predicts():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    path = SVMPath([1e-3, 0.1, 10.0]).fit(X[::2], y[::2])
    assert path.converged_.all()
    values = path.path_problem_values(X[1::2])
    for C, own, value in zip(path.Cs, path.path_predict(X[1::2]), values, strict=True):
        other = SVC(C=C, kernel="linear", tol=1e-8).fit(X[::2], y[::2])
        sure = (np.abs(value) > 1e-6).all(axis=1)
        assert (~sure).sum() <= 1
        assert (own == other.predict(X[1::2]))[sure].all()


@pytest.mark.parametrize("loss", LOSSES)
class TestHardData:
    def test_columns_of_wild_scale_constant_and_twice(self, loss):
        X, y = data(250, 30, 3, noise=0.5)
        X = X * np.exp(np.random.default_rng(0).normal(0, 2, X.shape[1])) + 3
        X[:, 3] = 7.0
        X[:, 5] = X[:, 4]
        path = SVMPath(CS, loss).fit(X, y)
        assert path.converged_.all()
        large = np.abs(path.coefs_).max()
        np.testing.assert_allclose(path.coefs_[:, :, 3], 0, atol=1e-9 * large)
        np.testing.assert_allclose(path.coefs_[:, :, 5], path.coefs_[:, :, 4], atol=1e-9 * large)

    def test_a_class_with_one_member(self, loss):
        X, y = data(60, 80, 2, noise=0.1)
        path = SVMPath(CS, loss).fit(X, np.where(np.arange(60) == 7, 2, y))
        assert path.converged_.all()

    def test_rows_of_weight_zero_are_not_there(self, loss):
        X, y = data(90, 6, 3)
        kept = np.arange(90) % 4 != 0
        without = SVMPath([1.0], loss, gap=1e-12).fit(X[kept], y[kept])
        silent = SVMPath([1.0], loss, gap=1e-12).fit(X, y, sample_weight=kept.astype(float))
        np.testing.assert_array_equal(silent.coefs_, without.coefs_)

    @pytest.mark.parametrize("C", [1e-12, 1e8])
    def test_a_tiny_and_a_huge_c_alone(self, loss, C):
        for noise in (0.01, 2.0):
            path = SVMPath([C], loss).fit(*data(150, 10, 3, noise=noise))
            assert path.converged_.all()

    def test_far_apart_values_of_c(self, loss):
        X, y = data(120, 60, 4)
        far = SVMPath([1e-5, 1e4], loss).fit(X, y)
        near = SVMPath(CS, loss).fit(X, y)
        assert far.converged_.all()
        np.testing.assert_allclose(far.objectives_, near.objectives_[[1, 10]], rtol=2e-6)

    def test_the_same_rows_in_both_classes(self, loss):
        X, _ = data(40, 5, 2)
        path = SVMPath(CS, loss).fit(np.vstack([X, X]), np.repeat([0, 1], 40))
        assert path.converged_.all()
        np.testing.assert_allclose(path.coefs_, 0, atol=1e-9)

    def test_the_grid_comes_back_in_its_own_order(self, loss):
        X, y = data(90, 8, 3)
        mixed = SVMPath([10.0, 0.001, 10.0, 2.0], loss).fit(X, y)
        rising = SVMPath([0.001, 2.0, 10.0], loss).fit(X, y)
        np.testing.assert_array_equal(mixed.objectives_, rising.objectives_[[2, 0, 2, 1]])
        assert mixed.C_ == 2.0

    def test_jobs_change_nothing(self, loss):
        X, y = data(90, 8, 3)
        alone = SVMPath(CS[:3], loss).fit(X, y)
        with parallel_config(backend="threading"):
            two = SVMPath(CS[:3], loss, n_jobs=2).fit(X, y)
        np.testing.assert_array_equal(alone.coefs_, two.coefs_)

    def test_what_is_not_certified_is_said(self, loss, monkeypatch):
        monkeypatch.setattr(svm_hinge, "OUTER", 0)
        for name in ("NEWTON", "REFINEMENTS"):
            monkeypatch.setattr(svm_squared, name, 0)
        with pytest.warns(ConvergenceWarning, match=r"not certified to 1e-06 at C = .*0\.1 \("):
            path = SVMPath(CS, loss).fit(*data(90, 30, 3))
        assert not path.converged_.all()
        assert (path.gaps_[~path.converged_] > 1e-6).all()


def test_bad_input_is_said():
    X, y = data(30, 4, 2)
    for changes, words in (
        ({"Cs": []}, "no list of positive numbers"),
        ({"Cs": [0.0]}, "no list of positive numbers"),
        ({"gap": 0.0}, "gap"),
        ({"loss": "hing"}, "unknown loss 'hing'; known: hinge, squared_hinge"),
        ({"class_weight": {0: -1.0, 1: 1.0}}, "class weights must be positive"),
    ):
        with pytest.raises(ValueError, match=words):
            SVMPath(**changes).fit(X, y)
    with pytest.raises(ValueError, match="two classes"):
        SVMPath().fit(X, np.zeros(30))
    spoiled = X.copy()
    spoiled[[3, 8], 1] = np.nan
    with pytest.raises(ValueError, match=r"2 of 30 rows of X hold NaN.*rows 3, 8"):
        SVMPath().fit(spoiled, y)


@parametrize_with_checks([SVMPath(Cs=(0.01, 1.0), loss=loss) for loss in LOSSES])
def test_scikit_learns_own_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        check(estimator)
