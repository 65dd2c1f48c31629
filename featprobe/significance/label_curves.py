"""Label-efficiency curves: what systems reach with few labels, their seeds and test groups resampled together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from featprobe.errors import ResultsError
from featprobe.records import FloatArray, IntArray, Predictions
from featprobe.significance.bootstrap import (
    Design,
    HeldOut,
    Metric,
    held_out,
    label_strata,
    point,
    scale_of,
    scored,
    suitable,
    unresampleable,
    weight_chunks,
)
from featprobe.significance.comparison import _Judge, _mismatch, _unequal
from featprobe.significance.intervals import LOST
from featprobe.significance.savings import Curve, Saving, Spread, over_seeds, saving, seed_weights

MOST: Final = 1000
"""Resamples of curves: their bands are drawn, and each costs as many metrics as there are fitted models."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One system fitted with one amount of labels and one seed: one Predictions per fold.

    `amount`: its name, such as "10 %"; `labels`: how many were learnt from (mean over folds).
    """

    system: str
    amount: str
    labels: float
    seed: int
    predictions: tuple[Predictions, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A system's value at one amount: the mean over seeds, with its interval. `best`: can't be told from the best there."""

    system: str
    amount: str
    labels: float
    value: float
    low: float
    high: float
    best: bool
    method: str


@dataclass(frozen=True, slots=True, eq=False)
class LabelCurves:
    """Curves of S systems over A amounts and R seeds, all under the same resamples; see `label_curves`.

    `labels` float64 [S, A] (NaN where an amount was not run), `values` [S, A, R], `draws` [S, A, R, B]. `groups`: test
    groups. `parts`: the test rows of the first seed, fold by fold.
    """

    metric: Metric
    systems: tuple[str, ...]
    amounts: tuple[str, ...]
    seeds: tuple[int, ...]
    labels: FloatArray
    values: FloatArray
    draws: FloatArray
    groups: int
    parts: tuple[HeldOut, ...]
    seed: int
    confidence: float

    def estimand(self) -> str:
        """What the bands are of, and how they were made."""
        unit = "group" if self.parts[0].samples.groups_declared else "image"
        resamples = self.draws.shape[3]
        if len(self.seeds) > 1:
            return (
                f"mean over {len(self.seeds)} seeds (draws of labels); {100 * self.confidence:g} % by {resamples} "
                f"resamples of seeds and test {unit}s together, t with Satterthwaite's degrees of freedom; estimand: the "
                f"procedure with that many labels drawn from these training data, on new {unit}s"
            )
        return (
            f"{100 * self.confidence:g} % by {resamples} resamples of test {unit}s; estimand: these fitted models on new "
            f"{unit}s; one draw of labels, whose luck is not in the band (--repeats 5 shows it)"
        )

    def points(self) -> list[Point]:
        """Every system at every amount that it was run with, amounts ascending."""
        weights = seed_weights(len(self.seeds), self.draws.shape[3], self.seed)
        whole = over_seeds(self.draws, weights)
        found = []
        for a, amount in enumerate(self.amounts):
            there = [s for s in range(len(self.systems)) if np.isfinite(self.labels[s, a])]
            best = self._best(there, a, whole)
            for s in there:
                value, low, high, method = self._band(self.values[s, a], self.draws[s, a], whole[s, a])
                about = (self.systems[s], amount, float(self.labels[s, a]))
                found.append(Point(*about, value, low, high, best[s], method))
        return found

    def _best(self, there: Sequence[int], a: int, whole: FloatArray) -> dict[int, bool]:
        """Which systems can't be told apart from the best with this amount (see `compare`)."""
        means = self.values[there, a].mean(axis=1)
        judge = _Judge(self.parts, self.metric, means, whole[there, a], self.confidence)
        return dict(zip(there, judge.best_set(), strict=True))

    def _band(
        self, values: FloatArray, draws: FloatArray, whole: FloatArray
    ) -> tuple[float, float, float, str]:
        """(mean, low, high, method) of `values` [R] with resamples of groups [R, B], and of seeds too [B]."""
        value, nan = float(values.mean()), float("nan")
        known = np.atleast_1d(np.isfinite(draws).all(axis=0))
        why = unresampleable(self.parts, self.metric)
        if not why and ((~known).mean() > LOST or not np.isfinite(value)):
            why = "too many resamples hold one class only"
        both, of_groups = (float(part[known].var(ddof=1)) for part in (whole, draws.mean(axis=0)))
        scale = scale_of(self.parts, self.metric)
        if not why and np.sqrt(both) < scale.rounding(value):
            why = "every resample gives the same value"
        if why:
            return value, nan, nan, f"undefined: {why}"
        seeds = len(values)
        of_seeds = float(values.var(ddof=1) / seeds) if seeds > 1 else 0.0
        spread = Spread.of(both, of_groups, of_seeds, groups=self.groups, seeds=seeds)
        error = float(np.sqrt(spread.variance))
        low, high = scale.interval(value, error, max(1, int(spread.freedom)), self.confidence)
        return value, low, high, self.estimand()

    def saving(self, own: str, other: str, level: float | None = None) -> Saving:
        """How many times the labels of `own` that `other` needs for the same value (see `savings.saving`)."""
        return saving(
            self._curve(own),
            self._curve(other),
            groups=self.groups,
            higher_is_better=self.metric.higher_is_better,
            level=level,
            confidence=self.confidence,
            seed=self.seed,
        )

    def _curve(self, system: str) -> Curve:
        s = self.systems.index(system)
        there = np.flatnonzero(np.isfinite(self.labels[s]))
        return Curve(self.labels[s, there], self.values[s, there], self.draws[s, there])

    def order(self) -> list[str]:
        """Systems, the best first: by the mean value over the amounts that all were run with."""
        shared = np.atleast_1d(np.isfinite(self.labels).all(axis=0))
        columns = shared if shared.any() else ~shared
        sign = -1.0 if self.metric.higher_is_better else 1.0
        means = sign * np.nanmean(
            np.where(np.isfinite(self.labels), self.values.mean(axis=2), np.nan)[:, columns], axis=1
        )
        return [self.systems[s] for s in np.argsort(means, kind="stable")]


