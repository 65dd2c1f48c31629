"""The hinge loss over all C: semismooth Newton steps on the augmented Lagrangian of the dual, from strong to weak."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from featprobe.probes.solvers.svm_certificate import (
    Problem,
    Solution,
    balanced,
    certify,
    hinge_intercept,
    judge,
)
from featprobe.probes.solvers.svm_systems import LOOSE, Kernel, line_search, powers
from featprobe.records import FloatArray, IntArray

STIFFNESS: Final = 10.0
"""The first penalty of a value of C, in units of the largest dual variable. It grows by GROWTH: a stiff start makes
more Newton steps than it saves outer ones (measured: 1 to 1,000)."""

GROWTH: Final = 5.0
OUTER: Final = 40
IDLE: Final = 6
"""Outer steps without halving the gap, after which rounding has the word."""

INNER: Final = 100
POLISHES: Final = 3
EXACT: Final = 1e-6
"""Share of the target below which a solution counts as exact: the last step most often falls there of itself, since
the right rows give the optimum to rounding, and predictions at a gap of the target alone need not be libsvm's."""

TINY: Final = 1e-15
EVEN: Final = 1e-13


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """Where the walk stands: dual variables [N], Gram matrix times them [N], intercept, relative gap."""

    dual: FloatArray
    margin: FloatArray
    intercept: float
    gap: float = np.inf


