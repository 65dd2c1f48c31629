"""What a reader may take home from a comparison, in words: the order, the best set, the differences."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from featprobe.metrics import higher_is_better
from featprobe.metrics import label as metric_label


def _headline(estimates: pd.DataFrame, dataset: str, metric: str) -> pd.DataFrame:
    """The row of each system that stands for it: the average over folds, or the test set."""
    chosen = estimates[
        (estimates.dataset == dataset) & (estimates.metric == metric) & estimates.fold.isin(["mean", "test"])
    ]
    return chosen.set_index("system")


def findings(
    dataset: str, metric: str, estimates: pd.DataFrame, comparisons: pd.DataFrame, best: pd.DataFrame
) -> list[str]:
    """What a reader may take home, in words: the order, who can't be told from the best, the closest pairs."""
    rows = _headline(estimates, dataset, metric)
    ranked = best[best.dataset == dataset].sort_values("value", ascending=not higher_is_better(metric))
    leader = str(ranked.system.iloc[0])
    name = metric_label(metric).lower()
    sentences = [
        f"the highest {name} is {_value(rows, leader)} by {leader}"
        if higher_is_better(metric)
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
