"""Whether scores can be believed: drawn as reliability diagrams and risk-coverage curves, with tables of what is left."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featprobe.records import ReliabilityCurve, ReportContent, SelectiveCurve, TrustPanel
from featprobe.report.drawing import BLUE, COLOURS, DASHES, GREY, LIGHT, plain
from featprobe.report.panels import Panel
from featprobe.report.tables import Entry, Table
from featprobe.report.wording import interval, number

WIDTH: Final = 4.8
PAGE_WIDTH: Final = 9.6
PER_ROW: Final = 4
MAX_SYSTEMS: Final = 8
MAX_BANDS: Final = 3
MAX_CLASSES: Final = 12
SHOWN: Final = 0.9
"""The level of the sets that the page shows; the CSV holds all."""


class Output(Protocol):
    """Where files go: see `page.Output`."""

    files: dict[str, bytes]

    def table(self, name: str, table: Table) -> Table:
        """Adds the table as Markdown and LaTeX, and returns it."""

    def picture(
        self, name: str, draw: Callable[[], Figure | None], alt: str, caption: str, *, wide: bool = False
    ) -> list[Any]:
        """Adds the figure as SVG and PNG, and returns it for the page."""


def trust_part(content: ReportContent, panel: Panel, output: Output) -> dict[str, Any] | None:
    """What the template trust.html shows of one panel; None where nothing is known of it."""
    found = [own for own in content.trust if (own.dataset, own.level) == (panel.dataset, panel.level)]
    if not found:
        return None
    (trust,) = found
    name, shown = panel.slug, panel.systems[:MAX_SYSTEMS]
    cut = len(panel.systems) - len(shown)
    more = f" The {len(shown)} best of {len(panel.systems)} systems are shown." if cut > 0 else ""
    few = f", of the {MAX_BANDS} best systems" if len(shown) > MAX_BANDS else ""
    output.files[f"tables/{name}-areas.csv"] = _csv(trust.areas)
    if len(trust.sets):
        output.files[f"tables/{name}-sets.csv"] = _csv(trust.sets)
    pictures = output.picture(
        f"{name}-reliability",
        functools.partial(reliability, trust.reliability, shown),
        f"Reliability diagrams on {panel.title}, one per system: {trust.asked}. {_in_words(trust, shown)}",
        f"Reliability: {trust.asked}. On the dotted line what is said comes true; below it the scores are too sure of "
        f"themselves. {trust.bands[0].upper()}{trust.bands[1:]}.{more}",
        wide=True,
    )
    pictures += output.picture(
        f"{name}-risk-coverage",
        functools.partial(risk_coverage, trust, shown),
        f"Risk-coverage curves on {panel.title}, one per system, with bands. The areas under them stand in the table.",
        "Error among the rows that are answered, where only the given share of rows, those that the system is surest of, "
        f"is. Bands: 95 %, point by point{few}.{more}",
    )
    tables = [output.table(f"{name}-areas", areas_table(panel, trust))]
    sets = [output.table(f"{name}-sets", sets_table(panel, trust))] if len(trust.sets) else []
    if sets and len(panel.classes) <= MAX_CLASSES:
        sets.append(output.table(f"{name}-sets-by-class", class_table(panel, trust)))
    return {"trust": trust, "pictures": pictures, "areas": tables, "sets": sets}


def reliability(curves: Sequence[ReliabilityCurve], shown: Sequence[str]) -> Figure | None:
    """A square for each system: the share that came true over the mean score of each bin, with its band."""
    known = {curve.system: curve for curve in curves}
    drawn = [known[system] for system in shown if system in known]
    if not drawn:
        return None
    columns, gap = min(len(drawn), PER_ROW), 0.3
    side = min((PAGE_WIDTH - 0.9 - (columns - 1) * gap) / columns, 3.0)
    titles = [plain(curve.system, max(16, int(13 * side))) for curve in drawn]
    pitch = side + 0.14 * max(title.count("\n") + 1 for title in titles) + 0.3
    wide, high = columns * side + (columns - 1) * gap, math.ceil(len(drawn) / columns) * pitch
    figure = Figure(figsize=(wide, high))
    for position, (curve, title) in enumerate(zip(drawn, titles, strict=True)):
        row, column = divmod(position, columns)
        axes = figure.add_axes(
            (column * (side + gap) / wide, 1 - (row * pitch + pitch) / high, side / wide, side / high)
        )
        _diagram(axes, curve)
        axes.set_title(title, pad=4)
        axes.tick_params(labelleft=column == 0, labelbottom=position + columns >= len(drawn))
    figure.supxlabel("Mean score of the bin", y=-0.3 / high, va="top", fontsize=8)
    figure.supylabel("Share that came true", x=-0.45 / wide, ha="right", fontsize=8)
    return figure


def _diagram(axes: Axes, curve: ReliabilityCurve) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
    axes.fill_between(curve.said, curve.low, curve.high, color=BLUE, alpha=0.15, linewidth=0, zorder=2)
    axes.vlines(curve.said, curve.low, curve.high, color=BLUE, linewidth=0.9, zorder=3)
    axes.plot(curve.said, curve.true, color=BLUE, linewidth=1.1, marker="o", markersize=3.5, zorder=4)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set(xticks=(0, 0.25, 0.5, 0.75, 1), yticks=(0, 0.25, 0.5, 0.75, 1))
    axes.set_xticklabels(("0", "", "0.5", "", "1"))
    axes.set_yticklabels(("0", "", "0.5", "", "1"))
    axes.grid(color=LIGHT, linewidth=0.4)


def risk_coverage(trust: TrustPanel, shown: Sequence[str]) -> Figure | None:
    """A curve with its band for each system, and the area under it in the legend."""
    known: Mapping[str, SelectiveCurve] = {curve.system: curve for curve in trust.selective}
    drawn = [known[system] for system in shown if system in known]
    if not drawn:
        return None
    figure = Figure(figsize=(WIDTH, WIDTH * 0.8))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    for position, curve in enumerate(drawn):
        colour = COLOURS[position]
        if position < MAX_BANDS:
            axes.fill_between(curve.coverage, curve.low, curve.high, color=colour, alpha=0.12, linewidth=0)
        (line,) = axes.plot(curve.coverage, curve.risk, color=colour, linewidth=1.4)
        line.set_linestyle(DASHES[position % len(DASHES)])
        line.set_label(f"{_area(trust, curve.system)}  {plain(curve.system, 42)}")
    axes.set(xlim=(0, 1.0))
    axes.set_ylim(bottom=0)
    axes.grid(color=LIGHT, linewidth=0.4)
    axes.set_xlabel("Coverage: share of rows that are answered")
    axes.set_ylabel("Error among them")
    legend = axes.legend(
        loc="upper left", bbox_to_anchor=(0.0, -0.13), handlelength=2.6, borderpad=0, borderaxespad=0
    )
    legend.set_title("AURC [interval], system")
    legend.set_alignment("left")
    return figure


def _area(trust: TrustPanel, system: str) -> str:
    own = trust.areas[(trust.areas["system"] == system) & (trust.areas["measure"] == "AURC")].iloc[0]
    return " ".join(_shown(own))


def _shown(row: Any) -> tuple[str, str]:
    return number(float(row["value"])), interval(float(row["ci_low"]), float(row["ci_high"]))


def areas_table(panel: Panel, trust: TrustPanel) -> Table:
    """Systems by measures of abstention."""
    measures = list(trust.meanings)
    rows = tuple(
        (Entry(system), *(_entry(trust.areas, system=system, measure=name) for name in measures))
        for system in panel.systems
    )
    caption = f"{panel.title}: what abstention would leave, with interval (low is good)"
    return Table(caption, ("System", *measures), rows)


def sets_table(panel: Panel, trust: TrustPanel) -> Table:
    """Systems by coverage and size of the sets at the level SHOWN, for both rules."""
    rules = list(dict.fromkeys(trust.sets["rule"]))
    heads = [f"{rule}: {what}" for rule in rules for what in ("coverage", "classes in a set", "empty sets")]
    rows = tuple(
        (
            Entry(system),
            *(
                _entry(trust.sets, system=system, rule=rule, nominal=SHOWN, what=what)
                for rule in rules
                for what in ("coverage", "size", "empty")
            ),
        )
        for system in panel.systems
    )
    caption = f"{panel.title}: prediction sets at the nominal level {100 * SHOWN:g} %, with intervals"
    return Table(caption, ("System", *heads), rows)


def class_table(panel: Panel, trust: TrustPanel) -> Table:
    """Systems by the coverage of each class, sets by the first rule at the level SHOWN."""
    rule = str(trust.sets["rule"].iloc[0])
    rows = tuple(
        (
            Entry(system),
            *(
                _entry(trust.sets, system=system, rule=rule, nominal=SHOWN, what=f"coverage of {name}")
                for name in panel.classes
            ),
        )
        for system in panel.systems
    )
    caption = f"{panel.title}: coverage of each class by the {rule} sets at {100 * SHOWN:g} %, which promise nothing of a class"
    return Table(caption, ("System", *panel.classes), rows)


def _entry(frame: pd.DataFrame, **values: Any) -> Entry:
    keep = pd.Series(data=True, index=frame.index)
    for column, value in values.items():
        keep &= frame[column] == value
    own = frame[keep]
    return Entry(*_shown(own.iloc[0])) if len(own) else Entry("")


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


def _in_words(trust: TrustPanel, shown: Sequence[str]) -> str:
    """How far the first systems are off, for those who do not see the figure."""
    known = {curve.system: curve for curve in trust.reliability}
    words = []
    for system in shown[:2]:
        if system in known:
            curve = known[system]
            off = curve.true - curve.said
            worst = int(abs(off).argmax())
            words.append(
                f"{system}: farthest off where {number(float(curve.said[worst]), 2)} is said and "
                f"{number(float(curve.true[worst]), 2)} comes true."
            )
    return " ".join(words)
