"""Embeddings on disk that can't lie: one HDF5 file per data set and recipe, written whole or not at all.

A finished file `ROOT/DATASET/BACKBONE-FINGERPRINT12.h5` is never changed within its HDF5 part: what is added
or refreshed is written to a new file that replaces it. Its first 512 bytes (an HDF5 user block, which plain
h5py skips) hold a SHA-256 over all that follows, which `Cache.read` and `verify` check before HDF5 sees the
file, and the time at which the file was last of use.

It also holds what is known of each image, its prints and thumbnail among it, so that copies are found without
the images (thumbnails take 1 kB each; who only lists reads `samples` without them).

While a file is being filled it is a `.h5.part`. There every row has its place from the start, and a commit is
one number written after the rows it covers, so that a killed run loses at most the batch in hand.

Only this package imports h5py.
"""

from __future__ import annotations

from featprobe.cache.checks import verify
from featprobe.cache.exporting import export, export_table
from featprobe.cache.layout import SCHEMA
from featprobe.cache.store import Cache, CacheEntry
from featprobe.cache.upkeep import Waste, gc
from featprobe.cache.writer import StoredRowsChangedError, Writer

__all__ = [
    "SCHEMA",
    "Cache",
    "CacheEntry",
    "StoredRowsChangedError",
    "Waste",
    "Writer",
    "export",
    "export_table",
    "gc",
    "verify",
]
