"""A search is judged by what it brings back: queries beside their neighbours, hits and misses told apart at a glance."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from featprobe.report.drawing import COLOURS, GREY, INK, style
from featprobe.report.files import write_all
from featprobe.report.tables import Entry, Table
from featprobe.report.templating import template
from featprobe.report.wording import MARK, MINUS, interval, number, one_line, p_value, slug

PAGE: Final = "retrieval.html"
DIFFERENCES: Final = "retrieval_differences.csv"

HIT, MISS = COLOURS[0], COLOURS[1]
MARKS: Final = {
    True: ("\N{CHECK MARK}", HIT, "-", 1.6),
    False: ("\N{MULTIPLICATION X}", MISS, (0, (2.5, 1.5)), 2.2),
}
"""Hit or miss -> sign, colour, line and width of the frame: each alone tells them apart."""

_CELL, _GAP, _WORDS, _LINE, _HEAD = 0.92, 0.14, 0.28, 0.13, 0.3
"""Inches: a picture's side, between pictures, below a picture for its distance, a line of its class, the heading."""

_LETTERS: Final = 16
"""Letters on a line below a picture."""

_DPI: Final = 150

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Neighbour:
    """One image that was found: uint8 [H, W] grey, its class, its distance, whether it is of the query's class."""

    picture: Picture
    label: str
    distance: float
    hit: bool


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One query and what was found for it, nearest first."""

    id: str
    label: str
    picture: Picture
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """Some queries of one system under one distance; `chosen` says in words how they were chosen."""

    system: str
    distance: str
    chosen: str
    queries: tuple[Query, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What is shown of one data set.

    `estimates`: system, distance, metric, value, ci_low, ci_high of the fold that counts. `pairs`: distance, metric, a,
    b, difference, ci_low, ci_high, p_value, p_adjusted. `best`: (distance, metric, system) that can't be told apart from the
    best. `main`: the metric that orders systems. `facts`: label -> text.
    """

    title: str
    facts: Mapping[str, str]
    notes: tuple[str, ...]
    main: str
    estimates: pd.DataFrame
    pairs: pd.DataFrame
    best: frozenset[tuple[str, str, str]]
    galleries: tuple[Gallery, ...]


def write_retrieval(
    parts: Sequence[Part],
    out: Path,
    *,
    lead: str,
    glossary: Mapping[str, str],
    methods: Sequence[str],
    differences: pd.DataFrame,
    provenance: Mapping[str, str],
) -> tuple[str, ...]:
    """Write out/retrieval.html, out/retrieval_differences.csv and out/figures/retrieval_*.png; returns their names.

    `glossary`: metric -> definition. `methods`: how intervals and pairs were made. The page loads nothing from
    elsewhere: it holds the best system's pictures and links to the others. Equal arguments give equal bytes. Raises
    OutputError where `out` can't be written to.
    """
    files: dict[str, bytes] = {}
    taken: set[str] = set()
    shown = [_shown(part, files, taken) for part in parts]
    files[DIFFERENCES] = differences.to_csv(index=False, lineterminator="\n").encode()
    page = template(PAGE).render(
        parts=shown,
        lead=lead,
        glossary=glossary,
        methods=list(methods),
        provenance=provenance,
        compared=bool(len(differences)),
        signs={hit: mark[0] for hit, mark in MARKS.items()},
    )
    files[PAGE] = page.encode()
    write_all(Path(out), files)
    return tuple(files)


def _shown(part: Part, files: dict[str, bytes], taken: set[str]) -> dict[str, Any]:
    """What the template shows of one part; its pictures join `files`."""
    kinds = list(dict.fromkeys(part.estimates["distance"]))
    leaders = {kind: _ordered(part, kind)[0] for kind in kinds}
    figures, links = [], []
    for gallery in part.galleries:
        name = f"figures/{slug(f'retrieval_{part.title}_{gallery.system}_{gallery.distance}', taken)}.png"
        files[name] = png(gallery)
        where = f"{gallery.system}, {gallery.distance} distance"
        if leaders[gallery.distance] == gallery.system:
            source = "data:image/png;base64," + base64.b64encode(files[name]).decode()
            figures.append(
                {"source": source, "alt": describe(gallery), "caption": f"{where}. {gallery.chosen}"}
            )
        else:
            links.append({"name": name, "text": where})
    tables = [table for kind in kinds for table in _tables(part, kind)]
    return {"part": part, "tables": tables, "figures": figures, "links": links}


def _ordered(part: Part, kind: str) -> list[str]:
    """The systems by the main metric, best first."""
    own = part.estimates[(part.estimates["distance"] == kind) & (part.estimates["metric"] == part.main)]
    return [str(name) for name in own.sort_values("value", ascending=False, kind="stable")["system"]]


def _tables(part: Part, kind: str) -> Iterator[Table]:
    own = part.estimates[part.estimates["distance"] == kind]
    metrics = list(dict.fromkeys(own["metric"]))
    cells = own.set_index(["system", "metric"])
    several = len(set(own["system"])) > 1
    rows = []
    for system in _ordered(part, kind):
        entries = [Entry(system)]
        for metric in metrics:
            cell = cells.loc[(system, metric)]
            marked = several and (kind, metric, system) in part.best
            entries.append(Entry(number(cell["value"]), interval(cell["ci_low"], cell["ci_high"]), marked))
        rows.append(tuple(entries))
    note = (
        f"{MARK} can't be told apart from the best of its column, judged over all pairs at once."
        if several
        else ""
    )
    caption = f"{part.title}, {kind} distance: every system with its 95 % interval, sorted by {part.main}"
    yield Table(caption, ("System", *metrics), tuple(rows), note)
    if several:
        yield _pairs(part, kind)


