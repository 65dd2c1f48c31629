"""How much of the training rows is used: nested label fractions, nested n-shot draws, and one part to test on.

All draws go by lots: a hash of the seed and a unit's first id. So they do not depend on the order of rows, and
adding a unit hardly changes the order of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featprobe.errors import ConfigError, SplitError
from featprobe.records import FloatArray, IntArray, Samples
from featprobe.splitting.multilabel import iterative_parts
from featprobe.splitting.strata import Aspects, unit_strata
from featprobe.splitting.units import Part, lots


def subset(
    samples: Samples,
    rows: IntArray,
    *,
    fraction: float = 1.0,
    shots: int = 0,
    whole_groups: bool = False,
    seed: int,
) -> IntArray:
    """Which of the training `rows` (positions) are learned from, in their order: a fraction, or n shots.

    `fraction` in (0, 1]: whole units, stratified (by the rarest class that a unit holds, the rarest label that
    it is positive for, or the bin of its mean), until that share of the rows is reached. The share differs from
    the one asked for by at most half the rows of the largest unit. Equal seeds give nested draws: the 5 % lie
    inside the 10 %. At least one unit of every class (one with and one without each label, two units of a number)
    must be drawn; else SplitError names the smallest fraction that works. With one unit of a class there are no
    inner folds to choose on (`featprobe.splitting.inner_folds`).

    `shots` >= 1: n images per class, each of another unit (n groups, one image of each), as few-shot protocols
    count; with `whole_groups` n units per class with all their images. A unit that holds several classes counts for
    one of them only: in the order of the lots for that which has the fewest units so far. Which image of a unit is
    used is drawn by lot among those of its class. The 2 shots lie inside the 5. SplitError for several labels at
    once, for numbers, and where a class has fewer units.

    Rows of "extra" are not counted; they are kept whole, except those of a unit whose ordinary rows are not
    drawn. `fraction=1` without shots is all of `rows`. Raises ConfigError for impossible or two amounts.
    """
    _check(fraction, shots)
    if (fraction == 1 and not shots) or not len(rows):
        return rows
    part = Part.of(samples).take(rows)
    ordinary, extra = part.apart()
    order, ordered = part.take(ordinary).by_id()
    if shots:
        drawn = _shots(ordered, shots, seed, whole_groups=whole_groups)
    else:
        drawn = _fraction(ordered, fraction, seed)
    used = np.zeros(len(part), dtype=np.bool_)
    used[ordinary[order]] = drawn
    left_out = np.setdiff1d(part.units[ordinary], part.units[used])
    used[extra] = ~np.isin(part.units[extra], left_out)
    return rows[used]


def _check(fraction: float, shots: int) -> None:
    if not 0 < fraction <= 1:
        raise ConfigError(
            f"--fraction {fraction:g} is no share of the training data",
            "it lies above 0 and is at most 1",
            "type: --fraction 0.05 0.1 1",
        )
    if shots < 0:
        raise ConfigError(f"--shots {shots} is below 1", "", "type: --shots 5")
    if shots and fraction != 1:
        raise ConfigError(
            f"--fraction {fraction:g} and --shots {shots} are two amounts", "", "leave one of them out"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Queue:
    """Units in the order in which they are drawn.

    `of_row` [N]: position of each row's unit. `stratum`, `entry` [U]: the stratum of each unit, and the
    fraction of the rows from which on it belongs to the draw (the middle of its rows in the queue).
    """

    of_row: IntArray
    stratum: IntArray
    entry: FloatArray


def queue(ordered: Part, seed: int) -> Queue:
    """The queue of the units of `ordered`, sorted by id: every beginning of it is stratified.

    Each stratum is in the order of its lots, its units spread evenly over 0..1 by the middle of their rows;
    the strata are then merged. Whatever the fraction, each stratum's share of the rows that are drawn is off
    by about half a unit.
    """
    stratum, of_row = unit_strata(ordered, least=2)
    first = np.unique(of_row, return_index=True)[1]
    lot = lots(ordered.samples.id[first], seed)
    size = np.bincount(of_row, minlength=len(stratum))
    line = np.lexsort((lot, stratum))
    middle = np.cumsum(size[line]) - size[line] / 2
    starts = np.flatnonzero(np.diff(stratum[line], prepend=-1))
    total = np.add.reduceat(size[line], starts) if len(starts) else size
    which = np.cumsum(np.diff(stratum[line], prepend=-1) != 0) - 1
    within = (middle - (np.cumsum(total) - total)[which]) / total[which]
    merged = line[np.lexsort((lot[line], within))]
    entry = np.empty(len(stratum))
    entry[merged] = (np.cumsum(size[merged]) - size[merged] / 2) / max(1, size.sum())
    return Queue(of_row, stratum, entry)


def _fraction(ordered: Part, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Whether each row is drawn, bool [N]."""
    line = queue(ordered, seed)
    _need_enough(ordered, line, fraction)
    return line.entry[line.of_row] <= fraction


