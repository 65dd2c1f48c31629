"""The plan of an evaluation: the user's split as it stands, or grouped cross-validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featprobe.errors import ConfigError, SplitError
from featprobe.records import IntArray, Samples
from featprobe.splitting.folds import grouped_folds
from featprobe.splitting.units import groups_per_class


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """One round of training and testing; all are int64 row numbers, `val` may be empty.

    `name` is "test" under the user's split and "0", "1", ... under cross-validation.
    """

    name: str
    train: IntArray
    val: IntArray
    test: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class SplitPlan:
    """All rounds, how they were made, and what the report must say about it."""

    folds: tuple[Fold, ...]
    scheme: str
    notes: tuple[str, ...]


def plan(
    samples: Samples,
    *,
    folds: int = 5,
    seed: int = 0,
    resplit: bool = False,
    min_groups: int | None = None,
) -> tuple[Samples, SplitPlan]:
    """The samples that take part and the folds over their rows.

    Rows without a label, classes with fewer than `min_groups` groups (joined by bytes too) and, under the
    user's split, rows without a side are left out with a note. The user's split is used where any row has
    train, val or test and `resplit` is False; else `folds` stratified grouped folds are made. Rows of
    "extra" are only ever trained on. Raises SplitError where the split can't be made, ConfigError for
    impossible numbers.
    """
    if folds < 2:
        raise ConfigError(
            f"--folds {folds} is no cross-validation", "at least 2 are needed", "type: --folds 5"
        )
    if min_groups is not None and min_groups < 1:
        raise ConfigError(f"--min-groups {min_groups} is below 1", "", "type: --min-groups 5")
    notes: list[str] = []
    samples = _labelled(samples, notes)
    samples = _classes(samples, min_groups, notes)
    given = bool(np.isin(samples.split, ["train", "val", "test"]).any())
    if given and not resplit:
        samples, fold = _users(samples, notes)
        return samples, SplitPlan((fold,), "user's split", tuple(notes))
    rounds = _cross_validation(samples, folds, seed, notes)
    return samples, SplitPlan(rounds, f"grouped {folds}-fold cross-validation", tuple(notes))


def _labelled(samples: Samples, notes: list[str]) -> Samples:
    missing = samples.label < 0
    if not missing.any():
        return samples
    notes.append(f"{int(missing.sum())} images without a label are left out")
    return samples.take(~missing)


def _classes(samples: Samples, min_groups: int | None, notes: list[str]) -> Samples:
    """Without the classes that hold no image or fewer than `min_groups` groups; at least two must stay."""
    counts = groups_per_class(samples.label, samples.units(), len(samples.label_names))
    keep = counts >= max(1, min_groups or 1)
    if not keep.all():
        images = np.bincount(samples.label, minlength=len(keep))
        lost = ", ".join(
            f"{samples.label_names[c]!r} ({counts[c]} groups, {images[c]} images)"
            for c in np.flatnonzero(~keep)
        )
        why = f"fewer than {min_groups} groups" if min_groups else "no image"
        notes.append(f"classes left out ({why}): {lost}")
        number = np.cumsum(keep) - 1
        samples = samples.take(keep[samples.label])
        samples = samples.replace(
            label=number[samples.label].astype(np.int64),
            label_names=tuple(name for name, kept in zip(samples.label_names, keep, strict=True) if kept),
        )
    if len(samples.label_names) < 2:
        only = f", {samples.label_names[0]!r}" if samples.label_names else ""
        raise SplitError(
            f"probing needs at least two classes, and there is {len(samples.label_names)}{only}",
            "; ".join(notes) or f"{len(samples)} images have that label",
            "name the right column with --label-column, or lower --min-groups",
        )
    return samples


def _users(samples: Samples, notes: list[str]) -> tuple[Samples, Fold]:
    """The user's own sides as one fold called "test"."""
    nowhere = samples.split == ""
    if nowhere.any():
        notes.append(f"{int(nowhere.sum())} images without a split are left out")
        samples = samples.take(~nowhere)
    rows = {side: np.flatnonzero(samples.split == side) for side in ("train", "val", "test", "extra")}
    known = ", ".join(f"{len(found)} {side}" for side, found in rows.items() if len(found))
    train = np.sort(np.concatenate([rows["train"], rows["extra"]]))
    if not len(rows["test"]):
        raise SplitError(
            "the split has no test images",
            f"it has {known}",
            "rename val to test in the split column, or make featprobe's own folds with --resplit",
        )
    if not len(train):
        raise SplitError(
            "the split has no train images", f"it has {known}", "make featprobe's own folds with --resplit"
        )
    for side, present in (("train", train), ("val", rows["val"]), ("test", rows["test"])):
        held = np.bincount(samples.label[present], minlength=len(samples.label_names))
        absent = ", ".join(repr(samples.label_names[c]) for c in np.flatnonzero(held == 0))
        if absent and side == "train":
            raise SplitError(
                f"no train image has the class {absent}",
                "a class that is never seen can't be predicted",
                "leave rare classes out with --min-groups N, or use --resplit",
            )
        if absent and len(present):
            notes.append(f"no {side} image has the class {absent}")
    return samples, Fold("test", train.astype(np.int64), rows["val"], rows["test"])


def _cross_validation(samples: Samples, folds: int, seed: int, notes: list[str]) -> tuple[Fold, ...]:
    """Stratified grouped folds over all rows but "extra", which join the training parts."""
    extra = np.flatnonzero(samples.split == "extra")
    ordinary = np.flatnonzero(samples.split != "extra")
    judged = samples.take(ordinary)
    _enough_groups(judged, folds)
    fold, absent = grouped_folds(judged, folds, seed)
    for k, c in absent.tolist():
        notes.append(f"fold {k} has no test image of the class {samples.label_names[c]!r}")
    if len(extra):
        notes.append(f"{len(extra)} images of the split 'extra' are only trained on")
    units = samples.units()
    empty = np.empty(0, dtype=np.int64)
    rounds = []
    for k in range(folds):
        test = ordinary[fold == k]
        spare = extra[~np.isin(units[extra], units[test])]
        train = np.sort(np.concatenate([ordinary[fold != k], spare]))
        rounds.append(Fold(str(k), train.astype(np.int64), empty, test.astype(np.int64)))
    return tuple(rounds)


def _enough_groups(samples: Samples, folds: int) -> None:
    """SplitError where a class has fewer groups than there are folds."""
    counts = groups_per_class(samples.label, samples.units(), len(samples.label_names))
    rarest = int(counts.argmin())
    if counts[rarest] >= folds:
        return
    thin = ", ".join(
        f"{samples.label_names[c]!r} has {counts[c]}" for c in np.flatnonzero(counts < folds) if c != rarest
    )
    ways = [f"leave such classes out with --min-groups {folds}"] if (counts >= folds).sum() >= 2 else []
    ways += [f"use --folds {counts[rarest]}"] if counts[rarest] >= 2 else []
    noun = "group" if counts[rarest] == 1 else "groups"
    raise SplitError(
        f"class {samples.label_names[rarest]!r} has {counts[rarest]} {noun}, fewer than the {folds} folds",
        f"{thin} too" if thin else "each fold needs a group of every class to test on",
        " or ".join(ways) or "add images of more groups: these can't be judged",
    )
