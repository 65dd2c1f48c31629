"""The choice of C: every regression that it needs, of all parts and labels, walked over the grid together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed, parallel_config
from scipy.special import expit, logit, softmax

from featprobe.probes.choosing import TIE, score
from featprobe.probes.scaling import deviation
from featprobe.probes.solvers.logistic_certificate import Certificate
from featprobe.probes.solvers.logistic_curvature import Rows
from featprobe.probes.solvers.logistic_engine import Task, polish, solve
from featprobe.probes.solvers.logistic_losses import Loss, Sigmoids, Softmax
from featprobe.probes.weighing import row_weights
from featprobe.records import AnyArray, FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]

PATIENCE: Final = 4
"""Values of C in a row (two decades) with a worse validation loss after which weaker ones are not tried."""

SEARCHING: Final = 1e-8
"""Duality gap, relative to the objective, while C is chosen: validation losses then hold to 1e-5, far below TIE."""

FINAL: Final = 1e-13
"""The same for the fit that is kept: probabilities then agree with any other exact solver's to 1e-6."""


@dataclass(slots=True, eq=False)
class Part:
    """One regression that is fitted: to which rows, which of the labels, and what the held-out rows say of it.

    `labels`: columns of y (one target of classes: empty). `classes`: those that its rows hold. `scores` [labels or
    1, values of C], NaN where not yet judged.
    """

    task: Task
    fit: IntArray
    held: IntArray
    labels: IntArray
    classes: IntArray
    scores: FloatArray
    usable: BoolArray


