"""The interval that a published study printed, to be shown beside a sound one: a bootstrap of bootstrap means.

Never used for a verdict: it says how well the mean of the resamples is known, which more resamples make as narrow as
one likes, and nothing about new images.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from featprobe.records import FloatArray
from featprobe.significance.bootstrap import HeldOut, Metric
from featprobe.significance.percentile import percentile_interval

RESAMPLES: Final = 5000
LABEL: Final = (
    "as Huang et al. 2024 computed it: a bootstrap of bootstrap means, too narrow; not used for any verdict"
)

CHUNK: Final = 2_000_000


def as_reported(
    part: HeldOut, metric: Metric, score: FloatArray, *, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """(low, high) as coded by Huang et al. 2024 (COMPSAC, arXiv 2402.07595; their code at f2b17be).

    Test images, not groups, are resampled RESAMPLES times (n of n); then those values are themselves resampled as
    often, and the percentiles of their means are printed. Its width is about 1 / sqrt(5000), one seventieth, of the
    percentile interval's. `score` float64 [N, C] in the order of `part.samples`.
    """
    rng = np.random.default_rng(seed)
    values = []
    rows = len(score)
    step = max(1, CHUNK // max(1, rows))
    for start in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - start)
        drawn = rng.integers(0, rows, (count, rows)) + rows * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)
        values.append(metric(part.samples.label, score, weights.astype(np.float64)))
    found = np.concatenate(values)
    found = found[np.isfinite(found)]
    return percentile_interval(means_of_resamples(found, rng), confidence) if len(found) else (np.nan, np.nan)


def means_of_resamples(values: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Means of RESAMPLES resamples of `values` [B], [RESAMPLES]."""
    step = max(1, CHUNK // len(values))
    means = [
        values[rng.integers(0, len(values), (min(step, RESAMPLES - start), len(values)))].mean(axis=1)
        for start in range(0, RESAMPLES, step)
    ]
    return np.concatenate(means)