def label_curves(
    runs: Sequence[Run], metric: str, *, resamples: int = MOST, confidence: float = 0.95, seed: int = 0
) -> LabelCurves:
    """The curves of several systems, whose runs of one seed were judged on the same rows.

    Seeds that not all runs share are left out. A resample draws test groups once for all seeds, folds, amounts and
    systems, so that differences are paired: a group weighs the same wherever it is tested; a metric is computed within
    each fold and averaged over folds, then over seeds. Where a class has under ten groups in a fold, groups are drawn
    within their label pattern. Raises ResultsError where nothing is shared or rows differ, ConfigError for a metric that
    does not judge this kind of target.
    """
    cells = {(run.system, run.amount, run.seed): run for run in runs}
    seeds = _shared_seeds(runs)
    kept = [run for run in runs if run.seed in seeds]
    _need_same_rows(kept)
    systems = tuple(dict.fromkeys(run.system for run in kept))
    size = {run.amount: run.labels for run in kept}
    amounts = tuple(sorted(size, key=lambda name: size[name]))
    (member,) = suitable([metric], kept[0].predictions[0].samples.task)
    tested = {number: [held_out(p) for p in _of_seed(kept, number).predictions] for number in seeds}
    unit = _Units.of(list(tested.values()))
    resamples = min(resamples, MOST)
    shape = (len(systems), len(amounts), len(seeds))
    labels = np.full(shape, np.nan)
    values, draws = np.full(shape, np.nan), np.full((*shape, resamples), np.nan)
    places = [
        (s, a, r, cells[system, amount, number])
        for s, system in enumerate(systems)
        for a, amount in enumerate(amounts)
        for r, number in enumerate(seeds)
        if (system, amount, number) in cells
    ]
    for s, a, r, run in places:
        labels[s, a, r] = run.labels
        values[s, a, r] = _mean_over_folds(run, tested[run.seed], member)
    start = 0
    for chunk in weight_chunks(unit.design(member), resamples=resamples, seed=[seed, 0x1ABE1]):
        for s, a, r, run in places:
            found = _mean_over_folds(run, tested[run.seed], member, unit.rows(tested[run.seed]), chunk)
            draws[s, a, r, start : start + len(chunk)] = found
        start += len(chunk)
    return LabelCurves(
        metric=member,
        systems=systems,
        amounts=amounts,
        seeds=seeds,
        labels=labels.mean(axis=2),
        values=values,
        draws=draws,
        groups=len(unit.names),
        parts=tuple(tested[seeds[0]]),
        seed=seed,
        confidence=confidence,
    )


