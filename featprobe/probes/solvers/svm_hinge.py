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
from featprobe.probes.solvers.svm_systems import LOOSE, Kernel, clipped, line_search, powers
from featprobe.records import FloatArray, IntArray

STIFFNESS: Final = 10.0
"""The first penalty of a value of C, in units of the largest dual variable. It grows by GROWTH: a stiff start makes
more Newton steps than it saves outer ones (measured: 1 to 1,000)."""

GROWTH: Final = 5.0
OUTER: Final = 40
IDLE: Final = 6
"""Outer steps without halving the gap, after which rounding has the word."""

DETOURS: Final = 6
"""Values of C in between that are walked at most to reach a far one."""

INNER: Final = 100
POLISHES: Final = 3
REFINEMENTS: Final = 3
EXACT: Final = 1e-6
"""Share of the target below which a solution counts as exact: the last step most often falls there of itself, since
the right rows give the optimum to rounding, and predictions at a gap of the target alone need not be libsvm's."""

SAME: Final = 1e-12
"""Gap at which the solution of the C before is taken as it is."""

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
        return self._refined(C, self._walk(C, 0.5 * target), target)

    def _refined(self, C: float, point: Point, target: float) -> Solution:
        """The point with its certificate, and at a huge C with the digits that a sum of huge terms has lost.

        w is of order 1 and a sum of terms of order C. Rows inside their bounds lie on the margin: what they are off
        it by is taken off w itself, which the dual point could not hold.
        """
        sign, rows = self.problem.sign, self.problem.rows
        coef = (point.dual * sign) @ rows
        best = certify(self.problem, C, "hinge", coef, point.dual)
        inside = _inside(point.dual, C * self.problem.weight)
        for _ in range(REFINEMENTS):
            if best.gap <= target or not len(inside):
                break
            wrong = 1 - sign[inside] * (rows[inside] @ coef + best.intercept)
            change, _ = self._direction(inside, self.kernel.part(inside), 0.0, wrong, 0.0)
            coef = coef + (change * sign[inside]) @ rows[inside]
            best = min(best, certify(self.problem, C, "hinge", coef, point.dual), key=lambda one: one.gap)
        return best

    def _walk(self, C: float, target: float, detours: int = DETOURS) -> Point:
        """The point at C, which the next C starts from; where the way was too far, by the geometric mean of both."""
        cost = C * self.problem.weight
        point = self._guess(C, cost)
        point = self._polish(cost, point, target) if point.gap <= target else point
        if point.gap > EXACT * target:
            point = self._multipliers(cost, point, target)
        if point.gap > LOOSE and self.past and detours:
            between = self._walk(float(np.sqrt(self.past[-1][0] * C)), LOOSE, detours - 1)
            if between.gap <= LOOSE:
                return self._walk(C, target, detours - 1)
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
        same = self._near(cost, old.dual, old.margin)
        if same.gap <= SAME:  # no row at its upper bound: the widest margin, whatever C
            return same
        times = C / last
        points = [same, self._near(cost, old.dual * times, old.margin * times)]
        if len(self.past) > 1:
            before, older = self.past[0]
            ahead = (C - last) / (last - before)
            dual, margin = (
                old.dual + ahead * (old.dual - older.dual),
                old.margin + ahead * (old.margin - older.margin),
            )
            points.append(self._near(cost, dual, margin))
        return min(points, key=lambda point: point.gap)

    def _near(self, cost: FloatArray, guess: FloatArray, margin: FloatArray) -> Point:
        """The feasible point beside `guess` [N], whose product with the Gram matrix is `margin`."""
        dual = _evened(clipped(guess, cost), cost, self.problem.sign)
        off = dual - guess
        off[np.abs(off) <= TINY * cost] = 0.0
        return self._point(cost, dual, margin + self.kernel.times(off))

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
            dual = _evened(clipped(dual, cost), cost, sign)
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
        right = np.empty((len(inside), 2), order="F")
        right[:, 0], right[:, 1] = wrong, sign
        both = self.kernel.solve(part, inside, ridge, right)
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
            dual = clipped(free, cost)
            inside = ((free > 0) & (free < cost)).nonzero()[0]
            if before is not None and np.array_equal(inside, before):
                return dual, at, True
            down, balance = dual - at.dual, float(sign @ dual)
            if len(inside):
                part = kernel.part(inside)
                z, move = self._direction(inside, part, 1 / stiff, kernel.product(part, down), balance)
                down[inside] -= z
            elif abs(balance) > EVEN * float(dual.sum()):
                move = float(np.sign(balance) * np.abs(free).max() / stiff)
            else:
                move = 0.0  # both classes at their bounds: any intercept between them will do
            product = kernel.times(down)
            turned = -product - sign * move
            t = line_search(
                free, stiff * turned, turned, cost, float(at.margin @ down), float(down @ product)
            )
            at = Point(at.dual + t * down, at.margin + t * product, at.intercept + t * move)
            before = inside if t == 1.0 else None
        return dual, at, False


def _inside(dual: FloatArray, cost: FloatArray) -> IntArray:
    return np.asarray(((dual > 0) & (dual < cost)).nonzero()[0])


def _evened(dual: FloatArray, cost: FloatArray, sign: FloatArray) -> FloatArray:
    """`dual` [N] with equal sums in both classes, at the expense of rows inside their bounds where they can bear it."""
    inside = _inside(dual, cost)
    if len(inside):
        dual = dual.copy()
        dual[inside] -= sign[inside] * float(sign @ dual) / len(inside)
        dual = clipped(dual, cost)
    return balanced(dual, sign) if abs(float(sign @ dual)) > EVEN * float(dual.sum()) else dual
