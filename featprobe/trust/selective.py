"""A model may abstain: how many errors are left when only the rows that it is surest of are answered."""

from __future__ import annotations

from typing import Final

import numpy as np

from featprobe.records import AnyArray, FloatArray, IntArray

MEASURES: Final = ("AURC", "E-AURC", "AUGRC")
"""What `areas` gives: area under the risk-coverage curve, its excess over that of the same errors in the best order (both
Geifman, Uziel and El-Yaniv, ICLR 2019), and the area under the generalised risk-coverage curve (Traub et al., NeurIPS
2024)."""

MEANINGS: Final = {
    "AURC": "mean error among the rows that are answered, over all shares of rows that are; lower is better",
    "E-AURC": "AURC less that of the same errors ranked last: 0 where every error is less sure than every right answer",
    "AUGRC": "mean share of all rows that are answered and wrong, over all shares that are answered; lower is better",
}


def losses(y_score: FloatArray, y_true: AnyArray, task: str) -> tuple[FloatArray, FloatArray]:
    """(confidence, loss), float64 [N] each, of labelled rows.

    Classes: the largest probability; 1 where its class is wrong. Several labels: over the labels that are known the
    mean of the larger of p and 1 - p, and the share that is decided wrongly at 1/2.
    """
    if task == "multilabel":
        known = y_true >= 0
        count = np.maximum(known.sum(axis=1), 1)
        sure = np.where(known, np.maximum(y_score, 1 - y_score), 0).sum(axis=1) / count
        wrong = (known & ((y_score > 0.5) != (y_true == 1))).sum(axis=1) / count
        return np.asarray(sure, dtype=np.float64), np.asarray(wrong, dtype=np.float64)
    return y_score.max(axis=1), (y_score.argmax(axis=1) != y_true).astype(np.float64)


def areas(confidence: FloatArray, loss: FloatArray, weights: FloatArray) -> FloatArray:
    """MEASURES for each row of `weights` [B, N], float64 [3, B]; NaN where nothing weighs.

    The mean over rows, from the surest, of the selective risk up to them; rows that are equally sure stand for their
    random order. AUGRC by the trapezium rule, which with weights of 1 makes it
    (1 - AUROC of confidence for right answers) a (1 - a) + (1 - a)^2 / 2 at accuracy a (Traub et al.).
    """
    ranked, gross = _under(confidence, loss, weights)
    best, _ = _under(-loss, loss, weights)
    return np.stack([ranked, ranked - best, gross])


def _under(confidence: FloatArray, loss: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(AURC, AUGRC), [B] each."""
    order, starts = _blocks(confidence)
    W = np.take(weights, order, axis=1)
    L = _even(W, loss[order], starts)
    seen, lost = np.cumsum(W, axis=1), np.cumsum(L, axis=1)
    total = seen[:, -1]
    risk = np.divide(lost, seen, out=np.zeros_like(lost), where=seen > 0)
    sizes = np.where(total > 0, total, np.nan)
    area = (W * risk).sum(axis=1) / sizes
    gross = (W * (lost - L / 2)).sum(axis=1) / sizes**2
    return np.asarray(area), np.asarray(gross)


def curve(confidence: FloatArray, loss: FloatArray, weights: FloatArray, coverage: FloatArray) -> FloatArray:
    """Selective risk at each `coverage` [G] in (0, 1] for each row of `weights` [B, N], float64 [B, G].

    A coverage between two rows takes the next row in part, and rows that are equally sure in equal parts.
    """
    order, starts = _blocks(confidence)
    W = np.take(weights, order, axis=1)
    seen, lost = np.cumsum(W, axis=1), np.cumsum(_even(W, loss[order], starts), axis=1)
    result = np.empty((len(weights), len(coverage)))
    for b, (own, gone) in enumerate(zip(seen, lost, strict=True)):
        share = np.concatenate([[0.0], own / own[-1]])
        result[b] = np.interp(coverage, share, np.concatenate([[0.0], gone / own[-1]])) / coverage
    return result


def _blocks(confidence: FloatArray) -> tuple[IntArray, IntArray]:
    """(rows from the surest to the least, where rows of another confidence begin)."""
    order = np.argsort(-confidence, kind="stable")
    return order, np.flatnonzero(np.diff(confidence[order], prepend=np.inf) != 0)


def _even(W: FloatArray, loss: FloatArray, starts: IntArray) -> FloatArray:
    """The loss of each row times its weight, [B, N], spread evenly over rows that are equally sure."""
    if len(starts) == len(loss):
        return W * loss
    size = np.diff([*starts, len(loss)])
    weight, gone = np.add.reduceat(W, starts, axis=1), np.add.reduceat(W * loss, starts, axis=1)
    mean = np.divide(gone, weight, out=np.zeros_like(gone), where=weight > 0)
    return np.asarray(W * np.repeat(mean, size, axis=1))
