"""Hashes of 100,000 images compared, as a ratio against comparing them one row at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from featprobe.records import Samples
from featprobe.splitting import near_copies

IMAGES = 100_000
ROWS_OF_THE_RIVAL = 1_000
"""Rows that the rival compares with all others; its time is scaled by hand in the printed name."""

Ratio = Callable[[str, Callable[[], object], Callable[[], object], int], None]


def hundred_thousand_hashes(ratio: Ratio) -> None:
    """All pairs of 100,000 images, direct and mirrored, confirmed on pixels, against 1 % of the pairs in a loop.

    The rival is what imagehash's own difference comes to, written with NumPy: per image the Hamming distances to all
    others, hashes alone, no mirror images, nothing confirmed. Our hundredth of the pairs would take a hundredth.
    """
    samples = anatomy(IMAGES)
    bits = np.random.default_rng(0).random((IMAGES, 64)) < 0.5
    ratio(
        f"near copies among {IMAGES:,} images (all pairs) against a loop over {ROWS_OF_THE_RIVAL:,} of its rows "
        "(x 100 for all)",
        lambda: near_copies(samples),
        lambda: [np.count_nonzero(bits[row] != bits, axis=1) for row in range(ROWS_OF_THE_RIVAL)],
        1,
    )


def anatomy(count: int) -> Samples:
    """Thumbnails that share half of what they show, as radiographs of one body part do; one in fifty is a copy."""
    rng = np.random.default_rng(0)
    thumbnail = np.empty((count, 1024), dtype=np.uint8)
    frequency = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.rfftfreq(32)[None])
    slope = 1 / np.maximum(frequency, 1 / 32)
    shared = _field(rng, 1, slope)
    for start in range(0, count, 5000):
        part = slice(start, min(start + 5000, count))
        size = part.stop - part.start
        mixed = 0.7 * shared + 0.7 * _field(rng, size, slope)
        thumbnail[part] = (128 + 40 * mixed).clip(0, 255).reshape(size, -1)
    copies = rng.choice(count, count // 50, replace=False)
    thumbnail[copies] = thumbnail[rng.choice(count, len(copies))] * 0.9
    return Samples.build(
        path=[f"i{n:06d}" for n in range(count)], label=np.zeros(count, dtype=int), label_names=("a",)
    ).replace(phash=np.full(count, "0"), thumbnail=thumbnail)


def _field(rng: np.random.Generator, count: int, slope: np.ndarray) -> np.ndarray:
    """Random pictures with the spectrum of natural ones, [count, 32, 32], standard deviation 1."""
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(count, 32, 32))) * slope, s=(32, 32))
    return field / field.std(axis=(1, 2), keepdims=True)
