"""Curves of what a threshold would do: ROC and precision-recall, the best systems with their bands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from featprobe.report import bands, curves
from featprobe.report.drawing import COLOURS, DASHES, GREY, LIGHT, plain
from featprobe.report.figures import WIDTH
from featprobe.report.panels import Panel
from featprobe.report.wording import MINUS, known_metric

MAX_CURVES: Final = 8
MAX_BANDS: Final = 2
"""More bands than this hide each other."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of curve: how it is counted and drawn, and the metrics that are its area."""

    curve: Callable[[pd.DataFrame, Sequence[str], str], curves.Curve | None]
    band: Callable[[pd.DataFrame, Sequence[str], str], bands.Band | None]
    areas: tuple[str, ...]
    steps: bool


_ROC: Final = _Kind(curves.roc_of_system, bands.roc_band, ("auroc", "macro_auroc"), steps=False)
_PR: Final = _Kind(
    curves.pr_of_system, bands.pr_band, ("average_precision", "macro_average_precision"), steps=True
)


def roc(panel: Panel) -> Figure | None:
    """One ROC curve per system, at most MAX_CURVES, best first; None where no curve is defined."""
    drawn = _curves(panel, _ROC)
    if drawn is None:
        return None
    figure, axes = drawn
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle=(0, (1, 2)))
    axes.set_xlabel(f"False positive rate (1 {MINUS} specificity)")
    axes.set_ylabel("True positive rate (sensitivity)")
    return figure


def precision_recall(panel: Panel) -> Figure | None:
    """One precision-recall curve per system, as `roc`; dotted: the precision of who calls every row positive."""
    drawn = _curves(panel, _PR)
    if drawn is None:
        return None
    figure, axes = drawn
    share = prevalence(panel)
    axes.plot([0, 1], [share, share], color=GREY, linewidth=0.7, linestyle=(0, (1, 2)))
    axes.set_xlabel("Recall (sensitivity)")
    axes.set_ylabel("Precision (positive predictive value)")
    return figure


def prevalence(panel: Panel) -> float:
    """The mean share of positive rows over the questions of the panel's curves."""
    rows = panel.predictions[panel.predictions["system"] == panel.systems[0]]
    shares = [
        float(positive.mean())
        for _, positive, _ in curves.questions(rows, panel.classes, panel.task)
        if len(positive)
    ]
    return sum(shares) / max(len(shares), 1)


def banded(panel: Panel) -> int:
    """How many systems' curves carry a band."""
    return min(MAX_BANDS, len(panel.systems)) if "group" in panel.predictions else 0


def _curves(panel: Panel, kind: _Kind) -> tuple[Figure, Axes] | None:
    enough = len(panel.classes) > (1 if panel.ranked else 0)
    if panel.task == "continuous" or not enough:
        return None
    figure = Figure(figsize=(WIDTH, WIDTH * 0.86))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    handles: list[Line2D] = []
    for system in panel.systems:
        rows = panel.predictions[panel.predictions["system"] == system]
        curve = kind.curve(rows, panel.classes, panel.task)
        if curve is None or len(handles) == MAX_CURVES:
            continue
        position = len(handles)
        if position < banded(panel):
            _draw_band(axes, kind, kind.band(rows, panel.classes, panel.task), COLOURS[position])
        way: dict[str, Any] = {"drawstyle": "steps-pre"} if kind.steps else {}
        (line,) = axes.plot(
            *curve,
            color=COLOURS[position],
            linestyle=DASHES[position % len(DASHES)],
            linewidth=1.4,
            zorder=3,
            **way,
        )
        line.set_label(f"{_area(panel, system, kind)}{plain(system, 42)}")
        handles.append(line)
    if not handles:
        return None
    axes.set(xlim=(-0.01, 1.0), ylim=(0.0, 1.01), aspect="equal")
    axes.grid(color=LIGHT, linewidth=0.4)
    _legend(axes, panel, kind, handles)
    return figure, axes


def _draw_band(axes: Axes, kind: _Kind, band: bands.Band | None, colour: str) -> None:
    if band is not None:
        step: Any = "pre" if kind.steps else None
        axes.fill_between(*band, color=colour, alpha=0.16, linewidth=0, step=step, zorder=2)


def _legend(axes: Axes, panel: Panel, kind: _Kind, handles: Sequence[Line2D]) -> None:
    legend = axes.legend(
        handles=list(handles),
        loc="upper left",
        bbox_to_anchor=(0.0, -0.13),
        handlelength=2.6,
        borderpad=0,
        borderaxespad=0,
        alignment="left",
    )
    if _area(panel, panel.systems[0], kind):
        name = "Average precision" if kind.steps else "AUROC"
        whole = name if panel.ranked else f"Macro {name[0].lower() + name[1:] if kind.steps else name}"
        legend.set_title(f"{whole} [interval], system")


def _area(panel: Panel, system: str, kind: _Kind) -> str:
    """The system's area with interval from the estimates ("" where there is none)."""
    for metric in panel.metrics:
        cell = panel.cells.get((system, metric))
        if known_metric(metric) in kind.areas and cell is not None:
            return f"{' '.join(panel.shown(metric, cell))}  "
    return ""


def has_area(panel: Panel, *metrics: str) -> bool:
    """Whether the panel holds one of the metrics."""
    return any(known_metric(metric) in metrics for metric in panel.metrics)
