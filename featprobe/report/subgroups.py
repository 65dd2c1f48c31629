"""A value over all test rows may hide who is served badly: each system by subgroup, with gaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from featprobe.records import ReportContent
from featprobe.report.panels import Panel, pick
from featprobe.report.tables import Entry, Table, better_arrow
from featprobe.report.wording import in_sentence, interval, number, slug

NOTE = (
    "Gap: the value less that of all other known rows. Intervals resample groups, the same for all subgroups; those of "
    "values and gaps are for each alone, that of the largest gap is simultaneous over all pairs of subgroups."
)


@dataclass(frozen=True, slots=True)
class Section:
    """What the page shows of one column: the largest gap of each system, the best system, the others."""

    column: str
    gaps: Table
    first: Table
    others: Table | None


def subgroup_sections(
    content: ReportContent, panel: Panel, keep: Callable[[str, Table], Table], files: dict[str, bytes]
) -> list[Section]:
    """One section per column; `keep(name, table)` stores it as Markdown and LaTeX, `files` takes the CSV."""
    rows = _of(content.subgroups, panel)
    spreads = _of(content.spreads, panel)
    taken: set[str] = set()
    sections = []
    for column in dict.fromkeys(rows.get("column", ())):
        name = f"{panel.slug}-by-{slug(str(column), taken)}"
        own = pick(rows, column=column)
        files[f"tables/{name}.csv"] = own.to_csv(index=False, lineterminator="\n").encode()
        systems = [system for system in panel.systems if system in set(own["system"])]
        keep(name, _table(panel, own, systems, str(column)))
        gaps = keep(f"{name}-gaps", _gaps(panel, pick(spreads, column=column), systems, str(column)))
        first, others = (_table(panel, own, part, str(column)) for part in (systems[:1], systems[1:]))
        sections.append(Section(str(column), gaps, first, others if systems[1:] else None))
    return sections


def _of(frame: pd.DataFrame | None, panel: Panel) -> pd.DataFrame:
    if frame is None:
        return pd.DataFrame()
    return pick(frame, dataset=panel.dataset, level=panel.level, metric=panel.main)


def _table(panel: Panel, rows: pd.DataFrame, systems: list[str], column: str) -> Table:
    """Systems (best first) by subgroups."""
    places = panel.decimals(panel.main)
    shown = tuple(
        (
            Entry(system),
            Entry(str(row["subgroup"])),
            Entry(str(row["n_rows"])),
            Entry(str(row["n_groups"])),
            Entry(number(row["value"], places), interval(row["ci_low"], row["ci_high"], places)),
            Entry(number(row["gap"], places), interval(row["gap_low"], row["gap_high"], places)),
            Entry(("" if row["judged"] else "not judged: ") + str(row["remark"])),
        )
        for system in systems
        for row in pick(rows, system=system).to_dict("records")
    )
    head = (
        "System",
        column,
        panel.rows_word.capitalize(),
        "Groups",
        better_arrow(panel.main),
        "Gap to the rest",
    )
    caption = f"{panel.title}: {in_sentence(panel.main)} by {column}"
    return Table(caption, (*head, "Remark"), shown, NOTE, left=2)


def _gaps(panel: Panel, spreads: pd.DataFrame, systems: list[str], column: str) -> Table:
    """The largest gap of two subgroups, by system."""
    places = panel.decimals(panel.main)
    shown = tuple(
        (
            Entry(system),
            Entry(row["lowest"] or "none"),
            Entry(row["highest"] or "none"),
            Entry(number(row["gap"], places), interval(row["ci_low"], row["ci_high"], places)),
        )
        for system in systems
        for row in pick(spreads, system=system).to_dict("records")
    )
    caption = f"{panel.title}: largest gap in {in_sentence(panel.main)} by {column}, of subgroups that can be judged"
    return Table(caption, ("System", "Lowest", "Highest", "Largest gap"), shown)
