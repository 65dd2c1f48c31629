"""Where each thing stands in a finished cache file, so that no other module spells a name of the layout."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import h5py
import numpy as np

from featprobe.cache.sealing import seal_problem
from featprobe.errors import CacheError, DataError
from featprobe.records import AnyArray, Quarantine, Recipe, Samples, TextArray, canonical_json, texts

SCHEMA: Final = 2
SUFFIX: Final = ".h5"
PART: Final = ".part"
UNFINISHED: Final = "progress"
"""The group that only a file still being filled has."""

DAMAGE: Final = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
)
"""What h5py raises on a file whose bytes make no sense."""

Dim = int | tuple[int, int, int]
"""What one image's row of an embedding table is: D values, or those of h x w patches, (h, w, D)."""

_QUARANTINE_TEXTS: Final = ("id", "path", "sha256", "reason")


class ForeignFileError(CacheError):
    """An HDF5 file that featprobe did not write."""


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself; `n_images` counts all images of the data set, readable or not."""

    dataset: str
    recipe: Recipe
    weights_label: str
    n_images: int
    environment: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Metadata:
    """Everything in a file but the embeddings; `samples` are the N readable images."""

    header: Header
    samples: Samples
    quarantine: Quarantine

    def sha256(self) -> str:
        """SHA-256 over every value, independent of how HDF5 lays them out."""
        samples, quarantine, header = self.samples, self.quarantine, self.header
        digest = hashlib.sha256()
        parts: list[tuple[str, Any]] = [
            ("schema", SCHEMA),
            ("dataset", header.dataset),
            ("recipe", header.recipe.to_json()),
            ("weights_label", header.weights_label),
            ("n_images", header.n_images),
            ("environment", dict(header.environment)),
            ("declared", samples.groups_declared),
            ("task", samples.task),
            ("label_names", list(samples.label_names)),
            *((f"samples/{name}", getattr(samples, name).tolist()) for name in Samples.TEXT_COLUMNS),
            *((f"columns/{name}", samples.columns[name].tolist()) for name in sorted(samples.columns)),
            ("quarantine/row", quarantine.row.tolist()),
            *((f"quarantine/{name}", getattr(quarantine, name).tolist()) for name in _QUARANTINE_TEXTS),
        ]
        for part in parts:
            digest.update(canonical_json(part).encode())
        for name, values in _arrays(samples).items():  # as bytes: JSON knows no NaN, and thumbnails are large
            digest.update(canonical_json([f"samples/{name}", values.dtype.str, values.shape]).encode())
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()


def damaged(path: Path, problem: str) -> CacheError:
    """The error for a file that can't be read as it should."""
    return CacheError(
        f"{path} is truncated or damaged: {problem}",
        f"featprobe cache verify --cache {path.parent.parent} says which files are",
        "remove the file and type the featprobe extract command again",
    )


def first_line(error: BaseException) -> str:
    """An exception of h5py in one line: the operating system's own words where it quotes them."""
    text = str(error).strip() or type(error).__name__
    _, found, rest = text.partition("error message = '")
    return rest.partition("'")[0] if found else text.splitlines()[0]


def need_seal(path: Path) -> None:
    """CacheError unless every byte of the finished file is as it was written; reads the whole file."""
    with suppress(FileNotFoundError, PermissionError):  # `opened` says it better
        if path.suffix == SUFFIX and (problem := seal_problem(path)):
            raise damaged(path, problem)


@contextmanager
def opened(path: Path, *, sealed: bool = False) -> Iterator[Any]:
    """The HDF5 file at `path` for reading (h5py.File); CacheError where it is missing, damaged or cut short.

    With `sealed`, every byte is checked first: what is read then is what was written. HDF5's own locks are left
    out: writers hold ours, and read-only media have none.
    """
    if sealed:
        need_seal(path)
    try:
        file = h5py.File(path, "r", locking=False)
    except FileNotFoundError:
        raise CacheError(f"there is no cache file {path}", "", "type: featprobe cache ls") from None
    except PermissionError:
        raise CacheError(
            f"{path} may not be read", "its permissions forbid it", f"type: chmod u+r {path}"
        ) from None
    except DAMAGE as error:
        raise damaged(path, first_line(error)) from error
    with file:
        try:
            yield file
        except DAMAGE as error:
            raise damaged(path, first_line(error)) from error


