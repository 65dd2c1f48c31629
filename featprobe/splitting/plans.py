"""The plan of an evaluation: the user's split as it stands, folds, one holdout, or one site after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from featprobe.errors import ConfigError, SplitError, listed
from featprobe.records import IntArray, Samples
from featprobe.splitting.eligible import eligible, labelled, without_labels
from featprobe.splitting.folds import grouped_folds
from featprobe.splitting.strata import Aspects, bins_of
from featprobe.splitting.subsets import drawn_holdout
from featprobe.splitting.units import Part

FOLDS: Final = 5
"""Folds where nothing else is asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """One round of training and testing; all are int64 row numbers, `val` may be empty.

    `name` is "test" for one split, the user's or featprobe's own, "0", "1", ... under cross-validation, and
    "site=NAME" where one site is left out at a time.
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
    folds: int = FOLDS,
    seed: int = 0,
    resplit: bool = False,
    min_groups: int | None = None,
    holdout: float | None = None,
    leave_out: str | None = None,
) -> tuple[Samples, SplitPlan]:
    """The samples that take part and the folds over their rows.

    Rows without a label, classes (or labels) with fewer than `min_groups` groups (joined by bytes too) and,
    under the user's split, rows without a side are left out with a note. The user's split is used where any
    row has train, val or test and `resplit` is False. Else `folds` stratified grouped folds are made, or one
    stratified grouped split with the share `holdout` of the rows to test on, or, with `leave_out` "site", a
    fold for each site, tested on its rows and trained on those of groups that never were there. Classes and
    ordinal targets are stratified by class, several labels iteratively, a number in bins of the groups' means.

    Rows of "extra" are only ever trained on, and not where their unit is tested. No unit (`Samples.units`) is
    ever on two sides, except where the user's own split puts it there: that is the gate's business. Raises
    SplitError where the split can't be made, ConfigError for impossible numbers and for two splits at once.
    """
    _check(folds, min_groups, holdout, leave_out)
    notes: list[str] = []
    part = eligible(labelled(Part.of(samples), notes), min_groups, notes)
    given = bool(np.isin(part.samples.split, ["train", "val", "test"]).any())
    if given and not resplit:
        _need_no_split(holdout, leave_out)
        part, fold = _users(part, notes)
        return part.samples, SplitPlan((fold,), "user's split", tuple(notes))
    if leave_out is not None:
        part, rounds = _sites(part, notes)
        return part.samples, SplitPlan(rounds, "leave one site out", tuple(notes))
    ordinary, extra = part.apart()
    if len(extra):
        notes.append(f"{len(extra)} images of the split 'extra' are only trained on")
    if holdout is not None:
        scheme = f"grouped holdout of {100 * holdout:g} %"
        rounds = (_holdout(part, ordinary, extra, holdout, seed, notes),)
    else:
        scheme = f"grouped {folds}-fold cross-validation"
        rounds = _cross_validation(part, ordinary, extra, folds, seed, notes)
    return part.samples, SplitPlan(rounds, scheme, tuple(notes))


def _check(folds: int, min_groups: int | None, holdout: float | None, leave_out: str | None) -> None:
    if folds < 2:
        raise ConfigError(
            f"--folds {folds} is no cross-validation",
            "at least 2 are needed",
            "type: --folds 5, or --holdout 0.2 for one split",
        )
    if min_groups is not None and min_groups < 1:
        raise ConfigError(f"--min-groups {min_groups} is below 1", "", "type: --min-groups 5")
    if holdout is not None and not 0 < holdout < 1:
        raise ConfigError(
            f"--holdout {holdout:g} is no share to test on",
            "it lies between 0 and 1, both excluded",
            "type: --holdout 0.2",
        )
    if leave_out not in {None, "site"}:
        raise ConfigError(f"--leave-out {leave_out} is unknown", "known: site", "type: --leave-out site")
    asked = {
        f"--folds {folds}": folds != FOLDS,
        f"--holdout {holdout}": holdout is not None,
        f"--leave-out {leave_out}": leave_out is not None,
    }
    ways = [name for name, wanted in asked.items() if wanted]
    if len(ways) > 1:
        raise ConfigError(
            f"{' and '.join(ways)} ask for different splits",
            "folds test every row once, a holdout tests one part, leaving out tests one site after another",
            f"type one of them: {' or '.join(ways)}",
        )


def _need_no_split(holdout: float | None, leave_out: str | None) -> None:
    """ConfigError where another split is asked for than the one that the data bring."""
    asked = f"--holdout {holdout:g}" if holdout is not None else f"--leave-out {leave_out}"
    if holdout is not None or leave_out is not None:
        raise ConfigError(
            f"{asked} asks for a split, and the data bring their own",
            "the user's split is used as it stands unless it is set aside",
            f"type: {asked} --resplit, or leave {asked.split(maxsplit=1)[0]} out",
        )


def _users(part: Part, notes: list[str]) -> tuple[Part, Fold]:
    """The user's own sides as one fold called "test"."""
    nowhere = part.samples.split == ""
    if nowhere.any():
        notes.append(f"{int(nowhere.sum())} images without a split are left out")
        part = part.take(~nowhere)
    _need_sides(part.samples)
    part = _trainable(part, notes)
    _need_sides(part.samples)
    split = part.samples.split
    rows = {side: np.flatnonzero(split == side).astype(np.int64) for side in ("val", "test")}
    train = np.flatnonzero(np.isin(split, ["train", "extra"])).astype(np.int64)
    for side, present in rows.items():
        if len(present):
            held = Aspects.of(part.samples.take(present))
            notes += [f"no {side} image {held.image(c)}" for c in _absent(held)]
    return part, Fold("test", train, rows["val"], rows["test"])