def _shared_seeds(runs: Sequence[Run]) -> tuple[int, ...]:
    by_cell: dict[tuple[str, str], set[int]] = {}
    for run in runs:
        by_cell.setdefault((run.system, run.amount), set()).add(run.seed)
    shared = set.intersection(*by_cell.values()) if by_cell else set()
    if not shared:
        raise ResultsError(
            "the amounts of labels share no seed",
            "a curve needs the same seeds at every amount",
            "type featprobe probe with the same --seed and --repeats for all of them",
        )
    return tuple(sorted(shared))


def _of_seed(runs: Sequence[Run], seed: int) -> Run:
    return next(run for run in runs if run.seed == seed)


def _need_same_rows(runs: Sequence[Run]) -> None:
    """ResultsError where two runs of one seed were not judged on the same rows."""
    first: dict[int, Run] = {}
    for run in runs:
        reference = first.setdefault(run.seed, run)
        names = f"{reference.system} ({reference.amount})", f"{run.system} ({run.amount})"
        own = {p.key.fold: p for p in run.predictions}
        if set(own) != {p.key.fold for p in reference.predictions}:
            raise _mismatch(*names, "folds")
        for p in reference.predictions:
            what = _unequal(p, own[p.key.fold])
            if what:
                raise _mismatch(*names, f"{what} in fold {p.key.fold}")


@dataclass(frozen=True, slots=True, eq=False)
class _Units:
    """The test groups of all seeds and folds: `names` [G], `held` bool [G, K] the classes of each, `thin`."""

    names: FloatArray
    held: FloatArray
    thin: bool

    @classmethod
    def of(cls, tested: Sequence[Sequence[HeldOut]]) -> _Units:
        parts = [part for own in tested for part in own]
        names = np.unique(np.concatenate([part.samples.group for part in parts]))
        classes = len(parts[0].samples.label_names)
        ranked = parts[0].samples.task in {"classes", "ordinal"}
        held = np.zeros((len(names), classes if ranked else 0), dtype=bool)
        for part in parts if ranked else ():
            held[np.searchsorted(names, part.samples.group), part.samples.label] = True
        return cls(names, held, ranked and any(part.thin for part in parts))

    def design(self, metric: Metric) -> Design:
        """One row for each group."""
        own = np.arange(len(self.names))
        strata = label_strata(self.held) if self.thin and metric.needs_classes else np.zeros(len(own), int)
        return Design(own, strata)

    def rows(self, parts: Sequence[HeldOut]) -> list[IntArray]:
        """For the rows of each fold the place of their group."""
        return [np.searchsorted(self.names, part.samples.group) for part in parts]


def _mean_over_folds(
    run: Run,
    parts: Sequence[HeldOut],
    metric: Metric,
    rows: Sequence[IntArray] = (),
    weights: FloatArray | None = None,
) -> FloatArray:
    """The metric of a run, the mean over its folds; for weights [b, G] of groups, [b]."""
    by_fold = {p.key.fold: p for p in run.predictions}
    found = []
    for number, part in enumerate(parts):
        own = by_fold[part.fold]
        score = scored(own, metric)[np.argsort(own.samples.id, kind="stable")]
        score = score[own.samples.labelled[np.argsort(own.samples.id, kind="stable")]]
        if weights is None:
            found.append(np.asarray(point(part, metric, score)))
        else:
            found.append(metric(part.samples.label, score, weights[:, rows[number]]))
    return np.asarray(np.mean(found, axis=0))
