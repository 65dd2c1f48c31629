"""Iterative stratification of units with several labels each, with a bound on how far a part may stray.

Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011, algorithm 1, on
units (patients) in the place of single examples. The known libraries deal out single examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featprobe.records import FloatArray, IntArray

ROUNDING = 1e-9
"""Half the fall of a sum of squares (of about 1 per label) below which a move is not worth making."""

SIZE = 4
"""How many labels the equal size of the parts counts for, when units are moved."""


def iterative_parts(labels: IntArray, units: IntArray, shares: Sequence[float], seed: int) -> IntArray:
    """The part of each row, int64 [N] in 0..K-1, for K `shares` that add up to 1; units stay whole.

    `labels`: 0, 1 or -1 (missing, which counts neither) [N, L]; `units`: int64 [N]. The label with the fewest
    remaining positive units is dealt out first, its largest units first, each to the part that lacks the most
    of the label, then to the one that lacks the most rows, then by lot. Labels with missing values are
    balanced in their negatives too. Units, which are larger than single examples, are then moved, the most
    useful move first, until no move brings the prevalences and sizes of the parts closer to those of the whole:
    they are then within `prevalence_bound`. Depends on the order of rows: sort them by id.
    """
    codes, of_row = np.unique(units, return_inverse=True)
    positive, known = _counts(labels, of_row, len(codes))
    partial = (labels < 0).any(axis=0)
    counts = np.concatenate([positive, (known - positive)[:, partial]], axis=1)
    size = np.bincount(of_row, minlength=len(codes))
    dealt = _deal(counts, size, shares, np.random.default_rng(seed))
    return _mend(dealt, _terms(positive, known, size), shares)[of_row]


def prevalence_bound(labels: IntArray, units: IntArray, shares: Sequence[float]) -> FloatArray:
    """The largest that `iterative_parts` lets |prevalence in a part - prevalence overall| x known rows be, [L].

    With e_u = (positive rows - prevalence x known rows) of unit u, T the number of labels that vary plus SIZE
    and r the smallest of K shares: sqrt(T (1 - 1/K) (1 - r) sum of e_u^2). That is sqrt(T) times the spread of
    a purely random draw: what can be promised of any data whatever. Where units are many, the parts are far
    closer to each other (about one image's worth per label, 100,000 images of 20,000 patients, 14 labels).

    Proof. Let v_u be the terms of unit u (e_u of each label, and the rows), scaled to a sum of squares of 1 (of
    SIZE for the rows), and D_k the sum of v_u over part k less its share r_k of the whole. If no single move
    lowers sum |D_k|^2, then v_u (D_a - D_b) <= |v_u|^2 for each u in part a and each b; averaged over b by r_b
    and summed over all units this gives sum |D_k|^2 <= sum (1 - r_a) |v_u|^2 <= (1 - r) T. As the D_k of a term
    add up to 0, the largest square among them is at most (1 - 1/K) of the sum of their squares.
    """
    codes, of_row = np.unique(units, return_inverse=True)
    positive, known = _counts(labels, of_row, len(codes))
    squares = (_excess(positive, known) ** 2).sum(axis=0)
    terms = SIZE + int((squares > 0).sum())
    return np.asarray(np.sqrt(terms * (1 - 1 / len(shares)) * (1 - min(shares)) * squares))


def _counts(labels: IntArray, of_row: IntArray, units: int) -> tuple[IntArray, IntArray]:
    """Positive and known rows of each unit, int64 [U, L] each."""
    positive = np.zeros((units, labels.shape[1]), dtype=np.int64)
    known = np.zeros_like(positive)
    np.add.at(positive, of_row, (labels == 1).astype(np.int64))
    np.add.at(known, of_row, (labels >= 0).astype(np.int64))
    return positive, known


def _excess(positive: IntArray, known: IntArray) -> FloatArray:
    """Positive rows of each unit beyond what its known rows would hold at the overall prevalence, [U, L]."""
    prevalence = positive.sum(axis=0) / np.maximum(1, known.sum(axis=0))
    return np.asarray(positive - prevalence * known)


def _terms(positive: IntArray, known: IntArray, size: IntArray) -> FloatArray:
    """What `_mend` balances, float64 [U, L + 1]: the sum of squares is 1 per label that varies, SIZE for the rows."""
    terms = np.concatenate([_excess(positive, known), size[:, None]], axis=1)
    norm = np.sqrt((terms**2).sum(axis=0))
    norm[-1] /= SIZE**0.5
    return np.asarray(terms / np.where(norm > 0, norm, 1.0))


def _deal(counts: IntArray, size: IntArray, shares: Sequence[float], rng: np.random.Generator) -> IntArray:
    """Algorithm 1: the part of each unit, int64 [U]. `counts`: rows of each unit that each label needs, [U, T]."""
    parts = range(len(shares))
    lots = rng.random((len(size), len(shares))).tolist()
    shuffled = rng.permutation(len(size))
    wanted = [(counts.sum(axis=0) * share).tolist() for share in shares]
    room = [float(size.sum()) * share for share in shares]
    shown = [[(t, int(row[t])) for t in np.flatnonzero(row)] for row in counts]
    left = (counts > 0).sum(axis=0)
    free = np.ones(len(size), dtype=np.bool_)
    result = np.zeros(len(size), dtype=np.int64)

    def place(unit: int, part: int) -> None:
        result[unit] = part
        room[part] -= int(size[unit])
        for t, rows in shown[unit]:
            wanted[part][t] -= rows

    while (left > 0).any():
        rarest = int(np.where(left > 0, left, left.max() + 1).argmin())
        members = shuffled[free[shuffled] & (counts[shuffled, rarest] > 0)]
        for unit in members[np.argsort(-counts[members, rarest], kind="stable")].tolist():
            lot = lots[unit]
            place(unit, max(parts, key=lambda k: (wanted[k][rarest], room[k], lot[k])))
        left = left - (counts[members] > 0).sum(axis=0)
        free[members] = False
    rest = shuffled[free[shuffled]]
    for unit in rest[np.argsort(-size[rest], kind="stable")].tolist():
        lot = lots[unit]
        place(unit, max(parts, key=lambda k: (room[k], lot[k])))
    return result


def _mend(part: IntArray, terms: FloatArray, shares: Sequence[float]) -> IntArray:
    """Move units, the most useful move first, until none helps. Each move lowers a sum of squares, so this ends."""
    result = part.copy()
    stray = np.zeros((len(shares), terms.shape[1]))
    np.add.at(stray, result, terms)
    stray -= np.outer(shares, terms.sum(axis=0))
    square = (terms**2).sum(axis=1)
    everyone = np.arange(len(result))
    pull = terms @ stray.T
    while len(result):
        gain = pull[everyone, result][:, None] - pull - square[:, None]
        gain[everyone, result] = 0.0
        unit, to = (int(at) for at in np.unravel_index(int(gain.argmax()), gain.shape))
        if gain[unit, to] <= ROUNDING:
            break
        moved = terms @ terms[unit]
        pull[:, result[unit]] -= moved
        pull[:, to] += moved
        result[unit] = to
    return result
