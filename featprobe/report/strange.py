"""Known or strange: how well images of another data set are told from known ones, by embedding and detector."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

from featprobe.records import ReportContent
from featprobe.report.statistics import Block
from featprobe.report.tables import Entry, Table
from featprobe.report.wording import interval, number, slug

MEASURES: Final = {"AUROC": "AUROC", "FPR95": "FPR95 (low is good)"}

MEANING: Final = (
    "AUROC: the chance that a strange image is stranger than a known one; FPR95: the share of the strange images "
    "that pass where 95 % of the known do. Intervals are of each value alone: the order of rows is no verdict."
)

DETECTORS: Final = {
    "mahalanobis": "Mahalanobis distance to the nearest class mean",
    "relative-mahalanobis": "the same less the distance to the mean of all",
    "knn": "distance to a near training row",
    "max-softmax": "1 less the largest probability of the logistic probe",
    "energy": "energy of its logits",
}


def strange_blocks(content: ReportContent) -> list[Block]:
    """A table for each pair of data sets, the best AUROC first; [] where none was judged."""
    if content.strange is None:
        return []
    taken: set[str] = set()
    pairs = content.strange.groupby(["inside", "outside"], sort=False)
    return [
        Block(
            slug(f"{outside}-against-{inside}-strange", taken), _table(str(inside), str(outside), rows), rows
        )
        for (inside, outside), rows in pairs
    ]


def _table(inside: str, outside: str, rows: pd.DataFrame) -> Table:
    first = rows.iloc[0]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        found.setdefault((str(row["system"]), str(row["detector"])), {})[str(row["metric"])] = row
    order = sorted(found, key=lambda key: -_value(found[key], "AUROC"))
    lines = tuple(
        (Entry(system), Entry(detector), *(_entry(found[system, detector].get(name)) for name in MEASURES))
        for system, detector in order
    )
    caption = (
        f"{outside} against {inside}: {first['n_outside']} strange images of {first['n_groups_outside']} groups, "
        f"{first['n_inside']} known test images of {first['n_groups_inside']} groups"
    )
    used = [name for name in DETECTORS if name in set(rows["detector"])]
    methods = dict.fromkeys(str(method) for method in rows["ci_method"])
    sentences = [
        MEANING,
        *(f"{name}: {DETECTORS[name]}." for name in used),
        *(f"{method[:1].upper()}{method[1:]}." for method in methods),
    ]
    return Table(caption, ("Embedding", "Detector", *MEASURES.values()), lines, " ".join(sentences), left=2)


def _value(found: dict[str, Any], metric: str) -> float:
    return float(found[metric]["value"]) if metric in found else float("-inf")


def _entry(row: Any) -> Entry:
    if row is None:
        return Entry("")
    low, high = float(row["ci_low"]), float(row["ci_high"])
    return Entry(number(float(row["value"])), interval(low, high))
