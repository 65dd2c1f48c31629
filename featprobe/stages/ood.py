"""Known or strange: detectors learnt on the training rows of one data set, judged on its test rows and on another set."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from featprobe import probes, significance
from featprobe.cache import Cache
from featprobe.config_trust import OodConfig
from featprobe.probes.logistic import LogisticModel
from featprobe.records import FloatArray
from featprobe.registry import METRICS, PROTOCOLS
from featprobe.results.single import UNIT
from featprobe.splitting import Fold
from featprobe.stages.evaluation import describe_run, title
from featprobe.stages.finite import need_finite
from featprobe.stages.fitting import parts_of
from featprobe.stages.machine import need_writable
from featprobe.stages.ood_plan import Trial, target_classes, trials
from featprobe.stages.ood_table import embedding_name, table_in
from featprobe.stages.spans import resampled_span
from featprobe.stages.summary import Summary
from featprobe.trust import outliers

MEASURES: Final = ("AUROC", "FPR95")
RESAMPLES: Final = 1000
"""Of groups, where more are asked for."""

BLOCK: Final = 4_000_000
"""Weights that are worked on at a time."""


Fitted = dict[str, probes.FittedProbe]
"""Fold -> the probe of its training rows, which several detectors ask."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One fold: strangeness of its test rows [n] and of the strange rows [m], and rows that were learnt from."""

    fold: Fold
    known: FloatArray
    strange: FloatArray
    n_train: int


def ood(config: OodConfig) -> Summary:
    """Tell other data sets from a known one and write ood.csv.

    In each fold a detector learns from the training rows; the fold's test rows, of other groups, are the known ones.
    Every image of the other data set is strange; AUROC is the chance that a strange one is stranger than a known one,
    FPR95 the share of strange ones among those accepted where 95 % of the known are. Returns how many detectors were
    computed and reused. Raises as `trials`, ProbeError for embeddings that can't be judged, OutputError.
    """
    cache = Cache(config.cache)
    asked = trials(config, cache)
    need_writable(config.out)
    store = table_in(config.out)
    there = {row[UNIT] for row in store.rows()}
    todo = [trial for trial in asked if trial.hash not in there]
    bar = tqdm(total=len(todo), unit="detector", desc="ood", disable=None)
    with bar:
        for _, group in itertools.groupby(todo, key=lambda one: (id(one.subject), id(one.table))):
            own = list(group)
            X, Z = _embeddings(cache, own[0])
            rows: list[dict[str, Any]] = []
            fitted: Fitted = {}
            for trial in own:
                rows += _rows(config, trial, X, Z, fitted)
                bar.update()
            store.add(rows, {"run": describe_run(config, "ood")})
    wanted = {trial.hash for trial in asked}
    print(_console([row for row in store.rows() if row[UNIT] in wanted]))
    print(f"ood: {len(todo)} computed, {len(asked) - len(todo)} there already  {store.path}")
    return Summary(len(todo), len(asked) - len(todo), (store.path,))


def _embeddings(cache: Cache, trial: Trial) -> tuple[FloatArray, FloatArray]:
    """(known [N, D], strange [M, D]); ProbeError, naming images, where values are not finite."""
    who = title(trial.key.to_dict())
    X, Z = trial.table.read(cache), trial.other.read(cache)
    need_finite(X, trial.rows, trial.subject.samples.id, who)
    need_finite(Z, trial.kept, trial.strangers.id, f"{who}, {trial.outside!r}")
    return np.asarray(X[trial.rows], dtype=np.float64), np.asarray(Z[trial.kept], dtype=np.float64)


