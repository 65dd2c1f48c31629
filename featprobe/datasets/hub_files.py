"""What lies in a folder of Hugging Face `datasets`: its Arrow or Parquet files, their splits and their columns."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from featprobe.datasets.base import NONE, SPLIT_NAMES, DatasetOptions, canonical_splits
from featprobe.errors import DataError, listed

_SPLIT_WORD: Final = re.compile(rf"(?:^|[^a-z])({'|'.join(SPLIT_NAMES)})(?=[^a-z]|$)")


@dataclass(frozen=True, slots=True)
class Part:
    """One Arrow or Parquet file. `name`: its split as it is called there, "" where none. `features`: the description
    that lies beside it, if any.
    """  # noqa: D205 - three fields, one paragraph

    file: Path
    name: str
    features: Mapping[str, Any] | None = None

    @property
    def split(self) -> str:
        """The split's name in `records.SPLITS`."""
        return SPLIT_NAMES.get(self.name.lower(), "")


@dataclass(frozen=True, slots=True)
class Feature:
    """`image`: whether a column holds images. `classes`: the names of its class numbers; () where it has none."""

    image: bool
    classes: tuple[str, ...]
    text: bool


def is_saved_folder(path: Path) -> bool:
    """Whether the folder was written by `save_to_disk`, or holds Parquet files with a column of images.

    These lie in the folder itself, in `data` or in folders called as splits.
    """
    if (path / "dataset_dict.json").is_file():
        return True
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return True
    files = _parquet_files(path)
    if not files:
        return False
    try:
        return any(feature.image for feature in _described(_schema(files[0]), None).values())
    except DataError:
        return False


def _parquet_files(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            seen = [entry for entry in entries if not entry.name.startswith(".")]
            files = [entry.name for entry in seen if entry.name.endswith(".parquet") and entry.is_file()]
            inner = [
                entry.name
                for entry in seen
                if (entry.name == "data" or entry.name.lower() in SPLIT_NAMES) and entry.is_dir()
            ]
    except OSError:
        return []
    if files:
        return [path / name for name in sorted(files)]
    return sorted(file for name in sorted(inner) for file in (path / name).glob("[!.]*.parquet"))


def parts_of(root: Path, location: str, options: DatasetOptions) -> list[Part]:
    """The files in their order. DataError for unknown splits and for files that are not there."""
    if (root / "dataset_dict.json").is_file():
        names = _json(root / "dataset_dict.json").get("splits", [])
        parts = [part for name in names for part in _saved(root / str(name), str(name))]
    elif (root / "state.json").is_file():
        parts = _saved(root, str(_json(root / "state.json").get("_split") or ""))
    else:
        parts = [Part(file, _split_of(file.relative_to(root))) for file in _parquet_files(root)]
    if not parts:
        raise DataError(f"{location} holds no rows", "it lists no files", "save the data set again")
    missing = [part.file.name for part in parts if not part.file.is_file()]
    if missing:
        raise DataError(
            f"{location} lacks files that it lists: {listed(missing)}", "", "copy the whole folder again"
        )
    if options.split_column != NONE:
        _refuse_unknown_splits([part.name for part in parts], location)
    return parts


def _refuse_unknown_splits(names: Sequence[str], location: str) -> None:
    unknown = {names[position] for position in canonical_splits(names)[1]}
    if any(names) and not all(names):
        unknown.add("files without one")
    if unknown:
        raise DataError(
            f"{location} has splits that featprobe does not know: {listed(sorted(unknown))}",
            "known are train (training), val (valid, validation), test (testing) and extra",
            "read it without splits: --split-column none",
        )


def _saved(folder: Path, split: str) -> list[Part]:
    state = _json(folder / "state.json")
    features = _json(folder / "dataset_info.json").get("features") or {}
    files = [str(entry.get("filename", "")) for entry in state.get("_data_files", [])]
    return [Part(folder / file, split, features) for file in files]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} can't be read",
            (error.strerror or "") if isinstance(error, OSError) else str(error),
            "save the data set again",
        ) from error
    return found if isinstance(found, dict) else {}


def _split_of(file: Path) -> str:
    """The split that a Parquet file's name or folder says, as the hub finds it; "" where none."""
    for word in (file.name.lower().removesuffix(".parquet"), *(folder.lower() for folder in file.parts[:-1])):
        if match := _SPLIT_WORD.search(word):
            return match.group(1)
    return ""


def features_of(parts: Sequence[Part], location: str) -> dict[str, Feature]:
    """The columns that all files have. DataError where their image columns are not the same."""
    found = [_described(_schema(part.file), part.features) for part in parts]
    first = found[0]
    for part, other in zip(parts, found, strict=True):
        if [name for name in other if other[name].image] != [name for name in first if first[name].image]:
            raise DataError(
                f"{part.file.name} and {parts[0].file.name} of {location} have different image columns",
                "they may be different configurations of a data set",
                "put each into a folder of its own",
            )
    return {name: feature for name, feature in first.items() if all(name in other for other in found)}


def _schema(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".parquet":
            return pq.read_schema(file)
        with pa.memory_map(str(file)) as source:
            return pa.ipc.open_stream(source).schema
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, error) from error


def _described(schema: Any, features: Mapping[str, Any] | None) -> dict[str, Feature]:
    """Column name -> what it holds, by the description beside the file or inside it, else by its type."""
    import pyarrow as pa

    if not features:
        try:
            inside = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
            features = inside["info"]["features"]
        except (ValueError, KeyError, TypeError):
            features = {}
    described = {}
    for column in schema:
        about = features.get(column.name) if isinstance(features, Mapping) else None
        kind = column.type
        said = about.get("_type") if isinstance(about, dict) else None
        shaped = pa.types.is_struct(kind) and {"bytes", "path"} <= {part.name for part in kind}
        described[column.name] = Feature(
            said == "Image" if said else shaped, _class_names(about), not pa.types.is_struct(kind)
        )
    return described


def _class_names(about: Any) -> tuple[str, ...]:
    """The names of a ClassLabel, or of a list of them."""
    while isinstance(about, (dict, list)):
        if isinstance(about, list):
            about = about[0] if about else None
        elif about.get("_type") == "ClassLabel":
            return tuple(str(name) for name in about.get("names") or ())
        else:
            about = about.get("feature")
    return ()


def damaged(file: Path, error: Exception) -> DataError:
    """The error for a file that is there but can't be read."""
    return DataError(f"{file} can't be read", str(error), "copy or save it again")
