"""What a comparison says beyond pairs: intervals by another method, folds and seeds together, data sets together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

import numpy as np
import pandas as pd

from featprobe import report, significance
from featprobe.config import CompareConfig
from featprobe.errors import ConfigError
from featprobe.records import KEY_COLUMNS, CriticalDifference, MeanRanks, Predictions, Statistics
from featprobe.registry import METRICS
from featprobe.results import to_predictions
from featprobe.significance.bootstrap import held_out, scored

SOURCE: Final = "source"
"""Column of the data set's own name, where `dataset` names the rows of it that are compared."""

FAMILY: Final = "family"
"""Column of what `dataset` was before its seed was taken off."""

COMBINED_COLUMNS: Final = (
    "dataset",
    "level",
    "metric",
    "a",
    "b",
    "value",
    "ci_low",
    "ci_high",
    "p_value",
    "p_adjusted",
    "trainings",
    "method",
)
ROPE: Final = 0.01
"""Differences of a metric with a range of 1 that are none for practical ends."""


def with_source(predictions: pd.DataFrame) -> pd.DataFrame:
    """A copy that keeps the data set's own name, which families change."""
    copy = predictions.assign(**{SOURCE: predictions["dataset"]})
    copy.attrs = predictions.attrs
    return copy


def with_intervals(
    config: CompareConfig, estimates: pd.DataFrame, predictions: pd.DataFrame, about: Mapping[Any, Any]
) -> pd.DataFrame:
    """`estimates` with the intervals that --interval asks for, where the method fits the metric; the others stay.

    Raises ConfigError where it fits no metric of any data set, or a group has several rows and it counts rows.
    """
    if config.interval == "t":
        return estimates
    found: dict[tuple[Any, ...], tuple[float, float, str]] = {}
    refused: ConfigError | None = None
    for (name, level, _), part in predictions.groupby(["dataset", "level", "system"], sort=False):
        own = part.drop(columns=["system", SOURCE])
        own.attrs = dict(about)
        records = to_predictions(own)
        here = (estimates["dataset"] == name) & (estimates["level"] == level)
        metrics = [str(metric) for metric in estimates.loc[here, "metric"].unique()]
        if not any(significance.fits(config.interval, name) for name in metrics):
            refused = ConfigError(
                f"--interval {config.interval} fits no metric of {records[0].key.dataset!r}",
                "delong is for areas under the ROC curve, wilson for accuracy",
                "type --interval t, or bca",
            )
            continue
        made = significance.intervals_by(
            config.interval, records, metrics, resamples=config.resamples, seed=config.seed
        )
        for one in made:
            key = tuple(getattr(one.key, name) for name in KEY_COLUMNS)
            found[(*key, one.metric)] = one.ci_low, one.ci_high, one.ci_method
    if refused is not None and not found:
        raise refused
    keys = zip(*(estimates[name] for name in (*KEY_COLUMNS, "metric")), strict=True)
    old = zip(estimates["ci_low"], estimates["ci_high"], estimates["ci_method"], strict=True)
    low, high, method = zip(*(found.get(key, was) for key, was in zip(keys, old, strict=True)), strict=True)
    return estimates.assign(ci_low=low, ci_high=high, ci_method=method)


def reported(
    config: CompareConfig,
    standings: pd.DataFrame,
    systems: Mapping[str, Sequence[Predictions]],
    metric: str,
) -> pd.DataFrame:
    """`standings`, where asked for with the interval that a study would have printed; NaN under cross-validation."""
    if not config.as_reported:
        return standings
    spans = []
    for name in standings["system"]:
        folds = systems[name]
        if len(folds) > 1:
            spans.append((math.nan, math.nan))
            continue
        part, judge = held_out(folds[0]), METRICS.get(metric)
        spans.append(
            significance.as_reported(part, judge, scored(folds[0], judge)[part.order], seed=config.seed)
        )
    low, high = zip(*spans, strict=True)
    return standings.assign(reported_low=low, reported_high=high)


def statistics(
    standings: pd.DataFrame,
    estimates: pd.DataFrame,
    predictions: pd.DataFrame,
    classes: Mapping[str, int],
) -> Statistics:
    """Everything beyond pairs, in the metric that each data set (with its number of classes) was compared by."""
    judged = standings[["dataset", "level", "metric"]].drop_duplicates()
    sources = dict(zip(predictions["dataset"], predictions[SOURCE], strict=True))
    rows = estimates.merge(judged, on=["dataset", "level", "metric"])
    rows[SOURCE] = rows["dataset"].map(sources)
    combined, notes = [], list(_not_reported(standings))
    for (_, _, metric), part in _questions(rows):
        name = str(part["dataset"].iloc[0])
        why = _not_combined(part, predictions)
        if why:
            notes.append(f"{name}: {why}")
        else:
            count = classes[str(part[FAMILY].iloc[0])]
            combined += list(_combined(name, str(part["level"].iloc[0]), str(metric), part, count))
    frame = pd.DataFrame(combined, columns=list(COMBINED_COLUMNS))
    return Statistics(standings, frame, tuple(_across(rows)), tuple(notes))


