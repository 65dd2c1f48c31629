"""An error is understood when its image is seen: which small pictures a report shows, and where."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup
from PIL import Image

from featprobe.records import FloatArray, IntArray, Thumbnails
from featprobe.report import curves
from featprobe.report.panels import Panel

PER_CELL: Final = 8
"""Pictures of one cell of a confusion matrix, the surest half and the least sure half of its rows."""

MOST: Final = 300
"""Pictures of one data set on the page; each takes about a kilobyte."""

MOST_SYSTEMS: Final = 10
SHOWN: Final = 12
"""Pictures of a figure."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one system said of M test rows that have a label and a picture.

    `picture`: int64 [M], positions in the thumbnails; `true`, `said`: int64 [M], positions in the classes; `score`:
    float64 [M, C].
    """

    system: str
    picture: IntArray
    true: IntArray
    said: IntArray
    score: FloatArray

    @property
    def of_true(self) -> FloatArray:
        """The probability that each row's own class got, [M]."""
        return np.asarray(self.score[np.arange(len(self.true)), self.true])

    @property
    def of_said(self) -> FloatArray:
        """The probability of the most probable class, [M]."""
        return np.asarray(self.score.max(axis=1))


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture of a figure: grey levels [H, W], and the lines below it."""

    grey: npt.NDArray[np.uint8]
    lines: tuple[str, ...]


def answers(panel: Panel, system: str, pictures: Thumbnails) -> Answers:
    """The rows of one system; of several folds all, for each row is tested once."""
    own = panel.predictions[panel.predictions["system"] == system]
    row_of = {name: row for row, name in enumerate(pictures.id.tolist())}
    index = {name: position for position, name in enumerate(panel.classes)}
    where = np.array([row_of.get(str(name), -1) for name in own["id"]], dtype=np.int64)
    true = np.array([index.get(str(name), -1) for name in own["y_true"]], dtype=np.int64)
    score = own[[f"y_score_{name}" for name in panel.classes]].to_numpy(dtype=np.float64)
    keep = (where >= 0) & (true >= 0)
    return Answers(system, where[keep], true[keep], score[keep].argmax(axis=1), score[keep])


def shows(panel: Panel, pictures: Mapping[str, Thumbnails]) -> Thumbnails | None:
    """The panel's pictures, where its rows are images of one class each and some have a picture."""
    found = pictures.get(panel.dataset)
    if found is None or not panel.ranked or len(panel.classes) < 2 or not len(panel.predictions):
        return None
    there = set(found.id.tolist())
    return found if any(str(name) in there for name in panel.predictions["id"].unique()) else None


def hardest(panel: Panel, pictures: Thumbnails) -> list[Shown]:
    """The test images whose own class got the least probability, on average over the systems of the best set."""
    systems = best_set(panel)
    said = [answers(panel, system, pictures) for system in systems]
    table = pd.concat(
        [pd.DataFrame({"picture": one.picture, "true": one.true, "p": one.of_true}) for one in said]
    )
    means = (
        table.groupby("picture").agg(true=("true", "first"), p=("p", "mean")).sort_values("p", kind="stable")
    )
    return [
        Shown(pictures.grey[row], (panel.classes[true], _percent(p)))
        for row, true, p in means.head(SHOWN).itertuples()
    ]


def confident_errors(panel: Panel, pictures: Thumbnails) -> list[Shown]:
    """The test images of which the best system was surest, and wrong."""
    one = answers(panel, panel.systems[0], pictures)
    wrong = np.flatnonzero(one.said != one.true)
    order = wrong[np.argsort(-one.of_said[wrong], kind="stable")][:SHOWN]
    return [
        Shown(
            pictures.grey[one.picture[row]],
            (
                panel.classes[one.true[row]],
                f"called {panel.classes[one.said[row]]}",
                _percent(one.of_said[row]),
            ),
        )
        for row in order
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def best_set(panel: Panel) -> list[str]:
    """The systems that can't be told apart from the best; all where nothing was tested."""
    marked = [
        s for s in panel.systems if (cell := panel.cells.get((s, panel.main))) is not None and cell.best
    ]
    return marked or list(panel.systems)


def gallery(panel: Panel, pictures: Thumbnails) -> Markup:
    """The page's pictures as JSON: `classes`; `ids` and `thumbs` (PNG, base64) of every picture; per system `name`,
    `counts` [C][C] and `cells`, "true,said" -> [[picture, % said, % true], ...].
    """  # noqa: D205 - the fields are the summary
    chosen: dict[int, int] = {}
    systems: list[dict[str, Any]] = []
    for name in panel.systems[:MOST_SYSTEMS]:
        own = panel.predictions[panel.predictions["system"] == name]
        cells: dict[str, list[list[int]]] = {}
        for key, rows in _cells(answers(panel, name, pictures)):
            for picture, said, true in rows:
                if picture in chosen or len(chosen) < MOST:
                    number = chosen.setdefault(picture, len(chosen))
                    cells.setdefault(key, []).append([number, said, true])
        systems.append(
            {"name": name, "counts": curves.confusion(own, panel.classes).tolist(), "cells": cells}
        )
    content = {
        "classes": list(panel.classes),
        "ids": [str(pictures.id[row]) for row in chosen],
        "thumbs": [base64.b64encode(png(pictures.grey[row])).decode() for row in chosen],
        "systems": systems,
    }
    words = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    # Inside a script element only "<" could end it; JSON takes the escape for the same text.
    return Markup(words.replace("<", "\\u003c").replace("\u2028", "\\u2028"))  # noqa: S704 - escaped just now


def _cells(one: Answers) -> Iterator[tuple[str, list[tuple[int, int, int]]]]:
    """("true,said", its pictures), errors first: where pictures run short, errors are what is looked for."""
    keys = sorted(
        set(zip(one.true.tolist(), one.said.tolist(), strict=True)), key=lambda key: (key[0] == key[1], key)
    )
    for true, said in keys:
        rows = np.flatnonzero((one.true == true) & (one.said == said))
        rows = rows[np.argsort(-one.of_said[rows], kind="stable")]
        if len(rows) > PER_CELL:
            rows = np.concatenate([rows[: PER_CELL // 2], rows[-(PER_CELL // 2) :]])
        percent = [
            (int(one.picture[row]), round(100 * one.of_said[row]), round(100 * one.of_true[row]))
            for row in rows
        ]
        yield f"{true},{said}", percent


def png(grey: npt.NDArray[np.uint8]) -> bytes:
    """A small grey picture as a PNG."""
    sink = io.BytesIO()
    Image.fromarray(grey).save(sink, "PNG", optimize=True)
    return sink.getvalue()


def listed(shown: Sequence[Shown]) -> str:
    """The pictures in words, for who does not see them."""
    return "; ".join(", ".join(one.lines) for one in shown)
