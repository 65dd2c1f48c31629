"""A reader looks at one data set at a time: what belongs to it, gathered and put in order once.

A panel is one data set at one level (image or case); page, tables, figures and terminal all show panels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from featprobe.records import EmbeddingMap, ReportContent
from featprobe.report.wording import (
    LEVEL,
    METRICS,
    digits,
    interval,
    known_metric,
    lower_is_better,
    number,
    slug,
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One value with its interval; `best`: among the systems that can't be told apart from the best."""

    value: float
    low: float
    high: float
    best: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """A paired comparison; `a` has the better value; `verdict` is "ahead" (a is), "same" or "untested"."""

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    verdict: str


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One data set at one level. `systems` and `metrics`: best first, main metric first.

    `task`: what is predicted, and so what `classes` are: classes, labels, or the quantity's one name.
    `cells`: (system, metric) -> Cell. `headline`: the rows of `estimates` they come from. `tested`: metrics
    with a known best set. `folds`: number of outer folds, 0 for one test part. `scheme`: how these were made, ""
    where it is not recorded. `canaries`, `costs`: the rows of `ReportContent`'s that belong here.
    """

    dataset: str
    level: str
    slug: str
    main: str
    metrics: tuple[str, ...]
    systems: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    tested: frozenset[str]
    pairs: tuple[Pair, ...]
    methods: tuple[str, ...]
    headline: pd.DataFrame
    predictions: pd.DataFrame
    classes: tuple[str, ...]
    maps: tuple[EmbeddingMap, ...]
    findings: tuple[str, ...]
    folds: int
    task: str = "classes"
    scheme: str = ""
    canaries: pd.DataFrame = field(default_factory=pd.DataFrame)
    costs: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def ranked(self) -> bool:
        """Whether a row has one class of several."""
        return self.task in {"classes", "ordinal"}

    def decimals(self, metric: str) -> int:
        """Decimals in which the metric is shown: three, or by the values where they have the target's unit."""
        return digits(metric, (cell.value for (_, name), cell in self.cells.items() if name == metric))

    def shown(self, metric: str, cell: Cell) -> tuple[str, str]:
        """(value, interval) of a cell as text."""
        decimals = self.decimals(metric)
        return number(cell.value, decimals), interval(cell.low, cell.high, decimals)

    @property
    def title(self) -> str:
        """The data set's name, with the level where it is not the image."""
        return title_of(self.dataset, self.level)

    @property
    def rows_word(self) -> str:
        """What a test row is, in the plural."""
        return f"{self.level}s"

    def counts(self, column: str) -> list[int]:
        """`n_train`, `n_test` or `n_groups` of every system."""
        rows = self.headline.drop_duplicates("system").set_index("system")[column]
        return [int(rows[system]) for system in self.systems]


def title_of(dataset: str, level: str) -> str:
    """What a panel is called: the data set's name, with the level where it is not the image."""
    return dataset if level == "image" else f"{dataset}, by {level}"


def headline(estimates: pd.DataFrame) -> pd.DataFrame:
    """The rows that stand for their system: the average over folds, or the one fold that there is."""
    keys = ["dataset", "level", "system", "metric"]
    averaged = pd.MultiIndex.from_frame(estimates.loc[estimates["fold"] == "mean", keys])
    inside = pd.MultiIndex.from_frame(estimates[keys]).isin(averaged)
    return estimates[(estimates["fold"] == "mean") | ~inside]


def panels(content: ReportContent) -> list[Panel]:
    """The panels in the order in which the data sets first occur in the estimates, images before cases.

    Raises ValueError where two headline rows have one data set, level, system and metric: `system` must name
    what is compared.
    """
    rows = headline(content.estimates)
    if rows.duplicated(["dataset", "level", "system", "metric"]).any():
        raise ValueError(
            "two headline rows of one system and metric: system names must tell all models apart"
        )
    taken: set[str] = set()
    found: list[Panel] = []
    for dataset in rows["dataset"].unique():
        levels = rows.loc[rows["dataset"] == dataset, "level"].unique()
        for position, level in enumerate(sorted(levels, key=lambda name: (name != "image", name))):
            name = str(dataset) if level == "image" else f"{dataset}-{level}"
            found.append(
                _panel(content, rows, str(dataset), str(level), slug(name, taken), first=position == 0)
            )
    return found


