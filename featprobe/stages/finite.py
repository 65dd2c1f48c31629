"""Embeddings that are not finite are refused by the images' names, before anything is fitted to them or filled in."""

from __future__ import annotations

from typing import Final

import numpy as np

from featprobe.errors import ProbeError
from featprobe.records import AnyArray, IntArray, TextArray

SHOWN: Final = 3
"""Images that are named."""

_BLOCK: Final = 1024
"""Rows that are looked at a time: tables of patches are large."""


def need_finite(X: AnyArray, rows: IntArray, ids: TextArray, who: str) -> None:
    """ProbeError, naming images, where the embeddings X[rows], [N, ...], of `who` hold values that are not finite.

    `ids`: of the images in `rows`, [N].
    """
    bad: list[str] = []
    for start in range(0, len(rows), _BLOCK):
        block = X[rows[start : start + _BLOCK]]
        finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
        bad += ids[start : start + _BLOCK][~finite].tolist()
    if bad:
        raise ProbeError(
            f"{who}: {len(bad)} of {len(rows)} embeddings hold values that are not finite",
            f"the first: {', '.join(bad[:SHOWN])}",
            "type featprobe cache verify, or extract again with --precision fp32",
        )
