"""Tables as columns of text: .csv, .tsv and .parquet files, read so that nothing in a cell is changed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featprobe.datasets.base import neighbours, repeated
from featprobe.datasets.faults import Faults
from featprobe.errors import DataError, nearest

_Numbered = list[tuple[int, list[str]]]


@dataclass(frozen=True, slots=True)
class Table:
    """`columns`: name -> N values, stripped; `file`: what errors call it; `count`: N; `faults`: its bad rows."""

    file: str
    columns: dict[str, list[str]]
    count: int
    faults: Faults

    def find(self, asked: str | None, flag: str, names: Sequence[str]) -> tuple[str, list[str] | None]:
        """(name, values) of the column `asked`, else of the first of `names` that is there, else ("", None)."""
        if asked is not None:
            return asked, self.need(asked, flag)
        name = next((name for name in names if name in self.columns), "")
        return name, self.columns.get(name)

    def need(self, column: str, flag: str, others: str = "") -> list[str]:
        """The column's values; DataError that names the columns there are, `flag`, and `others` to type."""
        if column in self.columns:
            return self.columns[column]
        raise DataError(
            f"{self.file} has no column {column!r}",
            f"its columns are {', '.join(self.columns)}",
            nearest(column, self.columns) or f"name the right one: {flag} COLUMN{others}",
        )


def read_table(path: Path, file: str, *, private: bool = False) -> Table:
    """The table at `path`, every cell as text ("007" stays "007"); `file` is what errors call it.

    Rows are named as a spreadsheet shows them: in .csv and .tsv files the header is row 1, in .parquet files the
    first row of data is. A row of another width than the header's is a fault. `private`: faults show no cells.
    """
    if not path.is_file():
        raise DataError(
            f"there is no file {file}",
            neighbours(path) or f"looked in {path.absolute().parent}",
            "mend the path after --data",
        )
    parquet = path.suffix.lower() == ".parquet"
    header, columns, rows, uneven = _read_parquet(path, file) if parquet else _read_text(path, file)
    doubled = repeated(name for name in header if name)
    if doubled:
        raise DataError(f"{file} has two columns called {doubled[0]!r}", "", "rename or remove one of them")
    if not rows:
        raise DataError(
            f"{file} has no rows", f"its columns are {', '.join(header)}", "list one image per row"
        )
    faults = Faults(file, len(rows), lambda position: f"row {rows[position]}", private=private)
    for width, positions in uneven.items():
        faults.add(
            positions,
            f"it has {width} cells, the header {len(header)}",
            known="a cell that holds the separator must stand in double quotes",
        )
    named = {name: column for name, column in zip(header, columns, strict=True) if name}
    return Table(file, named, len(rows), faults)


def _read_text(
    path: Path, file: str
) -> tuple[list[str], list[list[str]], Sequence[int], dict[int, list[int]]]:
    """(header, its columns, each row's number, width -> positions of the rows of another width)."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    lines: list[int] = []
    columns: list[list[str]] = []
    uneven: dict[int, list[int]] = {}
    header: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            for raw in reader:
                cells = [cell.strip() for cell in raw]
                if not any(cells):
                    continue
                if not header:
                    header, columns = cells, [[] for _ in cells]
                    continue
                if len(cells) != len(header):
                    uneven.setdefault(len(cells), []).append(len(lines))
                    cells = (cells + [""] * len(header))[: len(header)]
                lines.append(reader.line_num)
                for column, cell in zip(columns, cells, strict=True):
                    column.append(cell)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text", str(error), "save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(
            f"{file} can't be read as a table",
            f"near line {reader.line_num}: {error}",
            "mend its quotes or save it anew",
        ) from error
    except OSError as error:
        raise DataError(
            f"{file} can't be read", error.strerror or str(error), "mend its permissions"
        ) from error
    _check_header(header, file)
    return header, columns, lines, uneven


def _check_header(header: list[str], file: str) -> None:
    if not header:
        raise DataError(f"{file} is empty", "", "the first row names the columns, such as path,label")
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|,"):
        raise DataError(
            f"{file} has the one column {header[0]!r}",
            "a .csv file is separated by commas, a .tsv file by tabs",
            "save it with that separator",
        )


def _read_parquet(
    path: Path, file: str
) -> tuple[list[str], list[list[str]], Sequence[int], dict[int, list[int]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as source:
            table = source.read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} can't be read as Parquet", str(error), "write it anew") from error
    header = [str(name).strip() for name in table.column_names]
    return header, [column_texts(column) for column in table.columns], range(1, table.num_rows + 1), {}


def column_texts(column: Any) -> list[str]:
    """An Arrow column as text: what is neither a scalar nor a list of them is named by its type only."""
    import pyarrow as pa

    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if lists and not pa.types.is_nested(kind.value_type):
        return ["" if cell is None else cell_text(cell) for cell in column.to_pylist()]
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [f"<{kind}>"] * len(column)
    return [cell_text(value) for value in column.to_pylist()]


def cell_text(value: object) -> str:
    """A cell as text.

    Missing values (None, NaN) are "", a whole number is written without its ".0", and the items of a list stand with
    "|" between them.
    """
    if isinstance(value, (list, tuple)):
        return "|".join(cell_text(item) for item in value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None or value != value else str(value).strip()  # noqa: PLR0124 - NaN's own test
