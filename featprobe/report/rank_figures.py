"""Over several data sets, systems are told apart by their ranks: the critical-difference diagram."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featprobe.records import MeanRanks
from featprobe.report.drawing import BLUE, GREY, INK, plain
from featprobe.report.figures import PAGE_WIDTH

_ROW: Final = 0.24
_TOP: Final = 0.75
_BAR: Final = 0.11


def critical_difference(ranks: MeanRanks) -> Figure | None:
    """Systems on a line of mean ranks, best on the left; bars join those that can't be told apart (Demsar, JMLR 7,
    2006, fig. 1). None for fewer than two systems.
    """  # noqa: D205 - the source belongs to what it is
    count = len(ranks.systems)
    if count < 2:
        return None
    order = np.argsort(ranks.mean, kind="stable")
    bars = ranks.ties()
    left = math.ceil(count / 2)
    height = _TOP + _BAR * (len(bars) + 1) + _ROW * (left + 0.5)
    figure = Figure(figsize=(PAGE_WIDTH * 0.9, height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    margin = 0.9 * (count - 1)
    axes.set(xlim=(1 - margin, count + margin), ylim=(height, 0.0))
    axes.axis("off")
    _scale(axes, count)
    _yardstick(axes, ranks)
    for number, clique in enumerate(bars):
        ends = ranks.mean[list(clique)]
        y = _TOP + _BAR * (number + 1)
        slack = 0.012 * (count - 1)
        axes.plot(
            [ends.min() - slack, ends.max() + slack], [y, y], color=BLUE, linewidth=3.2, solid_capstyle="butt"
        )
    floor = _TOP + _BAR * (len(bars) + 1)
    for place, position in enumerate(order):
        on_left = place < left
        row = place if on_left else count - 1 - place
        _leader(
            axes,
            ranks,
            int(position),
            floor + _ROW * (row + 0.6),
            edge=1 - 0.06 * margin if on_left else count + 0.06 * margin,
            on_left=on_left,
        )
    return figure


def _scale(axes: Axes, count: int) -> None:
    axes.plot([1, count], [_TOP, _TOP], color=INK, linewidth=1.0)
    for tick in range(1, count + 1):
        axes.plot([tick, tick], [_TOP - 0.08, _TOP], color=INK, linewidth=1.0)
        axes.text(tick, _TOP - 0.12, str(tick), ha="center", va="bottom")
    axes.text((1 + count) / 2, _TOP - 0.38, "Mean rank (1 is best)", ha="center", va="bottom", color=GREY)


def _yardstick(axes: Axes, ranks: MeanRanks) -> None:
    if ranks.critical_difference is None:
        return
    y = 0.14
    axes.plot([1, 1 + ranks.critical_difference], [y, y], color=INK, linewidth=1.0, marker="|", markersize=7)
    axes.text(
        1 + ranks.critical_difference + 0.03 * len(ranks.systems),
        y,
        f"critical difference {ranks.critical_difference:.2f}",
        va="center",
        ha="left",
    )


def _leader(axes: Axes, ranks: MeanRanks, position: int, y: float, *, edge: float, on_left: bool) -> None:
    """The line from a system's rank down and out to its name."""
    rank = float(ranks.mean[position])
    axes.plot([rank, rank, edge], [_TOP, y, y], color=GREY, linewidth=0.8, zorder=1)
    name = plain(ranks.systems[position])
    words: dict[str, Any] = {"va": "center", "ha": "right" if on_left else "left"}
    gap = 0.015 * (len(ranks.systems) - 1)
    shown = f"{name}  {rank:.2f}" if on_left else f"{rank:.2f}  {name}"
    axes.text(edge - gap if on_left else edge + gap, y, shown, **words)


def describe_ranks(ranks: MeanRanks) -> str:
    """The diagram in words."""
    order = np.argsort(ranks.mean, kind="stable")
    listed = "; ".join(f"{ranks.systems[i]} {ranks.mean[i]:.2f}" for i in order)
    tied = "; ".join(", ".join(ranks.systems[i] for i in clique) for clique in ranks.ties())
    ties = f" Can't be told apart: {tied}." if tied else " All can be told apart."
    return f"Critical-difference diagram over {ranks.datasets} data sets. Mean ranks, best first: {listed}.{ties}"
