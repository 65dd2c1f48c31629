"""Beyond pairs: possible ranks, the distance from the best, sample sizes, folds and seeds, and data sets together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import pandas as pd

from featprobe.records import CriticalDifference, ReportContent
from featprobe.report.panels import Panel, pick, title_of
from featprobe.report.tables import Entry, Table
from featprobe.report.wording import (
    DASH,
    LEVEL,
    MINUS,
    digits,
    in_sentence,
    interval,
    number,
    one_line,
    p_value,
    slug,
)

REPORTED: Final = "As the study reported"
REPORTED_NOTE: Final = (
    "“As the study reported”: an interval as Huang et al. 2024 computed theirs, a bootstrap of bootstrap means over images. "
    "It is about 70 times too narrow, and no verdict here uses it."
)


@dataclass(frozen=True, slots=True)
class Block:
    """One table of the section: file name without ending, table, and its rows in full precision."""

    name: str
    table: Table
    rows: pd.DataFrame


def statistics_blocks(content: ReportContent, shown: Sequence[Panel]) -> list[Block]:
    """The section's tables, panel by panel, then over folds and seeds, then over data sets; [] without statistics."""
    if content.statistics is None:
        return []
    taken: set[str] = set()
    blocks = [block for panel in shown for block in _panel_blocks(content, panel)]
    for (dataset, level), rows in content.statistics.combined.groupby(["dataset", "level"], sort=False):
        title = title_of(str(dataset), str(level))
        blocks.append(Block(f"{slug(title, taken)}-combined", _combined_table(title, rows), rows))
    for found in content.statistics.across:
        blocks += _across_blocks(found)
    return blocks


def statistics_lines(content: ReportContent) -> list[str]:
    """For the console: ranks that are possible, pairs over folds and seeds, and the order over data sets."""
    if content.statistics is None:
        return []
    known = content.statistics
    lines = []
    for (dataset, level), rows in known.standings.groupby(["dataset", "level"], sort=False):
        if len(rows) > 1 and rows["behind_high"].notna().all():
            ranks = "; ".join(f"{one_line(row['system'])} {_ranks(row)}" for row in _ordered(rows))
            lines.append(
                f"{title_of(str(dataset), str(level))}: ranks that are possible (all at once, 95 %): {ranks}."
            )
    for (dataset, level), rows in known.combined.groupby(["dataset", "level"], sort=False):
        pairs = rows[rows["b"] != ""]
        told = pairs[pairs["p_adjusted"] < LEVEL]
        lines.append(
            f"{title_of(str(dataset), str(level))}: over {int(rows['trainings'].iloc[0])} trainings (folds and seeds; corrected "
            f"resampled t, for the procedure) {len(told)} of {len(pairs)} pairs differ."
        )
    for found in known.across:
        ranks = "; ".join(
            f"{one_line(name)} {rank:.2f}" for name, rank in zip(found.systems, found.mean_rank, strict=True)
        )
        lines.append(
            f"{len(found.datasets)} data sets: mean ranks in {in_sentence(found.metric)}: {ranks}; Friedman p = "
            f"{p_value(found.p_value)}, critical difference {found.critical:.2f}."
        )
    return [*lines, *known.notes]


def _panel_blocks(content: ReportContent, panel: Panel) -> Iterator[Block]:
    assert content.statistics is not None
    rows = pick(content.statistics.standings, dataset=panel.dataset, level=panel.level, metric=panel.main)
    if len(rows) > 1 and rows["behind_high"].notna().all():
        yield Block(f"{panel.slug}-standings", _standings_table(panel, rows), rows)
    elif _reported(rows):
        yield Block(f"{panel.slug}-standings", _reported_table(panel, rows), rows)
    pairs = pick(content.comparisons, dataset=panel.dataset, level=panel.level, metric=panel.main)
    open_pairs = pairs[pairs["p_adjusted"] >= LEVEL] if "groups_needed" in pairs else pairs.iloc[:0]
    if len(open_pairs):
        yield Block(f"{panel.slug}-sample-size", _sizes_table(panel, open_pairs), open_pairs)


def _ordered(rows: pd.DataFrame) -> Sequence[Mapping[Any, Any]]:
    """Rows by possible rank, then by how far they may be ahead."""
    found: Sequence[Mapping[Any, Any]] = rows.sort_values(
        ["rank_low", "rank_high", "behind_high"], ascending=[True, True, False], kind="stable"
    ).to_dict("records")
    return found


def _ranks(row: Mapping[Any, Any]) -> str:
    low, high = int(row["rank_low"]), int(row["rank_high"])
    return str(low) if low == high else f"{low}{DASH}{high}"


def _reported(rows: pd.DataFrame) -> bool:
    return "reported_low" in rows and bool(rows["reported_low"].notna().any())


