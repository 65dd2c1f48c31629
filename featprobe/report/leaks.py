"""A leak is believed when it is seen: its pairs of images side by side, in the report and on a page of their own."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image

from featprobe.records import LeakPair
from featprobe.report.files import write_all
from featprobe.report.templating import template

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "group": ("Same group", "One patient, lesion or study stands on two sides of the split."),
    "case": ("Same case", "Images of one examination stand on two sides of the split."),
    "bytes": ("Same file", "The files are equal byte for byte."),
    "pixels": ("Same pixels", "Other files, but every pixel is equal."),
    "near": (
        "Near copies",
        "One image re-encoded, resized, mirrored, brightened or of other contrast. The distance is 1 - correlation of the locally normalised thumbnails; neighbouring slices of one volume come close to it, so look.",
    ),
    "label-conflict": ("Copies with two labels", "Copies of one image have different targets."),
}
"""What each kind is called, and what it means."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A pair on the page: both pictures as data URIs."""

    id_a: str
    id_b: str
    split_a: str
    split_b: str
    distance: str
    source_a: str
    source_b: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """The pairs of one data set and kind that are shown, of `total`."""

    dataset: str
    title: str
    words: str
    total: int
    pairs: tuple[Shown, ...]


def galleries(
    pairs: Iterable[LeakPair], totals: Mapping[tuple[str, str], int] | None = None
) -> list[Gallery]:
    """One gallery per (data set, kind), in the order of `pairs`. `totals`: how many there are, where not all are given."""
    gathered: dict[tuple[str, str], list[LeakPair]] = {}
    for pair in pairs:
        gathered.setdefault((pair.dataset, pair.kind), []).append(pair)
    return [
        Gallery(
            dataset,
            *KINDS.get(kind, (kind, "")),
            total=(totals or {}).get((dataset, kind), len(members)),
            pairs=tuple(_shown(pair) for pair in members),
        )
        for (dataset, kind), members in gathered.items()
    ]


def write_leaks_page(
    out: Path, pairs: Sequence[LeakPair], totals: Mapping[tuple[str, str], int], facts: Mapping[str, str]
) -> Path:
    """Write out/leaks.html, one offline page, and return its path. `facts`: what was looked at, data set -> words.

    Equal arguments give equal bytes. Raises OutputError where `out` can't be written to.
    """
    page = template("leaks.html").render(galleries=galleries(pairs, totals), facts=facts)
    write_all(Path(out), {"leaks.html": page.encode()})
    return Path(out) / "leaks.html"


def _shown(pair: LeakPair) -> Shown:
    return Shown(
        id_a=pair.id_a,
        id_b=pair.id_b,
        split_a=pair.split_a or "no split",
        split_b=pair.split_b or "no split",
        distance=f"{pair.distance:.3f}" if pair.distance else "",
        source_a=_data_uri(pair.thumb_a),
        source_b=_data_uri(pair.thumb_b),
    )


def _data_uri(picture: npt.NDArray[np.uint8]) -> str:
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "PNG")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
