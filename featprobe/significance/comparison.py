"""Which systems differ: paired on the same resamples, corrected for the number of comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from featprobe.errors import ResultsError
from featprobe.records import AnyArray, FloatArray, Predictions
from featprobe.significance.bootstrap import (
    HeldOut,
    Metric,
    exact_floor,
    held_out,
    judged_rows,
    no_value,
    point,
    resampled,
    scale_of,
    scored,
    suitable,
    too_many_lost,
    unresampleable,
    words,
)
from featprobe.significance.freedom import freedom_of, widening
from featprobe.significance.intervals import LOST
from featprobe.significance.least import least_p, reach, within
from featprobe.significance.multiplicity import ADJUSTED_BY, benjamini_hochberg, holm, step_down
from featprobe.significance.pair_tests import Scored, Tested, need_fitting, retested
from featprobe.significance.ranks import Leads, beats, leads, mcb, rank_intervals
from featprobe.significance.sample_size import groups_needed
from featprobe.significance.scales import ZERO

PAIR_COLUMNS = (
    "dataset",
    "level",
    "metric",
    "a",
    "b",
    "difference",
    "ci_low",
    "ci_high",
    "p_value",
    "p_adjusted",
    "groups_needed",
    "method",
)
BEST_COLUMNS = (
    "dataset",
    "level",
    "metric",
    "system",
    "value",
    "in_best_set",
    "rank_low",
    "rank_high",
    "behind_low",
    "behind_high",
)


@dataclass(frozen=True, slots=True)
class PairDifference:
    """The metric of `a` less that of `b`, its interval, its p-value and that adjusted over all pairs.

    `groups_needed`: groups that would show a difference of this size with 80 % power (see `sample_size`).
    """

    dataset: str
    level: str
    metric: str
    a: str
    b: str
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    p_adjusted: float
    method: str
    groups_needed: float = float("nan")


@dataclass(frozen=True, slots=True)
class Standing:
    """A system's value, whether it can't be told apart from the best, and where it may stand.

    `rank_low` to `rank_high`: the ranks that it may have (1 is best), for all systems at once. `behind_low` to
    `behind_high`: its value less the best of the others', larger being better (Hsu's intervals); NaN where nothing can
    be tested.
    """

    dataset: str
    level: str
    metric: str
    system: str
    value: float
    in_best_set: bool
    rank_low: int = 1
    rank_high: int = 1
    behind_low: float = float("nan")
    behind_high: float = float("nan")


@dataclass(frozen=True, slots=True)
class Comparison:
    """All pairs of systems, and for each system whether it belongs to the best set.

    The best set holds the truly best system with the stated confidence (simultaneously over all pairs).
    """

    pairs: tuple[PairDifference, ...]
    best: tuple[Standing, ...]

    def pairs_frame(self) -> pd.DataFrame:
        """One row per pair, PAIR_COLUMNS."""
        return pd.DataFrame(
            [[getattr(row, name) for name in PAIR_COLUMNS] for row in self.pairs], columns=list(PAIR_COLUMNS)
        )

    def best_frame(self) -> pd.DataFrame:
        """One row per system, BEST_COLUMNS."""
        return pd.DataFrame(
            [[getattr(row, name) for name in BEST_COLUMNS] for row in self.best], columns=list(BEST_COLUMNS)
        )


def compare(
    systems: Mapping[str, Sequence[Predictions]],
    metric: str,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    test: str = "bootstrap",
    adjust: str | None = None,
) -> Comparison:
    """All pairwise differences of systems that were tested on the same rows, and the set of the best.

    `systems`: name -> one Predictions per fold, all of one data set and level. Every system sees the same
    resamples (`weight_chunks`). For a pair, with d the difference and d* its resamples: the interval is
    d +- the `confidence` quantile of |d* - d|, and p = (1 + #{|d* - d| >= |d|}) / (B + 1), so that the two
    agree; p is never below `least_p`, and the interval never leaves what a difference can be. `test` (of TESTS) gives
    other p-values: see `pair_tests`. `p_adjusted`: by `adjust` (of ADJUSTMENTS; default: `step_down`, for McNemar's test
    `holm`). A system leaves the best set where another beats it by more than the `confidence` quantile of the largest
    studentised |d* - d| over all pairs (Hsu, Multiple Comparisons, 1996), or by the step-down from there (Romano & Wolf,
    Econometrica 73, 2005). Raises ResultsError where systems were not tested on the same ids, labels and groups,
    ConfigError for a metric that does not judge this kind of target.
    """
    names = list(systems)
    aligned = _aligned(systems)
    (member,) = suitable([metric], aligned[0][0].samples.task)
    parts = [held_out(predictions) for predictions in aligned[0]]
    scores = [[scored(own[f], member)[judged_rows(own[f])] for own in aligned] for f in range(len(parts))]
    values = np.mean(
        [[point(part, member, score) for score in scores[f]] for f, part in enumerate(parts)], axis=0
    )
    draws = np.mean(
        [
            resampled(part, [member], scores[f], resamples=resamples, seed=[seed, f])[0]
            for f, part in enumerate(parts)
        ],
        axis=0,
    )
    same = {
        (i, j): all(np.array_equal(rows[i], rows[j]) for rows in scores)
        for i, j in combinations(range(len(names)), 2)
    }
    need_fitting(test, adjust, metric)
    way = adjust or ("holm" if test.startswith("mcnemar") else "max-t")
    judge = _Judge(parts, member, values, draws, confidence, way)
    if not judge.reason and any(part.design(member) is not part.plain for part in parts) and len(names) > 1:
        judge.widen(freedom_of(parts, member, scores, seed=seed))
    key = aligned[0][0].key
    about = (key.dataset, key.level, metric)
    tested = Tested({pair: judge.pair(*pair, identical=same[pair]) for pair in same})
    if test != "bootstrap":
        tested = retested(test, Scored(parts, member, scores, confidence, seed, resamples), tested.found)
    return Comparison(judge.differences(tested, names, about), judge.standings(names, about))


class _Judge:
    """The statistics of one comparison: `values` [S], `draws` [S, B] of S systems."""

    def __init__(
        self,
        parts: Sequence[HeldOut],
        metric: Metric,
        values: FloatArray,
        draws: FloatArray,
        confidence: float,
        adjust: str = "max-t",
    ) -> None:
        self.parts, self.metric, self.confidence, self.adjust = parts, metric, confidence, adjust
        self.groups = sum(part.n_units for part in parts)
        self.least, self.reach = least_p(parts, metric), reach(parts, metric)
        self.values = values
        scale = scale_of(parts, metric)
        # Differences below this are none but for rounding.
        self.zero = max(
            [scale.rounding(value) for value in values[np.isfinite(values)].tolist()], default=ZERO
        )
        whole = np.atleast_1d(np.isfinite(draws).all(axis=0))
        self.draws = draws[:, whole]
        self.how, self.population = words(parts, metric, resamples=draws.shape[1], confidence=confidence)
        self.reason = unresampleable(parts, metric)
        if not np.isfinite(values).all():
            self.reason = no_value(parts)
        elif not self.reason and (~whole).mean() > LOST:
            self.reason = too_many_lost(parts, int((~whole).sum()), len(whole))

    def widen(self, freedom: float) -> None:
        """Spread the resamples as t with these degrees, where strata are too small for the normal law."""
        self.draws = self.values[:, None] + widening(freedom, self.confidence) * (
            self.draws - self.values[:, None]
        )
        self.how += f", widened as t with {freedom:.0f} degrees of freedom"

    def pair(self, i: int, j: int, *, identical: bool) -> tuple[float, float, float, str]:
        """(low, high, p, method) of the difference i - j."""
        nan = float("nan")
        if identical and np.isfinite(self.values[i]):
            return 0.0, 0.0, 1.0, "identical predictions"
        if self.reason:
            return nan, nan, nan, f"undefined: {self.reason}"
        difference = float(self.values[i] - self.values[j])
        spread = np.abs(self.draws[i] - self.draws[j] - difference)
        if spread.max() < self.zero:
            if abs(difference) >= self.zero:
                return nan, nan, self.least, "undefined: every resample gives the same difference"
            bound = 1 - exact_floor(self.parts, self.metric, self.confidence)
            how = "exact bound, no group differs" if np.isfinite(bound) else "undefined: no group differs"
            return -bound, bound, 1.0, how
        half = float(np.quantile(spread, self.confidence, method="higher"))
        p = (1 + int((spread >= abs(difference) - self.zero).sum())) / (1 + len(spread))
        pairs = len(self.values) * (len(self.values) - 1) // 2
        method = (
            f"paired {self.how}, symmetric; p adjusted over {pairs} {'pair' if pairs == 1 else 'pairs'} by {ADJUSTED_BY[self.adjust]}; "
            f"estimand: difference of these fitted models on {self.population}"
        )
        return *within(difference - half, difference + half, self.reach), max(p, self.least), method

    def differences(
        self, tested: Tested, names: Sequence[str], about: tuple[str, str, str]
    ) -> tuple[PairDifference, ...]:
        """What was found of each pair, with its p-value adjusted and the groups that it would take."""
        p_values = {pair: p for pair, (_, _, p, _) in tested.found.items()}
        rows = []
        for ((i, j), (low, high, p, how)), q in zip(
            tested.found.items(), self.adjusted(p_values, tested), strict=True
        ):
            gap = float(self.values[i] - self.values[j])
            needed = groups_needed(gap, self.variance(i, j), self.groups, level=1 - self.confidence)
            rows.append(PairDifference(*about, names[i], names[j], gap, low, high, p, float(q), how, needed))
        return tuple(rows)

    def variance(self, i: int, j: int) -> float:
        """Of the resampled difference i - j; NaN where nothing can be resampled, 0 where nothing moves but by rounding."""
        found = float("nan") if self.reason else float((self.draws[i] - self.draws[j]).var(ddof=1))
        return 0.0 if found <= self.zero**2 else found

    def adjusted(self, found: Mapping[tuple[int, int], float], tested: Tested | None = None) -> FloatArray:
        """The p-values of all pairs, adjusted for their number, [pairs]; NaN stay NaN."""
        p_values = np.array(list(found.values()), dtype=np.float64)
        if not found or self.adjust == "holm":
            return holm(p_values)
        if self.adjust == "bh":
            return benjamini_hochberg(p_values)
        # Pairs without variance have no t: they keep Bonferroni's bound.
        result: FloatArray = np.minimum(1.0, p_values * len(p_values))
        if tested is not None and tested.statistics is not None and tested.null is not None:
            moving = np.array([pair in tested.pairs for pair in found])
            statistics, null, whole = tested.statistics, tested.null, tested.whole
        else:
            gaps = np.array([self.values[i] - self.values[j] for i, j in found])
            spread = np.array(
                [np.abs(self.draws[i] - self.draws[j] - gap) for (i, j), gap in zip(found, gaps, strict=True)]
            )
            moving = np.isfinite(p_values) & (spread.max(axis=1, initial=0.0) >= self.zero)
            error = np.sqrt((spread**2).sum(axis=1) / max(1, spread.shape[1]))[moving]
            statistics, null, whole = np.abs(gaps[moving]) / error, spread[moving] / error[:, None], False
        if moving.any():
            result[moving] = np.maximum(step_down(statistics, null, whole=whole), p_values[moving])
        return result

    def best_set(self) -> list[bool]:
        """For each system whether no other beats it beyond the simultaneous bound, [S]."""
        if self.reason or len(self.values) < 2:
            return [True] * len(self.values)
        return [not beaten.any() for beaten in self._beats()[1].T]

    def _beats(self) -> tuple[Leads, AnyArray]:
        sign = 1.0 if self.metric.higher_is_better else -1.0
        found = leads(sign * self.values, sign * self.draws, self.zero)
        # A difference without variance counts only where enough groups agree on it (sign test).
        enough = self.least <= 1 - self.confidence
        plain = beats(found, self.confidence, enough=enough, zero=self.zero)
        return found, plain | self._stepped(sign)

    def _stepped(self, sign: float) -> AnyArray:
        """Whether i beats j by the step-down, bool [S, S]: it finds what one common bound finds, and at times more.

        Without it a system could stand in the best set while its pair with the best says that it is behind.
        """
        count = len(self.values)
        first, second = np.triu_indices(count, 1)
        gaps = self.values[first] - self.values[second]
        spread = np.abs(self.draws[first] - self.draws[second] - gaps[:, None])
        moving = spread.max(axis=1, initial=0.0) >= self.zero
        result = np.zeros((count, count), dtype=np.bool_)
        if not moving.any():
            return result
        first, second, gaps, spread = first[moving], second[moving], gaps[moving], spread[moving]
        error = np.sqrt(np.square(spread).mean(axis=1))
        alone = (1 + (spread >= np.abs(gaps)[:, None] - self.zero).sum(axis=1)) / (1 + spread.shape[1])
        stepped = step_down(np.abs(gaps) / error, spread / error[:, None])
        p = np.maximum(np.maximum(stepped, alone), self.least)
        ahead = (p <= 1 - self.confidence) & (sign * gaps > 0)
        behind = (p <= 1 - self.confidence) & (sign * gaps < 0)
        result[first[ahead], second[ahead]] = True
        result[second[behind], first[behind]] = True
        return result

    def standings(self, names: Sequence[str], about: tuple[str, str, str]) -> tuple[Standing, ...]:
        """Each system's value, whether no other beats it beyond the simultaneous bound, and where it may stand."""
        count = len(self.values)
        if self.reason or count < 2:
            return tuple(
                Standing(*about, name, float(value), True, 1, count)
                for name, value in zip(names, self.values, strict=True)
            )
        found, ahead_of = self._beats()
        best, worst = rank_intervals(ahead_of)
        low, high = mcb(found, self.confidence)
        return tuple(
            Standing(
                *about,
                name,
                float(self.values[s]),
                not ahead_of[:, s].any(),
                int(best[s]),
                int(worst[s]),
                float(low[s]),
                float(high[s]),
            )
            for s, name in enumerate(names)
        )


def _aligned(systems: Mapping[str, Sequence[Predictions]]) -> list[list[Predictions]]:
    """The systems' predictions fold by fold in one order; ResultsError where they don't match."""
    if not systems or not all(systems.values()):
        raise ResultsError("there is nothing to compare", "a system has no predictions", "featprobe probe")
    names = list(systems)
    first = {p.key.fold: p for p in systems[names[0]]}
    result = []
    for name in names:
        own = {p.key.fold: p for p in systems[name]}
        if set(own) != set(first) or len(own) != len(systems[name]):
            raise _mismatch(names[0], name, f"folds ({', '.join(first)} and {', '.join(own)})")
        for fold, reference in first.items():
            what = _unequal(reference, own[fold])
            if what:
                raise _mismatch(names[0], name, f"{what} in fold {fold}")
        result.append([own[fold] for fold in first])
    return result


def _unequal(a: Predictions, b: Predictions) -> str:
    """What keeps two predictions from being compared, "" where nothing does."""
    if (a.key.dataset, a.key.level) != (b.key.dataset, b.key.level):
        return "data sets or levels"
    left = a.samples.take(np.argsort(a.samples.id, kind="stable"))
    right = b.samples.take(np.argsort(b.samples.id, kind="stable"))
    if not np.array_equal(left.id, right.id):
        return f"test ids ({len(set(left.id) ^ set(right.id))} differ)"
    if left.task != right.task:
        return f"kinds of target ({left.task} and {right.task})"
    same = np.array_equal(left.label, right.label, equal_nan=left.task == "continuous")
    if left.label_names != right.label_names or not same:
        return "test labels"
    if not np.array_equal(left.group, right.group):
        return "groups"
    return ""


def _mismatch(a: str, b: str, what: str) -> ResultsError:
    return ResultsError(
        f"{a} and {b} have unequal {what}",
        "systems can only be compared on the same test rows",
        "run featprobe probe and finetune again with the same data, --seed, --folds and split for all of them",
    )
