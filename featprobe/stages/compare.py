"""Paired comparisons of everything that was evaluated, and the report that states them."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featprobe import report, significance
from featprobe.cache import Cache
from featprobe.config import CompareConfig
from featprobe.errors import MissingExtraError, ResultsError
from featprobe.metrics import label as metric_label
from featprobe.records import (
    EmbeddingMap,
    EmbeddingTable,
    Predictions,
    ReportContent,
    sha256_json,
)
from featprobe.registry import METRICS
from featprobe.results import ResultsFolder, load_many, to_predictions
from featprobe.stages.evaluation import describe_run
from featprobe.stages.machine import need_writable, versions
from featprobe.stages.summary import Summary
from featprobe.stages.systems import add_systems

MAP_ROWS = 5000
"""Points of an embedding map at most: more of them hide each other and swell the file."""


def compare(config: CompareConfig) -> Summary:
    """Compare the systems of every data set in the results folders and write the report.

    Raises ResultsError where there is nothing to compare or test rows differ, OutputError.
    """
    METRICS.get(config.metric)
    out = config.out or config.results[0]
    estimates, predictions, runs = load_many(list(config.results))
    need_writable(out)
    folder = ResultsFolder(out)
    identity = _identity(config, estimates, predictions)
    page = out / "report.html"
    if folder.run().get("report") == {"identity": identity, "sha256": _sha256_file(page)}:
        print(f"report: nothing has changed since it was written  {page.resolve()}")
        return Summary(0, 1, (page,))
    content = _content(config, estimates, predictions, runs)
    page = report.write_report(content, out)
    folder.record_run(
        report={"identity": identity, "sha256": _sha256_file(page)}, compare=describe_run(config, "compare")
    )
    print(report.console_table(content))
    for name, sentences in content.findings.items():
        for sentence in sentences:
            print(f"{name}: {sentence}")
    print(f"report: {page.resolve()}")
    return Summary(1, 0, (page,))


def _identity(config: CompareConfig, estimates: pd.DataFrame, predictions: pd.DataFrame) -> str:
    """Equal where the report would come out the same."""
    frames = [
        hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest() for frame in (estimates, predictions)
    ]
    return sha256_json([*frames, describe_run(config, "compare")])


def _sha256_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _content(
    config: CompareConfig,
    estimates: pd.DataFrame,
    predictions: pd.DataFrame,
    runs: Sequence[Mapping[str, Any]],
) -> ReportContent:
    estimates, predictions = add_systems(estimates, predictions)
    rows, best = [], []
    classes: dict[str, tuple[str, ...]] = {}
    for (dataset, level), part in predictions.groupby(["dataset", "level"], sort=False):
        systems = _systems(part)
        classes[str(dataset)] = next(iter(systems.values()))[0].samples.label_names
        outcome = significance.compare(systems, config.metric, resamples=config.resamples, seed=config.seed)
        rows.append(outcome.pairs.assign(dataset=dataset, level=level))
        best.append(outcome.best.assign(dataset=dataset, level=level))
    comparisons, leaders = pd.concat(rows, ignore_index=True), pd.concat(best, ignore_index=True)
    return ReportContent(
        title=config.title,
        metric=config.metric,
        estimates=estimates,
        predictions=predictions,
        comparisons=comparisons,
        best=leaders,
        classes=classes,
        maps=tuple(_maps(config, estimates)),
        findings={
            name: tuple(_findings(name, config.metric, estimates, comparisons, leaders)) for name in classes
        },
        notes=tuple(_notes(runs)),
        provenance=_provenance(config, estimates, runs),
    )


def _systems(frame: pd.DataFrame) -> dict[str, list[Predictions]]:
    return {
        str(name): to_predictions(part.drop(columns="system"))
        for name, part in frame.groupby("system", sort=False)
    }


def _headline(estimates: pd.DataFrame, dataset: str, metric: str) -> pd.DataFrame:
    """The row of each system that stands for it: the average over folds, or the test set."""
    chosen = estimates[
        (estimates.dataset == dataset) & (estimates.metric == metric) & estimates.fold.isin(["mean", "test"])
    ]
    return chosen.set_index("system")


def _findings(
    dataset: str, metric: str, estimates: pd.DataFrame, comparisons: pd.DataFrame, best: pd.DataFrame
) -> list[str]:
    """What a reader may take home, in words: the order, who can't be told from the best, the closest pairs."""
    rows = _headline(estimates, dataset, metric)
    ranked = best[best.dataset == dataset].sort_values(
        "value", ascending=not significance.higher_is_better(metric)
    )
    leader = str(ranked.system.iloc[0])
    name = metric_label(metric).lower()
    sentences = [
        f"the highest {name} is {_value(rows, leader)} by {leader}"
        if significance.higher_is_better(metric)
        else f"the lowest {name} is {_value(rows, leader)} by {leader}"
    ]
    tied = [str(system) for system in ranked.system[ranked.in_best_set] if system != leader]
    beaten = [str(system) for system in ranked.system[~ranked.in_best_set]]
    if tied:
        sentences.append(
            f"it can't be told apart from {_joined(tied)} (simultaneous 95 % bounds, paired by group)"
        )
    elif beaten:
        sentences.append(
            "every other system is behind it beyond chance (simultaneous 95 % bounds, paired by group)"
        )
    pairs = comparisons[
        (comparisons.dataset == dataset) & ((comparisons.a == leader) | (comparisons.b == leader))
    ]
    for _, pair in pairs.iterrows():
        sign = 1.0 if pair.a == leader else -1.0
        low, high = sorted((sign * pair.ci_low, sign * pair.ci_high))
        other = pair.b if pair.a == leader else pair.a
        sentences.append(
            f"{leader} minus {other}: {sign * pair.difference:+.3f} [{low:+.3f}, {high:+.3f}], Holm-adjusted p {_p(pair.p_adjusted)}"
        )
    return sentences


