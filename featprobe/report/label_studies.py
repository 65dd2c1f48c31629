"""Label-efficiency curves as a figure, as tables and in the terminal."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from featprobe.records import LabelStudy
from featprobe.report.drawing import COLOURS, DASHES, LIGHT, MARKERS, plain
from featprobe.report.tables import Entry, Table, better_arrow
from featprobe.report.wording import (
    DASH,
    MARK,
    digits,
    in_sentence,
    interval,
    lower_is_better,
    metric_label,
    number,
    one_line,
    width,
)

MAX_CURVES: Final = 8
WIDTH: Final = 6.4
HEIGHT: Final = 3.6

VERDICTS: Final = {"saves": "A saves labels", "loses": "B saves labels", "same": "can't be told apart"}


@dataclass(frozen=True, slots=True, eq=False)
class LabelPart:
    """What the page shows of one study: heading, table of curves, table of savings (None for one system), figure."""

    title: str
    table: Table
    savings: Table | None
    pictures: Sequence[Any]
    estimand: str
    methods: tuple[str, ...]


def title_of_study(study: LabelStudy) -> str:
    """`digits: logistic, fractions of the labels`."""
    what = {"fractions": "fractions of the labels"}.get(study.kind, study.kind)
    level = "" if study.level == "image" else f", by {study.level}"
    return f"{study.dataset}{level}: {study.probe}, {what}"


def label_part(study: LabelStudy, name: str, output: Any) -> LabelPart:
    """Adds the study's tables and figure to `output` (a `page.Output`) under `name`, and returns what the page shows."""
    table = output.table(f"{name}-labels", curves_table(study))
    savings = output.table(f"{name}-savings", savings_table(study)) if len(study.savings) else None
    output.files[f"tables/{name}-labels.csv"] = _csv(study.points)
    if savings:
        output.files[f"tables/{name}-savings.csv"] = _csv(study.savings)
    pictures = output.picture(
        f"{name}-curves", functools.partial(draw, study), describe(study), caption(study), wide=True
    )
    told = [str(method) for method in study.savings["method"]]
    methods = tuple(dict.fromkeys(method for method in told if not method.startswith("undefined")))
    return LabelPart(title_of_study(study), table, savings, pictures, study.estimand, methods)


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


def _amounts(study: LabelStudy) -> list[tuple[str, float]]:
    """(name, mean labels) of every amount, ascending."""
    means = study.points.groupby("amount", sort=False)["labels"].mean().sort_values()
    return [(str(name), float(count)) for name, count in means.items()]


def _heading(name: str, count: float) -> str:
    return f"{name.removesuffix(' of labels')} ({count:,.0f})"


def _decimals(study: LabelStudy) -> int:
    return digits(study.metric, study.points["value"])


def curves_table(study: LabelStudy) -> Table:
    """Systems by amounts; a mark is among the systems with that amount alone."""
    decimals, amounts = _decimals(study), _amounts(study)
    cells = {(row["system"], row["amount"]): row for row in study.points.to_dict("records")}
    rows = []
    for system in study.systems:
        entries = [Entry(system)]
        for name, _ in amounts:
            row = cells.get((system, name))
            if row is None:
                entries.append(Entry(DASH))
                continue
            below = interval(row["ci_low"], row["ci_high"], decimals)
            entries.append(
                Entry(number(row["value"], decimals), below, bool(row["best"]) and len(study.systems) > 1)
            )
        rows.append(tuple(entries))
    header = ("System", *(_heading(name, count) for name, count in amounts))
    note = (
        f"{MARK} can't be told apart from the best with that amount of labels; systems are only compared with the same "
        f"amount. In brackets: {study.unit}."
        if len(study.systems) > 1
        else f"In brackets: {study.unit}."
    )
    caption = (
        f"{title_of_study(study)}: {better_arrow(study.metric)} by how much was learnt from, with interval"
    )
    return Table(caption, header, tuple(rows), note)


def savings_table(study: LabelStudy) -> Table:
    """The best system with every other: what both need for one level, and the ratio."""
    decimals = _decimals(study)
    rows = []
    for row in study.savings.to_dict("records"):
        known = math.isfinite(row["ratio"])
        verdict = VERDICTS[_verdict(row)] if math.isfinite(row["ci_low"]) else "no interval"
        rows.append(
            (
                Entry(row["best"]),
                Entry(row["other"]),
                Entry(number(row["level"], decimals)),
                Entry(_count(row["needed_best"])),
                Entry(_count(row["needed_other"])),
                Entry(ratio(row["ratio"]), ratio_interval(row["ci_low"], row["ci_high"]))
                if known
                else Entry(DASH),
                Entry(verdict if known else "no common level", marked=known and _verdict(row) != "same"),
            )
        )
    header = (
        "A",
        "B",
        f"{metric_label(study.metric)} level",
        "A needs",
        "B needs",
        "B / A [95 %, pair alone]",
        "Verdict",
    )
    caption = f"{title_of_study(study)}: labels that the best system saves over each other, in {study.unit}"
    return Table(caption, header, tuple(rows), left=2)


