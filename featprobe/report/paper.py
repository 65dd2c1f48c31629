"""The paper pack: methods, references, checklist and receipt beside the tables and figures of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featprobe.records import ReportContent
from featprobe.report import checklist, methods, references, word
from featprobe.report.further_methods import further_methods
from featprobe.report.output import Output
from featprobe.report.panels import Panel


@dataclass(frozen=True, slots=True)
class Pack:
    """What the page says of the pack: paragraphs as plain text, items of the checklist, whether Word was served."""

    methods: tuple[str, ...]
    filled: int
    items: int
    word: bool


def write(content: ReportContent, shown: Sequence[Panel], output: Output) -> Pack | None:
    """Add methods.md, references.bib, checklist.md, study.toml and tables/tables.docx; None without a study.

    The tables' document is written whether or not the study is known, and left out without python-docx.
    """
    overview_first = sorted(output.tables.items(), key=lambda item: item[0] != "overview")
    tables = word.document(dict(overview_first))
    if tables is not None:
        output.files["tables/tables.docx"] = tables
    study = content.study
    if study is None:
        return None
    further = further_methods(content)
    paragraphs = methods.methods(study, shown, further.sentences)
    used = [*methods.interval_methods(shown), *(method for panel in shown for method in panel.methods)]
    used += ["hsu", "max-t"] if any(panel.tested for panel in shown) else []
    used += further.words
    items = checklist.items(content, study, shown)
    output.files["methods.md"] = methods.to_file(paragraphs)
    output.files["references.bib"] = references.bibliography(study, used)
    output.files["checklist.md"] = checklist.to_file(items)
    output.files["study.toml"] = study.toml.encode()
    plain = tuple(methods.without_citations(paragraph) for paragraph in paragraphs)
    return Pack(plain, sum(bool(item.answer) for item in items), len(items), tables is not None)
