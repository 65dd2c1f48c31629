"""Tables that list images (.csv, .tsv, .parquet): the way to state labels, patients and splits exactly."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from featprobe.datasets.base import (
    NONE,
    Dataset,
    DatasetOptions,
    FileDataset,
    canonical_splits,
    complete_groups,
    encode_labels,
    first_three,
    groups_by_regex,
    name_of,
    neighbours,
    repeated,
    require_classes,
)
from featprobe.datasets.decoding import UnsupportedImageError, unsupported_suffix
from featprobe.errors import ConfigError, DataError, nearest
from featprobe.records import Samples
from featprobe.registry import DATASETS

SUFFIXES: Final = (".csv", ".tsv", ".parquet")
PATH_COLUMNS: Final = ("path", "image")
GROUP_COLUMNS: Final = ("group", "patient", "patient_id", "subject", "subject_id", "lesion_id")
"""Names of the path's and the group's column; the first that is there is taken."""


@DATASETS.register("manifest")
class Manifest:
    """One image per row: `path` (or `image`) and `label`, optionally split, group, case, id, site, modality."""

    @classmethod
    def accepts(cls, location: str) -> bool:
        """Anything that ends like a table and is no folder."""
        path = Path(location).expanduser()
        return path.suffix.lower() in SUFFIXES and not path.is_dir()

    @classmethod
    def default_name(cls, location: str) -> str:
        """The file's stem, or its folder's name where the stem says nothing."""
        return name_of(Path(location))

    @classmethod
    def open(cls, location: str, name: str, options: DatasetOptions) -> Dataset:
        """The images that the table lists, in its order.

        DataError for a table that is missing, empty or unreadable, for missing columns and files, unknown
        splits, repeated ids, one class only, and images that are not supported yet.
        """
        table = read_table(Path(location).expanduser(), location)
        paths = _paths(table, options)
        ids = _ids(table, paths)
        labels, names, label_notes = _labels(table, options)
        groups, group_notes = _groups(table, options, paths, ids)
        samples = Samples.build(
            id=ids,
            path=paths,
            label=labels,
            label_names=names,
            group=groups,
            case=_or_id(table.get("case"), ids),
            split=_splits(table, options),
            site=table.get("site"),
            modality=table.get("modality"),
            columns={column: table.need(column, "--keep-column") for column in options.keep_column},
        )
        return FileDataset(name, "manifest", samples, (*group_notes, *label_notes), table.root)


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text: `columns` name -> N values, stripped; `rows`: N row numbers, as a spreadsheet shows them.

    In .csv and .tsv files the header is row 1; in .parquet files the first row of data is row 1.
    """

    file: str
    root: Path
    columns: dict[str, list[str]]
    rows: list[int]

    def get(self, column: str) -> list[str] | None:
        """The column's values, or None where it is not there."""
        return self.columns.get(column)

    def need(self, column: str, flag: str, others: str = "") -> list[str]:
        """The column's values; DataError that names the columns there are, `flag`, and `others` to type."""
        if column in self.columns:
            return self.columns[column]
        raise DataError(
            f"{self.file} has no column {column!r}",
            f"its columns are {', '.join(self.columns)}",
            nearest(column, self.columns) or f"name the right one: {flag} COLUMN{others}",
        )

    def at(self, positions: Sequence[int], show: Callable[[int], str]) -> str:
        """The first three of `positions`, each with its row number."""
        return first_three([f"{show(position)} (row {self.rows[position]})" for position in positions])


def read_table(path: Path, file: str) -> Table:
    """The table at `path`, every cell as text ("007" stays "007"); `file` is what errors call it."""
    if not path.is_file():
        raise DataError(
            f"there is no file {file}",
            neighbours(path) or f"looked in {path.absolute().parent}",
            "mend the path after --data",
        )
    if path.suffix.lower() == ".parquet":
        header, numbered = _read_parquet(path, file)
    else:
        header, numbered = _read_text(path, file)
    doubled = repeated(name for name in header if name)
    if doubled:
        raise DataError(f"{file} has two columns called {doubled[0]!r}", "", "rename or remove one of them")
    if not numbered:
        raise DataError(
            f"{file} has no rows", f"its columns are {', '.join(header)}", "list one image per row"
        )
    columns = {name: [cells[index] for _, cells in numbered] for index, name in enumerate(header) if name}
    return Table(file, path.parent, columns, [row for row, _ in numbered])