def _standings_table(panel: Panel, rows: pd.DataFrame) -> Table:
    decimals = panel.decimals(panel.main)
    shows = _reported(rows)
    table = tuple(
        (
            Entry(str(row["system"])),
            Entry(number(row["value"], decimals)),
            Entry(_ranks(row)),
            Entry(interval(row["behind_low"], row["behind_high"], decimals)),
            *([Entry(interval(row["reported_low"], row["reported_high"], decimals))] if shows else []),
        )
        for row in _ordered(rows)
    )
    header = ("System", "Value", "Possible ranks", "Ahead of the best other", *([REPORTED] if shows else []))
    note = (
        "Possible ranks hold for all systems at once with 95 % (Mogstad et al., 2024). Ahead of the best other: the value "
        "less the best of the others, larger being better (Hsu's multiple comparisons with the best); an interval that ends "
        "at 0 says that another system is better. " + (REPORTED_NOTE if shows else "")
    ).strip()
    return Table(
        f"{panel.title}: where each system may stand in {in_sentence(panel.main)}", header, table, note
    )


def _reported_table(panel: Panel, rows: pd.DataFrame) -> Table:
    decimals = panel.decimals(panel.main)
    table = tuple(
        (
            Entry(str(row["system"])),
            Entry(number(row["value"], decimals)),
            Entry(interval(row["reported_low"], row["reported_high"], decimals)),
        )
        for row in rows.to_dict("records")
    )
    caption = f"{panel.title}: intervals of {in_sentence(panel.main)} as the study reported"
    return Table(caption, ("System", "Value", REPORTED), table, REPORTED_NOTE)


def _sizes_table(panel: Panel, pairs: pd.DataFrame) -> Table:
    decimals = panel.decimals(panel.main)
    rows = tuple(
        (
            Entry(str(row["a"])),
            Entry(str(row["b"])),
            Entry(number(row["difference"], decimals)),
            Entry(_groups(float(row["groups_needed"]))),
        )
        for row in pairs.sort_values("groups_needed", kind="stable").to_dict("records")
    )
    groups = max(panel.counts("n_groups"))
    note = (
        f"Groups in a test set that would show a difference of this size with 80 % power, for the pair alone at {LEVEL:g}; "
        f"{groups:,} were tested. The observed difference is taken for the true one: a guide for a next study, not a verdict "
        "on this one."
    )
    header = ("A", "B", f"A {MINUS} B", "Groups needed")
    return Table(f"{panel.title}: how many groups would tell the untold apart", header, rows, note, left=2)


def _groups(count: float) -> str:
    if math.isnan(count):
        return DASH
    return "over 10 million" if math.isinf(count) else f"{int(count):,}"


def _combined_table(title: str, rows: pd.DataFrame) -> Table:
    metric = str(rows["metric"].iloc[0])
    decimals = digits(metric, rows["value"])
    table = tuple(
        (
            Entry(str(row["a"])),
            Entry(str(row["b"])),
            Entry(number(row["value"], decimals), interval(row["ci_low"], row["ci_high"], decimals)),
            Entry(p_value(row["p_value"])),
            Entry(p_value(row["p_adjusted"])),
        )
        for row in rows.to_dict("records")
    )
    method = str(rows["method"].iloc[0])
    note = (
        f"{method[0].upper()}{method[1:]} (Nadeau and Bengio, 2003). P-values adjusted by Holm's step-down."
    )
    header = ("A", "B", f"A, or A {MINUS} B", "p", "p (adjusted)")
    return Table(f"{title}: {in_sentence(metric)} over folds and seeds", header, table, note, left=2)


def _across_blocks(found: CriticalDifference) -> Iterator[Block]:
    about = f"{len(found.datasets)} data sets" + ("" if found.level == "image" else f", by {found.level}")
    name = f"across-{found.level}-{found.metric}"
    told = {pair for run in found.cliques for pair in combinations(run, 2)}
    table = tuple(
        (
            Entry(system),
            Entry(f"{rank:.2f}"),
            Entry(", ".join(other for j, other in enumerate(found.systems) if tuple(sorted((i, j))) in told)),
        )
        for i, (system, rank) in enumerate(zip(found.systems, found.mean_rank, strict=True))
    )
    note = (
        f"Friedman's test (Iman and Davenport's F): p = {p_value(found.p_value)}. Mean ranks differ where they are more than "
        f"{found.critical:.2f} apart (Nemenyi, {LEVEL:g}). The data set is the unit: {', '.join(found.datasets)}."
    )
    caption = f"Mean rank in {in_sentence(found.metric)} over {about}"
    frame = pd.DataFrame(
        {"system": found.systems, "mean_rank": found.mean_rank, "critical_difference": found.critical}
    )
    yield Block(name, Table(caption, ("System", "Mean rank", "Not told apart from"), table, note), frame)
    if found.chances:
        rows = tuple(
            (Entry(a), Entry(b), *(Entry(f"{share:.3f}") for share in chances))
            for (a, b), chances in found.chances.items()
        )
        note = (
            f"Bayesian signed-rank test (Benavoli et al., 2017) with differences within {found.rope:g} counted as equal, for a "
            "further data set of this kind."
        )
        header = ("A", "B", "A is better", "Equal", "B is better")
        frame = pd.DataFrame(
            [(a, b, *chances) for (a, b), chances in found.chances.items()],
            columns=["a", "b", "a_better", "equal", "b_better"],
        )
        yield Block(f"{name}-chances", Table(f"Chances over {about}", header, rows, note, left=2), frame)
