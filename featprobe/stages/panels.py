"""What a comparison finds of one data set at one level after the other, gathered for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from featprobe import report, significance
from featprobe.config import CompareConfig
from featprobe.errors import ConfigError
from featprobe.metrics import higher_is_better, main_metric, metrics_for
from featprobe.records import Predictions, TrustPanel
from featprobe.registry import METRICS
from featprobe.results import to_predictions
from featprobe.stages import beyond_pairs, canaries
from featprobe.stages.findings import findings
from featprobe.stages.rarity import too_rare
from featprobe.stages.subgroups import Subgroups
from featprobe.stages.trusting import trust_panel


@dataclass(slots=True, eq=False)
class Panels:
    """Data sets and levels, as far as they were added.

    `about`: what the predictions' `attrs` say of classes and groups; `estimates`: of the systems that are compared;
    `every`: those of shuffled labels too. `compared`, `standings` (the best set), `beside` (all, with what a study
    would have reported), `watched` (canaries), `trusted`: a table or record each. `said` and `warned`: sentences.
    """

    config: CompareConfig
    about: Mapping[Any, Any]
    estimates: pd.DataFrame
    every: pd.DataFrame
    subgroups: Subgroups
    compared: list[pd.DataFrame] = field(default_factory=list)
    standings: list[pd.DataFrame] = field(default_factory=list)
    beside: list[pd.DataFrame] = field(default_factory=list)
    watched: list[pd.DataFrame] = field(default_factory=list)
    trusted: list[TrustPanel] = field(default_factory=list)
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    said: dict[str, tuple[str, ...]] = field(default_factory=dict)
    warned: list[str] = field(default_factory=list)

    def add(self, family: str, level: str, rows: pd.DataFrame) -> None:
        """Compare the systems of `rows` (predictions, with `system`). ResultsError where test rows differ."""
        config = self.config
        systems = _systems(rows, self.about)
        first = next(iter(systems.values()))
        samples = first[0].samples
        self.classes[family], self.tasks[family] = samples.label_names, samples.task
        metric = metric_of(config, samples.task, family)
        outcome = significance.compare(
            systems,
            metric,
            resamples=config.resamples,
            seed=config.seed,
            test=config.test,
            adjust=config.adjust,
        )
        pairs = outcome.pairs_frame().assign(dataset=family)
        best = outcome.best_frame().assign(dataset=family)
        panel = report.title_of(family, level)
        ranked = best.sort_values("value", ascending=not higher_is_better(metric), kind="stable")
        told, doubts = self.subgroups.add(systems, metric, str(ranked.system.iloc[0]), config)
        self.said[panel] = (*findings(metric, _of(self.estimates, family, level), pairs, best), *told)
        judged, met = _of(self.every, family, level), _classes_met(first)
        doubts = [*doubts, *too_rare(config.interval, first), *canaries.warnings(judged, pairs, metric, met)]
        self.warned += [f"{panel}: {words}" for words in doubts]
        self.watched.append(canaries.table(judged, metric, met))
        trusted = trust_panel(family, level, systems, resamples=config.resamples, seed=config.seed)
        self.trusted += [] if trusted is None else [trusted]
        self.compared.append(pairs)
        self.standings.append(best[best.in_best_set])
        self.beside.append(beyond_pairs.reported(config, best, systems, metric))


def _of(estimates: pd.DataFrame, family: str, level: str) -> pd.DataFrame:
    return estimates[(estimates["dataset"] == family) & (estimates["level"] == level)]


def _classes_met(predictions: Sequence[Predictions]) -> int:
    """How many classes the test rows show, in the fold that shows fewest; 0 where the target is no class."""
    if predictions[0].samples.task not in {"classes", "ordinal"}:
        return 0
    return min(len(set(one.y_true[one.y_true >= 0].tolist())) for one in predictions)


def metric_of(config: CompareConfig, task: str, family: str) -> str:
    """The metric that the comparison is about; ConfigError where the one asked for does not fit the target."""
    if config.metric is None:
        return main_metric(task)
    if task not in METRICS.get(config.metric).tasks:
        raise ConfigError(
            f"--metric {config.metric} does not fit {family!r}, whose target is {task}",
            f"fitting are: {', '.join(metrics_for(task))}",
            f"type --metric {main_metric(task)}, or leave it out",
        )
    return config.metric


def _systems(frame: pd.DataFrame, about: Mapping[Any, Any]) -> dict[str, list[Predictions]]:
    """Predictions by system; `about`: what the whole frame's `attrs` say of classes and groups."""
    systems = {}
    for name, part in frame.groupby("system", sort=False):
        own = part.drop(columns="system")
        own.attrs = dict(about)
        systems[str(name)] = to_predictions(own)
    return systems