def _read_text(path: Path, file: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            records = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text", str(error), "save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(
            f"{file} can't be read as a table", str(error), "mend its quotes or save it anew"
        ) from error
    except OSError as error:
        raise DataError(
            f"{file} can't be read", error.strerror or str(error), "mend its permissions"
        ) from error
    records = [(line, cells) for line, cells in records if any(cells)]
    if not records:
        raise DataError(f"{file} is empty", "", "the first row names the columns, such as path,label")
    header, width = records[0][1], len(records[0][1])
    if width == 1 and any(mark in header[0] for mark in ";\t|,"):
        raise DataError(
            f"{file} has the one column {header[0]!r}",
            "a .csv file is separated by commas, a .tsv file by tabs",
            "save it with that separator",
        )
    uneven = [f"row {line} has {len(cells)}" for line, cells in records if len(cells) != width]
    if uneven:
        raise DataError(
            f"{file} can't be read as a table: its header has {width} cells but {first_three(uneven)}",
            "a cell that holds the separator must stand in double quotes",
            "mend these rows",
        )
    return header, records[1:]


def _read_parquet(path: Path, file: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as source:
            table = source.read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} can't be read as Parquet", str(error), "write it anew") from error
    columns = [
        [f"<{column.type}>"] * len(column)
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type)
        else [_text(value) for value in column.to_pylist()]
        for column in table.columns
    ]
    header = [str(name).strip() for name in table.column_names]
    return header, list(enumerate(([*cells] for cells in zip(*columns, strict=True)), start=1))


def _text(value: object) -> str:
    """A cell as text; missing values (None, NaN) are "", and a whole number is written without its ".0"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None or value != value else str(value).strip()  # noqa: PLR0124 - NaN's own test


def _paths(table: Table, options: DatasetOptions) -> list[str]:
    """The paths, each with a file behind it that is not refused by its suffix."""
    column = options.path_column or next((name for name in PATH_COLUMNS if name in table.columns), "path")
    paths = table.need(column, "--path-column")
    missing = [position for position, path in enumerate(paths) if not path or not _is_file(table.root / path)]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(paths)} files that {table.file} lists are missing: "
            f"{table.at(missing, lambda position: paths[position] or 'an empty path')}",
            f"paths are relative to {table.root}",
            "mend the paths, or take these rows out",
        )
    for path in paths:
        if what := unsupported_suffix(path):
            raise UnsupportedImageError.of(what, path)
    return paths


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _ids(table: Table, paths: list[str]) -> list[str]:
    """The column id, else the paths; DataError where one is empty or occurs twice."""
    ids = table.get("id")
    column, values = ("path", paths) if ids is None else ("id", ids)
    empty = [position for position, value in enumerate(values) if not value]
    doubled = set(repeated(values))
    if not empty and not doubled:
        return values
    bad = empty or [position for position, value in enumerate(values) if value in doubled]
    raise DataError(
        f"the column {column} of {table.file} must name every image once, but there is "
        f"{table.at(bad, lambda position: repr(values[position]))}",
        f"{len(bad)} of {len(values)} rows are {'empty' if empty else 'repeated'}",
        "make it unique, or leave it out: the path is then the id" if ids else "list each image once",
    )


def _labels(table: Table, options: DatasetOptions) -> tuple[list[int], tuple[str, ...], list[str]]:
    if options.unlabelled:
        return [-1] * len(table.rows), (), []
    column = options.label_column or "label"
    values = table.need(column, "--label-column", ", or extract without labels: --label none")
    labels, names = encode_labels(values)
    require_classes(
        names,
        f"the column {column} of {table.file}",
        "name another with --label-column, or extract without labels: --label none",
    )
    missing = labels.count(-1)
    return labels, names, [f"{missing} of {len(labels)} images have no label"] if missing else []


def _groups(
    table: Table, options: DatasetOptions, paths: list[str], ids: list[str]
) -> tuple[list[str] | None, list[str]]:
    if options.group_regex and options.group_column not in {None, NONE}:
        raise ConfigError(
            "--group-regex and --group-column are both given",
            "a group comes from the path or from a column",
            "leave one of them out",
        )
    if options.group_regex:
        return complete_groups(groups_by_regex(options.group_regex, paths), ids)
    if options.group_column == NONE:
        return complete_groups(None, ids)
    if options.group_column:
        return complete_groups(table.need(options.group_column, "--group-column"), ids)
    column = next((name for name in GROUP_COLUMNS if name in table.columns), "")
    groups, notes = complete_groups(table.get(column), ids)
    if groups is not None and column != "group":
        notes = [f"groups are read from the column {column}", *notes]
    return groups, notes


def _splits(table: Table, options: DatasetOptions) -> list[str] | None:
    if options.split_column == NONE:
        return None
    column = options.split_column or "split"
    values = table.need(column, "--split-column") if options.split_column else table.get(column)
    if values is None:
        return None
    splits, unknown = canonical_splits(values)
    if unknown:
        raise DataError(
            f"the column {column} of {table.file} has {len(unknown)} unknown splits: "
            f"{table.at(unknown, lambda position: repr(values[position]))}",
            "known are train (training), val (valid, validation), test (testing) and extra",
            "mend these rows, or let featprobe split: --split-column none here, --resplit when probing",
        )
    return splits


def _or_id(values: list[str] | None, ids: list[str]) -> list[str] | None:
    """The values with gaps filled by the ids: an image without a case is its own."""
    return None if values is None else [value or name for value, name in zip(values, ids, strict=True)]
