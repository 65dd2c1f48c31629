"""Logistic regression, the probe that the literature reports: linear, calibrated, with one optimum, and certified."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import expit, logit, softmax

from featprobe.errors import ConfigError
from featprobe.probes.choosing import TIE, evened, pick
from featprobe.probes.contract import OWN, Fit, Parts, Rule, edge_note
from featprobe.probes.paths import ScaledModel
from featprobe.probes.scaling import Scaling
from featprobe.probes.solvers.logistic_search import FINAL, PATIENCE, SEARCHING, BoolArray, Part, Search
from featprobe.probes.weighing import is_balanced
from featprobe.records import AnyArray, FloatArray, IntArray
from featprobe.registry import PROBES

__all__ = [
    "ACCEPTED",
    "FINAL",
    "GRID",
    "PATIENCE",
    "SEARCHING",
    "TIE",
    "LabelsModel",
    "Logistic",
    "LogisticModel",
]

GRID: Final = tuple(float(c) for c in 10.0 ** np.arange(-6, 3.5, 0.5))

ACCEPTED: Final = 1e-8
"""Gap of the kept fit above which a note says that it did not converge."""


@dataclass(frozen=True, slots=True, eq=False)
class LogisticModel:
    """The regression on the embeddings as they come: `coef` [K or 1, D], `intercept` [K or 1]."""

    coef: FloatArray
    intercept: FloatArray

    def predict(self, X: FloatArray) -> FloatArray:
        """Softmax (two classes: the logistic function), [M, K]."""
        logits = X @ self.coef.T + self.intercept
        if logits.shape[1] > 1:
            return np.asarray(softmax(logits, axis=1))
        return np.hstack([expit(-logits), expit(logits)])


@dataclass(frozen=True, slots=True, eq=False)
class LabelsModel:
    """One binary regression per label on the embeddings as they come: `coef` [L, D], `intercept` [L]."""

    coef: FloatArray
    intercept: FloatArray

    def predict(self, X: FloatArray) -> FloatArray:
        """The probability of each label, [M, L]."""
        return np.asarray(expit(X @ self.coef.T + self.intercept))


class Logistic:
    """L2-penalised logistic regression on standardised embeddings, multinomial for more than two classes."""

    name = "logistic"
    describe = (
        "logistic regression (L2, certified by its duality gap) on standardised embeddings, C from 1e-6 to 1e3 in half "
        "decades by validation log loss; several labels: one regression per label, each with its own C"
    )
    tasks = ("classes", "ordinal", "multilabel")
    weighs = True

    def fit(
        self,
        X: FloatArray,
        y: IntArray,
        *,
        selection: Parts,
        calibration: Parts,
        seed: int,
        label_names: Sequence[str] = (),
        task: str = "classes",
        rule: Rule = OWN,
    ) -> Fit:
        """The smallest C whose mean validation log loss is within TIE of the least, then all rows.

        The grid is walked from strong to weak regularisation and left after PATIENCE values in a row that are worse
        than the best by more than TIE; values that were not tried have no score. A rule's grid is walked whole.
        `calibration` and `seed` are not needed: the loss is a proper score, and the optimum is unique. `y` [N, L]:
        one regression per label on the rows where it is known, each with its own C; a label that can't be fitted
        predicts its share of positives, and a note says so. `rule.options`: "jobs" (threads),
        "gap" (of the fits that C is chosen by), and "class_weight": "balanced" weighs classes (of each label its two
        values) the same, in the fit as scikit-learn does, and in the validation loss.
        """
        del calibration, seed, task
        kind = rule.scale or "standard"
        if kind == "centre+l2":
            raise ConfigError(
                "the logistic probe can't centre and normalise embeddings",
                "it knows standard, none and l2",
                "name another scaling in the rule",
            )
        if kind == "l2":
            unit = Scaling.of(X, "l2")
            plain = dataclasses.replace(rule, scale="none")
            inner, chosen, scores, notes = self._fit(unit(X), y, selection, label_names, plain)
            return ScaledModel(unit, inner), chosen, scores, notes
        return self._fit(X, y, selection, label_names, dataclasses.replace(rule, scale=kind))

    def _fit(self, X: FloatArray, y: IntArray, selection: Parts, names: Sequence[str], rule: Rule) -> Fit:
        grid = tuple(sorted(rule.grid or GRID))
        gap = float(rule.options.get("gap", SEARCHING))
        balanced = is_balanced(rule.options)
        judged = rule.score or (evened("log_loss") if balanced else "log_loss")
        search = Search(X, y, rule.scale or "standard", grid, judged, gap, balanced)
        whole = _add(search, selection, refit=rule.refit, choose=len(grid) > 1)
        search.run(patient=rule.grid is None, jobs=int(rule.options.get("jobs", 1)))
        how = rule.pick or "near best"
        finish = _labels if y.ndim == 2 else _classes
        return finish(search, whole, how, names)


def _add(search: Search, selection: Parts, *, refit: bool, choose: bool) -> list[Part]:
    """Put every regression into `search`; returns those that are kept."""
    everything, nothing = np.arange(len(search.X)), np.empty(0, dtype=np.int64)
    kept: list[Part] = []
    for known, labels in _patterns(search.y):
        pairs = [(fit[known[fit]], held[known[held]]) for fit, held in selection] if choose else []
        parts = [search.add(fit, held, labels) for fit, held in pairs if len(fit) and len(held)]
        if refit or len(selection) != 1:
            # Where C is to be chosen, what is kept is fitted at that C alone, from where the parts stand there.
            make = search.part if choose and parts else search.add
            parts = [make(everything[known], nothing, labels)] if known.any() else []
        kept.extend(parts)
    return kept


def _patterns(y: AnyArray) -> Iterator[tuple[BoolArray, IntArray]]:
    """(rows in which they are known, labels): labels that are known in the same rows are fitted together."""
    if y.ndim == 1:
        yield np.ones(len(y), dtype=bool), np.empty(0, dtype=np.int64)
        return
    patterns, number = np.unique(y >= 0, axis=1, return_inverse=True)
    for place in range(patterns.shape[1]):
        yield patterns[:, place], np.flatnonzero(number.reshape(-1) == place)


def _classes(search: Search, whole: Sequence[Part], how: str, names: Sequence[str]) -> Fit:
    del names
    scores = search.by_target()[0]
    tried = search.walked
    place = pick([one[:tried] for one in scores], how) if scores else 0
    coef, intercept, gap = search.keep(whole[0], 0, place)
    C = search.grid[place]
    notes = (*_edge(place, search), *_unconverged(search, C, gap))
    judged = _judged(search.grid, scores)
    return LogisticModel(coef, intercept), {"C": C}, judged, notes


def _edge(place: int, search: Search) -> tuple[str, ...]:
    return edge_note(search.grid[place], search.grid) if len(search.grid) > 1 else ()


def _judged(grid: Sequence[float], scores: Sequence[FloatArray]) -> dict[float, float]:
    means = np.mean(scores, axis=0) if len(scores) else np.full(len(grid), np.nan)
    return {C: float(mean) for C, mean in zip(grid, means, strict=True) if np.isfinite(mean)}


def _unconverged(search: Search, C: float, gap: float) -> list[str]:
    """Notes of the fits whose optimum was not proved."""
    notes = []
    if failed := search.uncertified():
        notes.append(
            f"while choosing C the fit did not converge at C = {', '.join(f'{c:g}' for c in failed)}"
        )
    if gap > ACCEPTED:
        notes.append(f"the final fit at C = {C:g} did not converge: its relative duality gap is {gap:.1e}")
    return notes


def _labels(search: Search, whole: Sequence[Part], how: str, names: Sequence[str]) -> Fit:
    """The score of a C is the mean over the labels that tried it."""
    y = search.y
    coef, intercept = np.zeros((y.shape[1], search.X.shape[1])), np.zeros(y.shape[1])
    chosen: dict[str, float] = {}
    notes: dict[int, list[str]] = {}
    by_label = search.by_target()
    places = {int(label): (part, row) for part in whole for row, label in enumerate(part.labels)}
    for label in range(y.shape[1]):
        part, row = places.get(label, (None, 0))
        if why := _why_not(search, part, row, label, by_label[label]):
            own = y[y[:, label] >= 0, label]
            share = float(own.mean()) if len(own) else 0.5
            intercept[label] = logit(share)
            notes[label] = [f"{why}: it always gets the probability {share:.3g}"]
            continue
        assert part is not None
        place = pick([one[: search.walked] for one in by_label[label]], how) if by_label[label] else 0
        found, free, gap = search.keep(part, row, place)
        coef[label], intercept[label] = found[0], free[0]
        chosen[f"C of {names[label]}"] = search.grid[place]
        notes[label] = [*_edge(place, search), *_unconverged(search, search.grid[place], gap)]
    means = [np.mean(rows, axis=0) for rows in by_label if rows]
    said = tuple(f"label {names[label]}: {note}" for label in sorted(notes) for note in notes[label])
    return LabelsModel(coef, intercept), chosen, _judged(search.grid, means), said


def _why_not(search: Search, part: Part | None, row: int, label: int, scores: Sequence[FloatArray]) -> str:
    """Why there is no regression of a label, or nothing."""
    known = int((search.y[:, label] >= 0).sum())
    if part is None or not known:
        return "no training row knows it"
    if not part.usable[row]:
        return f"its {known} known training rows hold one value"
    if not scores and len(search.grid) > 1:
        return "no inner fold holds both its values, so that C can't be chosen"
    return ""


PROBES.register("logistic")(Logistic())