def write_header(file: Any, header: Header) -> None:
    """The root attributes."""
    file.attrs["schema"] = SCHEMA
    file.attrs["dataset"] = header.dataset
    file.attrs["recipe"] = header.recipe.to_json()
    file.attrs["fingerprint"] = header.recipe.fingerprint
    file.attrs["weights_label"] = header.weights_label
    file.attrs["n_images"] = header.n_images
    file.attrs["environment"] = canonical_json(dict(header.environment))


def read_header(file: Any, path: Path, *, finished: bool = True) -> Header:
    """The root attributes; CacheError on another schema, a fingerprint that does not fit, an unfinished file."""
    if "schema" not in file.attrs or "recipe" not in file.attrs:
        raise ForeignFileError(
            f"{path} is not a featprobe cache file",
            "it has no attributes `schema` and `recipe`",
            "move it out of the cache folder",
        )
    schema = int(file.attrs["schema"])
    if schema != SCHEMA:
        raise CacheError(
            f"{path} has the cache schema {schema}",
            f"this version of featprobe reads schema {SCHEMA}, with the thumbnails that the leak gate needs",
            "remove the file and type the featprobe extract command again",
        )
    text = str(file.attrs["recipe"])
    if hashlib.sha256(text.encode()).hexdigest() != str(file.attrs["fingerprint"]):
        raise damaged(path, "the fingerprint is not the recipe's")
    if finished and UNFINISHED in file:
        raise CacheError(
            f"{path} is still incomplete",
            "its extraction was interrupted or is running",
            "type the featprobe extract command again to finish it",
        )
    return Header(
        dataset=str(file.attrs["dataset"]),
        recipe=Recipe.from_json(text),
        weights_label=str(file.attrs["weights_label"]),
        n_images=int(file.attrs["n_images"]),
        environment=json.loads(file.attrs["environment"]),
    )


def write_text(group: Any, name: str, values: TextArray) -> None:
    """`values` ([N]) as variable-length UTF-8; file names that are no UTF-8 keep their bytes."""
    try:
        encoded = [value.encode("utf-8", "surrogateescape") for value in values.tolist()]
    except UnicodeEncodeError as error:
        raise DataError(f"{name} holds text that is no Unicode: {error.object!r}", "", "rename it") from None
    if any(b"\0" in value for value in encoded):
        raise DataError(f"{name} holds text with a null character", "", "remove that character from it")
    data = np.empty(len(encoded), dtype=object)
    data[:] = encoded
    group.create_dataset(name, data=data, dtype=h5py.string_dtype("utf-8"))


def read_text(dataset: Any) -> TextArray:
    """The inverse of `write_text`."""
    return texts([value.decode("utf-8", "surrogateescape") for value in dataset[:]])


def write_metadata(file: Any, metadata: Metadata) -> None:
    """Everything but the embeddings, and the SHA-256 over it.

    The labels' task is an attribute of `samples/label`; `twin` is worked out by whoever reads, never stored.
    """
    write_header(file, metadata.header)
    samples = file.create_group("samples")
    for name in Samples.TEXT_COLUMNS:
        write_text(samples, name, getattr(metadata.samples, name))
    for name, values in _arrays(metadata.samples).items():
        samples.create_dataset(name, data=values)
    samples["label"].attrs["task"] = metadata.samples.task
    samples["group"].attrs["declared"] = metadata.samples.groups_declared
    columns = file.create_group("columns")
    for name, values in metadata.samples.columns.items():
        write_text(columns, _column_key(name), values)
    write_text(file, "label_names", texts(metadata.samples.label_names))
    quarantine = file.create_group("quarantine")
    quarantine.create_dataset("row", data=metadata.quarantine.row.astype("<i8"))
    for name in _QUARANTINE_TEXTS:
        write_text(quarantine, name, getattr(metadata.quarantine, name))
    file.attrs["metadata_sha256"] = metadata.sha256()


