"""The squared hinge over all C: Newton's steps on the rows inside the margin, from strong to weak."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from scipy.linalg import blas, lapack

from featprobe.probes.solvers.svm_certificate import Problem, Solution, certify
from featprobe.probes.solvers.svm_systems import LOOSE, cholesky, line_search, powers
from featprobe.records import FloatArray

NEWTON: Final = 60
REFINEMENTS: Final = 4
STIFF: Final = 1e-9
RIDGE: Final = 1e-14
NEAR: Final = 10.0
"""An estimated gap below so many targets is worth the exact one."""


@dataclass(slots=True, eq=False)
class Point:
    """Coefficients [D] and intercept, the scores [N] that they give the rows; the dual point [N] that they came from
    (None: from the residuals), and the rows inside the margin in the end [N].
    """

    coef: FloatArray
    intercept: float
    score: FloatArray
    dual: FloatArray | None = None
    active: FloatArray | None = None


@dataclass(slots=True, eq=False)
class Curvature:
    """The sums over the rows inside the margin that Newton's system is made of, kept up to date as rows come and go.

    `square` [D, D] = sum weight x x' (its lower triangle, in Fortran's order), `first` [D] = sum weight x, `total` =
    sum weight, `target` [D] = sum weight sign x, `balance` = sum weight sign.
    """

    problem: Problem
    active: FloatArray
    square: FloatArray
    first: FloatArray
    target: FloatArray
    total: float
    balance: float
    scale: float

    @classmethod
    def of(cls, problem: Problem, whole: FloatArray) -> Curvature:
        """With every row active; `whole` is `square` then, as `squares` makes it."""
        signed = problem.weight * problem.sign
        return cls(
            problem,
            np.ones(len(problem.rows), dtype=bool),
            whole.copy(order="F"),
            problem.weight @ problem.rows,
            signed @ problem.rows,
            float(problem.weight.sum()),
            float(signed.sum()),
            float(np.trace(whole) / problem.weight.sum()) or 1.0,
        )

    def move(self, active: FloatArray, *, afresh: bool = False) -> None:
        """To the rows `active` [N]: by the rows that changed, or from nothing where those are many."""
        changed = np.flatnonzero(active != self.active)
        if afresh or 2 * len(changed) > np.count_nonzero(active):
            self.square[:] = 0.0
            self.first[:] = self.target[:] = 0.0
            self.total = self.balance = 0.0
            self._add(np.flatnonzero(active), 1.0)
        else:
            self._add(changed[active[changed]], 1.0)
            self._add(changed[~active[changed]], -1.0)
        self.active = active.copy()

    def _add(self, some: FloatArray, times: float) -> None:
        if not len(some):
            return
        rows, weight = self.problem.rows[some], times * self.problem.weight[some]
        signed = weight * self.problem.sign[some]
        self.first += weight @ rows
        self.target += signed @ rows
        self.total += float(weight.sum())
        self.balance += float(signed.sum())
        self.square = squares(rows, np.abs(weight), self.square, times)

    def solve(self, C: float, target: FloatArray, balance: float) -> tuple[FloatArray, float]:
        """w, b of (1/(2C) + square) w + first b = target, first'w + total b = balance.

        The intercept is eliminated first, which leaves the covariance of the active rows about their own mean.
        """
        matrix = blas.dsyr(-1 / self.total, self.first, lower=1, a=self.square)
        diagonal = matrix.diagonal() + 1 / (2 * C)
        right = target - self.first * (balance / self.total)
        share = 0.0
        while share < 1:
            matrix.T.flat[:: len(matrix) + 1] = diagonal * (1 + share)
            factor, failed = lapack.dpotrf(matrix, lower=1, clean=0)
            if not failed:
                break
            share = max(10 * share, 1e-15)
        coef, _ = lapack.dpotrs(factor, right, lower=1)
        return coef, float((balance - self.first @ coef) / self.total)


def squares(
    rows: FloatArray, weight: FloatArray, onto: FloatArray | None = None, times: float = 1.0
) -> FloatArray:
    """Onto + times sum weight x x', the lower triangle [D, D] in Fortran's order; `onto` is overwritten."""
    scaled = rows * np.sqrt(weight)[:, None]
    if onto is None:
        return np.asarray(blas.dsyrk(1.0, scaled.T, lower=1))
    return np.asarray(blas.dsyrk(times, scaled.T, beta=1.0, c=onto, lower=1, overwrite_c=1))


@dataclass(slots=True, eq=False)
class Squared:
    """One class against another, or the rest, walked along C.

    The objective 1/2 |w|^2 + C sum weight max(0, 1 - sign f)^2 is smooth and piecewise quadratic: on a fixed set of
    rows inside the margin it is a ridge regression onto the signs, and Newton's steps with an exact line search end
    after finitely many (Keerthi and DeCoste, JMLR 6, 2005; Chapelle, Neural Computation 19, 2007).
    """

    problem: Problem
    curvature: Curvature
    past: list[tuple[float, Point]] = field(default_factory=list)

    @classmethod
    def of(cls, problem: Problem, whole: FloatArray) -> Squared:
        """Before the first C; `whole` is `squares` of all rows, which classes share."""
        return cls(problem, Curvature.of(problem, whole))

    def solve(self, C: float, target: float) -> Solution:
        """The margin at C, which must lie above the C before; its gap is at most `target` where it can be."""
        if not self.past:
            for before in powers(C, 1 / (self.curvature.scale * float(self.problem.weight.sum()))):
                self._walk(before, LOOSE)
        return self._walk(C, target)

    def _walk(self, C: float, target: float) -> Solution:
        """The margin at C, which the next C starts from."""
        at = self._guess(C)
        best: Solution | None = None
        for _ in range(NEWTON):
            active = self.problem.sign * at.score < 1
            if not active.any():  # a guess that went too far
                active = self.past[-1][1].active
            at, t = self._along(C, at, self._step(C, active))
            now = self.problem.sign * at.score < 1
            ended = t == 1.0 and np.array_equal(now, active)
            if ended or self._estimate(C, at, active, now) <= NEAR * target:
                found = certify(self.problem, C, "squared_hinge", at.coef, at.dual)
                best = found if best is None or found.gap < best.gap else best
                if best.gap <= target or ended:
                    break
        at.active = now
        self.past = [*self.past[-1:], (C, at)]
        if best is None or best.gap > target:
            best = self._refined(C, at, target, best)
        return best

    def _step(self, C: float, active: FloatArray) -> Point:
        """The optimum of ridge regression on the rows `active`, in the smaller of two spaces."""
        rows, weight = self.problem.rows, self.problem.weight
        some = np.flatnonzero(active)
        ridge = 1 / (2 * C)
        scale = float(self.curvature.scale)
        few = 2 * len(some) <= rows.shape[1] or (len(some) <= rows.shape[1] and ridge < STIFF * scale)
        if not few:
            self.curvature.move(active)
            coef, intercept = self.curvature.solve(C, self.curvature.target, self.curvature.balance)
            return Point(coef, intercept, rows @ coef + intercept)
        part, sign = rows[some], self.problem.sign[some]
        block = part @ part.T
        block.flat[:: len(block) + 1] += np.maximum(ridge / weight[some], RIDGE * scale)
        both = cholesky(block, np.column_stack([sign, np.ones(len(some))]))
        intercept = float(both[:, 0].sum() / both[:, 1].sum())
        beta = both[:, 0] - intercept * both[:, 1]
        coef = beta @ part
        dual = np.zeros(len(rows))
        dual[some] = np.maximum(beta * sign, 0)
        return Point(coef, intercept, rows @ coef + intercept, dual)

    def _refined(self, C: float, at: Point, target: float, best: Solution | None) -> Solution:
        """The system solved again for what is left of the slope, computed from the rows: gives rounding's digits back."""
        problem = self.problem
        found = best or certify(problem, C, "squared_hinge", at.coef, at.dual)
        for _ in range(REFINEMENTS):
            active = problem.sign * at.score < 1
            if found.gap <= target or not active.any():
                break
            self.curvature.move(active, afresh=True)
            left = np.where(active, problem.weight * (problem.sign - at.score), 0.0)
            more, shift = self.curvature.solve(C, left @ problem.rows - at.coef / (2 * C), float(left.sum()))
            coef, intercept = at.coef + more, at.intercept + shift
            at = Point(coef, intercept, problem.rows @ coef + intercept)
            found = min(found, certify(problem, C, "squared_hinge", at.coef, None), key=lambda one: one.gap)
        return found

    def _guess(self, C: float) -> Point:
        """The last solution, carried on along log C."""
        if not self.past:
            return Point(np.zeros(self.problem.rows.shape[1]), 0.0, np.zeros(len(self.problem.rows)))
        last, old = self.past[-1]
        if len(self.past) < 2:
            return old
        before, older = self.past[0]
        ahead = min(np.log(C / last) / np.log(last / before), 1.0)
        return Point(
            old.coef + ahead * (old.coef - older.coef),
            old.intercept + ahead * (old.intercept - older.intercept),
            old.score + ahead * (old.score - older.score),
        )

    def _along(self, C: float, at: Point, to: Point) -> tuple[Point, float]:
        """The best point on the line, and its step."""
        cost = 2 * C * self.problem.weight
        down, turned = to.coef - at.coef, self.problem.sign * (at.score - to.score)
        t = line_search(
            cost * (1 - self.problem.sign * at.score),
            cost * turned,
            turned,
            np.full(len(cost), np.inf),
            float(at.coef @ down),
            float(down @ down),
        )
        if t == 1.0:
            return to, t
        return Point(
            at.coef + t * down,
            at.intercept + t * (to.intercept - at.intercept),
            at.score + t * (to.score - at.score),
        ), t

    def _estimate(self, C: float, at: Point, active: FloatArray, now: FloatArray) -> float:
        """The relative gap of a full step, from the rows that it took across the margin alone.

        On the active rows the step is exact: w = 2 C sum weight sign (1 - sign f) x. The dual point sums over the rows
        inside the margin now, so that w - v is the sum over those that changed. The intercept is not looked at.
        """
        changed = np.flatnonzero(active != now)
        slack = self.problem.sign - at.score
        cost = C * self.problem.weight
        apart = (2 * cost[changed] * slack[changed]) @ self.problem.rows[changed]
        objective = 0.5 * float(at.coef @ at.coef) + float(cost[now] @ np.square(slack[now]))
        return 0.5 * float(apart @ apart) / objective
