"""Grouped and stratified folds: scikit-learn's or iterative assignment, checked for what an evaluation needs."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from featprobe.errors import SplitError
from featprobe.records import IntArray, Samples
from featprobe.splitting.multilabel import iterative_parts
from featprobe.splitting.strata import Aspects, unit_strata
from featprobe.splitting.units import Part

ATTEMPTS = 20
"""Shuffles that are tried for an assignment in which every part holds every class."""

MANY_UNITS = 5000
"""Units above which folds are balanced in units instead of rows."""


def grouped_folds(part: Part, folds: int, seed: int) -> tuple[IntArray, IntArray]:
    """Fold of each row, int64 [N] in 0..folds-1, and the absences (fold, aspect) left in them, [M, 2].

    Units are never separated. The rows are sorted by id first. Of `ATTEMPTS` shuffles the first without an
    absence is taken, else the one with the fewest; an assignment that keeps all of a class (all positives or
    all negatives of a label) in one fold is never taken. Raises SplitError where there is no other.
    """
    order, ordered = part.by_id()
    aspects = Aspects.of(ordered.samples)
    best: tuple[IntArray, IntArray] | None = None
    for attempt in range(ATTEMPTS):
        fold = assign(ordered, folds, seed + 100_003 * attempt)
        held = aspects.held(fold, folds)
        present = held.any(axis=0)
        absent = np.argwhere(~held & present).astype(np.int64)
        if (held.sum(axis=0)[present] < 2).any():
            continue
        if best is None or len(absent) < len(best[1]):
            best = fold, absent
        if not len(absent):
            break
    if best is None:
        what = "label in both states" if aspects.labels else "class"
        raise SplitError(
            f"no {folds} folds were found in which every training part holds every {what}",
            f"{ATTEMPTS} shuffles of {len(np.unique(part.units))} groups were tried",
            "use fewer folds (--folds K), or leave rare classes out (--min-groups N)",
        )
    return _back(order, best[0]), best[1]


def _back(order: IntArray, values: IntArray) -> IntArray:
    """`values` of the rows in `order`, in the rows' own order."""
    result = np.empty(len(order), dtype=np.int64)
    result[order] = values
    return result


def assign(ordered: Part, folds: int, seed: int) -> IntArray:
    """One assignment of rows that are sorted by id, int64 [N]: stratified by class, bins or several labels.

    `StratifiedGroupKFold` balances rows but looks at every unit in turn (13 s for 30,000 of them); above
    `MANY_UNITS`, where sizes even out by themselves, the units are dealt out, each under its rarest class.
    """
    state = seed % (2**32)
    if ordered.samples.task == "multilabel":
        return iterative_parts(ordered.samples.label, ordered.units, [1 / folds] * folds, state)
    strata, of_row = unit_strata(ordered, least=folds)
    with warnings.catch_warnings():
        # The callers judge thin classes themselves, by groups instead of rows.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        if len(strata) > MANY_UNITS or len(strata) == len(ordered):
            dealt = np.empty(len(strata), dtype=np.int64)
            deal = StratifiedKFold(folds, shuffle=True, random_state=state)
            for number, (_, test) in enumerate(deal.split(strata, strata)):
                dealt[test] = number
            return dealt[of_row]
        fold = np.empty(len(ordered), dtype=np.int64)
        rows = strata[of_row] if ordered.samples.task == "continuous" else ordered.samples.label
        balance = StratifiedGroupKFold(folds, shuffle=True, random_state=state)
        for number, (_, test) in enumerate(balance.split(rows, rows, ordered.units)):
            fold[test] = number
    return fold


def inner_folds(
    samples: Samples, rows: IntArray, *, folds: int = 5, seed: int
) -> list[tuple[IntArray, IntArray]]:
    """Folds inside the training rows: (fit, validate) as positions into `rows`, grouped and stratified.

    There are fewer folds where a class has fewer groups. Rows of the split "extra" are only ever fitted on,
    and not where their group is validated. Of several labels one may be too rare to be on both sides: groups
    that alone show a label as present, or as absent, are then fitted on in every fold and never validated.
    Raises SplitError where a class has fewer than two groups, or there are fewer than two groups in all.
    """
    part = Part.of(samples).take(rows)
    ordinary, extra = part.apart()
    judged = part.take(ordinary)
    number = min(folds, _fewest_groups(judged, "choosing C inside the training data"))
    if samples.task == "multilabel":
        fold = _back(*_steady(judged, number, seed))
    else:
        fold, _ = grouped_folds(judged, number, seed)
    result = []
    for k in range(number):
        validate = ordinary[fold == k]
        fit = np.concatenate([ordinary[fold != k], part.spare(extra, validate)])
        result.append((np.sort(fit), validate))
    return [(fit, validate) for fit, validate in result if len(validate)]


