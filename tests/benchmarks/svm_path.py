"""The linear SVM over 45 values of C, as ratios against scikit-learn's SVC and LinearSVC.

`python -m tests.benchmarks.svm_path [ROWS COLUMNS CLASSES RIVALS]`, in processor seconds of one process with one BLAS
thread, on one training part of five. The rivals run at RIVALS of the 45 values, evenly spread, and count for all: their
seconds times 45 / RIVALS (nothing of theirs carries over from one value to the next). SVC is at its default tolerance;
LinearSVC (squared hinge, one class against the rest, its intercept penalised) at the first tolerance of a ladder that
brings it within the same gap of its own optimum, the tries before it counted too; where none does, that is said.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC, LinearSVC

from featprobe import SVMPath
from tests.benchmarks.logistic_path import embeddings

CS = 10.0 ** np.linspace(-6, 5, 45)
GAP = 1e-6
LADDER = (1e-4, 1e-6, 1e-8)


def spent(call: Callable[[], object]) -> tuple[float, object]:
    """(processor seconds, result)."""
    began = time.process_time()
    made = call()
    return time.process_time() - began, made


def svc(X: np.ndarray, y: np.ndarray, C: float, kernel: str) -> object:
    """One fit as a user would write it; of a precomputed kernel the matrix is made anew, as `GridSearchCV` cuts it."""
    features = X @ X.T if kernel == "precomputed" else X
    return SVC(C=C, kernel=kernel).fit(features, y)


def liblinear(X: np.ndarray, y: np.ndarray, C: float) -> float | None:
    """The first tolerance at which every class is within the gap; None where none was."""
    for tol in LADDER:
        model = LinearSVC(C=C, dual=False, tol=tol).fit(X, y)
        if bound(model, X, y) <= GAP:
            return tol
    return None


def bound(model: LinearSVC, X: np.ndarray, y: np.ndarray) -> float:
    """How far LinearSVC's own objective, intercept penalised, can be from its optimum: the largest share over classes.

    It is strongly convex with constant 1, so that half the squared gradient bounds the distance.
    """
    lines, values = np.atleast_2d(model.coef_), model.decision_function(X).reshape(len(X), -1)
    targets = model.classes_[1:] if len(lines) == 1 else model.classes_
    signs = np.where(y[:, None] == targets, 1.0, -1.0)
    over = np.maximum(1 - signs * values, 0)
    slope = -2 * model.C * signs * over
    squares = ((lines + slope.T @ X) ** 2).sum(axis=1) + (model.intercept_ + slope.sum(axis=0)) ** 2
    objective = 0.5 * ((lines**2).sum(axis=1) + model.intercept_**2) + model.C * (over**2).sum(axis=0)
    return float((0.5 * squares / objective).max())


def report(name: str, own: float, rival: float, counted: int) -> None:
    """One line of a ratio."""
    whole = rival * len(CS) / counted
    print(
        f"  {name}: {whole / own:.1f} times ({own:.1f} s against {whole:.1f} s, from {counted} of {len(CS)} values of C)",
        flush=True,
    )


def resident(*, afresh: bool = False) -> int:
    """The largest resident size in bytes, since the start or since it was last asked `afresh` (Linux alone)."""
    if afresh:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def path(X: np.ndarray, y: np.ndarray, loss: str) -> float:
    """The seconds of the whole grid; its worst gap and its memory are told."""
    before = resident(afresh=True)
    seconds, fitted = spent(lambda: SVMPath(CS, loss=loss, gap=GAP).fit(X, y))
    assert isinstance(fitted, SVMPath)
    peak = (resident() - before) / X.nbytes
    print(
        f"{loss}, {X.shape[0]} x {X.shape[1]} x {len(fitted.classes_)}: {seconds:.1f} s for {len(CS)} values of C, "
        f"{int(fitted.converged_.sum())} certified, worst gap {fitted.gaps_.max():.1e}, "
        f"peak memory above the data {peak:.2f} times the matrix",
        flush=True,
    )
    return seconds


def main(rows: int = 5000, columns: int = 768, classes: int = 7, rivals: int = 5) -> None:
    """Both losses at one size."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y = embeddings(rows, columns, classes)
    part = np.arange(rows) % 5 != 0
    X, y = X[part], y[part]
    some = np.unique(np.linspace(0, len(CS) - 1, rivals).round().astype(int))
    own = path(X, y, "hinge")
    for kernel in ("linear", "precomputed"):
        times = [spent(lambda C=CS[place], kind=kernel: svc(X, y, C, kind))[0] for place in some]
        report(f"SVC(kernel={kernel!r}) at its default tolerance", own, sum(times), len(some))
    own = path(X, y, "squared_hinge")
    total, reached = 0.0, []
    for place in some:
        seconds, tol = spent(lambda C=CS[place]: liblinear(X, y, C))
        total += seconds
        reached.append("none" if tol is None else f"{tol:g}")
    report("LinearSVC within the gap where it gets there", own, total, len(some))
    print(f"    tolerances of {LADDER} that got there: {', '.join(reached)}", flush=True)


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
