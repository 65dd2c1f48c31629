"""What a study rests on is cited with its licence: models, data, methods and software as BibTeX."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from featprobe.records import BackboneFacts, DataFacts, Study
from featprobe.report.wording import one_line, slug, tex

SOFTWARE: Final = {
    "torch": "paszke2019pytorch",
    "timm": "wightman2019timm",
    "scikit-learn": "pedregosa2011sklearn",
    "numpy": "harris2020numpy",
    "scipy": "virtanen2020scipy",
}
"""Package -> its entry."""

METHODS: Final = {
    "bootstrap": "efron1993bootstrap",
    "max-t": "romano2005stepwise",
    "hsu": "hsu1996multiple",
    "delong": "delong1988comparing",
    "resampled t": "nadeau2003inference",
    "critical difference": "demsar2006statistical",
    "friedman": "demsar2006statistical",
    "signed-rank": "benavoli2017change",
    "obuchowski": "obuchowski1997clustered",
    "bca": "efron1987better",
    "wilson": "wilson1927probable",
    "mcnemar": "mcnemar1947sampling",
    "holm": "holm1979rejective",
    "benjamini": "benjamini1995discovery",
}
"""A word of a method's description -> the entry that stands behind it."""

GUIDELINES: Final = ("tejani2024claim", "collins2024tripod")
_DATA: Final = {"digits": ("alpaydin1998digits", "CC BY 4.0")}
_ARXIV: Final = re.compile(r"\b(\d{4}\.\d{4,5})\b")


def cite_backbone(backbone: BackboneFacts) -> tuple[str, ...]:
    """The keys of a backbone's entries: curated ones by arXiv number, else one made of its family's words."""
    if backbone.architecture.startswith("canary:"):
        return ()
    numbers = _ARXIV.findall(backbone.citation)
    known = {number: key for key, text in curated().items() for number in _ARXIV.findall(text)}
    keys = [known[number] for number in numbers if number in known]
    return tuple(keys) or ((f"backbone-{_safe(backbone.name)}",) if backbone.citation else ())


def cite_data(data: DataFacts) -> tuple[str, str]:
    """(key, licence) of a data set that the world knows; "" where the authors must say."""
    if data.kind in _DATA:
        return _DATA[data.kind]
    if data.kind.startswith("medmnist:"):
        own = "CC BY-NC 4.0" if data.kind == "medmnist:dermamnist" else "CC BY 4.0"
        return "yang2023medmnist", own
    return "", ""


def cite_methods(words: Sequence[str]) -> tuple[str, ...]:
    """The keys behind descriptions of methods."""
    text = " ".join(words).lower()
    return tuple(dict.fromkeys(key for word, key in METHODS.items() if word in text))


def bibliography(study: Study, methods: Sequence[str]) -> bytes:
    """references.bib: every source once, its licence as a comment above it and in the entry's note."""
    lines = ["% What this study rests on. Written by featprobe; check it against your journal's style.", ""]
    written: set[str] = set()
    for backbone in study.backbones:
        if not backbone.canary or backbone.weights != "random":
            lines += _of_backbone(backbone, written)
    for data in study.data:
        lines += _of_data(data, written)
    packages = [key for name, key in SOFTWARE.items() if name in study.versions]
    for key in (*cite_methods(methods), *packages, *GUIDELINES):
        lines += _once(key, written)
    lines += [
        "@software{featprobe,",
        "  author = {{The featprobe authors}},",
        "  title = {featprobe},",
        f"  version = {{{study.versions.get('featprobe', '')}}},",
        "  note = {Licence: Apache-2.0}",
        "}",
        "",
    ]
    return "\n".join(lines).encode()


def _of_backbone(backbone: BackboneFacts, written: set[str]) -> Iterator[str]:
    yield f"% backbone {one_line(backbone.name)}: licence of the weights: {one_line(backbone.licence) or 'not known'}"
    for key in cite_backbone(backbone):
        note = f"Weights of {backbone.name}: {backbone.licence}" if backbone.licence else ""
        if key in curated():
            yield from _once(key, written, note)
        elif key not in written:
            written.add(key)
            number = _ARXIV.search(backbone.citation)
            yield f"@misc{{{key},"
            yield f"  title = {{{tex(backbone.name)}}},"
            yield f"  howpublished = {{{tex(backbone.citation)}}},"
            yield from ([f"  eprint = {{{number[1]}}},", "  archivePrefix = {arXiv},"] if number else [])
            yield f"  note = {{{tex(note)}}}"
            yield "}"
    yield ""


def _of_data(data: DataFacts, written: set[str]) -> Iterator[str]:
    key, licence = cite_data(data)
    if not key:
        yield f"% data set {one_line(data.name)}: to be filled in by the authors (citation and licence)"
        yield ""
        return
    yield f"% data set {one_line(data.name)}: licence: {licence}"
    yield from _once(key, written, f"Licence of {data.name}: {licence}")


def _once(key: str, written: set[str], note: str = "") -> Iterator[str]:
    """A curated entry, with a note, where it was not written yet."""
    if key in written:
        return
    written.add(key)
    entry = curated()[key]
    yield entry.removesuffix("\n}") + f",\n  note = {{{tex(note)}}}\n}}" if note else entry
    yield ""


@functools.cache
def curated() -> dict[str, str]:
    """Key -> entry of the sources that featprobe knows."""
    text = (Path(__file__).parent / "templates" / "references.bib").read_text(encoding="utf-8")
    entries = [entry.strip() for entry in re.split(r"\n(?=@)", text)]
    return {entry[entry.index("{") + 1 : entry.index(",")]: entry for entry in entries}


def _safe(name: str) -> str:
    return slug(name, set()).lower()
