"""Label efficiency: the curves of each data set and probe, and how many labels the best system saves, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from featprobe import report, significance
from featprobe.metrics import label as metric_label
from featprobe.records import KEY_COLUMNS, LabelStudy, Samples
from featprobe.results import to_predictions
from featprobe.significance import LabelCurves, Run, Saving
from featprobe.stages.families import base_name, kind_of_amount
from featprobe.stages.findings import MOST_CONTRASTS, number
from featprobe.stages.systems import SHUFFLED, add_systems, amount
from featprobe.stages.variants import WHOLE_GROUPS

POINT_COLUMNS: Final = ("system", "amount", "labels", "value", "ci_low", "ci_high", "best", "method")
SAVING_COLUMNS: Final = (
    "best",
    "other",
    "level",
    "ratio",
    "ci_low",
    "ci_high",
    "needed_best",
    "needed_other",
    "method",
)
_MODEL: Final = tuple(name for name in KEY_COLUMNS if name != "fold")


def label_studies(
    predictions: pd.DataFrame,
    runs: Sequence[Mapping[str, Any]],
    metric_of: Any,
    *,
    resamples: int,
    seed: int,
) -> list[LabelStudy]:
    """One for each data set, level, probe and kind of amount of which a system was fitted with several amounts.

    `predictions`: of `results.load_many`, with its `attrs`; `runs`: each folder's run.json; `metric_of`: (task, data
    set) -> the metric. Systems with one amount have no curve. Raises ResultsError where test rows differ.
    """
    groups = _train_groups(runs)
    found = []
    for about, part in _parts(predictions):
        part.attrs = predictions.attrs
        curved = _curved(part)
        if curved.empty:
            continue
        curves, samples, unit = _curves(curved, groups, metric_of, resamples=resamples, seed=seed)
        found.append(_study(about, curves, samples, unit))
    return found


def _parts(predictions: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str, str], pd.DataFrame]]:
    """((family, level, probe, kind of amount), its rows)."""
    frame = predictions[predictions["mode"] != SHUFFLED]
    keys = frame[list(_MODEL)].drop_duplicates()
    named = keys.assign(
        family=[base_name(*row) for row in _rows(keys, "dataset", "level", "inputs", "protocol")],
        kind=[kind_of_amount(*row) for row in _rows(keys, "shots", "variant")],
        how=[probe if mode == "frozen" else mode for probe, mode in _rows(keys, "probe", "mode")],
    )
    merged = frame.merge(named, on=list(_MODEL), how="left", validate="many_to_one")
    for (family, level, how, kind), part in merged.groupby(["family", "level", "how", "kind"], sort=False):
        about = (str(family), str(level), str(how), str(kind))
        yield about, part.drop(columns=["how", "kind"])


def _rows(frame: pd.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(frame[column] for column in columns), strict=True)


def _curved(part: pd.DataFrame) -> pd.DataFrame:
    """The rows of systems with several amounts, with the column `system`, the same for all amounts and seeds of one."""
    alike = part.assign(
        dataset=part["family"],
        fraction=1.0,
        shots=0,
        seed=0,
        variant=[
            ", ".join(word for word in words.split(", ") if word != WHOLE_GROUPS) for words in part["variant"]
        ],
    )
    (named,) = add_systems(alike)
    rows = part.reset_index(drop=True).assign(system=named["system"].to_numpy())
    several = rows.groupby("system")[["fraction", "shots"]].transform("nunique").max(axis=1) > 1
    kept = rows[several]
    kept.attrs = part.attrs
    return kept


def _curves(
    rows: pd.DataFrame,
    groups: Mapping[tuple[Any, ...], float],
    metric_of: Any,
    *,
    resamples: int,
    seed: int,
) -> tuple[LabelCurves, Samples, str]:
    """(the curves, test rows of one of them, what their labels count)."""
    runs, images = [], []
    for _, own in rows.groupby([rows["system"], rows["fraction"], rows["shots"], rows["seed"]], sort=False):
        own.attrs = rows.attrs
        predictions = tuple(to_predictions(own.drop(columns=["system", "family"])))
        count = float(np.mean([p.n_train for p in predictions]))
        key = predictions[0].key
        grouped = groups.get(tuple(getattr(key, name) for name in _MODEL), math.nan)
        images.append(count)
        name = amount(key.fraction, key.shots)
        runs.append(Run(str(own["system"].iloc[0]), name, grouped, key.seed, predictions))
    samples = runs[0].predictions[0].samples
    by_group = samples.groups_declared and all(math.isfinite(run.labels) for run in runs)
    if not by_group:
        runs = [
            Run(run.system, run.amount, count, run.seed, run.predictions)
            for run, count in zip(runs, images, strict=True)
        ]
    metric = metric_of(samples.task, str(rows["family"].iloc[0]))
    unit = "training groups" if by_group else f"training {rows['level'].iloc[0]}s"
    return significance.label_curves(runs, metric, resamples=resamples, seed=seed), samples, unit


def _train_groups(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], float]:
    """Key of a model without its fold -> groups that it learnt from, the mean over folds, as the stages recorded it."""
    found = {}
    for run in runs:
        for info in run.get("units", {}).values():
            counted = [count for count in info.get("train_groups", {}).values() if count]
            if counted:
                found[tuple(info["key"].get(name) for name in _MODEL)] = float(np.mean(counted))
    return found


def _study(about: tuple[str, str, str, str], curves: LabelCurves, samples: Samples, unit: str) -> LabelStudy:
    family, level, probe, kind = about
    del samples
    order = curves.order()
    points = pd.DataFrame(
        [
            (p.system, p.amount, p.labels, p.value, p.low, p.high, p.best, p.method)
            for p in sorted(curves.points(), key=lambda p: (order.index(p.system), p.labels))
        ],
        columns=pd.Index(POINT_COLUMNS),
    )
    best = order[0]
    savings = pd.DataFrame(
        [_saving_row(best, other, curves.saving(best, other)) for other in order[1:]],
        columns=pd.Index(SAVING_COLUMNS),
    )
    return LabelStudy(
        dataset=family,
        level=level,
        probe=probe,
        kind=kind,
        metric=curves.metric.name,
        unit=unit,
        systems=tuple(order),
        points=points,
        savings=savings,
        estimand=curves.estimand(),
    )


def _saving_row(best: str, other: str, found: Saving) -> tuple[Any, ...]:
    numbers = (found.level, found.ratio, found.low, found.high, found.needed_own, found.needed_other)
    return (best, other, *(float(value) for value in numbers), found.method)


def sentences(study: LabelStudy) -> list[str]:
    """What a reader may take home: the best system with few labels, and what it saves over each other one."""
    label = metric_label(study.metric)
    places = report.digits(study.metric, study.points["value"])
    best = study.systems[0]
    own = study.points[study.points["system"] == best]
    ends = [
        f"{number(row['value'], places)} with {row['labels']:,.0f}"
        for row in own.iloc[[0, -1]].to_dict("records")
    ]
    first = f"{label} of {best}, {'the best on average over the amounts' if len(study.systems) > 1 else 'the only system'}: {ends[0]}, {ends[1]} {study.unit}."
    told = [_said(row, study, places) for row in study.savings.to_dict("records")[:MOST_CONTRASTS]]
    return [first, *told]


def _said(row: Mapping[Any, Any], study: LabelStudy, places: int) -> str:
    best, other = row["best"], row["other"]
    if not math.isfinite(row["ratio"]):
        why = str(row["method"]).removeprefix("undefined: ")
        why = why.replace("the first", best).replace("the second", other)
        return f"{best} and {other}: no number of labels saved can be given; {why}."
    counts = f"{row['needed_other']:,.0f} against {row['needed_best']:,.0f}"
    span = report.ratio_interval(row["ci_low"], row["ci_high"])
    verdict = "can't be told from needing as many"
    if math.isnan(row["ci_low"]):
        verdict = str(row["method"])
    elif row["ci_low"] > 1 or row["ci_high"] < 1:
        verdict = "a real saving" if row["ratio"] > 1 else "a real loss"
    return (
        f"For a {report.in_sentence(study.metric)} of {number(row['level'], places)}, {other} needs {report.ratio(row['ratio'])} {span} times the "
        f"{study.unit} that {best} needs ({counts}): {verdict}."
    )