def _absent(aspects: Aspects) -> list[int]:
    """The aspects that no row shows."""
    present = aspects.held(np.zeros(int(aspects.row.max(initial=0)) + 1, dtype=np.int64), 1)[0]
    return [int(c) for c in np.flatnonzero(~present)]


def _need_sides(samples: Samples) -> None:
    counts = {side: int((samples.split == side).sum()) for side in ("train", "val", "test", "extra")}
    known = ", ".join(f"{count} {side}" for side, count in counts.items() if count)
    if not counts["test"]:
        raise SplitError(
            "the split has no test images",
            f"it has {known}",
            "rename val to test in the split column, or make featprobe's own folds with --resplit",
        )
    if not counts["train"] + counts["extra"]:
        raise SplitError(
            "the split has no train images", f"it has {known}", "make featprobe's own folds with --resplit"
        )


def _trainable(part: Part, notes: list[str]) -> Part:
    """SplitError where a class is never trained on; a label that is, or is not, in all of train is left out."""
    train = Aspects.of(part.samples.take(np.isin(part.samples.split, ["train", "extra"])))
    absent = _absent(train)
    if not absent:
        return part
    if not train.labels:
        raise SplitError(
            f"no train image has the class {', '.join(repr(train.names[c]) for c in absent)}",
            "a class that is never seen can't be predicted",
            "leave rare classes out with --min-groups N, or use --resplit",
        )
    gone = np.zeros(len(train) // 2, dtype=np.bool_)
    gone[np.array(absent) % len(gone)] = True
    if gone.all():
        raise SplitError(
            "no label is both present and absent in the train images",
            f"there are {len(gone)} labels",
            "make featprobe's own folds with --resplit",
        )
    notes += [f"label left out: no train image {train.image(c)}" for c in absent]
    return without_labels(part, gone, notes)


def _cross_validation(
    part: Part, ordinary: IntArray, extra: IntArray, folds: int, seed: int, notes: list[str]
) -> tuple[Fold, ...]:
    """Stratified grouped folds over all rows but "extra", which join the training parts."""
    judged = part.take(ordinary)
    _enough_groups(judged, folds, f"the {folds} folds", f"--min-groups {folds}")
    _note_bins(judged, folds, notes)
    fold, absent = grouped_folds(judged, folds, seed)
    aspects = Aspects.of(judged.samples)
    notes += [f"fold {k} has no test image {aspects.image(c)}" for k, c in absent.tolist()]
    _note_prevalences(judged, fold, folds, notes)
    return tuple(_fold(str(k), part, ordinary, extra, fold == k) for k in range(folds))


def _holdout(
    part: Part, ordinary: IntArray, extra: IntArray, share: float, seed: int, notes: list[str]
) -> Fold:
    """One stratified grouped split."""
    judged = part.take(ordinary)
    _enough_groups(judged, 2, "the 2 sides", "--min-groups 3")
    _note_bins(judged, 2, notes)
    test = drawn_holdout(judged, share, seed)
    aspects = Aspects.of(judged.samples)
    held = aspects.held(test.astype(np.int64), 2)
    notes += [f"no test image {aspects.image(int(c))}" for c in np.flatnonzero(~held[1])]
    notes.append(f"{int(test.sum())} of {len(test)} images are held out ({100 * test.mean():.1f} %)")
    _note_prevalences(judged, test.astype(np.int64), 2, notes)
    return _fold("test", part, ordinary, extra, test)


def _fold(name: str, part: Part, ordinary: IntArray, extra: IntArray, tested: object) -> Fold:
    """The fold that tests the `ordinary` rows where `tested` (bool) and trains on the others."""
    mask = np.asarray(tested)
    test = ordinary[mask]
    train = np.sort(np.concatenate([ordinary[~mask], part.spare(extra, test)]))
    return Fold(name, train.astype(np.int64), np.empty(0, dtype=np.int64), test.astype(np.int64))


def _note_prevalences(judged: Part, part: IntArray, parts: int, notes: list[str]) -> None:
    """How far the prevalence of a label in a part is from that in the whole, at most."""
    labels = judged.samples.label
    if judged.samples.task != "multilabel":
        return
    whole = (labels == 1).sum(axis=0) / (labels >= 0).sum(axis=0)
    own = [labels[part == k] for k in range(parts)]
    known = np.array([np.maximum(1, (rows >= 0).sum(axis=0)) for rows in own])
    stray = np.abs(np.array([(rows == 1).sum(axis=0) for rows in own]) / known - whole)
    worst = int(stray.max(axis=0).argmax())
    notes.append(
        f"stratified iteratively over {labels.shape[1]} labels: prevalences in the parts are within "
        f"{100 * stray.max():.2g} points of the whole (the furthest is {judged.samples.label_names[worst]!r})"
    )


def _note_bins(judged: Part, least: int, notes: list[str]) -> None:
    if judged.samples.task == "continuous":
        bins = bins_of(len(np.unique(judged.units)), least)
        notes.append(f"stratified by {bins} bins of the groups' mean target")


def _sites(part: Part, notes: list[str]) -> tuple[Part, tuple[Fold, ...]]:
    """A fold for each site, named after it."""
    nowhere = part.samples.site == ""
    if nowhere.any():
        notes.append(f"{int(nowhere.sum())} images without a site are left out")
        part = part.take(~nowhere)
    extra = part.samples.split == "extra"
    sites = np.unique(part.samples.site[~extra]).tolist()
    if len(sites) < 2:
        raise SplitError(
            f"leaving one site out needs at least two sites, and there is {_listed_sites(sites)}",
            "; ".join(notes) or f"{len(part)} images have it",
            "name the column with --site-column at extraction, or use folds",
        )
    if extra.any():
        notes.append(f"{int(extra.sum())} images of the split 'extra' are only trained on")
    rounds = [fold for site in sites if (fold := _site(str(site), part, notes)) is not None]
    if not rounds:
        raise SplitError(
            "no site can be left out: what is left never holds every class",
            "; ".join(notes),
            "leave rare classes out with --min-groups N, or use folds",
        )
    return part, tuple(rounds)


def _listed_sites(sites: list[str]) -> str:
    """How many sites there are, and which."""
    return f"1, {sites[0]!r}" if sites else "0"


def _site(site: str, part: Part, notes: list[str]) -> Fold | None:
    """The fold that tests `site`; None, with a note, where the others can't teach every class."""
    here = part.samples.site == site
    extra = part.samples.split == "extra"
    bound = np.isin(part.units, part.units[here])
    taken = int((bound & ~here).sum())
    if taken:
        notes.append(
            f"site {site!r}: {taken} images of other sites are not trained on, their groups were here too"
        )
    train, test = np.flatnonzero(~bound), np.flatnonzero(here & ~extra)
    aspects = Aspects.of(part.samples)
    sides = np.full(len(part), 2, dtype=np.int64)
    sides[train], sides[test] = 0, 1
    held = aspects.held(sides, 3)
    missing = [aspects.image(int(c)) for c in np.flatnonzero(~held[0])]
    if missing or not len(train):
        without = ", ".join(missing) or "at all"
        notes.append(f"site {site!r} is not tested: the others have no image {without}")
        return None
    if not aspects.labels and len(aspects) and held[1].sum() == 1:
        only = aspects.names[int(held[1].argmax())]
        notes.append(
            f"site {site!r} has one class only, {only!r}: what tells classes apart is undefined there"
        )
    else:
        notes += [f"site {site!r} has no image {aspects.image(int(c))}" for c in np.flatnonzero(~held[1])]
    return Fold(f"site={site}", train.astype(np.int64), np.empty(0, dtype=np.int64), test.astype(np.int64))


def _enough_groups(judged: Part, least: int, parts: str, remedy: str) -> None:
    """SplitError where a class, or a label's presence or absence, has fewer groups than there are parts."""
    aspects = Aspects.of(judged.samples)
    counts = aspects.groups(judged.units)
    if not len(aspects):
        units = len(np.unique(judged.units))
        if units < least:
            raise SplitError(f"there are {units} groups, fewer than {parts}", "", "add images of more groups")
        return
    rarest = int(counts.argmin())
    fewest = int(counts[rarest])
    if fewest >= least:
        return
    thin = [
        aspects.count(int(c), int(counts[c])) if aspects.labels else f"{aspects.names[c]!r} has {counts[c]}"
        for c in np.flatnonzero(counts < least)
        if c != rarest
    ]
    whole = (counts >= least).reshape(2, -1).all(axis=0).sum() >= 1 if aspects.labels else None
    enough = bool(whole) if whole is not None else (counts >= least).sum() >= 2
    noun = "labels" if aspects.labels else "classes"
    ways = [f"leave such {noun} out with {remedy}"] if enough else []
    ways += [f"use --folds {fewest}"] if fewest >= 2 else []
    raise SplitError(
        f"{aspects.count(rarest, fewest)}, fewer than {parts}",
        f"{listed(thin)} too" if thin else "each part needs a group of every class to test on",
        " or ".join(ways) or "add images of more groups: these can't be judged",
    )