def _need_enough(ordered: Part, line: Queue, fraction: float) -> None:
    """SplitError where nothing could be learnt of a class, a label or a number from so little."""
    aspects = Aspects.of(ordered.samples)
    if not len(aspects):
        entries = np.sort(line.entry)
        drawn = int((entries <= fraction).sum())
        if drawn < 2:
            smallest = float(entries[1]) if len(entries) > 1 else 1.0
            raise _too_small(fraction, f"leaves too little: {drawn} groups", smallest, 2)
        return
    pairs = aspects.units(line.of_row)
    pairs["entry"] = line.entry[pairs["unit"].to_numpy()]
    pairs = pairs.sort_values("entry", kind="stable")
    rank = pairs.groupby("what").cumcount()
    reached = pairs[rank == 0].set_index("what")["entry"]
    counts = aspects.groups(line.of_row)
    works = np.array([reached.get(c, 1.0) if counts[c] else 0.0 for c in range(len(aspects))])
    worst = int(works.argmax())
    if works[worst] <= fraction:
        return
    shown = pairs[(pairs["what"] == worst) & (pairs["entry"] <= fraction)]
    raise _too_small(
        fraction, f"leaves too little: {aspects.count(worst, len(shown))}", float(works[worst]), 1
    )


def smallest_fraction(samples: Samples, rows: IntArray, *, groups: int, seed: int) -> float:
    """The smallest fraction, in steps of 0.0001, from which `subset` draws `groups` units of every class of `rows`.

    Of every label in both states; of a number so many units in all. 1 where there are not so many.
    """
    part = Part.of(samples).take(rows)
    _, ordered = part.take(part.apart()[0]).by_id()
    line, aspects = queue(ordered, seed), Aspects.of(ordered.samples)
    pairs = aspects.units(line.of_row)
    pairs["entry"] = line.entry[pairs["unit"].to_numpy()]
    whose = [own["entry"].to_numpy() for _, own in pairs.groupby("what")] if len(aspects) else [line.entry]
    reached = [np.sort(own)[groups - 1] if len(own) >= groups else 1.0 for own in whose]
    return _upwards(max(reached, default=1.0))


def _upwards(entry: float) -> float:
    """A fraction at which a unit with this entry is drawn, in as few digits as can be typed."""
    return float(min(1.0, np.ceil(entry * 10_000) / 10_000))


def _too_small(fraction: float, what: str, works: float, least: int) -> SplitError:
    smallest = _upwards(works)
    return SplitError(
        f"--fraction {fraction:g} {what}",
        f"at least {least} must be drawn; the smallest fraction that works here is {smallest:g}",
        f"type: --fraction {smallest:g}",
    )


def need_classes(task: str, shots: int) -> None:
    """SplitError where the target has no classes to count shots by."""
    if task not in {"classes", "ordinal"}:
        kind = "several labels at once" if task == "multilabel" else "a number"
        raise SplitError(
            f"--shots {shots} counts images per class, and the target is {kind}",
            "",
            "use --fraction 0.05 0.1 1 instead",
        )


