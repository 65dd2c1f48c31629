"""Trains linear layers by AdamW without torch, several weight decays over the same batches at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from featprobe.records import FloatArray, IntArray

RATE, EPOCHS, BATCH = 0.1, 10, 64
BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """`weight` [D, K], `bias` [K]."""

    weight: FloatArray
    bias: FloatArray

    @property
    def finite(self) -> bool:
        """Whether training did not overflow."""
        return bool(np.isfinite(self.weight).all() and np.isfinite(self.bias).all())

    def scores(self, X: FloatArray) -> FloatArray:
        """[M, K] of X [M, D]; zeros where training overflowed."""
        if not self.finite:
            return np.zeros((len(X), len(self.bias)))
        return np.asarray(X @ self.weight + self.bias)

    def predict(self, X: FloatArray) -> FloatArray:
        """Softmax of the scores."""
        return np.asarray(softmax(self.scores(X), axis=1))


def train(
    X: FloatArray,
    y: IntArray,
    classes: int,
    decays: Sequence[float],
    seed: int,
    *,
    rate: float = RATE,
    epochs: int = EPOCHS,
    batch: int = BATCH,
) -> list[Linear]:
    """A layer for each of `decays`, of rows X float64 [N, D] and y int [N] in 0..classes-1.

    Cross-entropy, AdamW (Loshchilov and Hutter 2019, decoupled decay, on the bias too), the rate of step t being
    rate (1 + cos(pi t / T)) / 2; a shuffled pass over all rows in each epoch, the last batch as it is. All start
    from the same weights, uniform in +-1/sqrt(D), and see the same batches.
    """
    generator = np.random.default_rng([seed, 0xADA])
    columns, bound = X.shape[1], 1 / np.sqrt(X.shape[1])
    start = generator.uniform(-bound, bound, (columns + 1, classes))
    theta = np.repeat(start[None], len(decays), axis=0)
    rows = np.hstack([X, np.ones((len(X), 1))])
    wanted = np.eye(classes)[y]
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    decay = np.asarray(decays, dtype=np.float64)[:, None, None]
    total = epochs * -(-len(X) // batch)
    step = 0
    # The strongest decays throw the weights away from 0 until they overflow, here as there.
    with np.errstate(all="ignore"):
        for _ in range(epochs):
            order = generator.permutation(len(X))
            for begin in range(0, len(X), batch):
                chosen = order[begin : begin + batch]
                part = rows[chosen]
                slope = (softmax(part @ theta, axis=2) - wanted[chosen]) / len(chosen)
                gradient = part.T @ slope
                speed = rate * (1 + np.cos(np.pi * step / total)) / 2
                step += 1
                theta *= 1 - speed * decay
                first += (1 - BETAS[0]) * (gradient - first)
                second += (1 - BETAS[1]) * (np.square(gradient) - second)
                size = np.sqrt(second / (1 - BETAS[1] ** step)) + EPSILON
                theta -= speed / (1 - BETAS[0] ** step) * first / size
    return [Linear(one[:-1], one[-1]) for one in theta]
