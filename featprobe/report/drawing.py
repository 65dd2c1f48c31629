"""Equal inputs give equal bytes, and no figure depends on the user's Matplotlib settings."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from featprobe.report.wording import one_line

INK, GREY, LIGHT, BLUE = "#1a1a1a", "#595959", "#d9d9d9", "#0072b2"
COLOURS: Final = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#b8860b",
    "#56b4e9",
    "#000000",
    "#7f7f7f",
)
"""Okabe and Ito's palette, its yellow darkened to be seen on white: told apart with every colour blindness."""

DASHES: Final = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
MARKERS: Final = ("o", "^", "s", "D", "v", "P", "X", "*")
PNG_DPI: Final = 200

_STYLE: Final[dict[str, Any]] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "text.parse_math": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "featprobe",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The room's own style, over Matplotlib's defaults; what was set before is back afterwards."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        cast(Any, mpl.rcParams).update(_STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # shown as a box, not as a warning
        yield


def render(draw: Callable[[], Figure | None]) -> dict[str, bytes]:
    """{"svg": ..., "png": ...} of the figure that `draw` makes, without dates or versions; {} where it makes none."""
    rendered = {}
    with style():
        figure = draw()
        if figure is None:
            return {}
        FigureCanvasAgg(figure)
        edges = figure.get_tightbbox().padded(0.04)
        for kind, about in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            sink = io.BytesIO()
            figure.savefig(sink, format=kind, dpi=PNG_DPI, metadata=about, bbox_inches=edges)
            rendered[kind] = sink.getvalue()
    return rendered


def plain(text: str, characters: int = 0) -> str:
    """`text` on one line, or wrapped to lines of `characters`, rather before a middle dot than behind it.

    A word that is longer than a line is broken behind an underscore where it has one.
    """
    line = one_line(text)
    if not characters:
        return line
    tied = line.replace(" \N{MIDDLE DOT} ", " \N{MIDDLE DOT}\N{NO-BREAK SPACE}")
    return "\n".join(_Wrapper(characters, break_on_hyphens=False).wrap(tied))


class _Wrapper(textwrap.TextWrapper):
    def _split(self, text: str) -> list[str]:
        words = super()._split(text)
        return [
            part
            for word in words
            for part in (re.split("(?<=_)", word) if len(word) > self.width else [word])
        ]


MOST_SVG: Final = 80_000
"""Bytes of an SVG that goes onto the page; larger ones, such as maps of thousands of points, go as PNG."""


COLOURS_ON_PAGE: Final = 96


def on_page(files: dict[str, bytes]) -> str:
    """The data URI of a rendered figure: its SVG, or where that is large a PNG of few colours, if it is smaller."""
    svg = files["svg"]
    if len(svg) > MOST_SVG:
        sink = io.BytesIO()
        with Image.open(io.BytesIO(files["png"])) as picture:
            size = (max(picture.width * 3 // 4, 1), max(picture.height * 3 // 4, 1))
            small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        small.quantize(COLOURS_ON_PAGE).save(sink, "PNG", optimize=True)
        if sink.tell() < len(svg):
            return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
