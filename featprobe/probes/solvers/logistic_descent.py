"""One regression walked along its values of C, asking for products with the data so that many can share them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from scipy.linalg import cho_solve

from featprobe.probes.solvers.logistic_certificate import best_intercept
from featprobe.probes.solvers.logistic_curvature import Blocks, Curvature, Shelf
from featprobe.probes.solvers.logistic_losses import Floats, Loss, flush
from featprobe.probes.solvers.logistic_newton import newton
from featprobe.probes.solvers.logistic_prediction import Point, predicted
from featprobe.records import FloatArray

FORWARD: Final = "forward"
BACKWARD: Final = "backward"
TURN: Final = "turn"
TURN_BACK: Final = "turn back"
MEASURE: Final = "measure"
FACTOR: Final = "factor"
PAUSE: Final = "pause"

Asking = Generator[tuple[str, Any], Any, Any]
"""(FORWARD, vector) -> logits [k, n]; (BACKWARD, residuals [k, n]) -> vector; (TURN, (rows [k, D], curvature)) ->
[k, r] along the eigenvectors, (TURN_BACK, the same) -> [k, D]; (MEASURE, row weights [n]) -> Curvature, in the
weights' precision; (FACTOR, (weights [k, n], C)) -> Blocks, in the weights' precision; (PAUSE, None) after each of `pauses`. A vector
holds k * D weights, row by row, and k intercepts. Its dtype is the precision in which the product is made."""

MEMORY: Final = 30
"""Pairs of a step and the loss's change of gradient that are kept; they stay true for every C."""

SPAN: Final = 4
"""Solutions in whose span the next one is looked for before the data are touched."""

STEPS: Final = 200
"""Iterations at one C and in one precision."""

STALL: Final = 15
"""Iterations in a row without a smaller gap, after which the digits at hand are used up."""

ANCHORS: Final = 2
"""Anchors in double precision at one C, after which Newton's method takes over."""

FACTOR_COST: Final = 18
"""Columns for which factoring the blocks costs what one iteration does: after columns / FACTOR_COST iterations at one C
it is worth its price (see `Blocks`)."""

FACTOR_ROOM: Final = 2
"""Blocks hold width * columns^2 numbers: they are not made where that is more than this many times the data's."""

FACTOR_ALWAYS: Final = 1 << 24
"""Numbers that blocks may hold whatever the data's size (128 MB in double precision): of few rows they are what certifies huge C."""

FACTOR_REACH: Final = 10.0
"""Ratio of C's up to which blocks that were factored at one serve the other."""

SEARCHES: Final = 30
"""Lengths that a line search tries: of a separable set the first can be far too long."""

SLOPE: Final = 0.3
"""A line search ends where the slope is this share of its start's."""


