"""Whether the compared systems serve subgroups alike: which rows belong together, and what a reader is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from featprobe import report, significance
from featprobe.config import CompareConfig
from featprobe.errors import ConfigError, nearest
from featprobe.metrics import label as metric_label
from featprobe.records import Predictions, Samples, TextArray
from featprobe.results.tables import COLUMN, SITE
from featprobe.significance import SPREAD_COLUMNS, SUBGROUP_COLUMNS, Division, Spread, Subgroup


@dataclasses.dataclass(slots=True)
class Subgroups:
    """What has been found of all data sets so far; frames with SUBGROUP_COLUMNS and SPREAD_COLUMNS come of it."""

    divisions: tuple[Division, ...]
    rows: list[Subgroup] = dataclasses.field(default_factory=list)
    spreads: list[Spread] = dataclasses.field(default_factory=list)

    @classmethod
    def asked(cls, config: CompareConfig, predictions: pd.DataFrame) -> Subgroups:
        """The divisions of `--by`; ConfigError where a column is in no data set's predictions."""
        divisions = tuple(Division.parse(text) for text in dict.fromkeys(config.by))
        known = [name for name in (SITE, "modality") if name in predictions and _says(predictions[name])]
        known += [str(name).removeprefix(COLUMN) for name in predictions if str(name).startswith(COLUMN)]
        for division in divisions:
            if division.column not in known:
                raise ConfigError(
                    f"--by {division.column}: the predictions have no such column",
                    nearest(division.column, known) or f"they have: {', '.join(known) or 'none'}",
                    f"type featprobe extract --keep-column {division.column} (finetune too) and featprobe probe again",
                )
        return cls(divisions)

    def add(
        self, systems: Mapping[str, Sequence[Predictions]], metric: str, leader: str, config: CompareConfig
    ) -> tuple[list[str], list[str]]:
        """Judge the systems of one data set and level; (sentences about the `leader`, warnings)."""
        said: list[str] = []
        warned: list[str] = []
        folds = [own.samples for own in next(iter(systems.values()))]
        for division in self.divisions:
            values = [_column(samples, division.column) for samples in folds]
            names, code = significance.divide(np.concatenate(values), division)
            if len(names) < 2:
                if names:
                    warned.append(
                        f"By {division.column}: all test rows are {names[0]!r}, nothing to compare."
                    )
                continue
            codes = np.split(code, np.cumsum([len(part) for part in values])[:-1])
            rows, spreads = significance.by_subgroup(
                systems,
                metric,
                division.column,
                names,
                codes,
                resamples=config.resamples,
                seed=config.seed,
            )
            self.rows += rows
            self.spreads += spreads
            said += [_sentence(spread, metric) for spread in spreads if spread.system == leader]
            silent = [row for row in rows if row.system == leader and not row.judged]
            if silent:
                which = "; ".join(f"{row.subgroup} ({row.remark})" for row in silent)
                warned.append(f"By {division.column}, too small to judge: {which}.")
            if (code < 0).any():
                warned.append(
                    f"By {division.column}: {int((code < 0).sum())} test rows have no value and are in no subgroup."
                )
        return said, warned

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """(subgroups, spreads) of all data sets."""
        return (
            significance.frame_of(self.rows, SUBGROUP_COLUMNS),
            significance.frame_of(self.spreads, SPREAD_COLUMNS),
        )


def _says(column: pd.Series) -> bool:
    return bool((column.fillna("") != "").any())


def _column(samples: Samples, name: str) -> TextArray:
    """The values of a kept column, else of site or modality, [N]; "" where the data set does not have it."""
    if name in samples.columns:
        return samples.columns[name]
    known = {"site": samples.site, "modality": samples.modality}
    return known.get(name, np.full(len(samples), "", dtype=np.str_))


def _sentence(spread: Spread, metric: str) -> str:
    what = f"By {spread.column}, {spread.system}: {metric_label(metric)}"
    if not np.isfinite(spread.gap):
        return f"{what} is not compared: fewer than two subgroups can be judged."
    places = report.digits(metric, [spread.gap])
    ends = f"between {spread.lowest} (lowest) and {spread.highest} (highest)"
    return f"{what} differs by {_number(spread.gap, places)} {_interval(spread, places)} {ends}."


def _number(value: float, places: int) -> str:
    return f"{value:.{places}f}"


def _interval(spread: Spread, places: int) -> str:
    if not np.isfinite(spread.ci_low + spread.ci_high):
        return "[no interval]"
    return (
        f"[{_number(spread.ci_low, places)}, {_number(spread.ci_high, places)}], simultaneous over all pairs,"
    )
