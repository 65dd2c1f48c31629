"""A finished file is written whole beside its place, sealed, and only then renamed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from featprobe.cache.disk import output_error, reserve, sync_folder
from featprobe.cache.layout import Dim, Metadata, embedding_sets, first_line, row_values, write_metadata
from featprobe.cache.sealing import USER_BLOCK, seal
from featprobe.imaging import THUMBNAIL_SIDE
from featprobe.records import AnyArray, Samples, canonical_json

CHUNK_ROWS: Final = 256
BLOCK_ROWS: Final = 16 * CHUNK_ROWS
"""Rows in memory at a time; whole chunks, so that each is written once."""

BLOCK_BYTES: Final = 1 << 26
"""Dense rows are large (256 patches of 384 values: 0.4 MB): so many bytes of them are in memory at a time."""

CHUNK_INDEX_BYTES: Final = 256
"""What HDF5 keeps of each chunk at most: measured: 67 to 71, of few rows more."""

THUMBNAIL_BYTES: Final = THUMBNAIL_SIDE**2

TEMPORARY: Final = ".tmp"


def block_rows(dataset: Any) -> int:
    """Rows of a dataset [N, D] or [N, h, w, D] that are read or written at a time; whole chunks."""
    if len(dataset.shape) == 2:
        return BLOCK_ROWS
    return max(1, BLOCK_BYTES // int(math.prod(dataset.shape[1:]) * dataset.dtype.itemsize))


def packed_size(metadata: Metadata, dims: Mapping[str, Dim]) -> int:
    """Bytes that a finished file will take at most: embeddings with their checksums, thumbnails, labels, text.

    Every image counts with a thumbnail: what is asked before the first one is decoded holds for the end.
    """
    samples, itemsize = metadata.samples, np.dtype(metadata.header.recipe.storage).itemsize
    rows = len(samples)
    columns = [getattr(samples, name) for name in Samples.TEXT_COLUMNS]
    columns += list(samples.columns.values())
    text = sum(int(np.char.str_len(column).sum()) * 4 + 64 * len(column) for column in columns)
    text += sum(len(part) for part in metadata.quarantine.reason.tolist()) * 4 + 512 * len(
        metadata.quarantine
    )
    embeddings = sum(
        (rows + CHUNK_ROWS) * dim * itemsize
        if isinstance(dim, int)
        else rows * (row_values(dim) * itemsize + CHUNK_INDEX_BYTES)
        for dim in dims.values()
    )
    return int(1.02 * (embeddings + rows * THUMBNAIL_BYTES + samples.label.nbytes + text)) + 1_000_000


def write_whole(target: Path, metadata: Metadata, fill: Callable[[Any], None], size: int) -> Path:
    """Write `target` with `fill(group embeddings)` under a temporary name, sealed; returns that name.

    `size`: bytes to make sure of first. OutputError where the disk is full or fails; nothing is then left.
    """
    temporary = target.with_name(target.name + TEMPORARY)
    try:
        reserve(temporary, size)
        with h5py.File(temporary, "w", locking=False, userblock_size=USER_BLOCK) as file:
            write_metadata(file, metadata)
            fill(file.create_group("embeddings"))
        seal(temporary)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, (OSError, RuntimeError)):
            raise output_error(target, first_line(error), size) from error
        raise
    return temporary


def put_in_place(temporary: Path, target: Path) -> None:
    """Rename a finished file; whoever reads the old one goes on reading the old one."""
    try:
        temporary.replace(target)
    except OSError as error:
        raise output_error(target, error.strerror or str(error), 0) from error
    sync_folder(target.parent)


def write_embeddings(
    group: Any,
    key: str,
    shape: tuple[int, ...],
    dtype: str,
    blocks: Iterator[AnyArray],
    environment: Mapping[str, Any],
) -> None:
    """One dataset [N, D] or [N, h, w, D] from `blocks` of `block_rows` rows, checksummed by chunk.

    A chunk of a dense table is one image: who wants the patches of a few images reads no others.
    """
    rows = shape[0]
    dataset = group.create_dataset(
        key,
        shape=shape,
        dtype=np.dtype(dtype).newbyteorder("<"),
        chunks=(min(CHUNK_ROWS, rows) if len(shape) == 2 else 1, *shape[1:]),
        fletcher32=True,
    )
    digest, start = hashlib.sha256(), 0
    for block in blocks:
        values = np.ascontiguousarray(block, dtype=dataset.dtype)
        dataset[start : start + len(values)] = values
        digest.update(values.tobytes())
        start += len(values)
    if start != rows:
        raise ValueError(f"{key}: {start} rows were given for {rows}")
    dataset.attrs["rows"] = rows
    dataset.attrs["complete"] = True
    dataset.attrs["sha256"] = digest.hexdigest()
    dataset.attrs["environment"] = canonical_json(dict(environment))


def copy_embeddings(file: Any, group: Any) -> None:
    """Take all tables of `file` over as they are, checksums and SHA-256 included, so that damage stays visible."""
    for key, source in embedding_sets(file).items():
        layer, _, pooling = key.rpartition("/")
        file.copy(source, group.require_group(layer) if layer else group, name=pooling)


def content_sha256(dataset: Any) -> str:
    """SHA-256 over the values of a dataset, little-endian, row by row; reads every chunk."""
    digest, many = hashlib.sha256(), block_rows(dataset)
    for start in range(0, dataset.shape[0], many):
        digest.update(np.ascontiguousarray(dataset[start : start + many]).tobytes())
    return digest.hexdigest()
