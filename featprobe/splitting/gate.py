"""The gate before probing and fine-tuning: a split that leaks stops here, unless the user says otherwise."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from featprobe.errors import ConfigError, LeakError, nearest
from featprobe.records import Samples
from featprobe.splitting.leaks import LEAK_KINDS, Leak, find_leaks, leak_key, sides
from featprobe.splitting.near import with_twins

WHAT = {
    "group": ("group", "groups"),
    "case": ("case", "cases"),
    "bytes": ("image (same bytes)", "images (same bytes)"),
    "pixels": ("image (same pixels)", "images (same pixels)"),
    "near": ("near copy", "near copies"),
    "label-conflict": ("image with two labels", "images with two labels"),
}


def gate(
    samples: Samples, *, resplit: bool, allow: Collection[str] = (), drop: bool = False
) -> tuple[Samples, tuple[str, ...]]:
    """The samples that may be evaluated, and what the report must say about leaks.

    `allow`: kinds of leaks that are kept; `drop`: remove the training copies of all others. With `resplit`
    the user's split is ignored, so that only label-conflicts are warned of. Rows without a label take no
    part. What comes back has its `twin` filled, so that splits made later keep near copies together. Raises
    LeakError for a leak that is neither allowed nor dropped, ConfigError for an unknown kind.
    """
    for kind in allow:
        if kind not in LEAK_KINDS:
            hint = nearest(kind, LEAK_KINDS) or f"known: {', '.join(LEAK_KINDS)}"
            raise ConfigError(f"unknown kind of leak {kind!r}", hint, "type: --allow-leaks KIND")
    samples = samples if (samples.twin != "").any() else with_twins(samples)
    seen = samples.take(samples.labelled)
    if resplit:
        seen = seen.replace(split=np.full(len(seen), "", dtype=np.str_))
    leaks = find_leaks(seen)
    notes = _conflict_notes(samples, [leak for leak in leaks if not leak.crosses])
    crossing = [leak for leak in leaks if leak.crosses]
    allowed = [leak for leak in crossing if leak.kind in allow]
    if allowed:
        notes.append(
            f"leaks allowed on request: {_counts(samples, allowed)} on more than one side of the split; "
            "the test scores are too optimistic"
        )
    refused = [leak for leak in crossing if leak.kind not in allow]
    if refused and not drop:
        raise _refusal(samples, refused)
    if refused:
        found = _counts(samples, refused)
        samples, removed = drop_leaks(samples, refused)
        notes.append(f"--drop-leaks: {found} on more than one side of the split; {removed} images removed")
    return samples, tuple(notes)


def drop_leaks(samples: Samples, leaks: Sequence[Leak]) -> tuple[Samples, int]:
    """The samples without the copies that leak, and how many rows went.

    Of a group, case or image on two sides all rows of the first side go, with their near copies there where those
    leak: train (and extra) before val; the test set is never touched. Leaks within one side remove nothing.
    `samples` have `twin` filled where a leak is "near".
    """
    side = sides(samples)
    position = {name: row for row, name in enumerate(samples.id.tolist())}
    gone = np.zeros(len(samples), dtype=bool)
    for kind in LEAK_KINDS:
        concerned = [leak for leak in leaks if leak.crosses and leak.kind == kind]
        column = leak_key(samples, kind) if concerned else samples.id
        for where in ("train", "val"):
            keys = {str(column[position[leak.id_a]]) for leak in concerned if leak.split_a == where}
            if keys:
                gone |= (side == where) & np.isin(column, sorted(keys))
    return samples.take(~gone), int(gone.sum())


def _refusal(samples: Samples, leaks: Sequence[Leak]) -> LeakError:
    shown = ", ".join(
        f"{leak.id_a} ({leak.split_a}) and {leak.id_b} ({leak.split_b}) [{leak.kind}]" for leak in leaks[:3]
    )
    kinds = " ".join(kind for kind in LEAK_KINDS if any(leak.kind == kind for leak in leaks))
    return LeakError(
        f"the split leaks: {_counts(samples, leaks)} on more than one side",
        f"first pairs: {shown}",
        "type: featprobe inspect --data SPEC to see them all, then add --resplit, --drop-leaks or "
        f"--allow-leaks {kinds}",
    )


def _counts(samples: Samples, leaks: Sequence[Leak]) -> str:
    """How many distinct groups, cases and images leak, in words."""
    position = {name: row for row, name in enumerate(samples.id.tolist())}
    parts = []
    for kind in LEAK_KINDS:
        concerned = [leak for leak in leaks if leak.kind == kind]
        if concerned:
            column = leak_key(samples, kind)
            count = len({str(column[position[leak.id_a]]) for leak in concerned})
            parts.append(f"{count} {WHAT[kind][count > 1]}")
    return ", ".join(parts)


def _conflict_notes(samples: Samples, leaks: Sequence[Leak]) -> list[str]:
    """Without a name of an image: notes are kept in run.json, which holds nothing of a row."""
    return [f"{_counts(samples, leaks)}: featprobe inspect names them"] if leaks else []