def _rows(
    config: OodConfig, trial: Trial, X: FloatArray, Z: FloatArray, fitted: Fitted
) -> Iterator[dict[str, Any]]:
    """Rows of ood.csv of one trial: each fold, and their mean where there are several."""
    folds = [_judged(config, trial, fold, X, Z, fitted) for fold in trial.subject.plan.folds]
    count = min(config.resamples, RESAMPLES)
    samples, strangers = trial.subject.samples, trial.strangers
    units = samples.units()
    other = significance.group_weights(strangers.units(), resamples=count, seed=trial.key.seed + 1_000_003)
    points, draws = [], []
    for one in folds:
        own = significance.group_weights(units[one.fold.test], resamples=count, seed=trial.key.seed)
        points.append(_measured(one, np.ones((1, len(one.known))), np.ones((1, len(Z))))[:, 0])
        draws.append(_blocks(one, own, other))
    chosen = [([number], one.fold.name) for number, one in enumerate(folds)]
    chosen += [(list(range(len(folds))), "mean")] if len(folds) > 1 else []
    outside = len(np.unique(strangers.units()))
    for numbers, name in chosen:
        part = [folds[number] for number in numbers]
        groups = sum(len(np.unique(units[one.fold.test])) for one in part)
        value = np.mean([points[number] for number in numbers], axis=0)
        drawn = np.mean([draws[number] for number in numbers], axis=0)
        for m, measure in enumerate(MEASURES):
            low, high, how = _interval(
                float(value[m]), drawn[m], min(groups - len(part), outside - 1), outside, measure
            )
            yield {
                **_about(trial),
                "fold": name,
                "metric": measure,
                "value": float(value[m]),
                "ci_low": low,
                "ci_high": high,
                "ci_method": how,
                "n_train": round(float(np.mean([one.n_train for one in part]))),
                "n_inside": sum(len(one.known) for one in part),
                "n_outside": len(strangers),
                "n_groups_inside": groups,
                "n_groups_outside": outside,
                UNIT: trial.hash,
            }


def _about(trial: Trial) -> dict[str, Any]:
    key = trial.key
    return {
        "inside": key.dataset,
        "outside": trial.outside,
        "backbone": key.backbone,
        "weights": key.weights,
        "pooling": key.pooling,
        "layer": key.layer,
        "preprocessing": key.preprocessing,
        "detector": trial.detector,
        "protocol": key.protocol,
        "seed": key.seed,
        "fingerprint_inside": key.fingerprint,
        "fingerprint_outside": trial.other.fingerprint,
    }


def _interval(
    value: float, draws: FloatArray, freedom: int, outside: int, measure: str
) -> tuple[float, float, str]:
    """(low, high, method) of one measure."""
    population = "estimand: these detectors on new groups of both data sets"
    if measure == "FPR95" and value == 0 and outside > 1:
        high = 1 - 0.025 ** (1 / outside)
        return (
            0.0,
            high,
            f"exact Clopper-Pearson bound, 95 %, none of {outside} groups accepted; {population}",
        )
    low, high = resampled_span(value, draws, freedom)
    if not np.isfinite(low):
        return low, high, "undefined: every resample gives the same value, or there are too few groups"
    return (
        low,
        high,
        f"group bootstrap of both data sets, 95 %, {len(draws)} resamples, t on the logit scale; {population}",
    )