def mean_ranks(found: Statistics) -> tuple[MeanRanks, ...]:
    """What a critical-difference diagram draws, of each level that was ranked over several data sets."""
    return tuple(
        MeanRanks(
            systems=one.systems,
            mean=one.mean_rank,
            datasets=len(one.datasets),
            method=f"Nemenyi, 5 %, {one.metric}, by {one.level}",
            critical_difference=one.critical,
        )
        for one in found.across
    )


def _not_reported(standings: pd.DataFrame) -> Iterator[str]:
    """Where the study's interval was asked for and there is none."""
    if "reported_low" in standings:
        for name, rows in standings.groupby("dataset", sort=False):
            if rows["reported_low"].isna().all():
                yield f"{name}: the study's interval is of one test set; under cross-validation there is none"


def _questions(rows: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    """(key, rows of single folds) of what is one question but for the seed: its `dataset` without the seed."""
    single = rows[rows["fold"] != "mean"]
    suffix = [f", seed {seed}" for seed in single["seed"]]
    names = [str(name).removesuffix(end) for name, end in zip(single["dataset"], suffix, strict=True)]
    named = single.assign(dataset=names, **{FAMILY: single["dataset"]})
    yield from named.groupby(["dataset", "level", "metric"], sort=False)


def _not_combined(part: pd.DataFrame, predictions: pd.DataFrame) -> str:
    """Why folds and seeds of a question can't be taken together; "" where they can, or there is but one."""
    if len(set(part["seed"])) < 2 or len(set(part["fold"])) > 1:
        return ""
    own = predictions[
        (predictions[SOURCE] == part[SOURCE].iloc[0]) & (predictions["level"] == part["level"].iloc[0])
    ]
    tests = {frozenset(ids) for _, ids in own.groupby("seed")["id"]}
    if len(tests) > 1:
        return ""
    return (
        "the seeds were not combined: all were tested on the same rows, so that their spread says nothing about new "
        "training sets; each seed's own comparison holds for its fitted models"
    )


def _combined(
    dataset: str, level: str, metric: str, part: pd.DataFrame, classes: int
) -> Iterator[dict[str, Any]]:
    """Rows of COMBINED_COLUMNS: every system, then every pair, over folds and seeds; none where there is one training."""
    values = part.pivot_table(index=["seed", "fold"], columns="system", values="value", sort=False).dropna(
        axis=1
    )
    if len(values) < 2 or not values.shape[1]:
        return
    share = float((part["n_test"] / part["n_train"]).mean())
    seeds = part["seed"].nunique()
    how = (
        f"corrected resampled t, 95 %, {len(values) // seeds} folds x {seeds} seeds; estimand: the procedure, trained "
        "anew on as many rows, on new data"
    )
    about = {"dataset": dataset, "level": level, "metric": metric, "trainings": len(values), "method": how}
    scale = significance.Scale(*METRICS.get(metric).bounds(classes))
    for system in values.columns:
        found = significance.corrected_resampled_t(values[system].to_numpy(), share, scale=scale)
        own = {"a": system, "b": "", "value": found.mean, "ci_low": found.low, "ci_high": found.high}
        yield {**about, **own, "p_value": math.nan, "p_adjusted": math.nan}
    pairs = list(combinations(values.columns, 2))
    tested = [significance.corrected_resampled_t((values[a] - values[b]).to_numpy(), share) for a, b in pairs]
    adjusted = significance.holm(np.array([found.p_value for found in tested]))
    for (a, b), found, p in zip(pairs, tested, adjusted, strict=True):
        own = {"a": a, "b": b, "value": found.mean, "ci_low": found.low, "ci_high": found.high}
        yield {**about, **own, "p_value": found.p_value, "p_adjusted": float(p)}


def _across(rows: pd.DataFrame) -> Iterator[CriticalDifference]:
    """Per level and metric the systems that were judged on all of at least FEWEST data sets."""
    for (level, metric), part in report.headline(rows).groupby(["level", "metric"], sort=False):
        values = part.pivot_table(index=SOURCE, columns="system", values="value", sort=False).dropna(axis=1)
        if len(values) < significance.FEWEST or values.shape[1] < 2:
            continue
        judge = METRICS.get(str(metric))
        table = (1.0 if judge.higher_is_better else -1.0) * values.to_numpy()
        found = significance.across_datasets(table)
        order = np.argsort(found.mean_rank, kind="stable")
        names = [str(values.columns[s]) for s in order]
        place = {int(s): position for position, s in enumerate(order)}
        low, high = judge.bounds(2)
        known = math.isfinite(high - low)
        rope = ROPE * (high - low) if known else math.nan
        chances = significance.signed_rank_pairs(table[:, order], rope=rope) if known else {}
        yield CriticalDifference(
            level=str(level),
            metric=str(metric),
            systems=tuple(names),
            mean_rank=found.mean_rank[order],
            datasets=tuple(map(str, values.index)),
            critical=found.critical,
            cliques=tuple(tuple(sorted(place[s] for s in clique)) for clique in found.cliques),
            statistic=found.statistic,
            p_value=found.p_value,
            rope=rope,
            chances={(names[i], names[j]): chance for (i, j), chance in chances.items()},
        )