def _shots(ordered: Part, shots: int, seed: int, *, whole_groups: bool) -> npt.NDArray[np.bool_]:
    """Whether each row is drawn, bool [N]."""
    need_classes(ordered.samples.task, shots)
    labels, names = ordered.samples.label, ordered.samples.label_names
    codes, of_row = np.unique(ordered.units, return_inverse=True)
    first = np.unique(of_row, return_index=True)[1]
    counted = _counted_for(ordered, of_row, lots(ordered.samples.id[first], seed))
    present = np.unique(labels)
    available = np.bincount(counted, minlength=len(names))
    scarce = present[available[present].argmin()] if len(present) else 0
    if len(codes) and available[scarce] < shots:
        raise SplitError(
            f"--shots {shots} needs {shots} groups of every class, and class {names[scarce]!r} has {available[scarce]}",
            "a group that holds several classes counts for one of them",
            f"use --shots {available[scarce]}, or leave rare classes out with --min-groups N",
        )
    lot = lots(ordered.samples.id[first], seed)
    rank = np.empty(len(codes), dtype=np.int64)
    line = np.lexsort((lot, counted))
    starts = np.searchsorted(counted[line], counted[line], side="left")
    rank[line] = np.arange(len(codes)) - starts
    if whole_groups:
        return np.asarray(rank[of_row] < shots)
    # One image of each unit: the first by lot among those of the class that it counts for.
    image = lots(ordered.samples.id, seed)
    fits = np.flatnonzero(labels == counted[of_row])
    fits = fits[np.lexsort((image[fits], of_row[fits]))]
    chosen = fits[np.unique(of_row[fits], return_index=True)[1]]
    drawn = np.zeros(len(ordered), dtype=np.bool_)
    drawn[chosen[rank[of_row[chosen]] < shots]] = True
    return drawn


def _counted_for(ordered: Part, of_row: IntArray, lot: npt.NDArray[np.str_]) -> IntArray:
    """The class that each unit counts for, int64 [U]."""
    aspects = Aspects.of(ordered.samples)
    pairs = aspects.units(of_row)
    classes: list[list[int]] = [[] for _ in range(len(lot))]
    for unit, what in zip(pairs["unit"].tolist(), pairs["what"].tolist(), strict=True):
        classes[unit].append(what)
    total = aspects.groups(of_row).tolist()
    so_far = [0] * len(aspects)
    result = np.zeros(len(lot), dtype=np.int64)
    for unit in np.argsort(lot, kind="stable").tolist():
        mine = min(classes[unit], key=lambda c: (so_far[c], total[c], c))
        so_far[mine] += 1
        result[unit] = mine
    return result


def drawn_holdout(judged: Part, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which rows are held out to be tested on, bool [N]: about the `share` of them, whole units, stratified.

    Classes and numbers by the queue of `subset`; the first unit of every class is held out and the last one
    trained on, so that a rare class is on both sides. Several labels by iterative stratification. Something of
    every class, and of every label present and absent, is always left to train on. Raises SplitError where
    that leaves nothing to test.
    """
    order, ordered = judged.by_id()
    aspects = Aspects.of(ordered.samples)
    if aspects.labels:
        part = iterative_parts(ordered.samples.label, ordered.units, [1 - share, share], seed)
        pairs = aspects.units(ordered.units)
        pairs["held"] = part[np.unique(ordered.units, return_index=True)[1]][
            np.searchsorted(np.unique(ordered.units), pairs["unit"].to_numpy())
        ]
        trained = set(pairs.loc[pairs["held"] == 0, "what"])
        lost = pairs[~pairs["what"].isin(trained)].sort_values("unit").drop_duplicates("what")
        held = (part == 1) & ~np.isin(ordered.units, lost["unit"].to_numpy())
    else:
        held = _queued_holdout(ordered, aspects, share, seed)
    if not held.any() or held.all():
        raise SplitError(
            f"--holdout {share:g} leaves nothing to {'train' if held.any() else 'test'} on",
            f"there are {len(np.unique(ordered.units))} groups",
            "use folds, or another share",
        )
    result = np.zeros(len(judged), dtype=np.bool_)
    result[order] = held
    return result


def _queued_holdout(ordered: Part, aspects: Aspects, share: float, seed: int) -> npt.NDArray[np.bool_]:
    line = queue(ordered, seed)
    held = line.entry <= share
    pairs = aspects.units(line.of_row)
    pairs["entry"] = line.entry[pairs["unit"].to_numpy()]
    pairs = pairs.sort_values("entry", kind="stable")
    held[pairs.drop_duplicates("what", keep="first")["unit"].to_numpy()] = True
    held[pairs.drop_duplicates("what", keep="last")["unit"].to_numpy()] = False
    if not len(aspects):
        held[line.entry.argmin()], held[line.entry.argmax()] = True, False
    return np.asarray(held[line.of_row])