def _blocks(one: Judged, own: FloatArray, other: FloatArray) -> FloatArray:
    """MEASURES of all resamples, [2, B], some at a time."""
    step = max(1, BLOCK // max(1, own.shape[1] + other.shape[1]))
    parts = [
        _measured(one, own[start : start + step], other[start : start + step])
        for start in range(0, len(own), step)
    ]
    return np.concatenate(parts, axis=1)


def _measured(one: Judged, own: FloatArray, other: FloatArray) -> FloatArray:
    """MEASURES for each row of the weights [B, n] and [B, m], [2, B]."""
    score = np.concatenate([one.known, one.strange])
    truth = np.repeat([0, 1], [len(one.known), len(one.strange)])
    auroc: FloatArray = METRICS.get("auroc")(
        truth, np.column_stack([-score, score]), np.concatenate([own, other], axis=1)
    )
    return np.stack([auroc, outliers.accepted_strangers(one.known, one.strange, own, other)])


def _judged(
    config: OodConfig, trial: Trial, fold: Fold, X: FloatArray, Z: FloatArray, fitted: Fitted
) -> Judged:
    """What one fold's detector says of its test rows and of the strange ones."""
    samples = trial.subject.samples
    learn = np.concatenate([fold.train, fold.val])
    y, asked = target_classes(samples)[learn], np.concatenate([X[fold.test], Z])
    if trial.detector == "mahalanobis":
        score = outliers.mahalanobis(X[learn], y, asked)
    elif trial.detector == "relative-mahalanobis":
        score = outliers.relative_mahalanobis(X[learn], y, asked)
    elif trial.detector == "knn":
        score = outliers.neighbour_distance(X[learn], asked, config.neighbours)
    else:
        if fold.name not in fitted:
            fitted[fold.name] = _probe(trial, fold, X)
        score = _of_probe(trial.detector, fitted[fold.name], asked)
    known, strange = np.split(score, [len(fold.test)])
    return Judged(fold, known, strange, len(learn))


def _probe(trial: Trial, fold: Fold, X: FloatArray) -> probes.FittedProbe:
    """The logistic regression of probe on the training rows of one fold."""
    samples = trial.subject.samples
    learn, selection = parts_of(PROTOCOLS.get("featprobe"), samples, fold, trial.key)
    return probes.fit_probe(
        "logistic",
        X[learn],
        samples.label[learn],
        n_classes=len(samples.label_names),
        selection=selection,
        calibration=selection,
        seed=trial.key.seed,
    )


def _of_probe(detector: str, fitted: probes.FittedProbe, asked: FloatArray) -> FloatArray:
    if detector == "max-softmax":
        return outliers.doubt(fitted.predict(asked))
    assert isinstance(fitted.model, LogisticModel)
    return outliers.energy(logits_of(fitted.model, asked))


def logits_of(model: LogisticModel, X: FloatArray) -> FloatArray:
    """Logits [M, K] of X [M, D]; of two classes half the log odds each way, as the penalty would share them."""
    found = X @ model.coef.T + model.intercept
    return np.asarray(found if found.shape[1] > 1 else np.hstack([-found / 2, found / 2]))


def _console(rows: Sequence[dict[str, str]]) -> str:
    """Per pair of data sets a table: embedding, detector, AUROC and FPR95 with interval."""
    shown = [row for row in rows if row["fold"] == "mean"] or list(rows)
    lines: list[str] = []
    pairs = dict.fromkeys((row["inside"], row["outside"]) for row in shown)
    for inside, outside in pairs:
        own = [row for row in shown if (row["inside"], row["outside"]) == (inside, outside)]
        first = own[0]
        lines.append(
            f"{outside} against {inside}: {first['n_outside']} strange images of {first['n_groups_outside']} groups, "
            f"{first['n_inside']} known test images of {first['n_groups_inside']} groups"
        )
        cells: dict[tuple[str, str], dict[str, str]] = {}
        seeds = len({row["seed"] for row in own}) > 1
        for row in own:
            cells.setdefault((embedding_name(row, seeds=seeds), row["detector"]), {})[row["metric"]] = _cell(
                row
            )
        table = [("embedding", "detector", "AUROC", "FPR95 (low is good)")]
        table += [(*names, found["AUROC"], found["FPR95"]) for names, found in cells.items()]
        widths = [max(len(row[column]) for row in table) for column in range(4)]
        lines += [
            "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
    return "\n".join(lines)


def _cell(row: dict[str, str]) -> str:
    ends = (row["ci_low"], row["ci_high"])
    span = f"[{float(ends[0]):.3f}, {float(ends[1]):.3f}]" if all(ends) else "[no interval]"
    return f"{float(row['value']):.3f} {span}"
