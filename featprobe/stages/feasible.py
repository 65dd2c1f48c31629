"""Whether every model that is asked for can have its rows, before the first is fitted: no study ends in its middle."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Final

import numpy as np

from featprobe import splitting
from featprobe.errors import ProbeError, SplitError
from featprobe.protocols import Facts
from featprobe.records import IntArray, RunKey, Samples
from featprobe.registry import PROBES
from featprobe.stages.calibrating import method_of
from featprobe.stages.fitting import Rows, Unit, rows_of
from featprobe.stages.variants import LEAST_TO_MOVE, MOVED, WHOLE_GROUPS, is_variant

LEAST: Final = 2
"""Groups of every class that it takes to fit and to choose."""

REFUSED: Final = (SplitError, ProbeError)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """One draw of what a fold learns from.

    `rows`: of `samples`, that it is drawn of. `groups`: of every class that it takes. `attempt` raises one of REFUSED
    where the rows can't be had, or nothing be fitted to them.
    """

    samples: Samples
    rows: IntArray
    fold: str
    key: RunKey
    groups: int
    attempt: Callable[[], object]


def need_rows(units: Sequence[Unit]) -> None:
    """Refuse what can't be drawn, or not be fitted for want of rows. Nothing is fitted, no embedding is read.

    SplitError or ProbeError that names data set, fold, amount of labels, seed, class and groups.
    """
    drawn: dict[Hashable, Draw] = {}
    for unit in units:
        key, protocol = unit.key, unit.protocol
        words = (is_variant(key, WHOLE_GROUPS), is_variant(key, MOVED), method_of(key))
        for number, fold in enumerate(unit.view.folds):
            about = (
                id(unit.view),
                number,
                protocol.name,
                key.probe,
                key.fraction,
                key.shots,
                key.seed,
                words,
            )
            if about not in drawn:
                least = LEAST_TO_MOVE if any(words[1:]) else LEAST if protocol.draw.kind == "folds" else 1
                pool = [fold.train] if protocol.draw.given == "left out" else [fold.train, fold.val]
                attempt = functools.partial(_attempt, unit, number)
                drawn[about] = Draw(unit.view.samples, np.concatenate(pool), fold.name, key, least, attempt)
    need_draws(list(drawn.values()))


def need_draws(draws: Sequence[Draw]) -> None:
    """Raise the first refusal of `draws`, with the smallest fraction of labels that would do for all of the data set."""
    for draw in draws:
        try:
            draw.attempt()
        except REFUSED as error:
            raise _told(error, draw, draws) from None


def _attempt(unit: Unit, number: int) -> None:
    rows = rows_of(unit, number)
    need_two_classes(unit.view.samples, rows.learn)
    if unit.protocol.head:  # which learns from the first part alone
        need_two_classes(unit.view.samples, rows.learn[rows.selection[0][0]])
    _need_neighbours(unit, rows)


def need_two_classes(samples: Samples, rows: IntArray) -> None:
    """ProbeError where `rows`, all that something is fitted to, are of one class."""
    classes = np.unique(samples.label[rows])
    if samples.task in {"classes", "ordinal"} and len(classes) == 1:
        known = f"all {len(rows)} rows are of class {samples.label_names[classes[0]]!r}"
        raise ProbeError("two classes are needed to fit", known, "see featprobe inspect --data SPEC")


def _need_neighbours(unit: Unit, rows: Rows) -> None:
    """ProbeError where there are fewer rows than the fewest neighbours that are tried."""
    if unit.key.probe not in PROBES.names():
        return
    probe = PROBES.get(unit.key.probe)
    if getattr(probe, "parameter", "") != "k":
        return
    rule, there = unit.protocol, min(len(fit) for fit, _ in rows.selection)
    classes = len(unit.view.samples.label_names)
    facts = Facts(rows=there, columns=1, classes=classes, shots=unit.key.shots)  # k follows from no column
    least = int(min((rule.grid_of(facts) if rule.grid_of else rule.grid) or probe.grid))
    if there < least:
        raise ProbeError(
            f"{there} rows to look for {least} nearest neighbours in",
            f"--protocol {unit.protocol.name} takes {least} or more",
            "learn from more images, or type --protocol featprobe --probe knn",
        )


def _told(error: SplitError | ProbeError, draw: Draw, draws: Sequence[Draw]) -> SplitError | ProbeError:
    """`error` with what was drawn, and what to type instead."""
    key, wrong, known, next_step = draw.key, error.wrong, error.known, error.next_step
    where = f"data set {key.dataset!r}, fold {draw.fold}, seed {key.seed}"
    if key.fraction != 1:
        own = f"--fraction {key.fraction:g}"
        if wrong.startswith(own):  # where one group of every class is drawn there may be too few of them yet
            known = f"it takes {draw.groups} of every class"
        wrong = f"{own}: {wrong.removeprefix(own).strip()}"
        next_step = f"{_larger(draw, draws)}, or leave rare classes out with --min-groups N"
    elif key.shots and "--shots" not in wrong:
        wrong = f"--shots {key.shots}: {wrong}"
    return type(error)(f"{where}: {wrong}", "; ".join(filter(None, [known, "nothing was fitted"])), next_step)


def _larger(draw: Draw, draws: Sequence[Draw]) -> str:
    """A fraction that has enough groups of every class in every fold, for every seed, to be typed instead."""
    alike = {
        (id(one.samples), one.fold, len(one.rows), one.key.seed, one.groups): one
        for one in draws
        if one.key.dataset == draw.key.dataset
    }
    works = max(
        splitting.smallest_fraction(one.samples, one.rows, groups=one.groups, seed=one.key.seed)
        for one in alike.values()
    )
    return f"type --fraction {works:g} or more" if works < 1 else "leave --fraction out"
