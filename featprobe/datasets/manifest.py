"""Tables that list images (.csv, .tsv, .parquet): the way to state labels, patients and splits exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from featprobe.datasets.base import Dataset, DatasetOptions, FileDataset, name_of
from featprobe.datasets.columns import Listing, samples_of
from featprobe.datasets.decoding import UNSUPPORTED_SUFFIXES, unsupported_suffix
from featprobe.datasets.rows import absent, rows_of
from featprobe.datasets.tables import Table, read_table
from featprobe.records import texts
from featprobe.registry import DATASETS

SUFFIXES: Final = (".csv", ".tsv", ".parquet")
PATH_COLUMNS: Final = ("path", "image")
"""Names of the path's column; the first that is there is taken."""


@DATASETS.register("manifest")
class Manifest:
    """One image, volume or stack per row: `path` (or `image`) and `label`.

    Optionally split, group (see `columns.GROUP_COLUMNS`), case, id, site and modality. Several rows of one case
    must agree in label and group.
    """

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

        DataError for a table that is missing, empty or unreadable, for missing columns, for rows that can't be used
        (all of them counted, the first ten listed), for one class only, and for kinds of images that featprobe
        can't read.
        """
        path = Path(location).expanduser()
        root = path.parent
        table = read_table(path, location, private=options.pseudonymize is not None)
        paths = _paths(table, root, options)
        samples, rows, notes = samples_of(
            Listing(table, paths), options, lambda: rows_of(root, paths, options)
        )
        files = texts(rows.spread(paths)) if rows.suffix else samples.path
        return FileDataset(name, "manifest", samples, tuple(notes), root, files, rows.part, rows.rule)


def _paths(table: Table, root: Path, options: DatasetOptions) -> list[str]:
    """The paths; one without a file behind it, or of a kind that featprobe can't read, is a fault."""
    column = options.path_column or next((name for name in PATH_COLUMNS if name in table.columns), "path")
    paths = table.need(column, "--path-column")
    table.faults.add(
        absent(root, paths),
        "its file is missing",
        lambda position: paths[position],
        known=f"paths are relative to {root}",
        step="mend the paths, or take these rows out",
    )
    table.faults.add(
        (position for position, path in enumerate(paths) if unsupported_suffix(path)),
        f"featprobe can't read {' and '.join(sorted(set(UNSUPPORTED_SUFFIXES.values())))}",
        lambda position: paths[position],
        step="convert these files to NIfTI, DICOM or PNG, or take their rows out",
    )
    return paths
