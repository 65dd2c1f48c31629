"""What a reader may take home from a comparison, in words: the order, the best set, the differences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pandas as pd

from featprobe import report
from featprobe.metrics import higher_is_better
from featprobe.metrics import label as metric_label
from featprobe.stages.systems import SYSTEM_COLUMNS

LEVEL: Final = 0.05
"""An adjusted p-value below this is called a difference."""

MOST_IN_ORDER: Final = 6
"""Systems up to this many are all named in the first sentence; of more only the first and the last."""

MOST_CONTRASTS: Final = 8
"""Contrasts of a kind that are put into words; the report's tables hold them all."""

MOST_UNTOLD: Final = 2
"""Contrasts of a kind that can't be told apart, of which each has a sentence; more share one."""


def findings(
    metric: str, estimates: pd.DataFrame, comparisons: pd.DataFrame, best: pd.DataFrame
) -> list[str]:
    """Sentences about the systems of one data set at one level, the most important first.

    `estimates`: with the column system; `comparisons`, `best`: frames of `significance.compare`.
    """
    rows = _headline(estimates, metric)
    ranked = best.sort_values("value", ascending=not higher_is_better(metric), kind="stable")
    order = [str(system) for system in ranked.system]
    leader = order[0]
    places = report.digits(metric, rows.value)
    sentences = [_order(metric, rows, order, places)]
    tied = [str(system) for system in ranked.system[ranked.in_best_set] if system != leader]
    if len(order) > 1 and comparisons.p_adjusted.isna().all():
        sentences.append(f"No difference can be tested: {comparisons.method.iloc[0]}.")
    elif tied:
        named = tied if len(tied) <= MOST_IN_ORDER else [*tied[: MOST_IN_ORDER // 2]]
        named = [*named, f"{len(tied) - len(named)} others"] if len(named) < len(tied) else named
        sentences.append(
            f"{leader} can't be told apart from {_joined(named)} (simultaneous 95 % bounds, paired by group)."
        )
    elif len(order) > 1:
        sentences.append(
            "Every other system is behind it beyond chance (simultaneous 95 % bounds, paired by group)."
        )
    for kind in (_canaries, _unfrozen, _fused):
        sentences += _contrasts(kind(rows), comparisons, places)
    return sentences


def _headline(estimates: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The row of each system that stands for it: the average over folds, or the one test set."""
    return report.headline(estimates[estimates.metric == metric]).set_index("system")


def _order(metric: str, rows: pd.DataFrame, order: Sequence[str], places: int = 3) -> str:
    which = "highest" if higher_is_better(metric) else "lowest"
    cut = len(order) > MOST_IN_ORDER
    shown = [*order[: MOST_IN_ORDER // 2], order[-1]] if cut else order
    stated = [f"{system} {_value(rows, system, places)}" for system in shown]
    if cut:
        stated[-1] = f"{len(order) - len(shown)} others; last {stated[-1]}"
    if len(stated) == 1:
        return f"{metric_label(metric)}: {stated[0]}; there is nothing to compare it with."
    return f"{metric_label(metric)}, {which} first: {'; '.join(stated)}."


def _alike(rows: pd.DataFrame, *but: str) -> Iterator[pd.DataFrame]:
    """The rows of systems that differ in the columns `but` alone (and in the fingerprint, which follows)."""
    same = [name for name in SYSTEM_COLUMNS if name not in {"fingerprint", *but}]
    for _, part in rows.groupby(same, sort=False, dropna=False):
        yield part


def _canaries(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    """(what, a, b) for every backbone that was also run with random weights: do its weights help at all?"""
    return [
        ("Given weights less random ones", str(a), str(b))
        for part in _alike(rows, "weights")
        for a in part.index[part.weights != "random"]
        for b in part.index[part.weights == "random"]
    ]


def _unfrozen(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    """(what, a, b) for every trained model with the frozen probe of the same backbone: does training it help?"""
    found = []
    for part in _alike(rows, "mode", "probe", "layer"):
        frozen = part[part["mode"] == "frozen"]
        chosen = frozen.index[frozen.probe == "logistic"].tolist() or frozen.index.tolist()
        trained = part.index[~part["mode"].isin(["frozen"])]
        found += [("Trained less frozen", str(a), str(chosen[0])) for a in trained if chosen]
    return found


def _fused(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    """(what, a, b) for several modalities side by side with each alone, all else equal: does fusing help?"""
    return [
        ("Fusion less one modality", str(a), str(b))
        for part in _alike(rows, "inputs", "fusion")
        for a in part.index[part.fusion.str.startswith("concat-")]
        for b in part.index[(part.fusion != "") & ~part.inputs.str.contains("+", regex=False)]
        if part.fusion[a] == f"concat-{part.fusion[b]}"
    ]


def _contrasts(asked: Sequence[tuple[str, str, str]], pairs: pd.DataFrame, places: int) -> list[str]:
    """A sentence for each contrast of a kind; those that can't be told apart share one where they are many."""
    contrasts = [(what, a, b, _pair(a, b, pairs)) for what, a, b in asked]
    untold = [one for one in contrasts if one[3].p_adjusted >= LEVEL]
    if len(untold) <= MOST_UNTOLD:
        return [_contrast(*one, places) for one in contrasts[:MOST_CONTRASTS]]
    told = [one for one in contrasts if not one[3].p_adjusted >= LEVEL]
    sizes = [_signed(a, pair)[0] for _, a, _, pair in untold]
    least = min(pair.p_adjusted for *_, pair in untold)
    many = (
        f"{untold[0][0]}: {len(untold)} pairs can't be told apart, differences from {number(min(sizes), places, '+')} "
        f"to {number(max(sizes), places, '+')}, every p adjusted for all pairs at least {least:.3f}."
    )
    return [*(_contrast(*one, places) for one in told[:MOST_CONTRASTS]), many]


def _pair(a: str, b: str, pairs: pd.DataFrame) -> Any:
    return pairs[((pairs.a == a) & (pairs.b == b)) | ((pairs.a == b) & (pairs.b == a))].iloc[0]


def _signed(a: str, pair: Any) -> tuple[float, float, float]:
    """(difference, low, high) of `a` less the other."""
    sign = 1.0 if pair.a == a else -1.0
    low, high = sorted((sign * pair.ci_low, sign * pair.ci_high))
    return sign * pair.difference, low, high


def _contrast(what: str, a: str, b: str, pair: Any, places: int = 3) -> str:
    difference, low, high = _signed(a, pair)
    told = "a real difference" if pair.p_adjusted < LEVEL else "can't be told apart"
    verdict = told if math.isfinite(pair.p_adjusted) else f"not tested, {pair.method}"
    return (
        f"{what}, {a} minus {b}: {number(difference, places, '+')} "
        f"{interval(low, high, places, '+')}, p adjusted for all pairs {p_words(pair.p_adjusted)}: {verdict}."
    )


def _value(rows: pd.DataFrame, system: str, places: int) -> str:
    row: Any = rows.loc[system]
    return f"{number(row.value, places)} {interval(row.ci_low, row.ci_high, places)}"


def number(value: float, places: int, sign: str = "") -> str:
    """A value that rounds to zero carries no minus sign."""
    return f"{round(value, places) + 0.0:{sign}.{places}f}"


def interval(low: float, high: float, places: int, sign: str = "") -> str:
    """[low, high], or that there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "[no interval]"
    return f"[{number(low, places, sign)}, {number(high, places, sign)}]"


def p_words(value: float) -> str:
    """`= 0.034`, as it stands behind a p."""
    if not math.isfinite(value):
        return "undefined"
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
