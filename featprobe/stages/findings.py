"""What a reader may take home from a comparison, in words: the order, the best set, the differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from featprobe.metrics import higher_is_better
from featprobe.metrics import label as metric_label

MOST_DIFFERENCES = 8
"""Differences from the leader that are put into words; the report's table holds them all."""


def findings(
    dataset: str, metric: str, estimates: pd.DataFrame, comparisons: pd.DataFrame, best: pd.DataFrame
) -> list[str]:
    """Sentences about one data set, the most important first.

    `estimates`: with the column system; `comparisons`, `best`: frames of `significance.compare`.
    """
    rows = _headline(estimates, dataset, metric)
    ranked = best[best.dataset == dataset].sort_values(
        "value", ascending=not higher_is_better(metric), kind="stable"
    )
    order = [str(system) for system in ranked.system]
    leader = order[0]
    sentences = [_order(metric, rows, order)]
    tied = [str(system) for system in ranked.system[ranked.in_best_set] if system != leader]
    if tied:
        sentences.append(
            f"{leader} can't be told apart from {_joined(tied)} (simultaneous 95 % bounds, paired by group)."
        )
    elif len(order) > 1:
        sentences.append(
            "Every other system is behind it beyond chance (simultaneous 95 % bounds, paired by group)."
        )
    pairs = comparisons[(comparisons.dataset == dataset)]
    return [*sentences, *list(_differences(leader, order[1:], pairs))[:MOST_DIFFERENCES]]


def _headline(estimates: pd.DataFrame, dataset: str, metric: str) -> pd.DataFrame:
    """The row of each system that stands for it: the average over folds, or the test set."""
    wanted = (
        (estimates.dataset == dataset) & (estimates.metric == metric) & estimates.fold.isin(["mean", "test"])
    )
    return estimates[wanted].set_index("system")


def _order(metric: str, rows: pd.DataFrame, order: Sequence[str]) -> str:
    which = "highest" if higher_is_better(metric) else "lowest"
    stated = [f"{system} {_value(rows, system)}" for system in order]
    if len(stated) == 1:
        return f"{metric_label(metric)}: {stated[0]}; there is nothing to compare it with."
    return f"{metric_label(metric)}, {which} first: {'; '.join(stated)}."


def _differences(leader: str, others: Sequence[str], pairs: pd.DataFrame) -> Iterator[str]:
    """How far the leader is from each other system, the nearest first."""
    for other in others:
        pair = pairs[
            ((pairs.a == leader) & (pairs.b == other)) | ((pairs.a == other) & (pairs.b == leader))
        ].iloc[0]
        sign = 1.0 if pair.a == leader else -1.0
        low, high = sorted((sign * pair.ci_low, sign * pair.ci_high))
        yield (
            f"{leader} minus {other}: {sign * pair.difference:+.3f} [{low:+.3f}, {high:+.3f}], "
            f"adjusted p {_p(pair.p_adjusted)}."
        )


def _value(rows: pd.DataFrame, system: str) -> str:
    row = rows.loc[system]
    return f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
