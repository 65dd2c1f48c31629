"""How far the scores of compared systems can be believed: reliability, abstention and prediction sets, for the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from featprobe import significance
from featprobe.records import (
    AnyArray,
    FloatArray,
    IntArray,
    Predictions,
    ReliabilityCurve,
    SelectiveCurve,
    TrustPanel,
)
from featprobe.stages.spans import group_means, mean_span, resampled_span, share_span
from featprobe.trust import conformal, reliability, selective

RESAMPLES: Final = 500
"""Of groups, for bands and areas, where more are asked for: their standard error is then known to 3 %."""

BLOCK: Final = 2_000_000
"""Weights that are worked on at a time."""

LEVELS: Final = (0.8, 0.9, 0.95)
SPLITS: Final = 50
COVERAGES: Final = np.linspace(0.05, 1, 39)

SET_COLUMNS: Final = (
    *("system", "rule", "nominal", "what", "value", "ci_low", "ci_high", "n_groups", "ci_method"),
)
AREA_COLUMNS: Final = ("system", "measure", "value", "ci_low", "ci_high", "ci_method")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The labelled test rows of one system over all folds; `fold` and `unit` int [N], groups are of one fold each."""

    y_score: FloatArray
    decision: FloatArray
    y_true: AnyArray
    fold: IntArray
    unit: IntArray


def trust_panel(
    dataset: str,
    level: str,
    systems: Mapping[str, Sequence[Predictions]],
    *,
    resamples: int,
    seed: int,
) -> TrustPanel | None:
    """What the report says of trust on one data set; None where the target is a number, which has no probability."""
    first = next(iter(systems.values()))[0].samples
    if first.task == "continuous":
        return None
    count = min(resamples, RESAMPLES)
    rows = {name: _rows(own) for name, own in systems.items()}
    # All systems are judged on the same rows, so that they share the resamples.
    one = next(iter(rows.values()))
    weights = significance.group_weights(one.unit, resamples=count, seed=seed, strata=one.fold)
    curves, lines, areas, sets = [], [], [], []
    asked = ""
    for name, own in rows.items():
        curve, asked = _reliability(name, own, first.task, weights)
        curves.append(curve)
        line, table = _selective(name, own, first.task, weights)
        lines.append(line)
        areas += table
        if first.task != "multilabel":
            sets += list(_sets(name, own, first.label_names, seed))
    unit = "group" if first.groups_declared else "image"
    return TrustPanel(
        dataset=dataset,
        level=level,
        asked=reliability.ASKED[asked],
        reliability=tuple(curves),
        selective=tuple(lines),
        areas=pd.DataFrame(areas, columns=list(AREA_COLUMNS)),
        sets=pd.DataFrame(sets, columns=list(SET_COLUMNS)),
        bands=(
            f"{reliability.BINS} bins of equal numbers of rows (fewer where scores are equal); bands: {unit} bootstrap, "
            f"95 %, {count} resamples, point by point"
        ),
        promise=_promise(unit, one) if sets else "",
        meanings=dict(selective.MEANINGS),
    )


