"""Logistic regression over 45 values of C with 5 folds and refit, as ratios against scikit-learn's own ways.

`python -m tests.benchmarks.logistic_path [ROWS COLUMNS CLASSES ROUNDS]`; two processes or threads on both sides, one
BLAS thread each. The converged rival is `LogisticRegression(warm_start=True)` walked from strong to weak with the
largest tolerance of a ladder that brings each C within the same duality gap, on one fold; both sides then count it
for that fold alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from featprobe import LogisticPath
from featprobe.probes import Rule, fit_probe

CS = 10.0 ** np.linspace(-6, 5, 45)
GAP = 1e-6


def embeddings(
    rows: int, columns: int, classes: int, noise: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Standardised rows with a spectrum of power 1, as embeddings have, and a noisy linear truth."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, columns + 1.0) ** -0.5
    turn = np.linalg.qr(rng.standard_normal((columns, columns)))[0]
    X = (rng.standard_normal((rows, columns)) * spectrum) @ turn
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    truth = X @ rng.standard_normal((columns, classes)) * 2 / np.sqrt(columns)
    return np.ascontiguousarray(X), (truth + noise * rng.gumbel(size=truth.shape)).argmax(axis=1)


def ours(X: np.ndarray, y: np.ndarray, cut: list[tuple[np.ndarray, np.ndarray]]) -> object:
    """The whole grid in every fold, C chosen by log loss, refit: nothing pruned."""
    rule = Rule(scale="none", grid=tuple(CS), score="log_loss", pick="best", options={"jobs": 2, "gap": GAP})
    return fit_probe(
        "logistic", X, y, n_classes=int(y.max()) + 1, selection=cut, calibration=cut, seed=0, rule=rule
    )


def cv(X: np.ndarray, y: np.ndarray, cut: list[tuple[np.ndarray, np.ndarray]]) -> object:
    """LogisticRegressionCV at its defaults."""
    model = LogisticRegressionCV(Cs=CS, cv=cut, n_jobs=2, scoring="neg_log_loss", use_legacy_attributes=False)
    return model.fit(X, y)


def grid(X: np.ndarray, y: np.ndarray, cut: list[tuple[np.ndarray, np.ndarray]]) -> object:
    """GridSearchCV over LogisticRegression at its defaults."""
    search = GridSearchCV(LogisticRegression(), {"C": CS}, cv=cut, n_jobs=2, scoring="neg_log_loss")
    return search.fit(X, y)


def converged(X: np.ndarray, y: np.ndarray) -> int:
    """scikit-learn's warm path, each C at the first tolerance that is within GAP; how many values never were."""
    model = LogisticRegression(warm_start=True, max_iter=20_000)
    missed = 0
    for C in CS:
        for tol in (1e-4, 1e-6, 1e-8, 1e-10):
            model.set_params(C=C, tol=tol).fit(X, y)
            if gap(model, X, y) <= GAP:
                break
        else:
            missed += 1
    return missed


def gap(model: LogisticRegression, X: np.ndarray, y: np.ndarray) -> float:
    """Half the squared gradient over the objective (see `logistic_certificate`)."""
    p = softmax(X @ model.coef_.T + model.intercept_, axis=1)
    w = model.coef_ + model.C * (p - np.eye(len(model.classes_))[y]).T @ X
    loss = -np.log(np.maximum(p[np.arange(len(y)), y], 1e-300)).sum()
    return float((w**2).sum() / 2 / (model.C * loss + (model.coef_**2).sum() / 2))


def timed(call: Callable[[], object]) -> tuple[float, object]:
    """(seconds, result)."""
    began = time.perf_counter()
    made = call()
    return time.perf_counter() - began, made


def compare(name: str, own: Callable[[], object], rival: Callable[[], object], rounds: int) -> None:
    """Print the ratio of alternating runs, its median and range."""
    pairs = [(timed(own), timed(rival)) for _ in range(rounds)]
    ratios = sorted(slow / quick for (quick, _), (slow, _) in pairs)
    quick, slow = (statistics.median(side[0] for side in column) for column in zip(*pairs, strict=True))
    print(
        f"{name}: {statistics.median(ratios):.1f} times ({ratios[0]:.1f} to {ratios[-1]:.1f}; {quick:.1f} s against {slow:.1f} s)",
        flush=True,
    )


def main(rows: int = 5000, columns: int = 768, classes: int = 7, rounds: int = 5) -> None:
    """All four figures of one size."""
    warnings.simplefilter("ignore")
    X, y = embeddings(rows, columns, classes)
    cut = list(StratifiedKFold(5).split(X, y))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, fitted = timed(lambda: ours(X, y, cut))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / X.nbytes
    print(
        f"{rows} x {columns} x {classes}: {seconds:.1f} s, peak memory above the data {peak:.2f} times the matrix"
    )
    print(f"  chosen {fitted.chosen}, notes {fitted.notes}", flush=True)
    compare("  LogisticRegressionCV, defaults", lambda: ours(X, y, cut), lambda: cv(X, y, cut), rounds)
    compare("  GridSearchCV, defaults", lambda: ours(X, y, cut), lambda: grid(X, y, cut), rounds)
    fold = cut[0][0]
    path = LogisticPath(CS, gap=GAP)
    compare(
        f"  scikit-learn converged to {GAP:g}, one fold",
        lambda: path.fit(X[fold], y[fold]),
        lambda: print(f"    values never within the gap: {converged(X[fold], y[fold])}"),
        max(1, rounds // 5),
    )


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
