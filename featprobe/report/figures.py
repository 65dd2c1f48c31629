"""What a table hides, a figure shows: how sure a rank is, which errors are made, how classes lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from featprobe.records import EmbeddingMap, FloatArray, IntArray, Thumbnails
from featprobe.report import curves
from featprobe.report.drawing import BLUE, COLOURS, GREY, INK, LIGHT, MARKERS, plain
from featprobe.report.panels import Panel
from featprobe.report.wording import (
    MEASURED,
    in_sentence,
    known_metric,
    lower_is_better,
    metric_label,
)

WIDTH = 4.8
PAGE_WIDTH = 9.6
MATRICES_PER_ROW = ((3, 4), (12, 3), (24, 2), (10**9, 1))
"""(at most so many classes, matrices side by side): the cells stay large enough for their counts."""
MAX_MATRICES = 8
MAX_COUNTED_CLASSES = 12
MAX_VECTOR_POINTS = 3000
SCATTERS_PER_ROW = 4
PINNED_SIDE = 5
"""Pictures of an embedding map stand in a grid of so many places a side, one in each at most."""


def forest(panel: Panel) -> Figure:
    """The main metric of every system with its interval, best on top; names stand above their line.

    Filled: among the systems that can't be told apart from the best.
    """
    names = {system: plain(system, 52) for system in panel.systems}
    lines = max(name.count("\n") + 1 for name in names.values())
    step = 0.27 + 0.145 * lines
    figure = Figure(figsize=(WIDTH, 0.75 + step * len(panel.systems)))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    tested = panel.main in panel.tested
    for position, system in enumerate(panel.systems):
        _forest_row(axes, panel, system, -float(position), names[system], tested=tested)
    top = panel.cells.get((panel.systems[0], panel.main))
    if top is not None and math.isfinite(top.value) and len(panel.systems) > 1:
        axes.axvline(top.value, color=GREY, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
    axes.set_ylim(-len(panel.systems) + 0.65, 0.3 + 0.2 * lines + 0.15)
    axes.set_xlim(*_forest_limits(panel))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    better = "lower is better" if lower_is_better(panel.main) else "higher is better"
    axes.set_xlabel(f"{metric_label(panel.main)} ({better})")
    if tested:
        _forest_legend(axes, step * len(panel.systems))
    return figure


def _forest_row(axes: Axes, panel: Panel, system: str, y: float, name: str, *, tested: bool) -> None:
    cell = panel.cells.get((system, panel.main))
    colour, fill = (BLUE, BLUE) if cell is not None and (cell.best or not tested) else (GREY, "white")
    labels: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "bottom"}
    labels["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    weight = "bold" if cell is not None and cell.best else "normal"
    axes.text(0.0, y + 0.2, name, ha="left", weight=weight, **labels)
    if cell is None or not math.isfinite(cell.value):
        axes.text(1.0, y + 0.2, "not defined", ha="right", color=GREY, **labels)
        return
    shown = " ".join(panel.shown(panel.main, cell))
    axes.text(1.0, y + 0.2, shown, ha="right", weight=weight, **labels)
    if math.isfinite(cell.low + cell.high):
        axes.plot([cell.low, cell.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
        axes.plot([cell.low, cell.high], [y, y], linestyle="", marker="|", markersize=6, color=colour)
    axes.plot([cell.value], [y], marker="o", markersize=5.5, color=colour, markerfacecolor=fill)


def _forest_limits(panel: Panel) -> tuple[float, float]:
    cells = [
        panel.cells[system, panel.main] for system in panel.systems if (system, panel.main) in panel.cells
    ]
    ends = [end for cell in cells for end in (cell.value, cell.low, cell.high) if math.isfinite(end)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    least = 0.01 * max(abs(low), abs(high)) if known_metric(panel.main) in MEASURED else 0.01
    margin = max(0.06 * (high - low), least) or 0.01
    return low - margin, high + margin


def _forest_legend(axes: Axes, height: float) -> None:
    dot: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 5.5}
    handles = [
        Line2D([], [], color=BLUE, label="can't be told apart from the best", **dot),
        Line2D([], [], color=GREY, markerfacecolor="white", label="behind the best", **dot),
    ]
    drop = -0.42 / height
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, drop),
        ncols=2,
        borderaxespad=0,
        handletextpad=0.2,
    )


def matrices(panel: Panel) -> Figure | None:
    """Confusion matrices of at most MAX_MATRICES systems, best first: counts over row-normalised colour."""
    shown = panel.systems[:MAX_MATRICES]
    if not len(panel.predictions) or len(panel.classes) < 2 or not panel.ranked:
        return None
    columns = min(len(shown), next(n for most, n in MATRICES_PER_ROW if len(panel.classes) <= most))
    gap = 0.18
    side = min((PAGE_WIDTH - 0.9 - (columns - 1) * gap) / columns, 3.6)
    titles = [plain(system, max(16, int(13 * side))) for system in shown]
    pitch = side + 0.14 * max(title.count("\n") + 1 for title in titles) + 0.2
    wide, high = columns * side + (columns - 1) * gap, math.ceil(len(shown) / columns) * pitch
    figure = Figure(figsize=(wide, high))
    for position, (system, title) in enumerate(zip(shown, titles, strict=True)):
        row, column = divmod(position, columns)
        place = (column * (side + gap) / wide, 1 - (row * pitch + pitch) / high, side / wide, side / high)
        own = panel.predictions[panel.predictions["system"] == system]
        axes = figure.add_axes(place)
        _matrix(axes, curves.confusion(own, panel.classes), panel.classes)
        axes.set_title(title, pad=4)
        axes.tick_params(labelleft=column == 0, labelbottom=position + columns >= len(shown))
    letters = 0.055 * _longest(panel.classes)
    figure.supxlabel("Predicted class", y=-(0.66 * letters + 0.16) / high, va="top", fontsize=8)
    figure.supylabel("True class", x=-(letters + 0.12) / wide, ha="right", fontsize=8)
    return figure


def _longest(classes: Sequence[str]) -> int:
    return max(len(line) for name in classes for line in plain(name, 18).split("\n"))


def _matrix(axes: Axes, counts: IntArray, classes: Sequence[str]) -> None:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0, aspect="equal")
    for edge in axes.spines.values():
        edge.set_visible(True)
        edge.set_color(LIGHT)
    ticks = range(len(classes)) if len(classes) <= 40 else range(0)
    names = [plain(classes[tick], 18) for tick in ticks]
    room = axes.get_position().width * axes.figure.get_figwidth() / len(classes)  # type: ignore[union-attr]
    turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(list(ticks), names, **(turned if 0.06 * _longest(classes) > room else {}))
    axes.set_yticks(list(ticks), names)
    axes.tick_params(length=0, labelsize=7 if len(classes) <= 20 else 5)
    if len(classes) > MAX_COUNTED_CLASSES:
        return
    size = 8 if len(classes) <= 6 else 6
    for (row, column), count in np.ndenumerate(counts):
        ink = "white" if share[row, column] > 0.55 else INK
        axes.text(column, row, str(count), ha="center", va="center", color=ink, fontsize=size)


def scatters(panel: Panel) -> Figure | None:
    """Predicted against true value for at most MAX_MATRICES systems, best first; on the line both are equal."""
    shown = panel.systems[:MAX_MATRICES]
    if panel.task != "continuous" or not len(panel.predictions) or not panel.classes:
        return None
    columns = min(len(shown), SCATTERS_PER_ROW)
    gap, side = 0.25, min((PAGE_WIDTH - 0.9 - (columns - 1) * 0.25) / columns, 3.6)
    titles = [plain(system, max(16, int(13 * side))) for system in shown]
    pitch = side + 0.14 * max(title.count("\n") + 1 for title in titles) + 0.25
    wide, high = columns * side + (columns - 1) * gap, math.ceil(len(shown) / columns) * pitch
    figure = Figure(figsize=(wide, high))
    points = {system: _said_and_true(panel, system) for system in shown}
    known = np.concatenate([np.concatenate(pair) for pair in points.values()])
    low, high_end = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    margin = 0.04 * (high_end - low) or 1.0
    limits = (low - margin, high_end + margin)
    for position, (system, title) in enumerate(zip(shown, titles, strict=True)):
        row, column = divmod(position, columns)
        place = (column * (side + gap) / wide, 1 - (row * pitch + pitch) / high, side / wide, side / high)
        axes = figure.add_axes(place)
        _scatter(axes, *points[system], limits)
        axes.set_title(title, pad=4)
        axes.tick_params(labelleft=column == 0, labelbottom=position + columns >= len(shown))
    name = plain(panel.classes[0], 40)
    figure.supxlabel(f"True {name}", y=-0.3 / high, va="top", fontsize=8)
    figure.supylabel(f"Predicted {name}", x=-0.5 / wide, ha="right", fontsize=8)
    return figure


def _said_and_true(panel: Panel, system: str) -> tuple[FloatArray, FloatArray]:
    """(true, predicted) of the rows with a known value."""
    own = panel.predictions[panel.predictions["system"] == system]
    true = curves.values(own["y_true"])
    said = own[f"y_score_{panel.classes[0]}"].to_numpy(dtype=np.float64)
    known = np.isfinite(true) & np.isfinite(said)
    return true[known], said[known]


def _scatter(axes: Axes, true: FloatArray, said: FloatArray, limits: tuple[float, float]) -> None:
    axes.plot(limits, limits, color=GREY, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
    axes.scatter(
        true,
        said,
        s=float(np.clip(2500 / max(len(true), 1), 3, 16)),
        c=BLUE,
        linewidths=0,
        alpha=0.5,
        rasterized=len(true) > MAX_VECTOR_POINTS,
        zorder=2,
    )
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.grid(color=LIGHT, linewidth=0.4)


def embedding(item: EmbeddingMap, pictures: Thumbnails | None = None) -> Figure:
    """The points of an embedding map by class; colour and marker both tell the class.

    With `pictures` some points, apart from each other, carry the picture of their image.
    """
    figure = Figure(figsize=(WIDTH, WIDTH * 0.8))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    size = float(np.clip(2500 / max(len(item.xy), 1), 4, 22))
    handles = []
    for position in [*range(len(item.label_names)), -1]:
        points = item.xy[item.label == position]
        if not len(points):
            continue
        colour = COLOURS[position % len(COLOURS)] if position >= 0 else LIGHT
        marker = MARKERS[(position + position // len(COLOURS)) % len(MARKERS)] if position >= 0 else "."
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=size,
            c=colour,
            marker=marker,
            linewidths=0,
            alpha=0.75,
            rasterized=len(item.xy) > MAX_VECTOR_POINTS,
            zorder=1 if position < 0 else 2,
        )
        name = item.label_names[position] if position >= 0 else "no label"
        label = plain(f"{name} ({len(points)})", 40)
        handles.append(Line2D([], [], linestyle="", color=colour, marker=marker, markersize=5, label=label))
    if pictures is not None:
        _pin_pictures(axes, item, pictures)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"{plain(item.method)}, first axis")
    axes.set_ylabel("second axis")
    axes.set_title(plain(item.title, 64))
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.08),
        ncols=_columns(handles),
        borderaxespad=0,
    )
    return figure


def _pin_pictures(axes: Axes, item: EmbeddingMap, pictures: Thumbnails) -> None:
    """Pictures, framed in their class's colour, on a grid of places so that none hides another."""
    row_of = {name: row for row, name in enumerate(pictures.id.tolist())}
    low, high = item.xy.min(axis=0), item.xy.max(axis=0)
    place = (item.xy - low) / np.maximum(high - low, 1e-12)
    cells = np.minimum((place * PINNED_SIDE).astype(np.int64), PINNED_SIDE - 1)
    off_centre = np.abs(place * PINNED_SIDE - cells - 0.5).sum(axis=1)
    taken: set[tuple[int, int]] = set()
    for point in np.argsort(off_centre, kind="stable"):
        name, cell = str(item.id[point]), (int(cells[point, 0]), int(cells[point, 1]))
        if name not in row_of or cell in taken:
            continue
        taken.add(cell)
        colour = COLOURS[item.label[point] % len(COLOURS)] if item.label[point] >= 0 else LIGHT
        box = OffsetImage(pictures.grey[row_of[name]], zoom=0.62, cmap="gray", norm=Normalize(0, 255))
        framed = AnnotationBbox(
            box,
            (float(item.xy[point, 0]), float(item.xy[point, 1])),
            pad=0.08,
            bboxprops={"edgecolor": colour, "linewidth": 1.2, "facecolor": colour},
        )
        framed.set_zorder(4)
        axes.add_artist(framed)


def _columns(handles: Sequence[Line2D]) -> int:
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    return max(1, min(4, 62 // (longest + 5)))


def describe_forest(panel: Panel) -> str:
    """The forest plot in words, for those who do not see it."""
    rows = []
    for system in panel.systems:
        cell = panel.cells.get((system, panel.main))
        if cell is not None:
            rows.append(f"{system}: {' '.join(panel.shown(panel.main, cell))}")
    return f"Forest plot of {in_sentence(panel.main)} on {panel.title}, best first. {'; '.join(rows)}."