@dataclass(slots=True, eq=False)
class Hinge:
    """One pair of classes, walked along C.

    The dual of one C is min 1/2 a'Qa - sum a over 0 <= a <= c, sign'a = 0 (Q the Gram matrix of signed rows). The
    method of multipliers adds |a - a0|^2 / (2 s); what is then left to minimise, over (w, b), is
    1/2 |w|^2 + sum psi(u), psi'(u) = clip(a0 + s u, 0, c), u = 1 - sign f: smooth, piecewise quadratic, strictly
    convex in w. Newton's steps with an exact line search end after finitely many, each a system the size of the
    rows that are neither at 0 nor at c (Li, Sun and Toh, SIAM Journal on Optimization 28, 2018, there for the
    lasso). w stays in the rows' span, w = sum beta_i sign_i x_i, so that everything is a product with Q.
    """

    problem: Problem
    kernel: Kernel
    past: list[tuple[float, Point]] = field(default_factory=list)

    @classmethod
    def of(cls, problem: Problem) -> Hinge:
        """Before the first C."""
        return cls(problem, Kernel.of(problem.rows, problem.sign))

    def solve(self, C: float, target: float) -> Solution:
        """The margin at C, which must lie above the C before; its gap is at most `target` where it can be."""
        if not self.past:
            for before in powers(C, 1 / (self.kernel.scale * float(self.problem.weight.sum()))):
                self._walk(before, LOOSE)
        point = self._walk(C, 0.5 * target)
        coef = (point.dual * self.problem.sign) @ self.problem.rows
        return certify(self.problem, C, "hinge", coef, point.dual)

    def _walk(self, C: float, target: float) -> Point:
        """The point at C, which the next C starts from."""
        cost = C * self.problem.weight
        point = self._guess(C, cost)
        point = self._polish(cost, point, target) if point.gap <= target else point
        if point.gap > EXACT * target:
            point = self._multipliers(cost, point, target)
        self.past = [*self.past[-1:], (C, point)]
        return point

    def _guess(self, C: float, cost: FloatArray) -> Point:
        """The best of three: the line through the last two solutions, the last one scaled, or as it was.

        Where all rows lie at their bounds the second is the solution, where none does the third, and while no row
        reaches or leaves a bound the first: the path is piecewise linear in C (Hastie et al., JMLR 5, 2004).
        """
        sign = self.problem.sign
        if not self.past:
            dual = balanced(cost, sign)
            margin = self.kernel.times(dual)
            square = float(dual @ margin)
            share = min(1.0, float(dual.sum()) / square) if square > 0 else 1.0  # the best multiple of it
            return self._point(cost, share * dual, share * margin)
        last, old = self.past[-1]
        guesses = [(old.dual, old.margin), (old.dual * (C / last), old.margin * (C / last))]
        if len(self.past) > 1:
            before, older = self.past[0]
            ahead = (C - last) / (last - before)
            guesses.append(
                (old.dual + ahead * (old.dual - older.dual), old.margin + ahead * (old.margin - older.margin))
            )
        points = []
        for guess, margin in guesses:
            dual = _evened(np.clip(guess, 0, cost), cost, sign)
            off = dual - guess
            off[np.abs(off) <= TINY * cost] = 0.0
            points.append(self._point(cost, dual, margin + self.kernel.times(off)))
        return min(points, key=lambda point: point.gap)

    def _point(self, cost: FloatArray, dual: FloatArray, margin: FloatArray) -> Point:
        """A feasible dual point, its product with the Gram matrix being `margin`, with its best b and its gap."""
        sign = self.problem.sign
        intercept = hinge_intercept(sign * margin, sign, cost)
        judged = judge(1 - margin - sign * intercept, dual, cost, float(dual @ margin))
        return Point(dual, margin, intercept, judged.gap)

    def _multipliers(self, cost: FloatArray, point: Point, target: float) -> Point:
        """The outer loop: better centres and stiffer penalties until the gap is small or no longer falls."""
        stiff = STIFFNESS * float(point.dual.max())
        best, at, idle = point, point, 0
        for _ in range(OUTER):
            dual, at, done = self._newton(cost, point.dual, stiff, at)
            even = _evened(dual, cost, self.problem.sign)
            point = self._polish(cost, self._point(cost, even, self.kernel.times(even)), target)
            idle = 0 if point.gap < 0.5 * best.gap else idle + 1
            enough = best.gap <= target  # before this step: one more is most often exact
            best = min(best, point, key=lambda one: one.gap)
            if enough or best.gap <= EXACT * target or idle > IDLE:
                break
            stiff *= GROWTH if done else 1 / GROWTH**2
        return best

    def _polish(self, cost: FloatArray, point: Point, target: float) -> Point:
        """Newton's step without penalty on the rows inside their bounds: exact once these are the right ones."""
        sign = self.problem.sign
        for _ in range(POLISHES):
            inside = _inside(point.dual, cost)
            if point.gap <= EXACT * target or not len(inside):
                break
            wrong = 1 - point.margin - sign * point.intercept
            change, _ = self._direction(inside, self.kernel.part(inside), 0.0, wrong[inside], 0.0)
            dual = point.dual.copy()
            dual[inside] += change
            dual = _evened(np.clip(dual, 0, cost), cost, sign)
            better = self._point(cost, dual, point.margin + self.kernel.times(dual - point.dual))
            if better.gap > 0.5 * point.gap:
                return min(point, better, key=lambda one: one.gap)
            point = better
        return point

    def _direction(
        self, inside: IntArray, part: FloatArray, ridge: float, wrong: FloatArray, balance: float
    ) -> tuple[FloatArray, float]:
        """Z [S], db of (Q + ridge) z - sign db = wrong, sign'z = balance, on the S rows `inside`."""
        sign = self.problem.sign[inside]
        both = self.kernel.solve(part, inside, ridge, np.column_stack([wrong, sign]))
        curvature = float(sign @ both[:, 1])
        move = (balance - float(sign @ both[:, 0])) / curvature if curvature > 0 else 0.0
        return both[:, 0] + move * both[:, 1], move

    def _newton(
        self, cost: FloatArray, centre: FloatArray, stiff: float, at: Point
    ) -> tuple[FloatArray, Point, bool]:
        """The inner loop: (new dual variables [N], where (w, b) stands, whether it came to its end)."""
        sign, kernel = self.problem.sign, self.kernel
        before: IntArray | None = None
        for _ in range(INNER):
            free = centre + stiff * (1 - at.margin - sign * at.intercept)
            dual = np.clip(free, 0, cost)
            inside = np.flatnonzero((free > 0) & (free < cost))
            if before is not None and np.array_equal(inside, before):
                return dual, at, True
            down, balance = dual - at.dual, float(sign @ dual)
            if len(inside):
                part = kernel.part(inside)
                z, move = self._direction(inside, part, 1 / stiff, kernel.product(part, down), balance)
                down[inside] -= z
            else:
                move = float(np.sign(balance) * np.abs(free).max() / stiff)
            product = kernel.times(down)
            turned = -product - sign * move
            t = line_search(
                free, stiff * turned, turned, cost, float(at.margin @ down), float(down @ product)
            )
            at = Point(at.dual + t * down, at.margin + t * product, at.intercept + t * move)
            before = inside if t == 1.0 else None
        return dual, at, False


def _inside(dual: FloatArray, cost: FloatArray) -> IntArray:
    return np.flatnonzero((dual > 0) & (dual < cost))


def _evened(dual: FloatArray, cost: FloatArray, sign: FloatArray) -> FloatArray:
    """`dual` [N] with equal sums in both classes, at the expense of rows inside their bounds where they can bear it."""
    inside = _inside(dual, cost)
    if len(inside):
        dual = dual.copy()
        dual[inside] -= sign[inside] * float(sign @ dual) / len(inside)
        dual = np.clip(dual, 0, cost)
    return balanced(dual, sign) if abs(float(sign @ dual)) > EVEN * float(dual.sum()) else dual