def _verdict(row: Any) -> str:
    if row["ci_low"] > 1:
        return "saves"
    return "loses" if row["ci_high"] < 1 else "same"


def _count(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else DASH


def ratio(value: float) -> str:
    """A ratio with two digits behind the point, three from 100 on none."""
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def ratio_interval(low: float, high: float) -> str:
    """`[1.52, 2.63]`; an end that lies beyond the amounts that were tried is left open: `[1.52, or more]`."""
    if math.isnan(low + high) and not (low == 0 and math.isinf(high)):
        return "[no interval]"
    if not low > 0 and not math.isfinite(high):
        return "[open at both ends]"
    return f"[{ratio(low) if low > 0 else 'or less'}, {ratio(high) if math.isfinite(high) else 'or more'}]"


def draw(study: LabelStudy) -> Figure:
    """Value against labels on a logarithmic axis, one curve with its band per system, at most MAX_CURVES, best first."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    handles = [_curve(axes, study, system, place) for place, system in enumerate(study.systems[:MAX_CURVES])]
    axes.set_xscale("log")
    counts = [count for _, count in _amounts(study)]
    shown = _apart(counts)
    axes.set_xticks(shown, [f"{count:,.0f}" for count in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color=LIGHT, linewidth=0.4)
    axes.set_xlabel(f"{study.unit.capitalize()} (logarithmic)")
    better = "lower is better" if lower_is_better(study.metric) else "higher is better"
    axes.set_ylabel(f"{metric_label(study.metric)} ({better})")
    axes.set_title(plain(title_of_study(study), 90))
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, -0.14),
        handlelength=3,
        borderpad=0,
        borderaxespad=0,
        alignment="left",
    )
    return figure


def _curve(axes: Axes, study: LabelStudy, system: str, place: int) -> Line2D:
    own = study.points[study.points["system"] == system].sort_values("labels")
    x, y, low, high = (own[name].to_numpy(dtype=float) for name in ("labels", "value", "ci_low", "ci_high"))
    colour, marker = COLOURS[place], MARKERS[place % len(MARKERS)]
    axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    (line,) = axes.plot(
        x,
        y,
        color=colour,
        linestyle=DASHES[place % len(DASHES)],
        linewidth=1.5,
        marker=marker,
        markersize=4,
        label=plain(system, 80),
        zorder=3,
    )
    return line


def _apart(counts: Sequence[float]) -> list[float]:
    """The amounts whose labels do not run into each other on the axis, the first and the last among them."""
    room = 0.07 * math.log(max(counts) / min(counts)) if len(counts) > 1 else 0.0
    kept = [counts[0]]
    for count in counts[1:-1]:
        if math.log(count / kept[-1]) >= room and math.log(counts[-1] / count) >= room:
            kept.append(count)
    return [*kept, *counts[-1:]] if len(counts) > 1 else kept


def caption(study: LabelStudy) -> str:
    """What the figure shows and how to read it."""
    cut = len(study.systems) - MAX_CURVES
    more = f" The {MAX_CURVES} best of {len(study.systems)} systems are shown." if cut > 0 else ""
    return (
        f"{metric_label(study.metric)} against {study.unit} that were learnt from; the smaller draws lie inside the larger. "
        f"Bands: {study.estimand}.{more}"
    )


def describe(study: LabelStudy) -> str:
    """The figure in words, for those who do not see it."""
    decimals = _decimals(study)
    told = []
    for system in study.systems[:MAX_CURVES]:
        own = study.points[study.points["system"] == system].sort_values("labels")
        steps = [
            f"{number(row['value'], decimals)} with {row['labels']:,.0f}" for row in own.to_dict("records")
        ]
        told.append(f"{system}: {', '.join(steps)}")
    return f"Curves of {in_sentence(study.metric)} against {study.unit}, {title_of_study(study)}. {'; '.join(told)}."


def console_labels(study: LabelStudy) -> str:
    """The curves' table in a terminal: values, and `*` for those that can't be told from the best of their column."""
    decimals, amounts = _decimals(study), _amounts(study)
    cells = {(row["system"], row["amount"]): row for row in study.points.to_dict("records")}
    columns = [["system", *(one_line(system) for system in study.systems)]]
    for name, count in amounts:
        column = [_heading(name, count)]
        for system in study.systems:
            row = cells.get((system, name))
            star = "*" if row is not None and row["best"] and len(study.systems) > 1 else ""
            column.append("" if row is None else number(row["value"], decimals) + star)
        columns.append(column)
    wide = [max(width(text) for text in column) for column in columns]
    lines = [
        "  ".join(
            column[row] + " " * (wide[i] - width(column[row])) for i, column in enumerate(columns)
        ).rstrip()
        for row in range(len(study.systems) + 1)
    ]
    title = f"{one_line(title_of_study(study))}: {in_sentence(study.metric)} by amount ({study.unit})"
    legend = ["* can't be told apart from the best with that amount"] if len(study.systems) > 1 else []
    return "\n".join([title, *lines, *legend])
