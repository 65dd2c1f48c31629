"""The figures of one data set, with the words in their place and what they show."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Final

from matplotlib.figure import Figure

from featprobe.records import EmbeddingMap, Thumbnails
from featprobe.report import bands, curve_figures, examples, figures
from featprobe.report.curve_figures import has_area
from featprobe.report.output import Output, Picture
from featprobe.report.panels import Panel
from featprobe.report.picture_figures import contact_sheet
from featprobe.report.wording import in_sentence, metric_label, slug

MAX_MAPS: Final = 4
"""Maps on the page, those of the best systems; the others are files alone, for a page must stay small."""


def pictures(panel: Panel, output: Output, thumbnails: Thumbnails | None) -> Iterator[Picture]:
    """The panel's figures, in the order of the page; `thumbnails`: its images, where they may be shown."""
    name, words = panel.slug, _in_words(panel)
    kinds: tuple[tuple[str, Callable[[Panel], Figure | None], str, str], ...] = (
        ("forest", figures.forest, figures.describe_forest(panel), _forest_caption(panel)),
        (
            "roc",
            curve_figures.roc,
            f"ROC curves on {panel.title}, one per system. {words}",
            _roc_caption(panel),
        ),
        (
            "pr",
            curve_figures.precision_recall,
            f"Precision-recall curves on {panel.title}, one per system. {words}",
            _pr_caption(panel),
        ),
    )
    for kind, draw, alt, caption in kinds:
        yield from output.picture(f"{name}-{kind}", functools.partial(draw, panel), alt, caption)
    yield from _maps(panel, output, thumbnails)
    yield from output.picture(
        f"{name}-scatter",
        functools.partial(figures.scatters, panel),
        f"Predicted against true value on {panel.title}, one panel per system. {words}",
        _scatter_caption(panel),
        wide=True,
    )
    # Matrices need the whole width of the page, so they come last.
    yield from output.picture(
        f"{name}-confusion",
        functools.partial(figures.matrices, panel),
        f"Confusion matrices on {panel.title}, one per system. {words}",
        _matrix_caption(panel),
        wide=True,
    )
    if thumbnails is not None:
        yield from _sheets(panel, output, thumbnails)


def _maps(panel: Panel, output: Output, thumbnails: Thumbnails | None) -> Iterator[Picture]:
    taken: set[str] = set()
    for number, item in enumerate(_best_first(panel)):
        pinned = thumbnails if thumbnails is not None and len(item.id) else None
        seen = " Some points carry their image, framed in the colour of its class." if pinned else ""
        alt = f"{item.method} map of {len(item.xy)} embeddings of {panel.title}, coloured by {'class' if panel.ranked else 'target'}: {item.title}"
        yield from output.picture(
            f"{panel.slug}-map-{slug(item.title, taken)}",
            functools.partial(figures.embedding, item, pinned),
            alt,
            f"{item.title}. {item.method} map of the embeddings: each point is an image, near points look alike to the backbone.{seen} A map shows a tendency; it tests nothing.",
            file_only=number >= MAX_MAPS,
        )


def _best_first(panel: Panel) -> list[EmbeddingMap]:
    """The maps in the order of the first system that rests on each."""
    places: dict[str, int] = {}
    rows = panel.headline.drop_duplicates("system").set_index("system")
    for place, system in enumerate(panel.systems):
        row = rows.loc[system]
        places.setdefault(f"{row['backbone']} ({row['weights']})", place)
    return sorted(panel.maps, key=lambda item: places.get(item.title.partition(", ")[0], len(places)))


