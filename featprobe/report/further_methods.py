"""What a report holds besides intervals and pairs is said in the methods too, each analysis with its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featprobe.records import ReportContent
from featprobe.report.references import cite_methods
from featprobe.report.wording import LEVEL, in_sentence, markdown


@dataclass(frozen=True, slots=True)
class Further:
    """Sentences of Markdown, and the words by which `cite_methods` knows what is behind them."""

    sentences: tuple[str, ...]
    words: tuple[str, ...]


def further_methods(content: ReportContent) -> Further:
    """The analyses over folds and seeds, over data sets, and of trust, as far as this report holds them."""
    said = [*_over_trainings(content), *_over_data_sets(content), *_of_trust(content)]
    return Further(tuple(text for text, _ in said), tuple(word for _, words in said for word in words))


def _cited(text: str, *words: str) -> tuple[str, Sequence[str]]:
    keys = "; ".join(f"@{key}" for key in cite_methods(words))
    return f"{text} [{keys}]." if keys else f"{text}.", words


def _over_trainings(content: ReportContent) -> list[tuple[str, Sequence[str]]]:
    if content.statistics is None or content.statistics.combined.empty:
        return []
    methods = dict.fromkeys(content.statistics.combined["method"])
    return [
        _cited(
            f"Over folds and seeds: {markdown(method)}; p-values adjusted by Holm's step-down",
            "resampled t",
            "holm",
        )
        for method in methods
    ]


def _over_data_sets(content: ReportContent) -> list[tuple[str, Sequence[str]]]:
    said = []
    for found in () if content.statistics is None else content.statistics.across:
        level = "" if found.level == "image" else f", by {found.level}"
        text = (
            f"Over {len(found.datasets)} data sets{level} ({markdown(', '.join(found.datasets))}), with the data set as the "
            f"unit, mean ranks in {in_sentence(found.metric)} were compared by Friedman's test (Iman and Davenport's F) and "
            f"Nemenyi's critical difference at {LEVEL:g}"
        )
        said.append(_cited(text, "critical difference"))
        if found.chances:
            said.append(
                _cited(
                    f"A Bayesian signed-rank test counted differences within {found.rope:g} as equal",
                    "signed-rank",
                )
            )
    return said


def _of_trust(content: ReportContent) -> list[tuple[str, Sequence[str]]]:
    """How bands and sets were made, in the page's own words; the same words stand once."""
    words = [
        text
        for panel in content.trust
        for text in (panel.bands and f"Reliability diagrams: {panel.bands}", panel.promise)
    ]
    return [(f"{markdown(text).rstrip('.')}.", ()) for text in dict.fromkeys(filter(None, words))]
