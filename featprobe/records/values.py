"""The small words that all records share: array types, names of choices, canonical JSON."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
TextArray = npt.NDArray[np.str_]
AnyArray = npt.NDArray[Any]

SPLITS: Final = ("", "train", "val", "test", "extra")
"""Names of the sides of a split; "" is "none given", "extra" may only ever be trained on."""

TASKS: Final = ("classes", "ordinal", "multilabel", "continuous")
"""Kinds of target: one class of several (two count as several), one of ordered classes, any of several labels
at once, and a number."""

PRECISIONS: Final = ("fp32", "tf32", "bf16", "fp16")
FITS: Final = ("crop", "pad", "squash")
PREPROCESSING_RULES: Final = ("authors", "native", "common")
POOLINGS: Final = ("cls", "mean", "cls+mean", "gap", "gem", "logits", "pre_logits", "patches")
DENSE_POOLINGS: Final = ("patches",)
"""Poolings that keep the patches apart: [N, h, w, D] instead of [N, D]."""


def texts(values: Any) -> TextArray:
    """`values` as a one-dimensional array of str ([N])."""
    return np.asarray([str(value) for value in values], dtype=np.str_).reshape(-1)


def sha256_json(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`: sorted keys, no spaces, ASCII."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and without spaces, so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
