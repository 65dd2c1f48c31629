"""Folders of Hugging Face `datasets`: what `save_to_disk` writes, and the Parquet files of the hub.

They are Arrow and Parquet files with a description beside or inside them, and are read as such: the package
`datasets` is not needed, no dataset script is run, nothing is sent and nothing is written.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from featprobe.datasets.base import Dataset, DatasetOptions, name_of
from featprobe.datasets.decoding import UnreadableImageError, decode
from featprobe.datasets.hub_files import Feature, Part, damaged, features_of, is_saved_folder, parts_of
from featprobe.errors import DataError, nearest
from featprobe.registry import DATASETS

if TYPE_CHECKING:
    from featprobe.imaging import Raster
    from featprobe.records import IntArray, Samples

_KEPT_GROUPS: Final = 4
"""Row groups of Parquet files that a process keeps: each is unpacked whole."""

_READING: Final = threading.Lock()


@DATASETS.register("huggingface")
class HuggingFace:
    """A folder that `save_to_disk` wrote (one split or several), or Parquet files with an image column as on the hub.

    The image is the first Image feature (`--path-column` names another), undecoded; the label is the column `label`,
    else the first ClassLabel, whose names are the classes. Other columns are read as a manifest's (group, case, id,
    site, modality). Splits are the DatasetDict's, or in the names of the Parquet files or of their folders.
    """

    @classmethod
    def accepts(cls, location: str) -> bool:
        """See `is_saved_folder`."""
        path = Path(location).expanduser()
        return path.is_dir() and is_saved_folder(path)

    @classmethod
    def default_name(cls, location: str) -> str:
        """The folder's name; the name of the one around it where it is called train or data."""
        return name_of(Path(location))

    @classmethod
    def open(cls, location: str, name: str, options: DatasetOptions) -> Dataset:
        """The rows of all splits, in the order of the splits and files.

        DataError where a file is missing or damaged, a split has an unknown name or files do not belong together.
        """
        import numpy as np

        from featprobe.datasets.columns import Listing, samples_of
        from featprobe.datasets.faults import Faults
        from featprobe.datasets.rows import whole
        from featprobe.datasets.tables import Table

        root = Path(location).expanduser()
        parts = parts_of(root, location, options)
        features = features_of(parts, location)
        column = _image_column(features, options, location)
        tables = [_read(part, column, features) for part in parts]
        counts = [len(next(iter(columns.values()))) for columns in tables]
        sides = [part for part, count in zip(parts, counts, strict=True) for _ in range(count)]
        splits = [part.split for part in sides]
        ids = _numbered([part.name for part in sides])
        columns = {key: [cell for columns in tables for cell in columns[key]] for key in tables[0]}
        names = columns.pop(column)
        count = len(ids)
        private = options.pseudonymize is not None
        faults = Faults(location, count, lambda at: f"row {ids[at]}", private=private)
        classes = tuple(key for key, feature in features.items() if feature.classes)
        paths = [
            f"{part.name}/{path}" if part.name else path for part, path in zip(sides, names, strict=True)
        ]
        listing = Listing(
            Table(location, columns, count, faults),
            paths if all(names) else ids,
            ids,
            splits=splits if any(splits) else None,
            labels=("label", *classes),
            classes=classes,
        )
        samples, _, notes = samples_of(listing, options, lambda: whole(count, options))
        return HubDataset(
            name,
            samples,
            tuple(notes),
            root,
            tuple(part.file for part in parts),
            column,
            np.repeat(np.arange(len(parts), dtype=np.int64), counts),
            np.concatenate([np.arange(n, dtype=np.int64) for n in counts]),
        )


