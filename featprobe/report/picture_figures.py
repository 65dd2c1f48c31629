"""The images that systems fail on, side by side as a figure for a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from matplotlib.figure import Figure

from featprobe.report.drawing import plain
from featprobe.report.examples import Shown

_COLUMNS: Final = 6
_SIDE: Final = 0.74
_GAP: Final = 0.07
_LINE: Final = 0.135


def contact_sheet(shown: Sequence[Shown]) -> Figure | None:
    """Pictures in rows of six, the words of each below it; None where there are none."""
    if not shown:
        return None
    words = [[line for text in one.lines for line in plain(text, 13).split("\n")] for one in shown]
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    pitch = _SIDE + _LINE * max(len(lines) for lines in words) + 0.14
    wide, high = columns * (_SIDE + _GAP), rows * pitch
    figure = Figure(figsize=(wide, high))
    for number, (one, lines) in enumerate(zip(shown, words, strict=True)):
        row, column = divmod(number, columns)
        left, top = column * (_SIDE + _GAP), high - row * pitch
        axes = figure.add_axes((left / wide, (top - _SIDE) / high, _SIDE / wide, _SIDE / high))
        axes.imshow(one.grey, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
        axes.axis("off")
        figure.text(
            left / wide,
            (top - _SIDE - 0.05) / high,
            "\n".join(lines),
            va="top",
            fontsize=6.5,
            linespacing=1.25,
        )
    return figure
