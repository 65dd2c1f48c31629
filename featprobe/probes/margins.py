"""What the linear support vector machines share: choosing C on certified paths, and probabilities out of fold."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from featprobe.errors import ConfigError, ProbeError
from featprobe.probes.choosing import pick, score
from featprobe.probes.contract import OWN, Fit, Model, Parts, Rule, edge_note
from featprobe.probes.paths import ScaledModel, Settings
from featprobe.probes.scaling import Scaling
from featprobe.probes.solvers.svm_path import SVMPath, one_vs_rest
from featprobe.probes.solvers.svm_scores import Scores
from featprobe.probes.weighing import is_balanced, row_weights
from featprobe.records import AnyArray, FloatArray, IntArray

SEARCHING: Final = 1e-6
"""Relative duality gap of the machines that C is chosen by."""

FINAL: Final = 1e-9
"""Gap asked of the machines whose decision values count; a note is made where they miss SEARCHING."""

SCORES: Final = ("balanced_accuracy", "accuracy")
CALIBRATIONS: Final = {"platt": "sigmoid", "isotonic": "isotonic"}
TITLES: Final = {"platt": "Platt scaling", "isotonic": "isotonic calibration"}


@dataclass(frozen=True, slots=True, eq=False)
class MarginModel:
    """A machine of K classes on the embeddings as they come, and its probabilities.

    `coef` [P, D], `intercept` [P]: of two classes one value (above 0: the second), of more either each against the
    rest or, where `pairs`, one against one in scikit-learn's order.
    """

    coef: FloatArray
    intercept: FloatArray
    pairs: bool
    scores: Scores
    classes: int

    def decide(self, X: FloatArray) -> FloatArray:
        """The decision values that the probabilities are made of, [M, K], of two classes [M, 1]."""
        values = np.asarray(X @ self.coef.T + self.intercept)
        return one_vs_rest(values, self.classes) if self.pairs and self.classes > 2 else values

    def predict(self, X: FloatArray) -> FloatArray:
        """[M, K]."""
        return self.scores.predict(self.decide(X))


@dataclass(frozen=True, slots=True, eq=False)
class MarginLabels:
    """A machine of two classes for each label; None for a label that always gets its `share` [L]."""

    models: tuple[Model | None, ...]
    share: FloatArray

    def predict(self, X: FloatArray) -> FloatArray:
        """[M, L]."""
        found = np.tile(self.share, (len(X), 1))
        for label, model in enumerate(self.models):
            if model is not None:
                found[:, label] = model.predict(X)[:, 1]
        return found


@dataclass(slots=True, eq=False)
class _Machine:
    """A path fitted to some rows, with the scaling that was learnt on them."""

    scaling: Scaling
    path: SVMPath

    @classmethod
    def of(cls, X: FloatArray, y: IntArray, kind: str, path: SVMPath) -> _Machine:
        scaling = Scaling.of(X, kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # `converged_` becomes a note
            return cls(scaling, path.fit(scaling(X), y))

    def guesses(self, X: FloatArray, classes: int) -> FloatArray:
        """Its predictions at each C as 0 and 1, [G, M, K]."""
        return np.eye(classes)[self.path.path_predict(self.scaling(X))]

    def decide(self, X: FloatArray) -> FloatArray:
        """Decision values at its one C, [M, K] or [M, 1]."""
        return np.asarray(self.path.path_decision_function(self.scaling(X))[0])

    def lines(self) -> tuple[FloatArray, FloatArray]:
        """`coef` and `intercept` for embeddings as they come; where rows are normalised, for scaled ones."""
        coef, intercept = self.path.coefs_[0], self.path.intercepts_[0]
        if self.scaling.unit:
            return coef, intercept
        coef = coef / self.scaling.scale
        return coef, intercept - coef @ self.scaling.centre


@dataclass(slots=True, eq=False)
class _Job:
    """One choice of C and one fit: all classes, or one label."""

    X: FloatArray
    y: IntArray
    classes: int
    grid: tuple[float, ...]
    make: Callable[[Sequence[float], float], SVMPath]
    rule: Rule
    calibration: str
    missed: list[str] = field(default_factory=list)

    def machine(self, rows: IntArray, grid: Sequence[float], gap: float) -> _Machine:
        """A path on `rows`; what it could not certify to SEARCHING is remembered."""
        kind = self.rule.scale or "standard"
        made = _Machine.of(self.X[rows], self.y[rows], kind, self.make(grid, gap))
        bad = made.path.gaps_ > SEARCHING
        self.missed += [
            f"C = {c:g} (relative duality gap {g:.1e})"
            for c, g in zip(np.asarray(grid)[bad], made.path.gaps_[bad], strict=True)
        ]
        return made

    def judged(self, selection: Parts) -> list[FloatArray]:
        """The score of each C on the rows held out of each part; a class that a part lacks counts as missed."""
        name = self.rule.score or SCORES[0]
        if name not in SCORES:
            raise ConfigError(
                f"a support vector machine can't be judged by {name!r}",
                "its classes are judged, its probabilities come after the choice of C",
                f"use {' or '.join(SCORES)}",
            )
        judge = score(name)
        found = []
        for fit, held in selection:
            if len(np.unique(self.y[fit])) < 2:
                raise ProbeError(
                    "a part of the training data holds one class only, so that C can't be chosen on it",
                    f"{len(fit)} rows of class number {self.y[fit][0]}",
                    "use fewer folds (--folds K), or leave rare classes out (--min-groups N)",
                )
            guesses = self.machine(fit, self.grid, SEARCHING).guesses(self.X[held], self.classes)
            found.append(judge(self.y[held], guesses))
        return found

    def scores(self, C: float, calibration: Parts) -> Scores:
        """The map to probabilities, fitted to decision values of rows that the machine had not seen."""
        title = TITLES[self.calibration]
        values: list[FloatArray] = []
        truth: list[IntArray] = []
        for fit, held in calibration:
            there = len(np.unique(self.y[fit]))
            if there < self.classes:
                raise ProbeError(
                    f"a fold for {title} lacks a class in its training part",
                    f"{there} of {self.classes} classes are there",
                    "leave rare classes out with --min-groups N",
                )
            values.append(self.machine(fit, (C,), FINAL).decide(self.X[held]))
            truth.append(self.y[held])
        if not values or len(np.unique(np.concatenate(truth))) < self.classes:
            raise ProbeError(
                f"the rows for {title} do not hold every class",
                "each class needs a group that is held out in turn",
                "leave rare classes out with --min-groups N",
            )
        labels = np.concatenate(truth)
        weights = row_weights(labels) if is_balanced(self.rule.options) else None
        return Scores(CALIBRATIONS[self.calibration]).fit(np.concatenate(values), labels, weights)

    def run(self, selection: Parts, calibration: Parts, *, pairs: bool) -> Fit:
        """As `Probe.fit`. Without a refit only the rows that C was chosen with are fitted and calibrated on."""
        scores = self.judged(selection) if len(self.grid) > 1 else []
        place = pick(scores, self.rule.pick or "best") if scores else 0
        C, rows = self.grid[place], np.arange(len(self.X))
        if not self.rule.refit and len(selection) == 1:
            rows = selection[0][0]
            calibration = [(np.intersect1d(f, rows), np.intersect1d(h, rows)) for f, h in calibration]
        probabilities = self.scores(C, calibration)
        kept = self.machine(rows, (C,), FINAL)
        model: Model = MarginModel(*kept.lines(), pairs, probabilities, self.classes)
        if kept.scaling.unit:
            model = ScaledModel(kept.scaling, model)
        means = np.mean(scores, axis=0) if scores else np.empty(0)
        judged = {c: float(mean) for c, mean in zip(self.grid, means, strict=False)}
        return model, {"C": C}, judged, (*_edge(place, self.grid, means), *self.uncertified())

    def uncertified(self) -> tuple[str, ...]:
        """The note of fits that miss SEARCHING."""
        if not self.missed:
            return ()
        told = ", ".join(list(dict.fromkeys(self.missed))[:3])
        return (f"{len(self.missed)} fits of the machine did not converge: {told}",)


def _edge(place: int, grid: Sequence[float], means: FloatArray) -> tuple[str, ...]:
    """The note of an end of the grid."""
    if len(grid) < 2 or (place == 0 and means[0] == means[1]):
        return ()  # once every row lies inside the margin a smaller C gives the same classes: no edge then
    return edge_note(grid[place], grid)


class MarginProbe:
    """A linear machine whose C is chosen by validation; probabilities by calibration out of fold, by group."""

    name: ClassVar[str]
    describe: ClassVar[str]
    loss: ClassVar[str]
    grid: ClassVar[tuple[float, ...]]
    tasks: ClassVar[tuple[str, ...]] = ("classes", "ordinal", "multilabel")
    weighs: ClassVar[bool] = True

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
        """C with the best mean validation balanced accuracy (ties: the smaller), then all rows.

        The probabilities are those of `CalibratedClassifierCV(ensemble=False)` on `calibration`: fitted to decision
        values of rows that the machine had not seen. `y` [N, L]: one machine per label on the rows where it is known.
        `seed` is not needed: the optimum is unique. `rule.score`: one of SCORES. `rule.options`: "calibration"
        ("platt" or "isotonic") and "class_weight" ("none" or "balanced": in the machine and in the calibration). Raises ProbeError where a part of
        `calibration` lacks a class, ConfigError for another score or option.
        """
        settings = Settings(task, 0, seed, dict(rule.options))
        settings.only("calibration", "class_weight")
        calibrated = settings.word("calibration", tuple(CALIBRATIONS))
        weight = "balanced" if is_balanced(settings.options) else None
        grid = tuple(sorted(rule.grid or self.grid))

        def make(values: Sequence[float], gap: float) -> SVMPath:
            return SVMPath(values, self.loss, gap, weight)

        def job(rows: FloatArray, labels: IntArray, classes: int) -> _Job:
            return _Job(rows, labels, classes, grid, make, rule, calibrated)

        pairs = self.loss == "hinge"
        if y.ndim == 1:
            return job(X, y, int(y.max()) + 1).run(selection, calibration, pairs=pairs)
        return _labels(X, y, selection, calibration, label_names, job)


def _labels(
    X: FloatArray,
    y: IntArray,
    selection: Parts,
    calibration: Parts,
    names: Sequence[str],
    job: Callable[[FloatArray, IntArray, int], _Job],
) -> Fit:
    """A machine for each label; the score of a C is the mean over the labels that tried it."""
    models: list[Model | None] = []
    share = np.full(y.shape[1], 0.5)
    chosen: dict[str, float] = {}
    tables: list[dict[float, float]] = []
    said: list[str] = []
    for label, name in enumerate(names):
        known = y[:, label] >= 0
        if known.any():
            share[label] = y[known, label].mean()
        parts, folds = (_usable(one, y[:, label]) for one in (selection, calibration))
        task = job(X, y[:, label], 2)
        why = _why_not(y[:, label], parts, folds, choose=len(task.grid) > 1)
        if why:
            models.append(None)
            said.append(f"label {name}: {why}: it always gets the probability {share[label]:.3g}")
            continue
        model, own, judged, notes = _one_label(task, known, parts, folds)
        models.append(model)
        chosen[f"C of {name}"] = own["C"]
        tables.append(judged)
        said += [f"label {name}: {note}" for note in notes]
    means = {C: float(np.mean([one[C] for one in tables])) for C in (tables[0] if tables else {})}
    return MarginLabels(tuple(models), share), chosen, means, tuple(said)


def _one_label(
    task: _Job, known: AnyArray, parts: Parts, folds: Parts
) -> tuple[Model, dict[str, float], dict[float, float], tuple[str, ...]]:
    """`_Job.run` on the rows where the label is known."""
    place = np.cumsum(known) - 1
    moved = [[(place[fit], place[held]) for fit, held in some] for some in (parts, folds)]
    inside = replace(task, X=task.X[known], y=task.y[known], missed=[])
    return inside.run(moved[0], moved[1], pairs=False)


def _usable(parts: Parts, labels: IntArray) -> Parts:
    """The parts cut to the rows where the label is known, of those that still hold both values to fit to."""
    cut = [(fit[labels[fit] >= 0], held[labels[held] >= 0]) for fit, held in parts]
    return [(fit, held) for fit, held in cut if len(np.unique(labels[fit])) == 2 and len(held)]


def _why_not(labels: IntArray, parts: Parts, folds: Parts, *, choose: bool) -> str:
    """Why there is no machine of a label, or nothing."""
    known = labels[labels >= 0]
    if not len(known):
        return "no training row knows it"
    if len(np.unique(known)) < 2:
        return f"its {len(known)} known training rows hold one value"
    if choose and not parts:
        return "no inner fold holds both its values, so that C can't be chosen"
    held = np.concatenate([labels[held] for _, held in folds]) if folds else np.empty(0)
    if len(np.unique(held)) < 2:
        return "the rows held out of the folds do not hold both its values, so that nothing can be calibrated"
    return ""