@dataclass(slots=True, eq=False)
class Search:
    """Every regression that the choice of C needs, walked together over the grid."""

    X: FloatArray
    y: AnyArray
    kind: str
    grid: Sequence[float]
    scoring: str
    gap: float = SEARCHING
    balanced: bool = False
    rows: Rows = field(init=False)
    parts: list[Part] = field(default_factory=list)
    walked: int = 0

    def __post_init__(self) -> None:
        # Common to all parts; each part's own scale and centre are undone and made inside the products.
        scale = deviation(self.X) if self.kind == "standard" else np.ones(self.X.shape[1])
        # The median of some rows: single precision keeps its digits even where others lie far away.
        some = self.X[:: max(1, len(self.X) // 1000)]
        self.rows = Rows(self.X, np.median(some, axis=0), scale)

    def add(self, fit: IntArray, held: IntArray, labels: IntArray) -> Part:
        """A regression on the rows `fit` that is walked; `labels` are known in all of them and of `held`."""
        part = self.part(fit, held, labels)
        self.parts.append(part)
        return part

    def part(self, fit: IntArray, held: IntArray, labels: IntArray) -> Part:
        """As `add`, for a regression that is not walked: `keep` fits it at the C that is chosen."""
        columns, n = self.X.shape[1], len(self.X)
        scale = deviation(self.X[fit]) if self.kind == "standard" else np.ones(columns)
        truth = self.y[fit]
        known = truth[:, labels] if len(labels) else truth
        weights = np.zeros((n, *known.shape[1:]))
        weights[fit] = row_weights(known) if self.balanced else 1.0
        if len(labels):
            usable = (truth[:, labels] == 0).any(axis=0) & (truth[:, labels] == 1).any(axis=0)
            classes = np.arange(2)
            # A label with one value has no optimum: it weighs nothing here and is not judged.
            loss: Softmax | Sigmoids = Sigmoids(
                (self.y[:, labels] == 1).astype(float), weights * usable, len(labels)
            )
            share = np.where(usable & (not self.balanced), known.mean(axis=0), 0.5)
            intercept = logit(share)
        else:
            classes, counts = np.unique(truth, return_counts=True)
            usable = np.array([len(classes) > 1])
            codes = np.clip(np.searchsorted(classes, self.y), 0, len(classes) - 1)
            share = np.full(len(counts), 1 / len(counts)) if self.balanced else counts / counts.sum()
            if len(classes) == 2:
                loss = Sigmoids((codes == 1).astype(float)[:, None], weights[:, None], 1)
                intercept = logit(share[1:])
            else:
                loss = Softmax(codes, weights, len(classes))
                intercept = np.log(share)
        start = np.concatenate([np.zeros(loss.width * columns), intercept])
        return Part(
            Task(loss, scale, start),
            fit,
            held,
            labels,
            classes,
            np.full((max(1, len(labels)), len(self.grid)), np.nan),
            usable,
        )

    def run(self, *, patient: bool, jobs: int) -> None:
        """Walk the grid; `patient` leaves it where all have got worse for PATIENCE values (in one process)."""
        if jobs > 1 and not patient and len(self.parts) > 1:
            self._run_apart(min(jobs, len(self.parts)))
            return
        pauses = range(PATIENCE + 4, len(self.grid), 2) if patient else ()
        self.walked = solve(
            self.rows,
            [part.task for part in self.parts],
            self.grid,
            gap=self.gap,
            seen=self._seen,
            pauses=pauses,
            enough=self._enough if patient else None,
        )

    def _run_apart(self, jobs: int) -> None:
        """Every `jobs`-th part in a process of its own: threads would wait for one another's small steps."""
        groups = [self.parts[start::jobs] for start in range(jobs)]
        asked = [[(part.fit, part.held, part.labels) for part in group] for group in groups]
        what = (self.X, self.y, self.kind, self.grid, self.scoring, self.gap, self.balanced)
        with parallel_config(backend="loky", n_jobs=jobs, inner_max_num_threads=1):
            done = Parallel()(delayed(_walked)(what, some) for some in asked)
        for group, found in zip(groups, done, strict=True):
            for part, (solved, iterations, scores) in zip(group, found, strict=True):
                part.task.solved, part.task.iterations, part.scores = solved, iterations, scores
        self.walked = len(self.grid)

    def _seen(self, number: int, place: int, logits: FloatArray) -> None:
        part = self.parts[number]
        if not len(part.held):
            return
        values = logits[:, part.held]
        truth = self.y[part.held]
        judge = score(self.scoring)
        if len(part.labels):
            for row in np.flatnonzero(part.usable).tolist():
                one = truth[:, [part.labels[row]]]
                part.scores[row, place] = judge(one, expit(values[row])[None, :, None])[0]
            return
        found = np.zeros((1, len(part.held), int(self.y.max()) + 1))
        if len(part.classes) == 2:
            found[0][:, part.classes] = np.stack([expit(-values[0]), expit(values[0])], axis=1)
        else:
            found[0][:, part.classes] = softmax(values, axis=0).T
        part.scores[0, place] = judge(truth, found)[0]

    def _enough(self, end: int) -> bool:
        for means in self.means():
            walked = means[:end]
            if np.isfinite(walked).any() and not (walked[-PATIENCE:] < np.nanmax(walked) - TIE).all():
                return False
        return True

    def means(self) -> list[FloatArray]:
        """The mean score of each target (the classes, or each label) over the parts that could judge it, [G]."""
        return [
            np.mean(rows, axis=0) if rows else np.full(len(self.grid), np.nan) for rows in self.by_target()
        ]

    def by_target(self) -> list[list[FloatArray]]:
        """The scores [G] of each part, by target."""
        count = self.y.shape[1] if self.y.ndim == 2 else 1
        found: list[list[FloatArray]] = [[] for _ in range(count)]
        for part in self.parts:
            for row in np.flatnonzero(part.usable).tolist():
                if len(part.held):
                    found[part.labels[row] if len(part.labels) else 0].append(part.scores[row])
        return found

    def keep(self, part: Part, row: int, place: int) -> tuple[FloatArray, FloatArray, float]:
        """(coefficients [k, D], intercepts [k], gap) of the fit that is kept, for rows of X as they come.

        Of several labels the one at `row` alone, k = 1: each has its own C, and its own last digits.
        """
        task, C = part.task, self.grid[place]
        loss = task.loss
        if len(part.labels):
            assert isinstance(loss, Sigmoids)
            loss = loss.only(row)
        if task.solved:
            found = task.solved[place]
            if len(part.labels):
                found = found.parts()[row]
        else:
            found = self._settled(part, row, place, loss)
        kept = polish(self.rows, Task(loss, task.scale, task.start, [found], [0]), 0, C, gap=FINAL)
        coef = kept.w / task.scale
        return coef, kept.b - coef @ self.rows.centre, kept.relative

    def _settled(self, part: Part, row: int, place: int, loss: Loss) -> Certificate:
        """The fit of `part` at one C, from the mean of what those of its rows that were walked came to there.

        Where none has the same classes the grid is walked up to it: a weak C alone is hard to reach.
        """
        scale, columns = part.task.scale, self.X.shape[1]
        near = [(one, found) for one in self.parts if (found := _row_of(one, part, row)) is not None]
        if near:
            solved = [one.task.solved[place] for one, _ in near]
            rows = [found for _, found in near]
            coefs = [
                (s.w if r < 0 else s.w[[r]]) / one.task.scale
                for s, r, (one, _) in zip(solved, rows, near, strict=True)
            ]
            free = [s.b if r < 0 else s.b[[r]] for s, r in zip(solved, rows, strict=True)]
            start = np.concatenate([(np.mean(coefs, axis=0) * scale).reshape(-1), np.mean(free, axis=0)])
        else:
            own = part.task.start[len(part.task.start) - part.task.loss.width :]
            start = np.concatenate([np.zeros(loss.width * columns), own[[row]] if len(part.labels) else own])
        task = Task(loss, scale, start)
        solve(
            self.rows, [task], self.grid[place : place + 1] if near else self.grid[: place + 1], gap=self.gap
        )
        return task.solved[-1]

    def uncertified(self) -> list[float]:
        """The values of C at which some part was not brought within `gap`."""
        found = set()
        for part in self.parts:
            for place, solved in enumerate(part.task.solved):
                gaps = solved.gap / np.maximum(solved.objective, np.finfo(float).tiny)
                own = gaps[part.usable] if len(part.labels) else gaps
                if (own > self.gap).any():
                    found.add(self.grid[place])
        return sorted(found)


def _row_of(one: Part, part: Part, row: int) -> int | None:
    """Where the regression `row` of `part` stands in `one`: -1 for classes, None where it does not."""
    if not len(part.labels):
        return -1 if not len(one.labels) and np.array_equal(one.classes, part.classes) else None
    there = np.flatnonzero(one.labels == part.labels[row])
    return int(there[0]) if len(there) and one.usable[there[0]] else None


def _walked(
    what: tuple[Any, ...], asked: Sequence[tuple[IntArray, IntArray, IntArray]]
) -> list[tuple[list[Certificate], list[int], FloatArray]]:
    """What some parts of a search come to."""
    search = Search(*what)
    for fit, held, labels in asked:
        search.add(fit, held, labels)
    search.run(patient=False, jobs=1)
    return [(part.task.solved, part.task.iterations, part.scores) for part in search.parts]
