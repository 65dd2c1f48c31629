"""From a data set's rows to batches of pixels: one decode serves every preprocessing and every view of it.

batching      rows in order, each decoded once, whatever the rules and the workers
workers       processes that read and decode
inputs        8-bit images as 2-D inputs: resize, crop, pad, views, normalisation
volumes       8-bit volumes as 3-D inputs
augmentation  random views for fine-tuning
"""

from __future__ import annotations

from typing import Final

from featprobe.loading.augmentation import augment, augment_volume
from featprobe.loading.batching import Batch, ImageSource, batches
from featprobe.loading.inputs import normalise, preprocess
from featprobe.loading.volumes import preprocess_volume

LOADING_NUMERICS: Final = 2
"""Part of every recipe; raised when a decoded image gives another input under the same preprocessing."""

__all__ = [
    "LOADING_NUMERICS",
    "Batch",
    "ImageSource",
    "augment",
    "augment_volume",
    "batches",
    "normalise",
    "preprocess",
    "preprocess_volume",
]
