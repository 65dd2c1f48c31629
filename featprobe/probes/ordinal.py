"""The proportional-odds model: one direction in the embedding along which ordered classes follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import OptimizeResult, minimize
from scipy.special import expit

from featprobe.errors import ConfigError
from featprobe.probes.contract import OWN, Fit, Parts, Rule
from featprobe.probes.paths import PathProbe, ScaledModel, Settings
from featprobe.records import AnyArray, FloatArray, IntArray
from featprobe.registry import PROBES

GRID: Final = tuple(float(c) for c in 10.0 ** np.arange(-6, 3.5, 0.5))

GAP: Final = 1e-8
"""The relative distance to the optimum that is certified."""

ITERATIONS: Final = 300
ROUNDS: Final = 4
"""Times that L-BFGS starts anew, with the curvature where it stopped."""


@dataclass(slots=True, eq=False)
class Cuts:
    """The cut points of one set of rows, for any direction: the inner, small part of the problem.

    Rows are sorted by class; `counts` int [P] of the P classes that occur. A row's value v lies in class j with
    probability F(cut_j - v) - F(cut_j-1 - v), F the logistic function (McCullagh, Regression models for ordinal data,
    JRSS B 42, 1980). In margin form, with a below b: log(F(b) - F(a)) = log F(b) + log F(-a) + log(1 - e^(a-b)): two
    binary losses and a term of the cuts alone, no difference of nearly equal numbers, convex (Burridge, JRSS B 43,
    1981), and infinite where cuts meet, which keeps them in order.
    """

    counts: IntArray
    at: FloatArray
    starts: IntArray

    @classmethod
    def of(cls, counts: IntArray) -> Cuts:
        """Starting from the cuts of values that are all 0."""
        ends = np.cumsum(counts)
        below = ends[:-1] / ends[-1]
        return cls(counts, np.log(below / (1 - below)), ends - counts)

    def _margins(self, values: FloatArray, cuts: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(upper cut less the value, of rows below the last class; value less the lower cut, of rows above the first)."""
        return (
            np.repeat(cuts, self.counts[:-1]) - values[: len(values) - self.counts[-1]],
            values[self.counts[0] :] - np.repeat(cuts, self.counts[1:]),
        )

    def loss(self, values: FloatArray, cuts: FloatArray) -> float:
        """Minus the log likelihood."""
        between = cuts[1:] - cuts[:-1]
        if not (between > 0).all():
            return np.inf
        up, low = self._margins(values, cuts)
        room = self.counts[1:-1] @ np.log(-np.expm1(-between))
        return float(np.logaddexp(0, -up).sum() + np.logaddexp(0, -low).sum() - room)

    def slopes(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(derivative of the loss, second derivative) by each value, [N], at the present cuts."""
        up, low = (expit(-margin) for margin in self._margins(values, self.at))
        slope, curve = np.zeros(len(values)), np.zeros(len(values))
        slope[: len(up)] += up
        curve[: len(up)] += up * (1 - up)
        slope[len(values) - len(low) :] -= low
        curve[len(values) - len(low) :] += low * (1 - low)
        return slope, curve

    def settle(self, values: FloatArray) -> tuple[float, float]:
        """Move the cuts to their optimum for these values, by Newton's method: (the loss there, what is left to gain)."""
        loss = self.loss(values, self.at)
        if loss > 2 * len(values) * np.log(
            len(self.counts)
        ):  # left far away by a step of the search: begin anew
            self.at = Cuts.of(self.counts).at + values.mean()
            loss = self.loss(values, self.at)
        gain = np.inf
        for _ in range(100):
            step, gain = self._step(values)
            if not np.isfinite(gain):
                return loss, np.inf
            if not gain > 1e-14 * loss:
                self.at = self.at + step  # one more, as its error is the square of this
                return loss, gain
            length = 1.0
            while (trial := self.loss(values, self.at + length * step)) > loss - 1e-4 * length * gain:
                length /= 2
                if length < 1e-12:
                    return loss, gain
            self.at, loss = self.at + length * step, trial
        return loss, gain

    def _step(self, values: FloatArray) -> tuple[FloatArray, float]:
        """(Newton's step, what it promises to gain)."""
        up, low = (expit(-margin) for margin in self._margins(values, self.at))
        above, below = self.starts[:-1], self.starts[1:] - self.counts[0]
        slope = np.add.reduceat(low, below) - np.add.reduceat(up, above)
        curve = np.add.reduceat(up * (1 - up), above) + np.add.reduceat(low * (1 - low), below)
        matrix = np.diag(curve)
        if len(slope) > 1:
            with np.errstate(over="ignore"):
                few = 1 / np.expm1(self.at[1:] - self.at[:-1])
            pull = self.counts[1:-1] * few
            slope[1:] -= pull
            slope[:-1] += pull
            stiff = np.diag(pull * (1 + few))
            matrix[1:, 1:] += stiff
            matrix[:-1, :-1] += stiff
            matrix[:-1, 1:] -= stiff
            matrix[1:, :-1] -= stiff
        # Cuts far from every row have next to no curvature: never none at all.
        matrix[np.diag_indices(len(slope))] += 1e-15 * matrix.max() + 1e-290
        with np.errstate(over="ignore", invalid="ignore"):
            step = -np.linalg.solve(matrix, slope)
            return step, float(-slope @ step)


@dataclass(frozen=True, slots=True, eq=False)
class OrdinalModel:
    """P(class <= j) = F(cut_j - X coef): `coef` [D], `cuts` [P - 1] of the classes `present` [P] of K.

    `gap`: the certified bound on the relative distance of the objective to its optimum.
    """

    coef: FloatArray
    cuts: FloatArray
    present: IntArray
    classes: int
    gap: float

    def predict(self, X: FloatArray) -> FloatArray:
        """[M, K], 0 for classes that did not occur."""
        margin = self.cuts - (X @ self.coef)[:, None]
        below = np.pad(expit(margin), ((0, 0), (0, 1)), constant_values=1.0)
        above = np.pad(expit(-margin), ((0, 0), (1, 0)), constant_values=1.0)
        room = np.pad(-np.expm1(-np.diff(self.cuts)), 1, constant_values=1.0)[: len(self.present)]
        result = np.zeros((len(X), self.classes))
        found = below * above * room
        result[:, self.present] = found / found.sum(axis=1, keepdims=True)
        return result


@dataclass(frozen=True, slots=True, eq=False)
class OrdinalPath:
    """One model for each C; NaN where its optimum is not certified."""

    models: tuple[OrdinalModel, ...]

    def predict(self, X: FloatArray) -> FloatArray:
        """[G, M, K]."""
        return np.array([model.predict(X) * (1.0 if model.gap <= GAP else np.nan) for model in self.models])

    def keep(self, place: int) -> OrdinalModel:
        """The model of one C."""
        return self.models[place]


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """Centred rows in their own basis: `rows` [N, R] = (X - centre) V, `values` [R] the sums of their squares.

    The penalised optimum lies in the span of the rows, so that R <= min(N, D) coordinates say all.
    """

    rows: FloatArray
    values: FloatArray
    turn: FloatArray
    centre: FloatArray

    @classmethod
    def of(cls, X: FloatArray) -> Basis:
        """By the eigenvectors of the covariance matrix, or of the Gram matrix where that is smaller."""
        centre = X.mean(axis=0)
        rows = X - centre
        few = len(rows) < rows.shape[1]
        values, vectors = eigh(rows @ rows.T if few else rows.T @ rows, check_finite=False)
        real = values > max(rows.shape) * np.finfo(np.float64).eps * max(values[-1], 0)
        values, vectors = values[real], vectors[:, real]
        if few:
            return cls(vectors * np.sqrt(values), values, rows.T @ (vectors / np.sqrt(values)), centre)
        return cls(rows @ vectors, values, vectors, centre)


def climb(basis: Basis, cuts: Cuts, start: FloatArray, C: float) -> tuple[FloatArray, float]:
    """(the optimum [R] of C loss + |w|^2 / 2 with the cuts at theirs, the certified relative gap).

    The objective as a function of w alone, its cuts settled, is convex with modulus 1, so that it lies at most
    |gradient|^2 / 2 above its least value. L-BFGS (scipy) works on coordinates that are scaled by the curvature
    1 + C h lambda of each, h the mean second derivative at the start.
    """
    best: list[tuple[float, FloatArray]] = [(np.inf, start)]

    def objective(z: FloatArray) -> tuple[float, FloatArray]:
        w = z * scale
        values = basis.rows @ w
        loss, rest = cuts.settle(values)
        whole = C * loss + 0.5 * float(w @ w)
        slope = C * (cuts.slopes(values)[0] @ basis.rows) + w
        gap = (0.5 * float(slope @ slope) + C * rest) / max(whole, np.finfo(np.float64).tiny)
        if gap < best[0][0]:
            best[0] = gap, w
        return whole, slope * scale

    def stop(intermediate_result: OptimizeResult) -> None:
        del intermediate_result
        if best[0][0] <= GAP:
            raise StopIteration

    for _ in range(ROUNDS):
        values = basis.rows @ best[0][1]
        cuts.settle(values)
        scale = 1 / np.sqrt(1 + C * cuts.slopes(values)[1].mean() * basis.values)
        minimize(
            objective,
            best[0][1] / scale,
            jac=True,
            method="L-BFGS-B",
            callback=stop,
            options={"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "ftol": 0.0, "gtol": 0.0, "maxcor": 20},
        )
        if best[0][0] <= GAP:
            break
    gap, w = best[0]
    cuts.settle(basis.rows @ w)
    return w, gap


class Ordinal(PathProbe):
    """Proportional odds with an L2 penalty on standardised embeddings."""

    name = "ordinal"
    describe = (
        "proportional-odds (cumulative logit) regression with an L2 penalty on standardised embeddings, C from 1e-6 to "
        "1e3 in half decades by validation log loss"
    )
    tasks = ("ordinal",)
    parameter = "C"
    grid = GRID

    def path(self, X: FloatArray, y: AnyArray, grid: Sequence[float], settings: Settings) -> OrdinalPath:
        """C * (minus log likelihood) + |w|^2 / 2, free cuts, from strong to weak penalties, each from the last optimum.

        Classes that do not occur have no room between cuts. Raises ConfigError for a C that is not above 0.
        """
        settings.only()
        if any(not 0 < C < np.inf for C in grid):
            raise ConfigError("C has to be a number above 0", f"given: {', '.join(f'{C:g}' for C in grid)}")
        present, code = np.unique(y, return_inverse=True)
        basis = Basis.of(X)
        order = np.argsort(code, kind="stable")
        sorted_basis = replace(basis, rows=basis.rows[order])
        models: dict[float, OrdinalModel] = {}
        w, cuts = np.zeros(len(basis.values)), Cuts.of(np.bincount(code))
        for C in sorted(set(grid)):
            gap = 0.0
            if len(present) > 1:
                w, gap = climb(sorted_basis, cuts, w, C)
            coef = basis.turn @ w
            models[C] = OrdinalModel(
                coef, cuts.at + basis.centre @ coef, present.astype(np.int64), settings.classes, gap
            )
        return OrdinalPath(tuple(models[C] for C in grid))

    def fit(
        self,
        X: FloatArray,
        y: AnyArray,
        *,
        selection: Parts,
        calibration: Parts,
        seed: int,
        label_names: Sequence[str] = (),
        task: str = "classes",
        rule: Rule = OWN,
    ) -> Fit:
        """See `PathProbe.fit`; a C whose optimum is not certified is not chosen, and a note says so."""
        model, chosen, scores, notes = super().fit(
            X,
            y,
            selection=selection,
            calibration=calibration,
            seed=seed,
            label_names=label_names,
            task=task,
            rule=rule,
        )
        grid = rule.grid or self.grid
        left = [C for C in grid if C not in scores] if len(grid) > 1 else []
        if left:
            listed = ", ".join(f"{C:g}" for C in left)
            notes = (*notes, f"while choosing C the fit did not converge at C = {listed}: not considered")
        assert isinstance(model, ScaledModel)
        assert isinstance(model.inner, OrdinalModel)
        if model.inner.gap > GAP:
            notes = (
                *notes,
                f"the final fit at C = {chosen['C']:g} may lie {model.inner.gap:.0e} (relative) above its optimum",
            )
        return model, chosen, scores, notes


PROBES.register("ordinal")(Ordinal())
