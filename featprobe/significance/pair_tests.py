"""Other ways than the bootstrap to ask whether two systems differ: DeLong, McNemar, and flipped signs of groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from featprobe.errors import ConfigError
from featprobe.records import FloatArray
from featprobe.significance.areas import AREAS, area_contributions, areas_of, single_rows
from featprobe.significance.bca import without_each
from featprobe.significance.bootstrap import THIN, HeldOut, Metric
from featprobe.significance.delong import difference_test, mean_area
from featprobe.significance.least import reach, within
from featprobe.significance.mcnemar import mcnemar_of_rows
from featprobe.significance.sign_flip import EXACT, sign_flip

TESTS: Final = ("bootstrap", "delong", "mcnemar", "mcnemar-midp", "sign-flip")
"""`compare --test`."""

DRAWS: Final = 10_000
"""Draws of the normal law behind max-t of DeLong's test."""

Pair = tuple[int, int]
Found = Mapping[Pair, tuple[float, float, float, str]]


@dataclass(frozen=True, slots=True, eq=False)
class Tested:
    """What a test says of each pair: (low, high, p, method), and its null law for max-t where it has a joint one.

    `statistics` [P] and `null` [P, K]: |difference| / standard error, observed and under the null, of `pairs`; `whole`:
    the K are all patterns that there are.
    """

    found: dict[Pair, tuple[float, float, float, str]]
    pairs: tuple[Pair, ...] = ()
    statistics: FloatArray | None = None
    null: FloatArray | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """S systems on the same folds: `scores[f][s]` float64 [N, C] in the order of `parts[f].samples`."""

    parts: Sequence[HeldOut]
    metric: Metric
    scores: Sequence[Sequence[FloatArray]]
    confidence: float
    seed: int
    resamples: int


def need_fitting(test: str, adjust: str | None, metric: str) -> None:
    """ConfigError where a test does not judge this metric, or has no joint law for the adjustment."""
    areas, shares = test == "delong", test.startswith("mcnemar")
    if (areas and metric not in AREAS) or (shares and metric != "accuracy"):
        wanted = "auroc" if areas else "accuracy"
        raise ConfigError(
            f"--test {test} does not judge {metric}",
            f"it compares {'areas under the ROC curve' if areas else 'shares of right rows'}",
            f"type --metric {wanted}, or --test bootstrap",
        )
    if shares and adjust == "max-t":
        raise ConfigError(
            f"--adjust max-t does not fit --test {test}",
            "its p-values have no joint law that could be drawn from",
            "type --adjust holm",
        )


def retested(test: str, systems: Scored, bootstrap: Found) -> Tested:
    """The pairs of `bootstrap` by another test of TESTS; pairs that the bootstrap left without a p stay as they are.

    Raises ConfigError for McNemar's test where a group has several rows, and for flipped signs where a class is rare and
    has a part of its own in the metric.
    """
    pairs = tuple(
        pair
        for pair, (_, _, p, how) in bootstrap.items()
        if np.isfinite(p) and how != "identical predictions"
    )
    if not pairs:
        return Tested(dict(bootstrap))
    judge = {"delong": _delong, "sign-flip": _sign_flip}.get(test)
    if judge is None:
        return _mcnemar(systems, bootstrap, pairs, mid=test == "mcnemar-midp")
    return judge(systems, bootstrap, pairs)


def _delong(systems: Scored, bootstrap: Found, pairs: tuple[Pair, ...]) -> Tested:
    areas = mean_area([areas_of(part, own) for part, own in zip(systems.parts, systems.scores, strict=True)])
    form = "DeLong" if all(map(single_rows, systems.parts)) else "clustered DeLong (Obuchowski)"
    how = f"{form}, paired, {100 * systems.confidence:g} %"
    found = dict(bootstrap)
    largest = reach(systems.parts, systems.metric)
    sound = []
    for i, j in pairs:
        low, high, p = difference_test(areas, i, j, systems.confidence)
        if np.isfinite(p):
            sound.append((i, j))
            found[i, j] = *within(low, high, largest), p, _instead(bootstrap[i, j][3], how)
        else:
            found[i, j] = low, high, p, "undefined: the difference has no variance"
    if not sound:
        return Tested(found)
    first, second = np.array(sound).T
    covariance = areas.covariance
    error = np.sqrt(covariance[first, first] + covariance[second, second] - 2 * covariance[first, second])
    statistics = np.abs(areas.value[first] - areas.value[second]) / error
    law = np.random.default_rng(systems.seed)
    drawn = law.multivariate_normal(np.zeros(len(areas.value)), covariance, DRAWS, method="svd").T
    return Tested(found, tuple(sound), statistics, np.abs(drawn[first] - drawn[second]) / error[:, None])