@dataclass(slots=True, eq=False)
class Descent:
    """L-BFGS (Nocedal 1980) on C * loss + |w|^2 / 2 along a path of C, from strong to weak regularisation.

    The inverse Hessian that it starts from is the exact one of a loss whose rows all bend alike: the Kronecker
    product of the classes' curvature (measured at every C) and the rows' covariance. Each C starts at the minimum
    over the span of the solutions before, which needs their logits only. `gap`: where to stop, relative to the
    objective; `logistic_certificate` proves that |gradient|^2 / 2 bounds the distance to the optimum.
    """

    loss: Loss
    Cs: Sequence[float]
    gap: float
    curvature: Curvature
    start: FloatArray
    columns: int
    single: bool = True
    exact: bool = False
    """Whether every product is double precision's: for the few solutions that anchors do not reach."""
    rows: int = 0
    shelf: Shelf = field(default_factory=Shelf)
    pauses: frozenset[int] = frozenset()
    solutions: list[FloatArray] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    _pairs: deque[tuple[FloatArray, FloatArray, float, float]] = field(init=False)
    _classes: tuple[FloatArray, FloatArray] = field(init=False)
    _anchor: tuple[FloatArray, FloatArray] | None = None
    _stiff: bool = False
    """Whether L-BFGS was too slow at some C: from there on it is Newton's method."""

    def __post_init__(self) -> None:
        # A pair costs two vectors; together they should not outweigh the data.
        self._pairs = deque(maxlen=MEMORY if self.loss.width <= 32 else MEMORY // 2)

    @property
    def weights(self) -> int:
        """How many of a vector's numbers are penalised."""
        return self.loss.width * self.columns

    def walk(self) -> Asking:
        """Every C in turn; the vectors that were found are appended to `solutions`."""
        if self.single:
            logits = yield (FORWARD, self.start.astype(np.float32))
            point = yield from self._at(self.start, logits.astype(np.float64))
        else:
            point = yield from self._anchored(self.start)
        recent: deque[Point] = deque(maxlen=SPAN)
        for C in self.Cs:
            if len(recent) > 1:
                vector, logits = predicted(self.loss, self.gap, self.weights, C, list(recent))
                # With anchors `_solve` makes its own there.
                point = (
                    (yield from self._at(vector, logits)) if self.single else replace(point, vector=vector)
                )
            single = self.single
            point = yield from self._solve(C, point)
            self.solutions.append(point.vector)
            if single and not self.single:
                recent.clear()  # their logits are single precision's
            recent.append(point)
            if len(self.solutions) in self.pauses:
                yield (PAUSE, None)

    def _precise(self, values: Floats) -> Floats:
        return values.astype(np.float32 if self.single else np.float64, copy=False)

    def _at(
        self, vector: FloatArray, logits: FloatArray, value: tuple[FloatArray, Floats] | None = None
    ) -> Asking:
        """The point there; `value`: the loss's, where it is known."""
        if self.exact:
            # The certificate is judged at the best intercepts: a gradient elsewhere can be far smaller than there.
            shift = best_intercept(self.loss, logits)[0]
            vector, logits, value = vector.copy(), logits + shift[:, None], None
            vector[self.weights :] += shift
        losses, probabilities = value or self.loss.value(logits, single=self.single)
        residual = self.loss.residual(probabilities)
        if self._anchor is None:
            slope = (yield (BACKWARD, residual)).astype(np.float64)
            if not self.single and not self.exact:
                self._anchor = residual.astype(np.float64, copy=False), slope
        else:
            before, slope = self._anchor
            slope = slope + (yield (BACKWARD, flush((residual - before).astype(np.float32))))
        return Point(vector, logits, losses, probabilities, slope)

    def _anchored(self, vector: FloatArray) -> Asking:
        """The point at `vector` in double precision, from which single precision then measures differences."""
        self._anchor = None
        logits = yield (FORWARD, vector)
        return (yield from self._at(vector, logits))

    # -- what is minimised ----------------------------------------------------------------------------------

    def objectives(self, C: float, point: Point) -> FloatArray:
        """One for softmax, one per column of sigmoids."""
        return C * point.losses + self._per_part(np.square(point.vector[: self.weights])) / 2

    def _per_part(self, values: FloatArray) -> FloatArray:
        """Sums of [k * D] numbers over what belongs together: all, or each column of sigmoids."""
        return (
            np.array([values.sum()]) if self.loss.coupled else values.reshape(self.loss.width, -1).sum(axis=1)
        )

    def gradient(self, C: float, point: Point) -> FloatArray:
        """Of C * loss + |w|^2 / 2, in the shape of a vector."""
        found = C * point.slope
        found[: self.weights] += point.vector[: self.weights]
        return found

    def distance(self, C: float, point: Point) -> float:
        """The largest relative gap of the parts, the intercepts' share by their own curvature."""
        return self.measured(C, point, self.gradient(C, point))

    def measured(self, C: float, point: Point, gradient: FloatArray) -> float:
        """The same of another gradient there, of what a Newton step leaves of it."""
        gaps = self._per_part(np.square(gradient[: self.weights])) / 2
        bend = np.maximum(C * np.diag(self.loss.curvature(point.probabilities)), 1e-300)
        free = np.square(gradient[self.weights :]) / bend
        gaps = gaps + (free.sum() if self.loss.coupled else free)
        return float((gaps / np.maximum(self.objectives(C, point), 1e-300)).max())

    # -- one C -----------------------------------------------------------------------------------------------

    def _solve(self, C: float, point: Point) -> Asking:
        """The optimum at C from `point`: in single precision while that has digits, then from anchors in double.

        An anchor is a point whose logits and gradient are double precision's; near it both are the anchor's plus a
        product of a small difference, which single precision holds to as many digits as the difference is small.
        """
        steps, anchors = 0, 0
        if not self.single:
            point = yield from self._anchored(point.vector)
        while not self._stiff:
            point, distance, count, idle = yield from self._descend(C, point)
            steps += count
            if distance <= self.gap and not (self.single or self.exact) and count > 1:
                # Many small products add up: what they come to is measured from a new anchor.
                point = yield from self._anchored(point.vector)
                distance = self.distance(C, point)
                if distance > self.gap and anchors < ANCHORS:
                    anchors += 1
                    continue
            if distance <= self.gap:
                break
            anchors += 1
            if self.single:
                self.single = False
                # What was learnt of the curvature near single precision's end is rounding.
                for _ in range(min(idle + 2, len(self._pairs))):
                    self._pairs.pop()
                self.curvature = yield (
                    MEASURE,
                    self.loss.bends(point.probabilities).sum(axis=0).astype(np.float64),
                )
            elif anchors > ANCHORS:
                self._stiff = True  # and so will be every larger C
                break
            point = yield from self._anchored(point.vector)
        if self._stiff:
            point, count = yield from self._newton(C, point)
            steps += count
        self.iterations.append(steps)
        return point

    def _newton(self, C: float, point: Point) -> Asking:
        """(the point, steps) that Newton's method comes to, with every product in double precision."""
        exact, self.exact = self.exact, True
        found = yield from newton(self, C, (yield from self._anchored(point.vector)))
        self.exact = exact
        return found

    def _descend(self, C: float, point: Point) -> Asking:
        """(the point, its gap, iterations, those in vain at the end) where the gap is reached or moves no more."""
        best, idle, count, patience = np.inf, 0, 0, max(12, self.columns // FACTOR_COST)
        self.measure_classes(point)
        while (distance := self.distance(C, point)) > self.gap and count < STEPS and idle < STALL:
            best, idle = (distance, 0) if distance < 0.9 * best else (best, idle + 1)
            moved = yield from self._step(C, point)
            if moved is None:
                break
            point = moved
            count += 1
            if count % patience == 0 and self.roomy:
                yield from self.factor(C, point)
        return point, distance, count, idle

    def measure_classes(self, point: Point) -> None:
        """Take the classes' curvature at the point for what `whitened` starts from."""
        bend = self.loss.curvature(point.probabilities)
        if self.loss.coupled:
            # Softmax does not feel what all classes share: there the penalty alone bends, exactly. Lifted above
            # all others, that direction comes out with all its digits.
            bend = bend + 2 * np.trace(bend) / len(bend)
        values, vectors = np.linalg.eigh(bend)
        if self.loss.coupled:
            values[-1] = 0
        self._classes = np.maximum(values, 0), vectors

    def _step(self, C: float, point: Point) -> Asking:
        """The next point, or None where no step goes down in this precision."""
        gradient = self.gradient(C, point)
        direction = yield from self._direction(C, gradient)
        falling = gradient @ direction
        if not falling < 0:
            self._pairs.clear()
            direction = yield from self._direction(C, gradient)
            falling = gradient @ direction
        moved = yield from self.moved(C, point, direction, falling)
        if moved is None:
            return None
        s, change = moved.vector - point.vector, moved.slope - point.slope
        bend, own = float(s @ change), float(np.square(s[: self.weights]).sum())
        if C * bend + own > 0:
            self._pairs.append((s, change, bend, own))
        return moved

    def bent(self, C: float, point: Point, along: FloatArray) -> Asking:
        """The Hessian at the point, times `along`."""
        moved = yield (FORWARD, along)
        found = C * (yield (BACKWARD, self.loss.bend(point.probabilities, moved)))
        found[: self.weights] += along[: self.weights]
        return found

    def moved(self, C: float, point: Point, direction: FloatArray, falling: float) -> Asking:
        """The point that the line search finds along `direction`, None where nothing goes down."""
        along = (yield (FORWARD, direction if self.exact else direction.astype(np.float32))).astype(
            np.float64
        )
        searched = self._search(C, point, direction, along, falling)
        return None if searched is None else (yield from self._at(*searched))

    def _direction(self, C: float, gradient: FloatArray) -> Asking:
        """The two-loop recursion, with y = C * change + s in the penalised numbers."""
        q, shares, held = gradient.copy(), [], self.weights
        for s, change, bend, own in reversed(self._pairs):
            share = float(s @ q) / (C * bend + own)
            shares.append(share)
            q -= (share * C) * change
            q[:held] -= share * s[:held]
        q = yield from self.whitened(C, q)
        for (s, change, bend, own), share in zip(self._pairs, reversed(shares), strict=True):
            found = (C * float(change @ q) + float(s[:held] @ q[:held])) / (C * bend + own)
            q += (share - found) * s
        if self.loss.coupled:
            q[held:] -= q[held:].mean()  # nothing says where the intercepts lie together: they stay
        return -q

    def whitened(self, C: float, q: FloatArray, blocks: Blocks | None = None) -> Asking:
        """The inverse of (C * classes' curvature x rows' covariance + 1), times q."""
        blocks = blocks or self.blocks(C)
        if blocks is not None:
            return self._by_blocks(blocks, C, q)
        bends, classes = self._classes
        dtype = self.curvature.vectors.dtype
        rows = (classes.T @ q[: self.weights].reshape(self.loss.width, -1)).astype(dtype)
        turned = yield (TURN, (rows, self.curvature))
        along = 1 / (1 + C * bends[:, None] * self.curvature.values)
        if self.curvature.vectors.shape[1] < self.columns:
            rest = (1 / (1 + C * bends * self.curvature.rest))[:, None]
            back = yield (TURN_BACK, ((turned * (along - rest)).astype(dtype), self.curvature))
            back = back + rest * rows
        else:
            back = yield (TURN_BACK, ((turned * along).astype(dtype), self.curvature))
        found = classes @ back
        felt = bends > 1e-9 * bends.max()
        free = classes[:, felt] @ ((classes.T @ q[self.weights :])[felt] / (C * bends[felt]))
        return np.concatenate([found.reshape(-1), free])

    def blocks(self, C: float) -> Blocks | None:
        """Those on the shelf, where they serve this C and this precision."""
        found = self.shelf.blocks.get(self.loss.width)
        if found is None or not 1 / FACTOR_REACH <= C / found.C <= FACTOR_REACH:
            return None
        return found if self.single or found.factors[0].dtype == np.float64 else None

    @property
    def roomy(self) -> bool:
        """Whether blocks may be made: width * columns^2 numbers."""
        room = max(FACTOR_ROOM * self.rows * self.columns, FACTOR_ALWAYS)
        return self.loss.width * self.columns**2 <= room

    def factor(self, C: float, point: Point) -> Asking:
        """The blocks at the point, left on the shelf and returned."""
        made: Blocks = yield (FACTOR, (self._precise(self.loss.bends(point.probabilities)), C))
        self.shelf.blocks[self.loss.width] = made
        return made

    def _by_blocks(self, blocks: Blocks, C: float, q: FloatArray) -> FloatArray:
        """The same by the blocks: P B^-1 P q, and q itself in what softmax does not feel."""
        held, width = self.weights, self.loss.width
        rows = np.hstack([q[:held].reshape(width, -1), q[held:, None]])
        shared = rows.mean(axis=0) if self.loss.coupled else np.zeros(rows.shape[1])
        rows -= shared
        dtype = blocks.factors[0].dtype
        found = np.stack(
            [
                cho_solve((factor, True), row.astype(dtype), check_finite=False)
                for factor, row in zip(blocks.factors, rows, strict=True)
            ]
        ).astype(np.float64)
        found *= blocks.C / C  # what bends grows with C; what does not is left to the pairs
        if self.loss.coupled:
            found -= found.mean(axis=0)
            shared[-1] = 0
        found += shared
        return np.concatenate([found[:, :-1].reshape(-1), found[:, -1]])

    def _search(
        self, C: float, point: Point, direction: FloatArray, along: FloatArray, falling: float
    ) -> tuple[FloatArray, FloatArray, tuple[FloatArray, Floats] | None] | None:
        """(vector, logits, the loss's value) at a step length where the slope has all but gone, by Newton's method in one dimension."""
        held = self.weights
        inner = float(point.vector[:held] @ direction[:held])
        square = float(direction[:held] @ direction[:held])
        low, high, length = 0.0, np.inf, 1.0
        moved = self._precise(along)
        for _ in range(SEARCHES):
            logits = point.logits + length * along
            value = self.loss.value(logits, single=self.single)
            probabilities = value[1]
            slope = C * float(np.vdot(self.loss.residual(probabilities), moved)) + inner + length * square
            if abs(slope) <= SLOPE * abs(falling):
                return point.vector + length * direction, logits, value
            low, high = (low, length) if slope > 0 else (length, high)
            bend = C * float(np.vdot(self.loss.bend(probabilities, moved), moved)) + square
            length = min(length - slope / bend if bend > 0 else 10 * length, 10 * length)
            if not low < length < high:
                length = (low + min(high, 10 * max(low, 0.1))) / 2
        return None if low == 0 else (point.vector + low * direction, point.logits + low * along, None)