def _value(rows: pd.DataFrame, system: str) -> str:
    row = rows.loc[system]
    return f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _notes(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every warning that a stage stored with its results, once, under its data set."""
    found: dict[str, None] = {}
    for run in runs:
        for info in run.get("units", {}).values():
            key = info.get("key", {})
            shared = set(info.get("dataset_notes", ()))
            for note in info.get("notes", ()):
                owner = (
                    key.get("dataset", "")
                    if note in shared
                    else f"{key.get('dataset', '')}, {key.get('backbone', '')} {key.get('mode', '')} {key.get('probe', '')}".rstrip()
                )
                found[f"{owner}: {note}"] = None
    return list(found)


def _provenance(
    config: CompareConfig, estimates: pd.DataFrame, runs: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    commands = shlex.join(["featprobe", *sys.argv[1:]])
    lines = {
        "command": commands,
        "versions": ", ".join(f"{name} {value}" for name, value in versions().items() if value),
    }
    for run in runs:
        for stage in ("probe", "finetune"):
            if stage in run:
                values = run[stage]["configuration"]
                lines[f"{stage} settings"] = ", ".join(
                    f"{name}={value}" for name, value in values.items() if value not in (None, [], "")
                )
    lines["resamples and seed of the comparison"] = f"{config.resamples}, seed {config.seed}"
    for system, fingerprint in estimates[["system", "fingerprint"]].drop_duplicates().itertuples(index=False):
        lines[
            f"recipe of {system}"
            if f"recipe of {system}" not in lines
            else f"recipe of {system} ({fingerprint[:6]})"
        ] = fingerprint
    return lines


def _maps(config: CompareConfig, estimates: pd.DataFrame) -> list[EmbeddingMap]:
    """A map of every frozen embedding table that the results rest on and the cache still holds."""
    if config.map == "none":
        return []
    wanted = {(row.fingerprint, row.pooling) for row in estimates[estimates["mode"] == "frozen"].itertuples()}
    cache = Cache(config.cache)
    return [
        _map(cache.read(entry.path, pooling), config)
        for entry in (cache.current() if config.cache.is_dir() else [])
        for pooling in entry.poolings
        if (entry.recipe.fingerprint, pooling) in wanted
    ]


def _map(table: EmbeddingTable, config: CompareConfig) -> EmbeddingMap:
    rows = np.arange(len(table.samples))
    if len(rows) > MAP_ROWS:
        rows = np.sort(np.random.default_rng(config.seed).choice(rows, MAP_ROWS, replace=False))
    X = np.asarray(table.embeddings, dtype=np.float64)[rows]
    xy, method = _pca(X) if config.map == "pca" else _umap(X, config.seed)
    return EmbeddingMap(
        dataset=table.dataset,
        title=f"{table.recipe.backbone} ({table.weights_label}), {table.pooling}",
        method=method,
        xy=xy,
        label=table.samples.label[rows],
        label_names=table.samples.label_names,
    )


def _pca(X: Any) -> tuple[Any, str]:
    from sklearn.decomposition import PCA

    size = min(2, *X.shape)
    model = PCA(n_components=size, svd_solver="full" if min(X.shape) < 500 else "covariance_eigh").fit(X)
    xy = np.zeros((len(X), 2))
    xy[:, :size] = model.transform(X)
    shares = " and ".join(f"{share:.0%}" for share in model.explained_variance_ratio_)
    return xy, f"PCA of the embeddings ({shares} of the variance)"


def _umap(X: Any, seed: int) -> tuple[Any, str]:
    try:
        from umap import UMAP
    except ImportError:
        raise MissingExtraError("the UMAP map", "umap-learn", "umap") from None
    neighbours = min(15, len(X) - 1)
    if neighbours < 2:
        raise ResultsError("UMAP needs at least 3 images", f"there are {len(X)}", "type --map pca")
    xy = UMAP(n_components=2, random_state=seed, n_jobs=1, n_neighbors=neighbours).fit_transform(X)
    return np.asarray(xy, dtype=np.float64), f"UMAP of the embeddings ({neighbours} neighbours, seed {seed})"