def _sign_flip(systems: Scored, bootstrap: Found, pairs: tuple[Pair, ...]) -> Tested:
    if any(part.design(systems.metric) is not part.plain for part in systems.parts):
        raise ConfigError(
            f"--test sign-flip does not fit {systems.metric.name} here: a class has fewer than {THIN} groups",
            "what so few groups add is not symmetric, and the test would find too much",
            "type --test bootstrap, or --metric accuracy",
        )
    own = np.concatenate(
        [
            group_parts(part, systems.metric, scores)
            for part, scores in zip(systems.parts, systems.scores, strict=True)
        ],
        axis=1,
    ) / len(systems.parts)
    first, second = np.array(pairs).T
    parts = own[first] - own[second]
    p_values, sums = sign_flip(parts, flips=systems.resamples, seed=systems.seed)
    count = f"all {sums.shape[1]}" if parts.shape[1] <= EXACT else f"{sums.shape[1]}"
    how = f"sign-flip permutation by group, {count} patterns"
    found = dict(bootstrap)
    for pair, p in zip(pairs, p_values, strict=True):
        low, high, _, words = bootstrap[pair]
        found[pair] = low, high, float(p), _besides(words, how)
    scale = np.sqrt((parts**2).sum(axis=1))
    scale = np.where(scale > 0, scale, np.inf)
    statistics = np.abs(parts.sum(axis=1)) / scale
    return Tested(found, pairs, statistics, sums / scale[:, None], whole=parts.shape[1] <= EXACT)


def _mcnemar(systems: Scored, bootstrap: Found, pairs: tuple[Pair, ...], *, mid: bool) -> Tested:
    right = [
        np.stack([score.argmax(axis=1) == part.samples.label for score in scores])
        for part, scores in zip(systems.parts, systems.scores, strict=True)
    ]
    offsets = np.cumsum([0, *(part.n_units for part in systems.parts)])
    unit = np.concatenate(
        [part.plain.unit + start for part, start in zip(systems.parts, offsets[:-1], strict=True)]
    )
    together = np.concatenate(right, axis=1)
    how = f"McNemar's test, {'mid-p' if mid else 'exact'}"
    found = dict(bootstrap)
    for i, j in pairs:
        low, high, _, words = bootstrap[i, j]
        p = mcnemar_of_rows(together[i], together[j], unit, mid=mid)
        found[i, j] = low, high, p, _besides(words, how)
    return Tested(found)


def group_parts(part: HeldOut, metric: Metric, scores: Sequence[FloatArray]) -> FloatArray:
    """What each group adds to each system's value, so that a row sums to the value, [S, G].

    Accuracy: the group's own sums, exact. Areas: placements. Other metrics: the delete-one-group jackknife, with an
    equal share of the value for each group.
    """
    if metric.name == "accuracy":
        label, unit = part.samples.label, part.plain.unit
        right = [(score.argmax(axis=1) == label).astype(float) for score in scores]
        return np.stack([np.bincount(unit, weights=row, minlength=part.n_units) for row in right]) / len(
            label
        )
    values = np.array(
        [float(metric(part.samples.label, score, np.ones((1, len(score))))[0]) for score in scores]
    )
    if metric.name in AREAS:
        influence = area_contributions(part, scores)
    else:
        influence = np.stack([_influence(part, metric, score) for score in scores])
    return np.asarray(influence + values[:, None] / part.n_units)


def _influence(part: HeldOut, metric: Metric, score: FloatArray) -> FloatArray:
    values = without_each(part, metric, score, np.arange(part.n_units))
    values = np.where(np.isfinite(values), values, np.nanmean(values))
    return np.asarray((values.mean() - values) * (part.n_units - 1) / part.n_units)


def _instead(words: str, how: str) -> str:
    """The bootstrap's method with another one in its place; adjustment and estimand stay."""
    _, mark, rest = words.partition("; p adjusted")
    return f"{how}{mark}{rest}"


def _besides(words: str, how: str) -> str:
    """The bootstrap's method, which still gives the interval, behind the test's."""
    return f"p by {how}; interval by {words}"
