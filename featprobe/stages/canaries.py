"""Controls that a backbone must beat, or that must not beat chance: what they are, and what they say when they die.

Random weights of the same architecture show what the images' statistics and the probe do alone; the image-statistics
baseline (size, mean, histogram) needs no network at all; a probe on shuffled labels must find nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pandas as pd

from featprobe import report
from featprobe.backbones.canaries import IMAGE_STATS
from featprobe.metrics import higher_is_better
from featprobe.metrics import label as metric_label
from featprobe.stages.findings import LEVEL, interval, number, p_words
from featprobe.stages.systems import SHUFFLED, SYSTEM_COLUMNS

RANDOM: Final = "random"
RANDOM_WEIGHTS: Final = "Random weights"
STATISTICS: Final = "Image statistics"
LABELS: Final = "Shuffled labels"
CHANCE: Final = "Chance"
CONTROLS: Final = (RANDOM_WEIGHTS, STATISTICS, LABELS, CHANCE)
"""What stands beside a backbone's own value, in this order."""

CANARY_COLUMNS: Final = ("dataset", "level", "metric", "system", "control", "value", "ci_low", "ci_high")

_CHANCE: Final = {
    "auroc": 0.5,
    "macro_auroc": 0.5,
    "macro_balanced_accuracy": 0.5,
    "quadratic_kappa": 0.0,
    "spearman": 0.0,
    "r2": 0.0,
    "mcc": 0.0,
}
_SHUFFLE_SPREAD: Final = 1.3
"""How much wider than its interval a shuffled score spreads: the interval holds the fitted model, and so the one draw
of labels, fixed. (60 draws each on chest radiographs, fundus and dermoscopic photographs: 0.6 to 1.28 times.)"""

_BUT: Final = {
    RANDOM_WEIGHTS: {"weights", "fingerprint"},
    STATISTICS: {"backbone", "weights", "pooling", "layer", "preprocessing", "fingerprint"},
    LABELS: {"mode"},
}
"""In which columns a canary may differ from its backbone."""


class Watch(NamedTuple):
    """A backbone's system with one of its canaries' systems."""

    system: str
    kind: str
    canary: str


def is_canary(frame: pd.DataFrame) -> pd.Series[bool]:
    """Which rows (columns of KEY_COLUMNS) are of a control.

    These are probes on shuffled labels, the image-statistics baseline, and random weights of a backbone that was
    judged on the same data set with given ones, too; random weights alone are a system like any other.
    """
    shuffled = frame["mode"] == SHUFFLED
    statistics = frame["backbone"] == IMAGE_STATS
    random = frame["weights"] == RANDOM
    names = pd.Series(list(zip(frame["dataset"], frame["backbone"], strict=True)), index=frame.index)
    given = set(names[~(shuffled | statistics | random)])
    return shuffled | statistics | (random & names.isin(given))


def chance(metric: str, classes: int = 0) -> float:
    """What a model that knows nothing scores, with `classes` classes met in the test rows; NaN where that is not known."""
    if metric == "balanced_accuracy":
        return 1 / classes if classes else math.nan
    return _CHANCE.get(metric, math.nan)


def watches(rows: pd.DataFrame) -> list[Watch]:
    """Every frozen backbone with each of its canaries. `rows`: the headline of one data set, level and metric."""
    frozen = rows[(rows["mode"] == "frozen") & ~is_canary(rows)]
    return [
        Watch(str(row["system"]), kind, str(canary))
        for row in frozen.to_dict("records")
        for kind in _BUT
        for canary in _candidates(rows, kind, row)["system"]
    ]


def _candidates(rows: pd.DataFrame, kind: str, row: Any) -> pd.DataFrame:
    wanted = {
        RANDOM_WEIGHTS: (rows["weights"] == RANDOM) & (row["weights"] != RANDOM),
        STATISTICS: rows["backbone"] == IMAGE_STATS,
        LABELS: rows["mode"] == SHUFFLED,
    }[kind]
    for column in SYSTEM_COLUMNS:
        if column not in _BUT[kind]:
            wanted &= rows[column] == row[column]
    found: pd.DataFrame = rows[wanted]
    return found


def table(estimates: pd.DataFrame, metric: str, classes: int = 0) -> pd.DataFrame:
    """CANARY_COLUMNS: under each backbone's name its canaries' values in `metric`, and chance where it is known.

    `estimates`: of one data set and level, with the column system, shuffled labels among them. Of several canaries
    of a kind the best stands for all.
    """
    rows = _headline(estimates, metric)
    places = rows.set_index("system")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for system, kind, canary in watches(rows):
        own: Any = places.loc[canary]
        known = found.get((system, kind))
        if known is None or _sign(metric) * (own["value"] - known["value"]) > 0:
            found[system, kind] = {name: float(own[name]) for name in ("value", "ci_low", "ci_high")}
    level = chance(metric, classes)
    if math.isfinite(level):
        for system in dict.fromkeys(system for system, _ in found):
            found[system, CHANCE] = {"value": level, "ci_low": math.nan, "ci_high": math.nan}
    about = {name: rows[name].iloc[0] for name in ("dataset", "level")} if len(rows) else {}
    return pd.DataFrame(
        [
            {**about, "metric": metric, "system": system, "control": kind, **values}
            for (system, kind), values in found.items()
        ],
        columns=pd.Index(CANARY_COLUMNS),
    )


