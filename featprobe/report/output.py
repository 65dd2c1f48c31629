"""What a report writes, gathered before the first byte is: files by name, and the figures of its page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from featprobe.report.drawing import on_page, render
from featprobe.report.tables import Table, to_latex, to_markdown


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure on the page: a data URI, words in its place, what it shows and how to read it."""

    name: str
    source: str
    alt: str
    caption: str
    wide: bool = False


@dataclass(slots=True)
class Output:
    """What will be written, by path relative to the folder, gathered before the first byte is."""

    files: dict[str, bytes] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)

    def table(self, name: str, table: Table) -> Table:
        """Adds the table as Markdown and LaTeX, and returns it."""
        self.tables[name] = table
        self.files[f"tables/{name}.md"] = to_markdown(table)
        self.files[f"tables/{name}.tex"] = to_latex(table, name)
        return table

    def block(self, name: str, table: Table, rows: pd.DataFrame) -> Table:
        """As `table`, and its rows in full precision as CSV."""
        self.files[f"tables/{name}.csv"] = rows.to_csv(index=False, lineterminator="\n").encode()
        return self.table(name, table)

    def picture(
        self,
        name: str,
        draw: Callable[[], Figure | None],
        alt: str,
        caption: str,
        *,
        wide: bool = False,
        file_only: bool = False,
    ) -> list[Picture]:
        """Adds the figure as SVG and PNG, and returns it for the page.

        Nothing where there is nothing to draw, or where it is to be a file only.
        """
        files = render(draw)
        self.files |= {f"figures/{name}.{kind}": data for kind, data in files.items()}
        if not files or file_only:
            return []
        return [Picture(name, on_page(files), alt, caption, wide)]
