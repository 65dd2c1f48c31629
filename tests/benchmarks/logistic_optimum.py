"""Whether LogisticPath holds what it certifies: `python -m tests.benchmarks.logistic_optimum [CACHE] [LARGEST_ROWS]`.

Over synthetic spectra, digits and every table of a cache, at 45 values of C: the duality gap computed again by its
plain formula, how far above scikit-learn's best solver the objective lies (where that is quick enough to run), and
whether the polished model predicts what scikit-learn's converged one predicts. Prints a Markdown table.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from featprobe import LogisticPath
from featprobe.cache import Cache
from tests.benchmarks.logistic_path import CS, embeddings

RIVAL_ROOM = 2e7
"""Rows x columns x classes up to which scikit-learn's solvers are run beside."""
NEAR = 1e-6
"""A difference of the two largest logits below which two exact solvers may predict differently."""


def plain(X: np.ndarray, codes: np.ndarray, w: np.ndarray, b: np.ndarray, C: float) -> tuple[float, float]:
    """(objective, relative duality gap) of scikit-learn's problem, by definition."""
    logits = X @ w.T + b
    if logits.shape[1] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    own = logits[np.arange(len(codes)), codes]
    loss = logsumexp(logits - own[:, None], axis=1).sum()
    value = C * loss + (w**2).sum() / 2
    residual = softmax(logits, axis=1) - np.eye(logits.shape[1])[codes]
    gradient = w + C * (residual[:, 1:] if len(w) == 1 else residual).T @ X
    return float(value), float((gradient**2).sum() / 2 / value)


def rival(X: np.ndarray, y: np.ndarray, C: float) -> LogisticRegression:
    """The best of scikit-learn's solvers, at tolerances that none of its users sets."""
    found = []
    codes = np.unique(y, return_inverse=True)[1]
    for solver in ("lbfgs", "newton-cholesky"):
        if solver == "newton-cholesky" and X.shape[1] * len(np.unique(y)) > 4000:
            continue  # its Hessian would not be quick
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=C, solver=solver, tol=1e-12, max_iter=5000).fit(X, y)
        found.append((plain(X, codes, model.coef_, model.intercept_, C)[0], len(found), model))
    return min(found)[2]


def problems(cache: Path | None, largest: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, X standardised, classes)."""
    for rows, columns, classes in product((500, 5000, 20_000), (384, 768, 1536), (2, 7, 14, 100)):
        if rows <= largest:
            X, y = embeddings(rows, columns, classes)
            yield f"spectrum {rows} x {columns} x {classes}", X, y
    X, y = load_digits(return_X_y=True)
    yield "digits, pixels / 16", X / 16, y
    for entry in Cache(cache).current() if cache else ():
        samples = Cache(cache).read_samples(entry.path, thumbnails=False)
        known = samples.labelled
        for key in entry.flat:
            X = Cache(cache).read(entry.path, key, thumbnails=False).embeddings[known]
            if samples.task == "classes":
                name = f"{entry.dataset}, {entry.recipe.backbone} ({entry.weights_label}) {key}"
                yield name, StandardScaler().fit_transform(X.astype(np.float64)), samples.label[known]


def main(cache: str = "", largest: str = "20000") -> None:
    """One row per problem."""
    print(
        "| problem | seconds | certified | worst gap, by definition | above scikit-learn's best | other predictions |"
    )
    print("|---|---|---|---|---|---|")
    for name, X, y in problems(Path(cache) if cache else None, int(largest)):
        began = time.perf_counter()
        path = LogisticPath(CS).fit(X, y)
        seconds = time.perf_counter() - began
        codes = np.unique(y, return_inverse=True)[1]
        found = [plain(X, codes, w, b, C) for C, w, b in zip(CS, path.coefs_, path.intercepts_, strict=True)]
        above, other = "not run", "not run"
        if X.size * len(path.classes_) <= RIVAL_ROOM:
            excess, differ, near = [], 0, 0
            for place in range(0, len(CS), 11):
                C = float(CS[place])
                best = rival(X, y, C)
                value = plain(X, codes, best.coef_, best.intercept_, C)[0]
                excess.append(found[place][0] / value - 1)
                polished = LogisticPath([C], gap=1e-12).fit(X, y)
                logits = polished.path_decision_function(X)[0]
                two = (
                    np.sort(logits, axis=1)[:, -2:]
                    if logits.shape[1] > 1
                    else np.hstack([0 * logits, logits])
                )
                sure = np.abs(two[:, 1] - two[:, 0]) >= NEAR
                near += int((~sure).sum())
                differ += int((polished.predict(X) != best.predict(X))[sure].sum())
            above, other = f"{max(excess):+.1e}", f"{differ} ({near} nearer than {NEAR:g})"
        certified = f"{int(path.converged_.sum())} of {len(CS)}"
        print(
            f"| {name} | {seconds:.1f} | {certified} | {max(gap for _, gap in found):.1e} | {above} | {other} |",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