def pick(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows whose columns have these values; none where the frame lacks the columns."""
    if not set(values) <= set(frame.columns):
        return frame.iloc[:0]
    keep = pd.Series(data=True, index=frame.index)
    for column, value in values.items():
        keep &= frame[column] == value
    return frame[keep]


def _panel(
    content: ReportContent, rows: pd.DataFrame, dataset: str, level: str, name: str, *, first: bool
) -> Panel:
    shown = pick(rows, dataset=dataset, level=level)
    best = pick(content.best, dataset=dataset, level=level)
    tested = pick(content.comparisons, dataset=dataset, level=level).get("metric", ())
    metrics = _metric_order(shown, _main(content.metric, tested, best))
    main = metrics[0]
    marked = {(str(s), str(m)) for s, m in zip(best.get("system", ()), best.get("metric", ()), strict=True)}
    cells = {
        (row["system"], row["metric"]): Cell(
            row["value"], row["ci_low"], row["ci_high"], (row["system"], row["metric"]) in marked
        )
        for row in shown.to_dict("records")
    }
    systems = tuple(str(system) for system in shown["system"].unique())
    pairs = pick(content.comparisons, dataset=dataset, level=level, metric=main)
    predictions = pick(content.predictions, dataset=dataset, level=level)
    folds = shown.loc[shown["fold"] == "mean", "fold"]
    return Panel(
        dataset=dataset,
        level=level,
        slug=name,
        main=main,
        metrics=metrics,
        systems=_best_first(systems, cells, main),
        cells=cells,
        tested=frozenset(metric for _, metric in marked) if len(systems) > 1 else frozenset(),
        pairs=_pairs(pairs, main),
        methods=tuple(str(m) for m in pairs["method"].unique()) if "method" in pairs else (),
        headline=shown,
        predictions=predictions,
        classes=tuple(content.classes.get(dataset, ())),
        maps=tuple(item for item in content.maps if item.dataset == dataset) if first else (),
        findings=tuple(content.findings.get(title_of(dataset, level), ())),
        folds=int(predictions["fold"].nunique()) if len(folds) and len(predictions) else 0,
        task=content.tasks.get(dataset, "classes"),
        scheme=content.schemes.get(dataset, ""),
        canaries=pick(
            pd.DataFrame() if content.canaries is None else content.canaries, dataset=dataset, level=level
        ),
        costs=pick(pd.DataFrame() if content.costs is None else content.costs, dataset=dataset, level=level),
    )


def _main(asked: str, tested: Iterable[str], best: pd.DataFrame) -> str:
    """The metric that systems are sorted by: the one asked for, or, where it was not tested here, the one that was."""
    marked = [str(name) for name in best.get("metric", ())]
    return asked if asked in {*tested, *marked} or not marked else marked[0]


def _metric_order(headline: pd.DataFrame, main: str) -> tuple[str, ...]:
    order = list(METRICS)
    names = [str(name) for name in headline["metric"].unique()]
    known = [known_metric(name) for name in names]
    rank = {n: order.index(k) if k in order else len(order) for n, k in zip(names, known, strict=True)}
    return tuple(sorted(names, key=lambda name: (name != main, rank[name], name)))


def _best_first(
    systems: tuple[str, ...], cells: Mapping[tuple[str, str], Cell], main: str
) -> tuple[str, ...]:
    sign = 1.0 if lower_is_better(main) else -1.0

    def rank(system: str) -> tuple[float, str]:
        cell = cells.get((system, main))
        known = cell is not None and math.isfinite(cell.value)
        return (sign * cell.value if cell is not None and known else math.inf, system)

    return tuple(sorted(systems, key=rank))


def _pairs(rows: pd.DataFrame, metric: str) -> tuple[Pair, ...]:
    """The comparisons, largest difference first, each turned so that `a` is the one with the better value."""
    found = []
    for row in rows.to_dict("records"):
        a, b, difference = row["a"], row["b"], float(row["difference"])
        low, high, adjusted = float(row["ci_low"]), float(row["ci_high"]), float(row["p_adjusted"])
        if difference and (difference > 0) == lower_is_better(metric):
            a, b, difference, low, high = b, a, -difference, -high, -low
        verdict = "ahead" if adjusted < LEVEL and difference else "same"
        known = "untested" if math.isnan(adjusted) else verdict
        found.append(Pair(a, b, difference, low, high, float(row["p_value"]), adjusted, known))
    return tuple(
        sorted(
            found,
            key=lambda pair: (
                -abs(pair.difference) if math.isfinite(pair.difference) else 0.0,
                pair.a,
                pair.b,
            ),
        )
    )