def _sheets(panel: Panel, output: Output, thumbnails: Thumbnails) -> Iterator[Picture]:
    """The images that are hardest, and those of which the best system was surest and wrong."""
    small = "Grey thumbnails of 32 x 32 pixels, for orientation, not for reading."
    hard, sure = examples.hardest(panel, thumbnails), examples.confident_errors(panel, thumbnails)
    systems = examples.best_set(panel)
    who = (
        systems[0]
        if len(systems) == 1
        else f"the {len(systems)} systems that can't be told apart from the best"
    )
    yield from output.picture(
        f"{panel.slug}-hardest",
        functools.partial(contact_sheet, hard),
        f"The hardest test images of {panel.title}: {examples.listed(hard)}",
        f"The hardest test images: true class, and the probability that it got, on average over {who}. {small}",
        wide=True,
    )
    yield from output.picture(
        f"{panel.slug}-confident-errors",
        functools.partial(contact_sheet, sure),
        f"The most confident errors of {panel.systems[0]} on {panel.title}: {examples.listed(sure)}",
        f"The most confident errors of {panel.systems[0]}: true class, what it was called, and with which probability. Look here for wrong labels, too. {small}",
        wide=True,
    )


def _in_words(panel: Panel) -> str:
    """Best and worst system, for who does not see the figure; all numbers are in the table."""
    ends = [panel.systems[0], *([panel.systems[-1]] if len(panel.systems) > 1 else [])]
    words = []
    for place, system in zip(("Best", "Last"), ends, strict=False):
        cell = panel.cells.get((system, panel.main))
        if cell is not None:
            words.append(
                f"{place} by {in_sentence(panel.main)}: {system}, {' '.join(panel.shown(panel.main, cell))}."
            )
    return " ".join(words)


def _forest_caption(panel: Panel) -> str:
    told = (
        " Filled: can't be told apart from the best. The dotted line marks the best value."
        if panel.tested
        else ""
    )
    return f"{metric_label(panel.main)} with interval, best first.{told}"


def _roc_caption(panel: Panel) -> str:
    folds = f"; mean of the {panel.folds} folds' curves at each false positive rate" if panel.folds else ""
    area = " The legend gives AUROC with interval." if has_area(panel, "auroc", "macro_auroc") else ""
    return f"ROC curves ({_question(panel)}{folds}).{area}{_band_words(panel)}{_cut(panel)}"


def _pr_caption(panel: Panel) -> str:
    folds = f"; mean of the {panel.folds} folds' curves at each recall" if panel.folds else ""
    known = has_area(panel, "average_precision", "macro_average_precision")
    area = " The legend gives average precision, the area under these steps, with interval." if known else ""
    return (
        f"Precision-recall curves ({_question(panel)}{folds}); the dotted line is the precision of calling every row "
        f"positive.{area}{_band_words(panel)}{_cut(panel)}"
    )


def _question(panel: Panel) -> str:
    if panel.task == "multilabel":
        return "each label on the rows where it is known, averaged over labels"
    if len(panel.classes) == 2:
        return f"positive class: {panel.classes[1]}"
    return "each class against the rest, averaged over classes"


def _band_words(panel: Panel) -> str:
    count = curve_figures.banded(panel)
    if not count:
        return ""
    whose = "of the best system" if count == 1 else f"of the {count} best systems"
    return (
        f" Shaded: pointwise 95 % bands {whose} ({bands.RESAMPLES} resamples of groups, percentile); they hold at one "
        "place of the curve, not for the whole of it, and say nothing of a difference between systems."
    )


def _cut(panel: Panel) -> str:
    cut = len(panel.systems) > curve_figures.MAX_CURVES
    return f" The {curve_figures.MAX_CURVES} best of {len(panel.systems)} systems are shown." if cut else ""


def _scatter_caption(panel: Panel) -> str:
    folds = "; each row is predicted in the fold that holds it out" if panel.folds else ""
    cut = len(panel.systems) > figures.MAX_MATRICES
    more = f" The {figures.MAX_MATRICES} best of {len(panel.systems)} systems are shown." if cut else ""
    return f"Predicted against true value, one point per test row{folds}. On the dotted line both are equal.{more}"


def _matrix_caption(panel: Panel) -> str:
    folds = " summed over the folds" if panel.folds else ""
    cut = len(panel.systems) > figures.MAX_MATRICES
    more = f" The {figures.MAX_MATRICES} best of {len(panel.systems)} systems are shown." if cut else ""
    return f"Confusion matrices: counts{folds}; the colour is the share of the true class (its row), so dark off the diagonal is a frequent error.{more}"
