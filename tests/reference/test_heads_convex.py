"""The head on frozen features, set up as the convex problem of logistic regression, reaches its optimum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from featprobe.heads import TrainingRecipe
from featprobe.heads.training import train_fold
from featprobe.probes.solvers.logistic_path import LogisticPath


class Features:
    """Rows as images of one pixel, so that the identity is their backbone."""

    def __init__(self, X: np.ndarray, labels: np.ndarray) -> None:
        self.labels = labels
        self.images = torch.from_numpy(X.astype(np.float32))

    def batches(self, order, batch_size, *, augment_seed):
        del augment_seed
        for start in range(0, len(order), batch_size):
            yield self.images[torch.from_numpy(order[start : start + batch_size])]


def problem(classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, size=200)
    X = rng.normal(size=(200, 12)) * rng.uniform(0.2, 5, size=12) + 3
    X[:, :classes] += 1.2 * np.eye(classes)[labels]
    return X.astype(np.float32).astype(np.float64), labels


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("C", [0.01, 10.0])
def test_the_head_reaches_the_loss_of_the_probe(tmp_path: Path, classes: int, C: float) -> None:
    X, labels = problem(classes)
    n = len(X)
    fitted = train_fold(
        nn.Identity(), 12, classes, train=Features(X, labels), val=Features(X, labels), device="cpu",
        checkpoint_dir=tmp_path, resume_key="key",
        recipe=TrainingRecipe(mode="head", optimizer="lbfgs", l2=1 / (C * n)),
    )  # fmt: skip
    ours = fitted.history[0]["train_loss"]
    assert (fitted.best_epoch, len(fitted.history), fitted.stopped_early) == (1, 1, False)
    Z = StandardScaler().fit_transform(X)
    path = LogisticPath(Cs=[C], gap=1e-10).fit(Z, labels)
    theirs = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(Z, labels)
    chances = theirs.predict_proba(Z)
    loss = -np.log(chances[np.arange(n), labels]).sum()
    sklearn = (C * loss + 0.5 * np.square(theirs.coef_).sum()) / (C * n)
    assert ours == pytest.approx(float(path.objectives_[0]) / (C * n), rel=1e-6)
    assert ours == pytest.approx(sklearn, rel=1e-6)
    mine = fitted.model.head.linear.weight.detach().numpy()
    mine = mine[1:] - mine[:1] if classes == 2 else mine
    assert np.allclose(mine, theirs.coef_, atol=2e-3 * np.abs(theirs.coef_).max())
