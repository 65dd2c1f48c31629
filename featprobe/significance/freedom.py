"""A variance that rests on a class of eight groups is known as badly as from eight, however many others there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import stats

from featprobe.records import FloatArray
from featprobe.significance.bootstrap import Design, HeldOut, Metric, resampled_by, weight_chunks

RESAMPLES: Final = 200
"""Resamples of one stratum alone: its share of the variance to a tenth."""

LEAST: Final = 1.0


def satterthwaite(variances: Sequence[float], freedoms: Sequence[int]) -> float:
    """Degrees of freedom of a sum of independent variances with these degrees each; at least 1.

    Welch, Biometrika 34, 1947; Satterthwaite, Biometrics Bulletin 2, 1946: (sum v)^2 / sum(v^2 / f).
    """
    v, f = np.asarray(variances, dtype=float), np.maximum(1, np.asarray(freedoms))
    below = float((v**2 / f).sum())
    return max(LEAST, float(v.sum() ** 2) / below) if below > 0 else float(f.sum())


def freedom_of(
    parts: Sequence[HeldOut], metric: Metric, scores: Sequence[Sequence[FloatArray]], *, seed: int
) -> float:
    """Degrees of freedom of the bootstrap's variance of one system's value, or of the differences of several.

    `scores[f][s]`: of fold f and system s. Units less strata where no fold has strata (the convention of survey
    statistics); else Satterthwaite's, from resamples of one stratum at a time, pooled over the pairs of systems.
    """
    if all(part.design(metric) is part.plain for part in parts):
        return float(sum(part.plain.freedom for part in parts))
    variances, freedoms = [], []
    for number, (part, own) in enumerate(zip(parts, scores, strict=True)):
        design = part.design(metric)
        for stratum in np.unique(design.stratum):
            size = int((design.stratum == stratum).sum())
            if size < 2:
                continue
            draws = resampled_by(
                part, metric, own, _alone(design, int(stratum), [seed, number, int(stratum)])
            )
            variances.append(_spread(draws))
            freedoms.append(size - 1)
    known = np.array(variances)
    total = known.sum(axis=0)
    if not np.any(total > 0):
        return float(sum(part.design(metric).freedom for part in parts))
    # Each pair's own scale drops out, so that no pair outweighs the others.
    shares = (known[:, total > 0] / total[total > 0]).mean(axis=1)
    return satterthwaite(shares.tolist(), freedoms)


def widening(freedom: float, confidence: float) -> float:
    """How much wider t with these degrees is than the normal law."""
    tail = (1 + confidence) / 2
    return float(stats.t.ppf(tail, freedom) / stats.norm.ppf(tail))


def _spread(draws: FloatArray) -> FloatArray:
    """Variances of the value (one system) or of all differences, [1] or [pairs]; 0 where no two draws have a value."""
    whole = draws[:, np.isfinite(draws).all(axis=0)]
    if whole.shape[1] < 2:
        whole = np.zeros((len(draws), 2))
    if len(draws) == 1:
        return np.asarray(whole.var(axis=1))
    first, second = np.triu_indices(len(draws), 1)
    return np.asarray((whole[first] - whole[second]).var(axis=1))


def _alone(design: Design, stratum: int, seed: Sequence[int]) -> FloatArray:
    """Weights of the rows, [RESAMPLES, N]: units of one stratum are resampled, all others weigh 1."""
    members = np.flatnonzero(design.stratum == stratum)
    own = Design(np.arange(len(members)), np.zeros(len(members), dtype=np.int64))
    weight = np.ones((RESAMPLES, len(design.stratum)))
    weight[:, members] = np.concatenate(list(weight_chunks(own, resamples=RESAMPLES, seed=seed)))
    return np.take(weight, design.unit, axis=1)