def warnings(estimates: pd.DataFrame, comparisons: pd.DataFrame, metric: str, classes: int = 0) -> list[str]:
    """What the canaries of one data set and level say against its backbones, the worst first.

    `estimates`: with the column system, shuffled labels among them; `comparisons`: as of `significance.compare`;
    `classes`: how many are met in the test rows, for chance.
    """
    rows = _headline(estimates, metric)
    places = report.digits(metric, rows["value"])
    beaten = [
        words
        for system, kind, canary in watches(rows)
        if kind != LABELS
        for words in _not_beaten(system, kind, canary, comparisons, metric, places)
    ]
    return [*_leaks(*_judging(estimates, metric, classes)), *beaten]


def _judging(estimates: pd.DataFrame, metric: str, classes: int) -> tuple[pd.DataFrame, str, float]:
    """The rows, metric and chance level by which shuffled labels are judged.

    Of an error in the target's own unit nobody knows what guessing costs; R² of the same predictions is 0 then.
    """
    other = report.STAND_INS.get(metric, metric)
    judged = metric if math.isfinite(chance(metric, classes)) else other
    return _headline(estimates, judged), judged, chance(judged, classes)


def _headline(estimates: pd.DataFrame, metric: str) -> pd.DataFrame:
    return report.headline(estimates[estimates["metric"] == metric])


def _sign(metric: str) -> float:
    return 1.0 if higher_is_better(metric) else -1.0


def _not_beaten(
    system: str, kind: str, canary: str, comparisons: pd.DataFrame, metric: str, places: int
) -> Iterator[str]:
    """One sentence where the backbone is not ahead of its canary beyond chance."""
    pairs = comparisons[
        (comparisons["metric"] == metric)
        & (
            ((comparisons["a"] == system) & (comparisons["b"] == canary))
            | ((comparisons["a"] == canary) & (comparisons["b"] == system))
        )
    ]
    for pair in pairs.to_dict("records"):
        turned = 1.0 if pair["a"] == system else -1.0
        difference = turned * pair["difference"]
        if _sign(metric) * difference > 0 and pair["p_adjusted"] < LEVEL:
            continue
        low, high = sorted((turned * pair["ci_low"], turned * pair["ci_high"]))
        what = {
            RANDOM_WEIGHTS: "random weights of the same architecture",
            STATISTICS: f"the image-statistics baseline ({canary})",
        }[kind]
        tested = math.isfinite(pair["p_adjusted"])
        # Behind it beyond chance is one thing; ahead, but not beyond chance, says only that more images are needed.
        behind = tested and _sign(metric) * difference < 0 and pair["p_adjusted"] < LEVEL
        yield (
            f"{system} {'does not beat' if behind else 'is not shown to beat'} {what}: {metric_label(metric)} "
            f"{number(difference, places, '+')} {interval(low, high, places, '+')}, "
            + (
                f"p adjusted for all pairs {p_words(pair['p_adjusted'])}."
                if tested
                else f"not tested, {pair['method']}."
            )
        )


def _leaks(rows: pd.DataFrame, metric: str, level: float) -> Iterator[str]:
    """A sentence for each shuffled score whose interval, widened for the draw and for their number, is above chance."""
    shuffled = rows[rows["mode"] == SHUFFLED]
    if shuffled.empty or not math.isfinite(level):
        return
    places = report.digits(metric, rows["value"])
    factor = _SHUFFLE_SPREAD * _quantile(1 - 0.025 / len(shuffled)) / _quantile(0.975)
    for row in shuffled.to_dict("records"):
        below = row["value"] - factor * (row["value"] - row["ci_low"])
        if math.isfinite(below) and below > level:
            yield (
                f"{row['system']} scores above chance: {metric_label(metric)} {number(row['value'], places)} "
                f"{interval(row['ci_low'], row['ci_high'], places)}, chance {number(level, places)}: "
                "something leaks from the test rows into the fit."
            )


def _quantile(p: float) -> float:
    """Of the standard normal distribution."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


def shuffled_apart(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(candidates, shuffled labels): a probe on shuffled labels is ranked and paired with nobody."""
    shuffled = frame["mode"] == SHUFFLED
    parts = frame[~shuffled], frame[shuffled]
    for part in parts:
        part.attrs = frame.attrs
    return parts
