"""Most comparisons are read in a terminal first: the main numbers, aligned."""

from __future__ import annotations

from featprobe.records import ReportContent
from featprobe.report.costs import costs_table
from featprobe.report.panels import Panel, panels
from featprobe.report.wording import (
    in_sentence,
    lower_is_better,
    metric_label,
    one_line,
    span,
    width,
)

MAX_WIDTH = 110


def console_table(content: ReportContent) -> str:
    """Per data set a table of systems, best first: value [low, high] of as many metrics as fit the line.

    `*` marks the systems that can't be told apart from the best one.
    """
    return "\n\n".join(_table(panel) for panel in panels(content))


def console_costs(content: ReportContent) -> list[str]:
    """Per data set the costs of its systems, aligned; nothing where none was recorded."""
    blocks = []
    for panel in panels(content):
        table = costs_table(panel)
        if table is None:
            continue
        columns = list(zip(table.header, *([entry.text for entry in row] for row in table.rows), strict=True))
        texts = [[one_line(text) for text in column] for column in columns]
        lines = ["  ".join(_padded(column, row) for column in texts).rstrip() for row in range(len(texts[0]))]
        blocks.append("\n".join([one_line(table.caption), *lines]))
    return blocks


def _table(panel: Panel) -> str:
    columns = [["", *("*" if _marked(panel, system) else "" for system in panel.systems)]]
    columns.append(["system", *(one_line(system) for system in panel.systems)])
    for metric in panel.metrics:
        arrow = " (low is good)" if lower_is_better(metric) else ""
        column = [metric_label(metric) + arrow, *(_cell(panel, system, metric) for system in panel.systems)]
        if metric != panel.main and sum(map(_widest, [*columns, column])) + 2 * len(columns) > MAX_WIDTH:
            break
        columns.append(column)
    lines = [
        "  ".join(_padded(column, row) for column in columns).rstrip()
        for row in range(len(panel.systems) + 1)
    ]
    test, groups = span(panel.counts("n_test")), span(panel.counts("n_groups"))
    title = f"{one_line(panel.title)}: {test} test {panel.rows_word}, {groups} groups"
    legend = f"* can't be told apart from the best {in_sentence(panel.main)}"
    return "\n".join([title, *lines, *([legend] if panel.main in panel.tested else [])])


def _marked(panel: Panel, system: str) -> bool:
    cell = panel.cells.get((system, panel.main))
    return cell is not None and cell.best and panel.main in panel.tested


def _cell(panel: Panel, system: str, metric: str) -> str:
    cell = panel.cells.get((system, metric))
    return " ".join(panel.shown(metric, cell)) if cell is not None else ""


def _widest(column: list[str]) -> int:
    return max(width(text) for text in column)


def _padded(column: list[str], row: int) -> str:
    return column[row] + " " * (_widest(column) - width(column[row]))