def _rows(own: Sequence[Predictions]) -> Rows:
    """In the order of folds and ids."""
    parts: list[tuple[AnyArray, ...]] = []
    units = 0
    for number, item in enumerate(own):
        order = np.argsort(item.samples.id, kind="stable")
        order = order[item.samples.labelled[order]]
        unit = np.unique(item.samples.units()[order], return_inverse=True)[1].reshape(-1) + units
        units = int(unit.max(initial=units - 1)) + 1
        fold = np.full(len(order), number, dtype=np.int64)
        parts.append((item.y_score[order], item.decision_score[order], item.y_true[order], fold, unit))
    return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _blocks(weights: FloatArray, columns: int) -> Iterator[FloatArray]:
    """Some rows of `weights` at a time, so that so many `columns` of them stay within BLOCK."""
    step = max(1, BLOCK // max(1, columns))
    for start in range(0, len(weights), step):
        yield weights[start : start + step]


def _reliability(name: str, own: Rows, task: str, weights: FloatArray) -> tuple[ReliabilityCurve, str]:
    """Rows of all folds together: a probability says the same whichever model says it."""
    asked = reliability.asked(own.y_score, own.y_true, task)
    bins = reliability.bins_of(asked.said)
    one, true = np.ones((1, len(bins))), asked.true.astype(np.float64)
    said, share = (reliability.shares(values, bins, one)[0] for values in (asked.said, true))
    blocks = _blocks(weights, len(asked.row))
    draws = np.concatenate([reliability.shares(true, bins, np.take(w, asked.row, axis=1)) for w in blocks])
    unit = own.unit[asked.row]
    spans = [
        share_span(float(share[k]), draws[:, k], len(np.unique(unit[bins == k]))) for k in range(len(share))
    ]
    low, high = np.array(spans).T
    return ReliabilityCurve(name, said, share, low, high, np.bincount(bins)), asked.what


def _selective(
    name: str, own: Rows, task: str, weights: FloatArray
) -> tuple[SelectiveCurve, list[tuple[Any, ...]]]:
    """Within each fold, then the mean over folds: confidence of different models is not pooled."""
    confidence, loss = selective.losses(own.decision, own.y_true, task)
    points, areas, lines, draws = [], [], [], []
    for number in range(int(own.fold.max()) + 1):
        rows = np.flatnonzero(own.fold == number)
        sure, lost, one = confidence[rows], loss[rows], np.ones((1, len(rows)))
        points.append(selective.areas(sure, lost, one)[:, 0])
        lines.append(selective.curve(sure, lost, one, COVERAGES)[0])
        blocks = [np.take(w, rows, axis=1) for w in _blocks(weights, len(rows))]
        areas.append(np.concatenate([selective.areas(sure, lost, w) for w in blocks], axis=1))
        draws.append(np.concatenate([selective.curve(sure, lost, w, COVERAGES) for w in blocks]))
    freedom = len(np.unique(own.unit)) - len(points)
    value, drawn = np.mean(points, axis=0), np.mean(areas, axis=0)
    how = f"group bootstrap within folds, 95 %, {len(weights)} resamples, t on the logit scale"
    table: list[tuple[Any, ...]] = [
        (name, measure, float(value[m]), *resampled_span(float(value[m]), drawn[m], freedom), how)
        for m, measure in enumerate(selective.MEASURES)
    ]
    risk, spread = np.mean(lines, axis=0), np.mean(draws, axis=0)
    spans = [
        resampled_span(float(risk[g]), spread[:, g], freedom)
        if risk[g]
        else share_span(0.0, spread[:, g], _answered(own, confidence, share))
        for g, share in enumerate(COVERAGES)
    ]
    low, high = np.array(spans).T
    return SelectiveCurve(name, COVERAGES, risk, low, high), table


def _answered(own: Rows, confidence: FloatArray, coverage: float) -> int:
    """Groups with a row among the surest: the smallest number of any fold, times the folds."""
    counts = []
    for number in range(int(own.fold.max()) + 1):
        rows = np.flatnonzero(own.fold == number)
        surest = rows[np.argsort(-confidence[rows], kind="stable")[: max(1, int(coverage * len(rows)))]]
        counts.append(len(np.unique(own.unit[surest])))
    return len(counts) * min(counts)


def _sets(name: str, own: Rows, classes: Sequence[str], seed: int) -> Iterator[tuple[Any, ...]]:
    """Every figure of the prediction sets of one system; nothing where a fold has a single group."""
    folds = [np.flatnonzero(own.fold == number) for number in range(int(own.fold.max()) + 1)]
    if any(len(np.unique(own.unit[rows])) < 2 for rows in folds):
        return
    draw = np.random.default_rng([seed, 0xA95]).random(len(own.fold))
    for rule, strange in conformal.SCORES.items():
        done = [
            conformal.halves(
                strange(own.y_score[rows], draw[rows]),
                own.y_true[rows],
                own.unit[rows],
                LEVELS,
                splits=SPLITS,
                seed=seed,
            )
            for rows in folds
        ]
        for a, nominal in enumerate(LEVELS):
            tables = {
                "coverage": ([half.covered[a] for half in done], (0.0, 1.0)),
                "size": ([half.size[a] for half in done], (0.0, float(len(classes)))),
                "empty": ([half.empty[a] for half in done], (0.0, 1.0)),
            }
            for what, (values, bounds) in tables.items():
                yield _figure((name, rule, nominal, what), values, folds, own, bounds)
            for number, label in enumerate(classes):
                held = [own.y_true[rows] == number for rows in folds]
                covered = [half.covered[a][mask] for half, mask in zip(done, held, strict=True)]
                there = [rows[mask] for rows, mask in zip(folds, held, strict=True)]
                if any(map(len, there)):
                    yield _figure(
                        (name, rule, nominal, f"coverage of {label}"), covered, there, own, (0.0, 1.0)
                    )


def _figure(
    about: tuple[Any, ...],
    values: Sequence[FloatArray],
    folds: Sequence[IntArray],
    own: Rows,
    bounds: tuple[float, float],
) -> tuple[Any, ...]:
    """A row of SET_COLUMNS: the mean over groups of `values`, fold by fold."""
    means = [group_means(one, own.unit[rows]) for one, rows in zip(values, folds, strict=True) if len(rows)]
    value, low, high = mean_span(means, bounds=bounds)
    how = (
        "t over groups on the logit scale, 95 % (all alike at an end: exact Clopper-Pearson bound); estimand: these "
        "fitted models with these thresholds on new groups"
    )
    return (*about, value, low, high, sum(map(len, means)), how)


def _promise(unit: str, own: Rows) -> str:
    """How sets were made, and what holds of them, in words."""
    folds = int(own.fold.max()) + 1
    least = min(len(np.unique(own.unit[own.fold == number])) // 2 for number in range(folds))
    within = " of each fold" if folds > 1 else ""
    short = [f"{100 * level:g} %" for level in LEVELS if least < np.ceil((least + 1) * level - 1e-9)]
    can_not = (
        f" With {least} {unit}s to calibrate on, sets at {' and '.join(short)} can only hold every class."
        if short
        else ""
    )
    return (
        f"Split conformal sets: one random half of the test {unit}s{within} sets the threshold, the other is judged, both "
        f"ways, {SPLITS} times; each {unit} weighs the same. For {unit}s that are exchangeable with these, a row drawn from "
        "a new one has its true class in its set at least as often as the nominal level says, on average over the "
        f"{unit}s that calibrate. That holds whatever the model, so that coverage must come out near the level here: what "
        "tells systems apart is how small the sets are. Nothing is promised for a single class, or for "
        f"{unit}s from elsewhere.{can_not}"
    )