@dataclass(slots=True, eq=False)
class HubDataset:
    """Images in the column `column` of Arrow and Parquet files: `file` [N] indexes `files`, `row` [N] is in there.

    Arrow files are mapped, not loaded. What is open is not pickled.
    """

    name: str
    samples: Samples
    notes: tuple[str, ...]
    root: Path
    files: tuple[Path, ...]
    column: str
    file: IntArray
    row: IntArray
    kind: str = "huggingface"
    _open: dict[int, Any] = field(default_factory=dict, repr=False)
    _groups: OrderedDict[tuple[int, int], Any] = field(default_factory=OrderedDict, repr=False)

    def read(self, row: int) -> bytes:
        """The image's bytes as they were stored, or the file's that the row names.

        DataError where a file has gone or is damaged, UnreadableImageError where the row holds no image.
        """
        number = int(self.file[row])
        try:
            with _READING:
                value = self._value(number, int(self.row[row]))
        except FileNotFoundError as error:
            raise DataError(
                f"the file {self.files[number].name} of {self.name} is no longer there",
                f"it was there when the data set was opened, at {self.files[number]}",
                "put it back",
            ) from error
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data is not None:
            return bytes(data)
        if not path:
            raise UnreadableImageError("the row holds no image")
        try:
            return (self.root / str(path)).read_bytes()
        except FileNotFoundError as error:
            raise DataError(
                f"the image {path}, which {self.name} names but does not hold, is not there",
                f"looked in {self.root}",
                "save the data set with its images embedded",
            ) from error

    def _value(self, number: int, row: int) -> Any:
        path = self.files[number]
        if number not in self._open:
            self._open[number] = _opened(path, self.column)
        held = self._open[number]
        if path.suffix != ".parquet":
            return held[row].as_py()
        group = next(index for index, start in enumerate(held[1:]) if row < start)
        if (number, group) not in self._groups:
            self._groups[number, group] = _row_group(path, group, self.column)
            while len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end((number, group))
        return self._groups[number, group][row - held[group]].as_py()

    def decode(self, data: bytes) -> Raster:
        """See `decoding.decode`."""
        return decode(data)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "_open": {}, "_groups": OrderedDict()}.items():
            setattr(self, name, value)


def _image_column(features: Mapping[str, Feature], options: DatasetOptions, location: str) -> str:
    images = [name for name, feature in features.items() if feature.image]
    if options.path_column is not None:
        if options.path_column in features:
            return options.path_column
        raise DataError(
            f"{location} has no column {options.path_column!r}",
            nearest(options.path_column, features) or f"its columns are {', '.join(features)}",
            f"its images are in {', '.join(images) or 'none of them'}",
        )
    if not images:
        raise DataError(
            f"{location} has no column of images",
            f"its columns are {', '.join(features)}",
            "name it: --path-column COLUMN",
        )
    return images[0]


def _read(part: Part, image: str, features: Mapping[str, Feature]) -> dict[str, list[str]]:
    """Column name -> text of every row; for the image, the name of the file that it was."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from featprobe.datasets.tables import column_texts

    wanted = [name for name, feature in features.items() if feature.text and name != image]
    try:
        if part.file.suffix == ".parquet":
            with pq.ParquetFile(part.file) as source:
                inside = pa.types.is_struct(source.schema_arrow.field(image).type)
                count = source.metadata.num_rows
                table = source.read([*wanted, *([f"{image}.path"] if inside else [])], use_threads=False)
        else:
            with pa.memory_map(str(part.file)) as source:
                table = pa.ipc.open_stream(source).read_all()
            count = table.num_rows
        names = _file_names(table, image) or [""] * count
        columns = {name: column_texts(_named(table.column(name), features[name].classes)) for name in wanted}
    except (pa.ArrowException, OSError, IndexError) as error:
        raise damaged(part.file, error) from error
    return {image: names, **columns}


def _file_names(table: Any, image: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if image not in table.column_names or not pa.types.is_struct(table.column(image).type):
        return []
    return [name or "" for name in pc.struct_field(table.column(image), "path").to_pylist()]


def _named(column: Any, classes: tuple[str, ...]) -> Any:
    """The column with class numbers replaced by the classes' names; -1 is missing."""
    import pyarrow as pa

    if not classes:
        return column

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(item) for item in value]
        return None if value is None or value < 0 else classes[value]

    return pa.chunked_array([[name(value) for value in column.to_pylist()]])


def _opened(path: Path, column: str) -> Any:
    """Of an Arrow file its column of images, mapped; of a Parquet file the first row of each row group, and the end."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix != ".parquet":
            return pa.ipc.open_stream(pa.memory_map(str(path))).read_all().column(column)
        with pq.ParquetFile(path) as source:
            starts = [0]
            for group in range(source.num_row_groups):
                starts.append(starts[-1] + source.metadata.row_group(group).num_rows)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error
    return starts


def _row_group(path: Path, group: int, column: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as source:
            return source.read_row_group(group, columns=[column], use_threads=False).column(column)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def _numbered(splits: Sequence[str]) -> list[str]:
    """An id for each row: its number within its split."""
    seen: dict[str, int] = {}
    ids = []
    for split in splits:
        number = seen[split] = seen.get(split, -1) + 1
        ids.append(f"{split}-{number:06d}" if split else f"{number:06d}")
    return ids