def read_metadata(file: Any, path: Path, *, thumbnails: bool = True) -> Metadata:
    """Everything but the embeddings, unchecked against its SHA-256."""
    header = read_header(file, path)
    return Metadata(header, read_samples(file, path, thumbnails=thumbnails), read_quarantine(file))


def read_samples(file: Any, path: Path, *, thumbnails: bool = True) -> Samples:
    """The readable images of the data set, in its order; without `thumbnails` these are left out (T = 0)."""
    group = file["samples"]
    count, task = len(group["id"]), str(group["label"].attrs["task"])
    try:
        return Samples(
            label=np.asarray(group["label"][:], dtype=_label_dtype(task)),
            label_names=tuple(read_text(file["label_names"]).tolist()),
            task=task,
            thumbnail=group["thumbnail"][:] if thumbnails else np.empty((count, 0), dtype=np.uint8),
            twin=np.full(count, "", dtype=np.str_),
            groups_declared=bool(group["group"].attrs["declared"]),
            columns={_column_name(key): read_text(column) for key, column in file["columns"].items()},
            **{name: read_text(group[name]) for name in Samples.TEXT_COLUMNS},
        )
    except DataError as error:
        raise damaged(path, str(error)) from error


def read_quarantine(file: Any) -> Quarantine:
    """The images that could not be read."""
    group = file["quarantine"]
    return Quarantine(
        row=np.asarray(group["row"][:], dtype=np.int64),
        **{name: read_text(group[name]) for name in _QUARANTINE_TEXTS},
    )


def as_dim(values: Any) -> Dim:
    """D or (h, w, D) from a number or from the shape of a row; ValueError on anything else."""
    shape = tuple(int(value) for value in np.atleast_1d(values))
    if len(shape) not in {1, 3} or min(shape) < 1:
        raise ValueError(f"an embedding is [D] or [h, w, D], not {shape}")
    return shape[0] if len(shape) == 1 else (shape[0], shape[1], shape[2])


def row_shape(dim: Dim) -> tuple[int, ...]:
    """The shape of one image's row."""
    return (dim,) if isinstance(dim, int) else dim


def row_values(dim: Dim) -> int:
    """Numbers in one image's row."""
    return math.prod(row_shape(dim))


def dims_of(file: Any) -> dict[str, Dim]:
    """Key -> D, or (h, w, D), of every embedding table."""
    return {key: as_dim(dataset.shape[1:]) for key, dataset in embedding_sets(file).items()}


def embedding_sets(file: Any) -> dict[str, Any]:
    """Key -> dataset [N, D] or [N, h, w, D]; a key is POOLING for the last layer, else LAYER/POOLING."""
    found: dict[str, Any] = {}
    for name, node in file["embeddings"].items():
        if isinstance(node, h5py.Dataset):
            found[name] = node
        else:
            found.update({f"{name}/{pooling}": dataset for pooling, dataset in node.items()})
    return found


def _arrays(samples: Samples) -> dict[str, AnyArray]:
    """What is no text, in the bytes that are stored and hashed: label and thumbnail."""
    return {"label": samples.label.astype(_label_dtype(samples.task)), "thumbnail": samples.thumbnail}


def _label_dtype(task: str) -> str:
    return "<f8" if task == "continuous" else "<i8"


def _column_key(name: str) -> str:
    """A manifest column's name as the name of an HDF5 link, which has no slash and is no lone dot."""
    return {".": "%2E", "": "%"}.get(name) or name.replace("%", "%25").replace("/", "%2F")


def _column_name(key: str) -> str:
    return "" if key == "%" else unquote(key)
