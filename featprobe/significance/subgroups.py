"""Whether a model serves every subgroup alike: values, gaps and intervals by site, sex, age band, ..., by group bootstrap."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

import numpy as np
from scipy import stats

from featprobe.records import FloatArray, IntArray, Predictions
from featprobe.significance.bootstrap import (
    THIN,
    Design,
    HeldOut,
    Metric,
    _holdings,
    held_out,
    judged_rows,
    label_strata,
    no_value,
    scored,
    suitable,
    weight_chunks,
)
from featprobe.significance.comparison import _aligned
from featprobe.significance.intervals import LOST, _interval
from featprobe.significance.scales import ZERO
from featprobe.significance.subgroup_rows import Spread, Subgroup

NAN: Final = float("nan")

RARE: Final = 5
"""Groups of a class, over all folds, below which a subgroup is not judged by a metric that needs each class."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The test rows of one fold: `rows[k]` those of subgroup k, `rest[k]` those of all other known subgroups."""

    whole: HeldOut
    design: Design
    rows: tuple[IntArray, ...]
    rest: tuple[IntArray, ...]

    def restricted(self, rows: IntArray) -> HeldOut:
        """The fold as if it held these rows alone, with the strata of the common draw."""
        samples = self.whole.samples.take(rows)
        units, unit = np.unique(self.design.unit[rows], return_inverse=True)
        held, names = _holdings(samples, unit.reshape(-1), len(units))
        plain = Design(unit.reshape(-1), np.zeros(len(units), dtype=np.int64))
        parted = self.design is not self.whole.plain
        strata = Design(plain.unit, self.design.stratum[units]) if parted else plain
        per_class = held.sum(axis=0).astype(np.int64)
        return HeldOut(self.whole.fold, samples, rows, plain, strata, per_class, names)


