"""A table that is typed anew into a manuscript gets errors: all tables of a report as one Word document."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from featprobe.report.tables import Entry, Table
from featprobe.report.wording import MARK, one_line

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


def document(tables: Mapping[str, Table]) -> bytes | None:
    """A .docx with every table under its caption, an interval behind its value; None without python-docx.

    Equal tables give equal bytes.
    """
    try:
        import docx
    except ImportError:
        return None
    word = docx.Document()
    for when in ("created", "modified"):
        setattr(word.core_properties, when, _EPOCH)
    word.core_properties.author = "featprobe"
    for table in tables.values():
        _add(word, table)
    sink = io.BytesIO()
    word.save(sink)
    return _dateless(sink.getvalue())


def _add(word: Any, table: Table) -> None:
    word.add_paragraph(one_line(table.caption), style="Caption")
    grid = word.add_table(rows=1 + len(table.rows), cols=len(table.header), style="Table Grid")
    # Cells are asked for once: python-docx counts all of them anew for each one that is asked for by its place.
    cells = [row.cells for row in grid.rows]
    for cell, name in zip(cells[0], table.header, strict=True):
        cell.paragraphs[0].add_run(one_line(name)).bold = True
    for row, entries in zip(cells[1:], table.rows, strict=True):
        for cell, entry in zip(row, entries, strict=True):
            _fill(cell.paragraphs[0], entry)
    if table.note:
        word.add_paragraph(one_line(table.note))


def _fill(paragraph: Any, entry: Entry) -> None:
    marked = entry.marked and bool(entry.below)
    paragraph.add_run(
        f"{MARK} {one_line(entry.text)}" if marked else one_line(entry.text)
    ).bold = entry.marked
    if entry.below:
        paragraph.add_run(f" {entry.below}")


def _dateless(data: bytes) -> bytes:
    """The same archive without the hour of its making."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(zipfile.ZipInfo(info.filename), old.read(info), zipfile.ZIP_DEFLATED)
    return sink.getvalue()