def _steady(judged: Part, folds: int, seed: int) -> tuple[IntArray, IntArray]:
    """The order of the ids, and folds in that order; -1 is a unit that must always be fitted on.

    Where one fold holds all that shows an aspect, the first unit that shows it is taken out.
    """
    order, ordered = judged.by_id()
    aspects = Aspects.of(ordered.samples)
    fold = assign(ordered, folds, seed)
    alone = aspects.held(fold, folds).sum(axis=0) == 1
    return order, np.where(np.isin(ordered.units, _first_units(ordered, aspects, alone)), -1, fold)


def _first_units(ordered: Part, aspects: Aspects, which: npt.NDArray[np.bool_]) -> IntArray:
    """The first unit that shows each of the aspects `which` (bool [C])."""
    pairs = aspects.units(ordered.units).sort_values("unit").drop_duplicates("what")
    return np.asarray(pairs.loc[which[pairs["what"].to_numpy()], "unit"], dtype=np.int64)


def holdout(
    samples: Samples, rows: IntArray, *, fraction: float = 0.2, seed: int
) -> tuple[IntArray, IntArray]:
    """(training rows, validation rows) of `rows`, about `fraction` held out, grouped and stratified.

    For early stopping. Of the possible parts the one is taken that holds the most classes (positives and
    negatives of the labels) and leaves every one in the training rows; then the one nearest to `fraction`. A
    class with one group stays in training. Rows of the split "extra" are never held out. Raises SplitError
    where nothing can be held out.
    """
    part = Part.of(samples).take(rows)
    ordinary, extra = part.apart()
    order, judged = part.take(ordinary).by_id()
    held = ordinary[order[_best_part(judged, fraction, seed)]]
    kept = np.setdiff1d(ordinary, held)
    return rows[np.sort(np.concatenate([kept, part.spare(extra, held)]))], rows[np.sort(held)]


def _best_part(judged: Part, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which rows of `judged`, sorted by id, `holdout` holds out, bool [N]."""
    aspects = Aspects.of(judged.samples)
    units = len(np.unique(judged.units))
    present = aspects.held(np.zeros(len(judged), dtype=np.int64), 1)[0]
    every = int(present.sum())
    hoped = int((aspects.groups(judged.units) > 1).sum()) if aspects.labels else every
    number = min(max(2, round(1 / fraction)), units)
    if judged.samples.task in {"classes", "ordinal"} and len(judged):
        number = min(number, int(np.bincount(judged.samples.label).max()))
    best: tuple[tuple[int, float], npt.NDArray[np.bool_]] | None = None
    for attempt in range(ATTEMPTS if number > 1 else 0):
        fold = assign(judged, number, seed + 100_003 * attempt)
        for k in range(number):
            held = fold == k
            shown = aspects.held(held.astype(np.int64), 2)
            if aspects.labels:
                lost = _first_units(judged, aspects, present & ~shown[0])
                held &= ~np.isin(judged.units, lost)
                shown = aspects.held(held.astype(np.int64), 2)
            if not held.any() or int(shown[0].sum()) < every:
                continue
            rank = (-int(shown[1].sum()), abs(float(held.mean()) - fraction))
            if best is None or rank < best[0]:
                best = rank, held
        if best is not None and best[0][0] == -hoped:
            break
    if best is None:
        raise SplitError(
            "no rows can be held out for early stopping without losing a class from the training rows",
            f"{units} groups hold {every} classes" if every else f"there is {units} group",
            "leave rare classes out (--min-groups N)",
        )
    return best[1]


def _fewest_groups(judged: Part, purpose: str) -> int:
    """Groups of the rarest class that occurs, or of all rows for other targets; SplitError where that is 1."""
    aspects = Aspects.of(judged.samples)
    if aspects.labels or not len(aspects):
        units = len(np.unique(judged.units))
        if units < 2:
            raise SplitError(
                f"{purpose} needs at least 2 groups",
                f"the training rows hold {units}",
                "see featprobe inspect --data SPEC",
            )
        return units
    counts = aspects.groups(judged.units)
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
            f"{aspects.count(rarest, 1)} in the training rows",
            f"{purpose} needs at least 2 groups of every class",
            "leave the class out with --min-groups N, or give a validation split",
        )
    return int(counts[rarest])