def by_subgroup(
    systems: Mapping[str, Sequence[Predictions]],
    metric: str,
    column: str,
    names: Sequence[str],
    codes: Sequence[IntArray],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[list[Subgroup], list[Spread]]:
    """The metric of every system in every subgroup, its gap to the rest, and the largest gap of two subgroups.

    `systems` as in `compare`; `codes`: per fold int [N], the subgroup of each row of the first system's predictions
    (index into `names`, -1 unknown). A value is the mean over the folds in which the subgroup has one, each fold
    counting the same. All subgroups and systems see the same resamples of groups, so that a group with rows in two
    subgroups moves both; where a class of a subgroup has fewer than THIN groups, they are drawn within (class,
    subgroup) patterns. The value's interval is that of `estimates`; the gap's is gap +- t s, s the bootstrap's
    standard error, t with the freedom of the smaller side. The spread's interval is simultaneous over all pairs of
    judged subgroups, because its two ends were chosen for being extreme: with t_max the `confidence` quantile of the
    largest studentised deviation over the pairs, it is [max (d - t_max s), max (d + t_max s)], cut at 0.
    Subgroups with fewer than THIN groups, without an interval, or with fewer than RARE groups of a class that the
    metric needs are not judged. Raises ResultsError and ConfigError as `compare`.
    """
    aligned = _aligned(systems)
    (member,) = suitable([metric], aligned[0][0].samples.task)
    parts = [
        _part(first, np.asarray(code), len(names), member)
        for first, code in zip(aligned[0], codes, strict=True)
    ]
    scores = [[scored(own[f], member)[judged_rows(own[f])] for own in aligned] for f in range(len(parts))]
    inside, outside = _values(parts, member, scores, len(names), resamples, seed)
    rows, spreads = [], []
    key = aligned[0][0].key
    for s, system in enumerate(systems):
        about = (key.dataset, key.level, metric, system, column)
        judge = _Judge(parts, member, inside[s], outside[s], confidence)
        own = [judge.subgroup(about, k, name) for k, name in enumerate(names)]
        rows += own
        spreads.append(judge.spread(about, names, [k for k, row in enumerate(own) if row.judged]))
    return rows, spreads


def _part(predictions: Predictions, code: IntArray, count: int, metric: Metric) -> _Part:
    whole = held_out(predictions)
    own = code[whole.order]
    rows = tuple(np.flatnonzero(own == k) for k in range(count))
    rest = tuple(np.flatnonzero((own >= 0) & (own != k)) for k in range(count))
    return _Part(whole, _design(whole, own, count, metric), rows, rest)


def _design(whole: HeldOut, code: IntArray, count: int, metric: Metric) -> Design:
    """All units alike, or within (class, subgroup) patterns where a class of a subgroup is thin."""
    if not metric.needs_classes or whole.samples.task not in {"classes", "ordinal"}:
        return whole.plain
    cells = np.zeros((whole.n_units, count * len(whole.per_class)), dtype=bool)
    known = code >= 0
    cells[whole.plain.unit[known], code[known] * len(whole.per_class) + whole.samples.label[known]] = True
    held = cells.sum(axis=0)
    if not (held[held > 0] < THIN).any():
        return whole.plain
    return Design(whole.plain.unit, label_strata(cells))


def _values(
    parts: Sequence[_Part],
    metric: Metric,
    scores: Sequence[Sequence[FloatArray]],
    count: int,
    resamples: int,
    seed: int,
) -> tuple[FloatArray, FloatArray]:
    """Values [systems, F, count, 1 + resamples] inside and outside of each subgroup; the first is the rows as they are."""
    shape = (len(scores[0]), len(parts), count, 1 + resamples)
    inside, outside = np.full(shape, NAN), np.full(shape, NAN)
    for f, part in enumerate(parts):
        draws = weight_chunks(part.design, resamples=resamples, seed=[seed, f])
        start = 0
        for weights in (np.ones((1, len(part.whole.order))), *draws):
            place = slice(start, start + len(weights))
            for k in range(count):
                inside[:, f, k, place] = _at(part, part.rows[k], metric, scores[f], weights)
                if count != 2:
                    outside[:, f, k, place] = _at(part, part.rest[k], metric, scores[f], weights)
            start += len(weights)
    return inside, inside[:, :, ::-1] if count == 2 else outside


def _at(
    part: _Part, rows: IntArray, metric: Metric, scores: Sequence[FloatArray], weights: FloatArray
) -> FloatArray:
    """The metric of every system on these rows of the fold, [systems, B]; NaN without rows."""
    if not len(rows):
        return np.full((len(scores), len(weights)), NAN)
    label, own = part.whole.samples.label[rows], np.take(weights, rows, axis=1)
    return np.stack([metric(label, score[rows], own) for score in scores])


class _Judge:
    """One system: `inside`, `outside` [F, K, 1 + B], the rows as they are before their resamples."""

    def __init__(
        self,
        parts: Sequence[_Part],
        metric: Metric,
        inside: FloatArray,
        outside: FloatArray,
        confidence: float,
    ) -> None:
        self.parts, self.metric, self.confidence = parts, metric, confidence
        self.inside = inside
        self.mean_inside, self.mean_outside = _over_folds(inside), _over_folds(outside)
        low, high = metric.bounds(len(parts[0].whole.samples.label_names))
        self.widest = high - low

    def subgroup(self, about: tuple[str, str, str, str, str], k: int, name: str) -> Subgroup:
        """One row of the table."""
        own = [part.restricted(part.rows[k]) for part in self.parts]
        filled = [part for part in own if len(part.samples)]
        groups = sum(part.n_units for part in filled)
        points = self.inside[:, k, 0]
        low, high, how = self._interval(filled, points, self.mean_inside[k, 1:])
        gap, gap_low, gap_high = self._gap(k)
        judged, remark = self._remark(k, groups, how, defined=bool(np.isfinite(low + high)))
        return Subgroup(
            *about,
            subgroup=name,
            n_rows=sum(len(part.samples) for part in filled),
            n_groups=groups,
            value=float(self.mean_inside[k, 0]),
            ci_low=low,
            ci_high=high,
            ci_method=how,
            gap=gap,
            gap_low=gap_low,
            gap_high=gap_high,
            judged=judged,
            remark=remark,
        )

    def _interval(
        self, filled: Sequence[HeldOut], points: FloatArray, draws: FloatArray
    ) -> tuple[float, float, str]:
        if not np.isfinite(points).any():
            return NAN, NAN, f"undefined: {no_value(filled)}"
        known = points[np.isfinite(points)]
        hindered = _hindered(filled, self.metric)
        return _interval(filled, self.metric, known, draws[None], self.confidence, hindered=hindered)

    def _gap(self, k: int) -> tuple[float, float, float]:
        """(gap, low, high) of a subgroup to the rest."""
        both = self.mean_inside[k] - self.mean_outside[k]
        gap, draws = float(both[0]), both[1:][np.isfinite(both[1:])]
        freedom = min(
            self._freedom([part.rows[k] for part in self.parts]),
            self._freedom([part.rest[k] for part in self.parts]),
        )
        if not np.isfinite(gap) or freedom < 1 or len(draws) < (1 - LOST) * (len(both) - 1):
            return gap, NAN, NAN
        error = float(draws.std(ddof=1))
        if error < ZERO:
            return gap, NAN, NAN
        half = float(stats.t.ppf((1 + self.confidence) / 2, freedom)) * error
        return gap, max(gap - half, -self.widest), min(gap + half, self.widest)

    def _freedom(self, rows_by_fold: Sequence[IntArray]) -> int:
        """Groups less strata; for a metric that needs each class no more than the rarest of them gives.

        Its recall, and not the whole, then decides how far the value may lie off (Welch's lower bound).
        """
        filled = [
            part.restricted(rows) for part, rows in zip(self.parts, rows_by_fold, strict=True) if len(rows)
        ]
        if not filled:
            return 0
        whole = sum(part.design(self.metric).freedom for part in filled)
        if not self.metric.needs_classes or filled[0].samples.task not in {"classes", "ordinal"}:
            return whole
        counts = _per_class(filled)
        return min(whole, int(counts[counts > 0].min()) - 1)

    def _remark(self, k: int, groups: int, how: str, *, defined: bool) -> tuple[bool, str]:
        """(whether the subgroup can be judged, why not or what else must be said)."""
        if groups < THIN:
            return False, f"{groups} group{'s' * (groups != 1)}, fewer than {THIN}"
        lacking = self._lacking(k)
        ranked = self.parts[0].whole.samples.task in {"classes", "ordinal"}
        if lacking and ranked and self.metric.needs_classes:
            return False, f"no rows of {', '.join(lacking)}: its value is over the other classes"
        rare = self._rare(k) if ranked and self.metric.needs_classes else ""
        if rare:
            return False, rare
        if not defined:
            return False, how.removeprefix("undefined: ")
        counted = int(np.isfinite(self.inside[:, k, 0]).sum())
        words = [f"without both values of {len(lacking)} labels"] if lacking and not ranked else []
        words += [f"a value in {counted} of {len(self.parts)} folds"] if counted < len(self.parts) else []
        return True, "; ".join(words)

    def _rare(self, k: int) -> str:
        """The class with the fewest groups in the subgroup, where these are too few ("" where not)."""
        counts = _per_class([part.restricted(part.rows[k]) for part in self.parts])
        held = np.flatnonzero(counts)
        least = held[counts[held].argmin()]
        few = int(counts[least])
        if few >= RARE:
            return ""
        name = self.parts[0].whole.parts[least]
        return f"{name} has {few} group{'s' * (few != 1)}, fewer than {RARE}"

    def _lacking(self, k: int) -> list[str]:
        """What the test rows hold but this subgroup does not: classes, or labels with one value only."""
        samples = self.parts[0].whole.samples
        if samples.task == "continuous" or not self.metric.needs_classes:
            return []
        here = np.concatenate([part.whole.samples.label[part.rows[k]] for part in self.parts])
        every = np.concatenate([part.whole.samples.label for part in self.parts])
        if samples.task != "multilabel":
            return [f"class {samples.label_names[c]!r}" for c in np.setdiff1d(every, here).tolist()]
        both = [(labels == 0).any(axis=0) & (labels == 1).any(axis=0) for labels in (every, here)]
        return [samples.label_names[c] for c in np.flatnonzero(both[0] & ~both[1]).tolist()]

    def spread(
        self, about: tuple[str, str, str, str, str], names: Sequence[str], judged: Sequence[int]
    ) -> Spread:
        """The largest gap of two judged subgroups with its simultaneous interval."""
        if len(judged) < 2:
            why = "undefined: fewer than two subgroups can be judged"
            return Spread(*about, lowest="", highest="", gap=NAN, ci_low=NAN, ci_high=NAN, method=why)
        values = self.mean_inside[judged]
        points, draws = values[:, 0], values[:, 1:][:, np.isfinite(values[:, 1:]).all(axis=0)]
        least, most = int(points.argmin()), int(points.argmax())
        ends = {"lowest": names[judged[least]], "highest": names[judged[most]]}
        gap = float(points[most] - points[least])
        low, high = self._simultaneous(points, draws, judged)
        method = (
            f"group bootstrap, {100 * self.confidence:g} %, simultaneous over all pairs of {len(judged)} subgroups; "
            "estimand: the largest gap of two subgroups, this fitted model on new groups"
        )
        return Spread(*about, **ends, gap=gap, ci_low=low, ci_high=high, method=method)

    def _simultaneous(
        self, points: FloatArray, draws: FloatArray, judged: Sequence[int]
    ) -> tuple[float, float]:
        """[max (d - t s), max (d + t s)] over all ordered pairs."""
        if draws.shape[1] < (1 - LOST) * (self.mean_inside.shape[1] - 1):
            return NAN, NAN
        pairs = list(combinations(range(len(points)), 2))
        gaps = np.array([points[i] - points[j] for i, j in pairs])
        off = np.stack([draws[i] - draws[j] for i, j in pairs]) - gaps[:, None]
        error = off.std(axis=1, ddof=1)
        freedom = min(self._freedom([part.rows[k] for part in self.parts]) for k in judged)
        if (error < ZERO).any() or freedom < 1:
            return NAN, NAN
        largest = np.abs(off / error[:, None]).max(axis=0)
        # Few groups: Student's t as far out in its tail as this is in the normal one.
        bound = float(np.quantile(largest, self.confidence, method="higher"))
        half = float(stats.t.isf(stats.norm.sf(bound), freedom)) * error
        lows, highs = (
            np.concatenate([gaps, -gaps]) - np.tile(half, 2),
            np.concatenate([gaps, -gaps]) + np.tile(half, 2),
        )
        return float(max(0.0, lows.max())), float(min(self.widest, highs.max()))


def _per_class(parts: Sequence[HeldOut]) -> IntArray:
    """Groups over all folds that hold each class, [C]; a group in two folds, which only repeats make, counts twice."""
    return np.asarray(np.sum([part.per_class for part in parts], axis=0))


def _hindered(parts: Sequence[HeldOut], metric: Metric) -> str:
    """Why the groups of a subgroup can't be resampled ("" where they can).

    Unlike a whole test set, a subgroup may have one group of a class in a fold: it is drawn in a stratum with other
    single ones. What counts is that all folds together have more.
    """
    if sum(part.n_units for part in parts) < 2:
        return "1 group in the test rows"
    single = np.flatnonzero(_per_class(parts) == 1)
    if metric.needs_classes and len(single):
        return f"{parts[0].parts[single[0]]} has 1 group in the test rows"
    if sum(part.design(metric).freedom for part in parts) < 1:
        return "too few groups in the test rows"
    return ""


def _over_folds(values: FloatArray) -> FloatArray:
    """Mean over the folds that have a value, [F, K, B] -> [K, B]; NaN where none has."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, NAN), where=count > 0))
