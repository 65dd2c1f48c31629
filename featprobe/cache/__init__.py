"""Embeddings on disk that can't lie: one HDF5 file per data set and recipe, written whole or not at all.

A finished file `ROOT/DATASET/BACKBONE-FINGERPRINT12.h5` is never changed within its HDF5 part: what is added
or refreshed is written to a new file that replaces it. Its first 512 bytes (an HDF5 user block, which plain
h5py skips) hold a SHA-256 over all that follows, which `Cache.read` and `verify` check before HDF5 sees the
file, and the time at which the file was last of use.

It also holds what is known of each image, its prints and thumbnail among it, so that copies are found without
the images (thumbnails take 1 kB each; who only lists reads `samples` without them).

While a file is being filled it is a `.h5.part`. There every row has its place from the start, and a commit is
one number written after the rows it covers, so that a killed run loses at most the batch in hand.

A table is [N, D], or for patches [N, h, w, D] with one image to a chunk. Patches are much larger (at 224 pixels
0.4 MB an image, where a CLS token takes 1.5 kB), and the seal covers them: whoever reads another pooling of
their file reads their bytes too. (Schema 2 has held since before there were patches: what older versions know
of a file stands where it stood, and a dense table they refuse by its shape.)

Only this package imports h5py.
"""

from __future__ import annotations

from featprobe.cache.checks import verify
from featprobe.cache.exporting import export, export_table
from featprobe.cache.layout import SCHEMA, Dim, row_shape
from featprobe.cache.store import Cache, CacheEntry
from featprobe.cache.upkeep import Waste, gc
from featprobe.cache.writer import StoredRowsChangedError, Writer

__all__ = [
    "SCHEMA",
    "Cache",
    "CacheEntry",
    "Dim",
    "StoredRowsChangedError",
    "Waste",
    "Writer",
    "export",
    "export_table",
    "gc",
    "row_shape",
    "verify",
]