def _pairs(part: Part, kind: str) -> Table:
    """What each system is behind the best one, in the main metric."""
    best = _ordered(part, kind)[0]
    own = part.pairs[(part.pairs["distance"] == kind) & (part.pairs["metric"] == part.main)]
    rows = []
    for row in own[(own["a"] == best) | (own["b"] == best)].to_dict("records"):
        sign = 1.0 if row["a"] == best else -1.0
        ends = sorted((sign * row["ci_low"], sign * row["ci_high"]))
        entries = (
            Entry(str(row["b"] if sign > 0 else row["a"])),
            Entry(number(sign * row["difference"]), interval(*ends)),
            Entry(p_value(row["p_value"])),
            Entry(p_value(row["p_adjusted"])),
        )
        rows.append((sign * row["difference"], entries))
    rows.sort(key=lambda pair: float(pair[0]))
    header = ("System", f"{best} {MINUS} system [95 %, pair alone]", "p", "p (adjusted)")
    caption = f"{part.title}, {kind} distance: paired differences to the best in {part.main}"
    return Table(caption, header, tuple(entries for _, entries in rows))


def describe(gallery: Gallery) -> str:
    """A gallery in words, for those who do not see it."""
    lines = []
    for query in gallery.queries:
        found = ", ".join(f"{near.label} ({'hit' if near.hit else 'miss'})" for near in query.neighbours)
        lines.append(f"{query.id}, {query.label}: {found or 'nothing found'}")
    return f"Queries with their nearest images. {'; '.join(lines)}."


def figure(gallery: Gallery) -> Figure:
    """A row for each query: its picture, then its neighbours from near to far with class and distance.

    A hit has a solid frame and a check mark, a miss a dashed frame and a cross.
    """
    columns = 1 + max((len(query.neighbours) for query in gallery.queries), default=0)
    labels = {query.label for query in gallery.queries}
    labels |= {near.label for query in gallery.queries for near in query.neighbours}
    lines = max((len(_lines(label)) for label in labels), default=1)
    pitch = _CELL + _WORDS + _LINE * lines
    wide, high = columns * (_CELL + _GAP), _HEAD + len(gallery.queries) * pitch
    drawn = Figure(figsize=(wide, high))
    # One pair of axes in inches from the upper left corner: a pair for each picture takes ten times as long.
    axes = drawn.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.text(_CELL / 2, _HEAD / 2, "Query", ha="center", va="center", weight="bold")
    for column in range(1, columns):
        middle = column * (_CELL + _GAP) + _GAP + _CELL / 2
        axes.text(middle, _HEAD / 2, str(column), ha="center", va="center")
    for row, query in enumerate(gallery.queries):
        top = _HEAD + row * pitch
        _draw(axes, 0.0, top, query.picture)
        _write(axes, 0.0, top, "\n".join(_lines(query.label)), INK)
        for column, near in enumerate(query.neighbours, start=1):
            left = column * (_CELL + _GAP) + _GAP
            sign, colour, line, width = MARKS[near.hit]
            _draw(axes, left, top, near.picture)
            frame: dict[str, Any] = {"edgecolor": colour, "linestyle": line, "linewidth": width}
            axes.add_patch(Rectangle((left, top), _CELL, _CELL, fill=False, **frame))
            _write(axes, left, top, f"{sign} " + "\n".join(_lines(near.label)), colour)
            far = f"{near.distance:#.3g}".rstrip(".")
            _write(axes, left, top + _LINE * lines, far, GREY)
    axes.set(xlim=(-0.03, wide + 0.03), ylim=(high, 0.0), aspect="auto")
    return drawn


def _draw(axes: Axes, left: float, top: float, picture: Picture) -> None:
    extent = (left, left + _CELL, top + _CELL, top)
    axes.imshow(
        picture, cmap="gray", vmin=0, vmax=255, interpolation="bilinear", extent=extent, aspect="auto"
    )


def _write(axes: Axes, left: float, top: float, words: str, colour: str) -> None:
    axes.text(left + _CELL / 2, top + _CELL + 0.06, words, ha="center", va="top", fontsize=7, color=colour)


def _lines(label: str) -> list[str]:
    """A class's name on two lines at most, the rest cut."""
    lines = textwrap.wrap(one_line(label), _LETTERS) or [""]
    return lines if len(lines) <= 2 else [lines[0], f"{lines[1][: _LETTERS - 1]}…"]


def png(gallery: Gallery) -> bytes:
    """The gallery's figure as PNG, without dates or versions."""
    sink = io.BytesIO()
    with style():
        drawn = figure(gallery)
        FigureCanvasAgg(drawn)
        edges = drawn.get_tightbbox().padded(0.06)
        drawn.savefig(sink, format="png", dpi=_DPI, metadata={"Software": None}, bbox_inches=edges)
    return sink.getvalue()
