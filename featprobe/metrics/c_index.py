"""How often the larger of two is predicted to be the larger: AUROC for grades and numbers."""

from __future__ import annotations

import numpy as np

from featprobe.metrics import describe
from featprobe.metrics.counting import ratio
from featprobe.records import FloatArray, IntArray
from featprobe.registry import METRICS


@METRICS.register("c_index")
@describe("c_index", label="Concordance index", needs_classes=False, tasks=("ordinal", "continuous"))
def c_index(y_true: IntArray | FloatArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
    """Share of pairs with different true values whose predictions stand in the same order, [B]; equal ones are one half.

    Harrell et al., JAMA 247 (1982), without censoring; (D + 1) / 2 of Somers' D of the prediction given the truth. A
    grade's prediction is its expected value, sum of k p_k. Of two classes it is the AUROC. NaN where the resample
    holds one true value only.

    Pairs are counted bit by bit: those whose ranks of the true value first differ in bit k lie in one block of
    rank >> (k + 1) and are told by that bit, so that one cumulated sum per bit counts them for all resamples.
    """
    # Rounded, so that equal rows are equal wherever they stand in the product.
    single = y_score.shape[1] == 1
    said = y_score[:, 0] if single else np.round(y_score @ np.arange(y_score.shape[1]), 12)
    rank = np.unique(y_true, return_inverse=True)[1].reshape(-1)
    won, total = np.zeros(len(weights)), np.zeros(len(weights))
    for bit in range(int(rank.max(initial=0)).bit_length()):
        ordered, pairs = _pairs_of_bit(rank, said, weights, bit)
        won, total = won + ordered, total + pairs
    return ratio(won, total)


def _pairs_of_bit(
    rank: IntArray, said: FloatArray, weights: FloatArray, bit: int
) -> tuple[FloatArray, FloatArray]:
    """Weight of (well ordered, all) pairs whose ranks first differ in this bit, each [B]."""
    block, upper = rank >> (bit + 1), (rank >> bit) & 1 == 1
    order = np.lexsort((said, block))
    block, value, high = block[order], said[order], upper[order]
    starts = np.flatnonzero(np.append([True], block[1:] != block[:-1]))
    new = np.append([True], (value[1:] != value[:-1]) | (block[1:] != block[:-1]))
    first = np.flatnonzero(new)
    run = np.cumsum(new) - 1
    below, up_to = first[run], np.append(first[1:], len(rank))[run]
    piece = np.searchsorted(starts, np.arange(len(rank)), side="right") - 1
    begin, end = starts[piece], np.append(starts[1:], len(rank))[piece]
    ordered = np.take(weights, order, axis=1)
    lower = np.zeros((len(weights), len(rank) + 1))
    np.cumsum(ordered * ~high, axis=1, out=lower[:, 1:])
    mine = ordered[:, high]
    below, up_to, begin, end = (np.take(lower, place[high], axis=1) for place in (below, up_to, begin, end))
    return (
        np.einsum("bn,bn->b", mine, (below + up_to) / 2 - begin),
        np.einsum("bn,bn->b", mine, end - begin),
    )
