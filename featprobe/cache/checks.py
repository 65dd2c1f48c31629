"""Whether a finished file is what was written, and what it says it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from featprobe.cache.layout import DAMAGE, Metadata, embedding_sets, first_line, opened, read_metadata
from featprobe.cache.packing import block_rows, content_sha256
from featprobe.cache.sealing import seal_problem
from featprobe.errors import FeatprobeError
from featprobe.records import images_sha256


def verify(path: Path) -> list[str]:
    """Everything that is wrong with a finished file, in words; an empty list where it is whole.

    Checked: the seal (SHA-256 over every byte, so that a flipped one is found wherever it stands), the
    fingerprint against recipe and file name, `recipe.images` against the stored byte hashes, the SHA-256 over
    samples and quarantine, and of each embedding table its chunks' Fletcher-32, SHA-256, shape, dtype, `rows`,
    `complete` and that every value is finite.
    """
    problems: list[str] = []
    try:
        # HDF5 is not shown a file whose bytes have changed: some flips make it loop for ever.
        if broken := seal_problem(path):
            return [broken]
        with opened(path) as file:
            metadata = read_metadata(file, path)
            problems += _metadata_problems(metadata, path, str(file.attrs["metadata_sha256"]))
            for key, dataset in embedding_sets(file).items():
                problems += [f"embeddings/{key}: {what}" for what in _table_problems(dataset, metadata)]
    except OSError as error:
        problems.append(f"can't be read: {error.strerror or error}")
    except FeatprobeError as error:
        problems.append(error.wrong)
    return problems


def _metadata_problems(metadata: Metadata, path: Path, sealed: str) -> list[str]:
    problems: list[str] = []
    header, samples, quarantine = metadata.header, metadata.samples, metadata.quarantine
    if not path.stem.endswith(f"-{header.recipe.fingerprint[:12]}"):
        problems.append("the file's name is not that of its recipe")
    if metadata.sha256() != sealed:
        problems.append("samples, quarantine or attributes are not those that were written (SHA-256)")
    rows, count = quarantine.row, header.n_images
    if (
        len(samples) + len(rows) != count
        or len(np.unique(rows)) != len(rows)
        or (len(rows) and not 0 <= rows.min() <= rows.max() < count)
    ):
        problems.append(f"{len(samples)} samples and {len(rows)} in quarantine do not make up {count} images")
        return problems
    every = np.full(count, "", dtype="U64")
    readable = np.ones(count, dtype=bool)
    readable[rows] = False
    every[readable], every[rows] = samples.sha256, quarantine.sha256
    if images_sha256(every) != header.recipe.images:
        problems.append("the images' byte hashes are not those of the recipe")
    return problems


def _table_problems(dataset: Any, metadata: Metadata) -> list[str]:
    problems: list[str] = []
    count, storage = len(metadata.samples), metadata.header.recipe.storage
    if dataset.ndim not in {2, 4} or dataset.shape[0] != count or int(dataset.attrs["rows"]) != count:
        problems.append(f"shape {dataset.shape} and rows {dataset.attrs['rows']} for {count} samples")
    if dataset.dtype != np.dtype(storage):
        problems.append(f"dtype {dataset.dtype}, the recipe says {storage}")
    if not dataset.attrs["complete"]:
        problems.append("not complete")
    unread: list[str] = []
    many = block_rows(dataset)
    for start in range(0, dataset.shape[0], many):
        try:
            if not np.isfinite(dataset[start : start + many]).all():
                problems.append(f"values that are not finite from row {start} on")
        except DAMAGE as error:
            unread.append(f"rows from {start} on can't be read ({first_line(error)})")
    if not unread and content_sha256(dataset) != str(dataset.attrs["sha256"]):
        problems.append("the values are not those that were written (SHA-256)")
    return problems + unread
