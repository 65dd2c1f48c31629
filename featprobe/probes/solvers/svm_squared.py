"""The squared hinge over all C: Newton's steps on the rows inside the margin, from strong to weak."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas, lapack

from featprobe.probes.solvers.svm_certificate import Problem, Solution, certify
from featprobe.probes.solvers.svm_systems import LOOSE, cholesky, line_search, powers
from featprobe.records import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]

NEWTON: Final = 50
"""Newton's steps at one C, after which a value between it and the one before is walked first."""

DETOURS: Final = 8
SHORT: Final = 0.5
"""A first step shorter than this says that the guess was poor: the rows inside the margin before may be a better one."""

STUCK: Final = 0.1
BESIDE: Final = 1e-2
"""After a step shorter than STUCK the rows so near the margin count as inside: without them it goes too far again."""

REFINEMENTS: Final = 4
STIFF: Final = 1e-9
RIDGE: Final = 1e-14
NEAR: Final = 10.0
"""An estimated gap below so many targets is worth the exact one."""


@dataclass(slots=True, eq=False)
class Point:
    """Where the walk stands: coefficients [D] and intercept, and the scores [N] that they give the rows.

    `dual` [N]: the dual point that they came from (None: that of the residuals). `active` [N]: the rows that were
    inside the margin in the end (None: not yet there).
    """

    coef: FloatArray
    intercept: float
    score: FloatArray
    dual: FloatArray | None = None
    active: BoolArray | None = None


@dataclass(slots=True, eq=False)
class Curvature:
    """The sums over the rows inside the margin that Newton's system is made of, kept up to date as rows come and go.

    `square` [D, D] = sum weight x x' (its lower triangle, in Fortran's order), `first` [D] = sum weight x, `total` =
    sum weight, `target` [D] = sum weight sign x, `balance` = sum weight sign.
    """

    problem: Problem
    active: BoolArray
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

    def move(self, active: BoolArray, *, afresh: bool = False) -> None:
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

    def _add(self, some: IntArray, times: float) -> None:
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

    def _walk(self, C: float, target: float, detours: int = DETOURS) -> Solution:
        """The margin at C, which the next C starts from.

        Newton's steps from a guess that is far off can let in a few rows at a time. Where they do not arrive, the
        geometric mean of C and the C before is walked first.
        """
        at, found = self._newton(C, target)
        if found is None and self.past and detours:
            last = self.past[-1][0]
            between = self._walk(float(np.sqrt(last * C)), LOOSE, detours - 1)
            if between.gap <= LOOSE:
                return self._walk(C, target, detours - 1)
        self.past = [*self.past[-1:], (C, at)]
        return self._refined(C, at, target, found)

    def _newton(self, C: float, target: float) -> tuple[Point, Solution | None]:
        """(where the steps end, the best of what was certified on the way; None where they came to no end)."""
        at = self._guess(C)
        best: Solution | None = None
        t, beside = 1.0, BESIDE
        for turn in range(NEWTON):
            active = self._inside(at)
            if t < STUCK:
                active |= self.problem.sign * at.score < 1 + beside
            if not active.any():  # a guess that went too far
                active = self._before()
            moved, step = self._along(C, at, self._step(C, active))
            if t < STUCK and self._objective(C, moved) > self._objective(C, at):
                beside /= 100
                continue
            at, t = moved, step
            if turn == 0 and t < SHORT and self.past:
                other = self._step(C, self._before())
                at = min(at, other, key=lambda point: self._objective(C, point))
            now = self._inside(at)
            ended = t == 1.0 and np.array_equal(now, active)
            at.active = now if now.any() else active
            if ended or self._estimate(C, at, active, now) <= NEAR * target:
                found = certify(self.problem, C, "squared_hinge", at.coef, at.dual)
                best = found if best is None or found.gap < best.gap else best
                if best.gap <= target or ended:
                    break
        return at, best

    def _inside(self, at: Point) -> BoolArray:
        """The rows inside the margin, [N]; one that the point leans on is by less than rounding at a huge C."""
        inside = self.problem.sign * at.score < 1
        return np.asarray(inside if at.dual is None else inside | (at.dual > 0))

    def _before(self) -> BoolArray:
        """Those at the C before; all of them where there was none."""
        active = self.past[-1][1].active if self.past else None
        return np.ones(len(self.problem.rows), dtype=bool) if active is None else active

    def _objective(self, C: float, at: Point) -> float:
        over = np.maximum(1 - self.problem.sign * at.score, 0)
        return 0.5 * float(at.coef @ at.coef) + C * float(self.problem.weight @ np.square(over))

    def _step(self, C: float, active: BoolArray) -> Point:
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
            active = self._inside(at)
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

    def _estimate(self, C: float, at: Point, active: BoolArray, now: BoolArray) -> float:
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
