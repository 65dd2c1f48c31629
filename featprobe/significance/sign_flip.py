"""A permutation test by group: were two systems alike, each group's difference could as well have the other sign."""

from __future__ import annotations

from itertools import product
from typing import Final

import numpy as np

from featprobe.records import FloatArray
from featprobe.significance.scales import ZERO

EXACT: Final = 12
"""Up to this many groups every pattern of signs is looked at: 4,096 of them."""


def sign_patterns(groups: int, *, flips: int, seed: int) -> tuple[FloatArray, bool]:
    """(signs +1 and -1 [K, G], whether these are all patterns); else `flips` random ones by `seed`."""
    if groups <= EXACT:
        return np.array(list(product((1.0, -1.0), repeat=groups))), True
    return np.random.default_rng(seed).choice((1.0, -1.0), size=(flips, groups)), False


def sign_flip(parts: FloatArray, *, flips: int = 2000, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """(two-sided p-values [P], absolute sums under each pattern [P, K]) of P differences made of group parts [P, G].

    `parts`: what each group adds to a difference, so that its sum is the difference. Under the null each group's part
    is symmetric about 0: exact then for a mean over rows (its parts are the groups' own sums), and for the area under
    the curve on the placements (`delong.contributions` plus an equal share of the difference), where it is approximate
    but asymptotically right. All differences see the same signs, so that max-t can be taken over them. Random patterns
    count the observed one in: p = (1 + #) / (K + 1) (Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9:39, 2010).
    """
    signs, whole = sign_patterns(parts.shape[1], flips=flips, seed=seed)
    sums = np.abs(parts @ signs.T)
    observed = np.abs(parts.sum(axis=1))
    reached = (sums >= observed[:, None] * (1 - ZERO) - ZERO).sum(axis=1)
    p_values = reached / sums.shape[1] if whole else (1 + reached) / (1 + sums.shape[1])
    return p_values, sums
