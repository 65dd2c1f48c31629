"""The linear support vector machine for every C of a grid at once, each solution with the bound that proves it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, Final

import numpy as np
from joblib import Parallel, delayed
from scipy.linalg import qr
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from featprobe.errors import listed
from featprobe.probes.solvers.inputs import InputError, need_finite
from featprobe.probes.solvers.logistic_path import DEFAULT_CS
from featprobe.probes.solvers.svm_certificate import Problem, Solution
from featprobe.probes.solvers.svm_hinge import Hinge
from featprobe.probes.solvers.svm_squared import Squared, squares
from featprobe.records import AnyArray, FloatArray, IntArray

LOSSES: Final = ("hinge", "squared_hinge")
Task = Callable[[], list[Solution]]


class SVMPath(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The linear support vector machine at each C of `Cs`, to a relative duality gap of at most `gap`.

    Objective 1/2 |w|^2 + C sum_i s_i max(0, 1 - y_i f_i)^p with f = w.x + b, b free, s the sample's weight times its
    class's. `loss` "hinge" (p = 1) is scikit-learn's `SVC(kernel="linear")`: one class against one for more than two,
    by vote. `loss` "squared_hinge" (p = 2): one class against the rest, `LinearSVC`'s loss with an intercept that is
    not penalised (s is each row's own, where `LinearSVC` weights the positive class alone for more than two). X is
    not scaled. `class_weight` as scikit-learn's: None, "balanced" (by counts) or a mapping. `n_jobs`: processes over
    the problems (pairs or classes), each with one BLAS thread (SciPy's LAPACK holds the interpreter: no threads).

    After `fit`, with P problems (1 for two classes, else K(K-1)/2 pairs in `SVC`'s order, or K) and G values of C in
    the order given: `coefs_` [G, P, D] and `intercepts_` [G, P], signs as in `SVC.coef_` and `LinearSVC.coef_`;
    `problem_objectives_`, `problem_gaps_` [G, P] (the gap as a share of the objective); `objectives_` [G] (sum over the
    problems), `gaps_` [G] (their worst), `converged_` [G] (whether it is at most `gap`), `classes_` [K]; `C_`, the value
    of `Cs` whose machine `predict` uses: the nearest to 1, in decades. `path_predict` has all of them.
    """

    def __init__(
        self,
        Cs: Sequence[float] = DEFAULT_CS,
        loss: str = "hinge",
        gap: float = 1e-6,
        class_weight: Mapping[Any, float] | str | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.Cs = Cs
        self.loss = loss
        self.gap = gap
        self.class_weight = class_weight
        self.n_jobs = n_jobs

    def fit(self, X: FloatArray, y: AnyArray, sample_weight: FloatArray | None = None) -> SVMPath:
        """Every C, from strong to weak. X float [N, D], y [N] of any labels, `sample_weight` [N], none negative.

        Rows of weight 0 are left out. Raises InputError (a ProbeError and a ValueError) for values that are not finite,
        parameters out of range, fewer than two classes. Warns (ConvergenceWarning) where a C is not certified.
        """
        values = _grid(self.Cs, self.gap, self.loss)
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_all_finite=False, ensure_min_samples=2)
        check_classification_targets(y)
        need_finite(X)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        kept = weight > 0
        X, y, weight = (X, y, weight) if kept.all() else (X[kept], y[kept], weight[kept])
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(
                "a support vector machine needs two classes",
                f"the {len(y)} rows of positive weight hold {len(self.classes_)} class",
            )
        by_class = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        if not (np.isfinite(by_class) & (by_class > 0)).all():
            raise InputError("class weights must be positive numbers", f"they are {by_class.tolist()}")
        weight = weight * by_class[codes]
        grid, places = np.unique(values, return_inverse=True)
        with threadpool_limits(limits=1, user_api="blas"):
            tasks = (_pairs if self.loss == "hinge" else _rests)(X, codes, weight, grid, float(self.gap))
            paths = Parallel(n_jobs=self.n_jobs)(delayed(task)() for task in tasks)
        self._keep([[path[place] for path in paths] for place in places])
        self._kept = int(np.abs(np.log(values)).argmin())
        self.C_ = float(values[self._kept])
        return self

    def _keep(self, table: list[list[Solution]]) -> None:
        """The solutions [G][P] as arrays."""

        def of(name: str) -> FloatArray:
            return np.array([[getattr(one, name) for one in row] for row in table], dtype=np.float64)

        self.coefs_, self.intercepts_ = of("coef"), of("intercept")
        self.problem_objectives_, self.problem_gaps_ = of("objective"), of("gap")
        self.objectives_, self.gaps_ = self.problem_objectives_.sum(axis=1), self.problem_gaps_.max(axis=1)
        self.converged_ = self.gaps_ <= self.gap
        if not self.converged_.all():
            missed = [
                f"{C:g} ({gap:.1e})"
                for C, gap, good in zip(self.Cs, self.gaps_, self.converged_, strict=True)
                if not good
            ]
            warnings.warn(
                f"the optimum is not certified to {self.gap:g} at C = {listed(missed)}",
                ConvergenceWarning,
                stacklevel=3,
            )

    def path_problem_values(self, X: FloatArray) -> FloatArray:
        """The values of each problem, float64 [G, M, P]; InputError for X [M, D] that is not finite."""
        return self._values(X, slice(None))

    def path_decision_function(self, X: FloatArray) -> FloatArray:
        """The decision values at each C, float64 [G, M, 1] for two classes (above 0: the second), else [G, M, K].

        For "hinge" and K > 2 as `SVC(decision_function_shape="ovr")`: votes plus a tie-breaking share of the values.
        """
        return self._decided(self.path_problem_values(X))

    def path_predict(self, X: FloatArray) -> AnyArray:
        """The class of each row at each C, [G, M]; for "hinge" that of most votes, the first of a tie, as `SVC`."""
        return self._guessed(self.path_problem_values(X))

    def decision_function(self, X: FloatArray) -> FloatArray:
        """`path_decision_function` at `C_`: [M] for two classes, else [M, K]."""
        values = self._decided(self._values(X, None))[0]
        return np.asarray(values[:, 0] if len(self.classes_) == 2 else values)

    def predict(self, X: FloatArray) -> AnyArray:
        """`path_predict` at `C_`, [M]."""
        return np.asarray(self._guessed(self._values(X, None))[0])

    def _values(self, X: FloatArray, places: slice | None) -> FloatArray:
        """The problems' values [G, M, P] at `places` of the grid (None: at `C_`)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False, ensure_all_finite=False)
        need_finite(X)
        some = slice(self._kept, self._kept + 1) if places is None else places
        pairs = zip(self.coefs_[some], self.intercepts_[some], strict=True)
        return np.stack([X @ coef.T + b for coef, b in pairs])

    def _decided(self, values: FloatArray) -> FloatArray:
        if self.loss == "hinge" and len(self.classes_) > 2:
            return one_vs_rest(values, len(self.classes_))
        return values

    def _guessed(self, values: FloatArray) -> AnyArray:
        if len(self.classes_) == 2:
            second = values[:, :, 0] >= 0 if self.loss == "hinge" else values[:, :, 0] > 0
            return np.asarray(self.classes_[second.astype(np.int64)])
        if self.loss == "hinge":
            values = votes(values, len(self.classes_))
        return np.asarray(self.classes_[values.argmax(axis=2)])


def _grid(Cs: Sequence[float], gap: float, loss: str) -> FloatArray:
    values = np.asarray(Cs, dtype=np.float64)
    if values.ndim != 1 or not values.size or not (np.isfinite(values) & (values > 0)).all():
        raise InputError(f"Cs {Cs!r} is no list of positive numbers")
    if not gap > 0:
        raise InputError(f"gap {gap!r} is not positive")
    if loss not in LOSSES:
        raise InputError(f"unknown loss {loss!r}", f"known: {', '.join(LOSSES)}")
    return values


def _pairs(X: FloatArray, codes: IntArray, weight: FloatArray, grid: FloatArray, gap: float) -> list[Task]:
    """One task for each pair of classes; of more than two the first is the positive one, of two the second."""
    count = int(codes.max()) + 1
    signs = [(1, 0)] if count == 2 else list(combinations(range(count), 2))
    return [partial(_pair, X, codes, weight, grid, gap, *pair) for pair in signs]


def _pair(
    X: FloatArray, codes: IntArray, weight: FloatArray, grid: FloatArray, gap: float, plus: int, minus: int
) -> list[Solution]:
    rows = np.flatnonzero((codes == plus) | (codes == minus))
    sign = np.where(codes[rows] == plus, 1.0, -1.0)
    part, mean = _centred(X if len(rows) == len(X) else X[rows], weight[rows])
    solver = Hinge.of(Problem(part, sign, weight[rows]))
    return [_moved(solver.solve(float(C), gap), mean) for C in grid]


def _rests(X: FloatArray, codes: IntArray, weight: FloatArray, grid: FloatArray, gap: float) -> list[Task]:
    """One task for each class against the rest; of two classes the second against the first.

    Where D > N the rows are turned into the N directions that they span: the optimum lies there (its w is a sum of
    rows), so that nothing is lost.
    """
    count = int(codes.max()) + 1
    rows, mean = _centred(X, weight)
    basis: FloatArray | None = None
    if rows.shape[0] < rows.shape[1]:
        found, turned = qr(rows.T, mode="economic", check_finite=False)
        basis, rows = np.asarray(found, dtype=np.float64), np.ascontiguousarray(turned.T, dtype=np.float64)
    data = _Turned(rows, weight, mean, basis, squares(rows, weight))
    return [partial(_rest, data, codes, grid, gap, k) for k in (range(1, 2) if count == 2 else range(count))]


@dataclass(frozen=True, slots=True, eq=False)
class _Turned:
    """Rows [N, R] in their own basis [D, R] (None: the columns as they came), and their `squares`."""

    rows: FloatArray
    weight: FloatArray
    mean: FloatArray
    basis: FloatArray | None
    whole: FloatArray


def _rest(data: _Turned, codes: IntArray, grid: FloatArray, gap: float, positive: int) -> list[Solution]:
    sign = np.where(codes == positive, 1.0, -1.0)
    solver = Squared.of(Problem(data.rows, sign, data.weight), data.whole)
    return [_moved(solver.solve(float(C), gap), data.mean, data.basis) for C in grid]


def _centred(X: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(X less its weighted mean, the mean): the intercept is free, so that this changes nothing but the rounding."""
    mean = np.average(X, axis=0, weights=weight)
    return X - mean, mean


def _moved(solution: Solution, mean: FloatArray, basis: FloatArray | None = None) -> Solution:
    """The solution for the rows as they came."""
    coef = solution.coef if basis is None else basis @ solution.coef
    return Solution(coef, solution.intercept - float(mean @ coef), solution.objective, solution.gap)


def votes(values: FloatArray, count: int) -> FloatArray:
    """Votes [..., K] of the pairs' values [..., P]: above 0 for the first class of the pair, else for the second."""
    result = np.zeros((*values.shape[:-1], count))
    for place, (first, second) in enumerate(combinations(range(count), 2)):
        won = values[..., place] > 0
        result[..., first] += won
        result[..., second] += ~won
    return result


def one_vs_rest(values: FloatArray, count: int) -> FloatArray:
    """scikit-learn's decision values [..., K] of the pairs' [..., P].

    Votes (0 counts for the first) plus t / (3 (|t| + 1)), t the sum of the class's values.
    """
    total = np.zeros((*values.shape[:-1], count))
    for place, (first, second) in enumerate(combinations(range(count), 2)):
        total[..., first] += values[..., place]
        total[..., second] -= values[..., place]
    return np.asarray(votes(values + (values == 0), count) + total / (3 * (np.abs(total) + 1)))
