"""SHA-256 of every image's bytes: what names a cache file and finds copies, without decoding anything."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from tqdm import tqdm

from featprobe.records import Samples, TextArray, texts

_HASHED_AT_ONCE: Final = 32


class ByteSource(Protocol):
    """What hashing needs of a data set."""

    @property
    def samples(self) -> Samples:
        """N rows."""

    def read(self, row: int) -> bytes:
        """The image's bytes, or OSError."""


def hash_images(dataset: ByteSource, *, workers: int, progress: bool) -> TextArray:
    """SHA-256 (hex, [N]) of every image's bytes, "" where they can't be read. `workers`: threads.

    Raises what the data set raises for a file that is missing.
    """
    total = len(dataset.samples)

    def digests(start: int) -> list[str]:
        return [_digest(dataset, row) for row in range(start, min(start + _HASHED_AT_ONCE, total))]

    found: list[str] = []
    pool = ThreadPoolExecutor(max(workers, 1))
    try:
        with tqdm(
            total=total, desc="hashing", unit="image", disable=None if progress else True, leave=False
        ) as bar:
            for part in pool.map(digests, range(0, total, _HASHED_AT_ONCE)):
                found += part
                bar.update(len(part))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return texts(found)


def _digest(dataset: ByteSource, row: int) -> str:
    try:
        return hashlib.sha256(dataset.read(row)).hexdigest()
    except OSError:
        return ""
