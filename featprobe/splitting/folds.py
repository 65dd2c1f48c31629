"""Grouped and stratified folds: scikit-learn's assignment, checked for what an evaluation needs."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from featprobe.errors import SplitError
from featprobe.records import IntArray, Samples
from featprobe.splitting.units import groups_per_class

ATTEMPTS = 20
"""Shuffles that are tried for an assignment in which every part holds every class."""

MANY_UNITS = 5000
"""Units above which folds are balanced in units instead of rows."""


def grouped_folds(samples: Samples, folds: int, seed: int) -> tuple[IntArray, IntArray]:
    """Fold of each row, int64 [N] in 0..folds-1, and the absences (fold, class) left in them, [M, 2].

    Units (rows joined by group or bytes) are never separated. The rows are sorted by id first. Of `ATTEMPTS`
    shuffles the first without an absence is taken, else the one with the fewest; an assignment that keeps
    all of a class in one fold is never taken. Raises SplitError where there is no other.
    """
    order = np.argsort(samples.id, kind="stable")
    labels, units = samples.label[order], samples.units()[order]
    best: tuple[IntArray, IntArray] | None = None
    for attempt in range(ATTEMPTS):
        fold = _assign(labels, units, folds, seed + 100_003 * attempt)
        held = np.zeros((folds, len(samples.label_names)), dtype=np.int64)
        np.add.at(held, (fold, labels), 1)
        present = held.sum(axis=0) > 0
        absent = np.argwhere((held == 0) & present).astype(np.int64)
        if ((held > 0).sum(axis=0)[present] < 2).any():
            continue
        if best is None or len(absent) < len(best[1]):
            best = fold, absent
        if not len(absent):
            break
    if best is None:
        raise SplitError(
            f"no {folds} folds were found in which every training part holds every class",
            f"{ATTEMPTS} shuffles of {len(np.unique(units))} groups were tried",
            "use fewer folds (--folds K), or leave rare classes out (--min-groups N)",
        )
    back = np.empty(len(order), dtype=np.int64)
    back[order] = best[0]
    return back, best[1]


def _assign(labels: IntArray, units: IntArray, folds: int, seed: int) -> IntArray:
    """scikit-learn's stratified (grouped) folds of rows that are sorted by id.

    `StratifiedGroupKFold` balances rows but looks at every unit in turn (13 s for 30,000 of them); above
    `MANY_UNITS`, where sizes even out by themselves, the units are dealt out, each under its rarest class.
    """
    state = seed % (2**32)
    codes, of_row = np.unique(units, return_inverse=True)
    with warnings.catch_warnings():
        # The callers judge thin classes themselves, by groups instead of rows.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        if len(codes) > MANY_UNITS or len(codes) == len(units):
            rarity = np.argsort(np.argsort(groups_per_class(labels, units, int(labels.max()) + 1)))
            rarest = np.full(len(codes), rarity.max(initial=0))
            np.minimum.at(rarest, of_row, rarity[labels])
            dealt = np.empty(len(codes), dtype=np.int64)
            deal = StratifiedKFold(folds, shuffle=True, random_state=state)
            for number, (_, test) in enumerate(deal.split(codes, rarest)):
                dealt[test] = number
            return dealt[of_row]
        fold = np.empty(len(labels), dtype=np.int64)
        balance = StratifiedGroupKFold(folds, shuffle=True, random_state=state)
        for number, (_, test) in enumerate(balance.split(labels, labels, units)):
            fold[test] = number
    return fold


def inner_folds(
    samples: Samples, rows: IntArray, *, folds: int = 5, seed: int
) -> list[tuple[IntArray, IntArray]]:
    """Folds inside the training rows: (fit, validate) as positions into `rows`, grouped and stratified.

    There are fewer folds where a class has fewer groups. Rows of the split "extra" are only ever fitted on,
    and not where their group is validated. Raises SplitError where a class has fewer than two groups.
    """
    part = samples.take(rows)
    extra = np.flatnonzero(part.split == "extra")
    ordinary = np.flatnonzero(part.split != "extra")
    judged = part.take(ordinary)
    number = min(folds, _fewest_groups(judged, "choosing C inside the training data"))
    fold, _ = grouped_folds(judged, number, seed)
    units = part.units()
    result = []
    for k in range(number):
        validate = ordinary[fold == k]
        spare = extra[~np.isin(units[extra], units[validate])]
        result.append((np.sort(np.concatenate([ordinary[fold != k], spare])), validate))
    return result


def holdout(
    samples: Samples, rows: IntArray, *, fraction: float = 0.2, seed: int
) -> tuple[IntArray, IntArray]:
    """(training rows, validation rows) of `rows`, about `fraction` held out, grouped and stratified.

    For early stopping. Of the possible parts the one is taken that holds the most classes and leaves every
    class in the training rows; then the one nearest to `fraction`. A class with one group stays in training.
    Rows of the split "extra" are never held out. Raises SplitError where nothing can be held out.
    """
    part = samples.take(rows)
    extra = np.flatnonzero(part.split == "extra")
    ordinary = np.flatnonzero(part.split != "extra")
    judged = part.take(ordinary)
    number = max(2, round(1 / fraction))
    units = judged.units()
    order = np.argsort(judged.id, kind="stable")
    every = len(np.unique(judged.label))
    best: tuple[tuple[int, float], IntArray] | None = None
    # With one row per class nothing can be held out; scikit-learn would refuse it in other words.
    possible = every < len(judged) and len(np.unique(units)) > 1
    for attempt in range(ATTEMPTS if possible else 0):
        fold = np.empty(len(judged), dtype=np.int64)
        fold[order] = _thin_assign(judged.label[order], units[order], number, seed + 100_003 * attempt)
        for k in range(number):
            held = fold == k
            classes = len(np.unique(judged.label[held]))
            if len(np.unique(judged.label[~held])) == every and classes:
                rank = (-classes, abs(float(held.mean()) - fraction))
                if best is None or rank < best[0]:
                    best = rank, ordinary[held]
        if best is not None and best[0][0] == -every:
            break
    if best is None:
        raise SplitError(
            "no rows can be held out for early stopping without losing a class from the training rows",
            f"{len(np.unique(units))} groups hold {every} classes",
            "leave rare classes out (--min-groups N)",
        )
    kept = np.setdiff1d(ordinary, best[1])
    all_units = part.units()
    spare = extra[~np.isin(all_units[extra], all_units[best[1]])]
    return rows[np.sort(np.concatenate([kept, spare]))], rows[best[1]]


def _thin_assign(labels: IntArray, units: IntArray, folds: int, seed: int) -> IntArray:
    """As `_assign`, with fewer folds where there are fewer groups, or every class is smaller than that."""
    return _assign(labels, units, min(folds, len(np.unique(units)), int(np.bincount(labels).max())), seed)


def _fewest_groups(samples: Samples, purpose: str) -> int:
    """Groups of the rarest class that occurs; SplitError where that is 1 or there is one class only."""
    counts = groups_per_class(samples.label, samples.units(), len(samples.label_names))
    present = np.flatnonzero(counts)
    if len(present) < 2:
        raise SplitError(
            f"{purpose} needs two classes",
            f"the training rows hold {len(present)}",
            "see featprobe inspect --data SPEC",
        )
    rarest = present[counts[present].argmin()]
    if counts[rarest] < 2:
        raise SplitError(
            f"class {samples.label_names[rarest]!r} has 1 group in the training rows",
            f"{purpose} needs at least 2 groups of every class",
            "leave the class out with --min-groups N, give a validation split, or use fewer folds (--folds K)",
        )
    return int(counts[rarest])
