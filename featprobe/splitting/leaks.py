"""What stands on both sides of the user's split: groups and byte-equal images, found without pairing all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from featprobe.records import Samples, TextArray

LEAK_KINDS: Final = ("group", "bytes", "label-conflict")
SIDES: Final = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Leak:
    """One group or image that stands on two sides, shown by the first id on each.

    `kind`: "group", "bytes" or "label-conflict" (equal bytes, different labels). `split_a`, `split_b`: the
    sides, in the order train, val, test; rows of "extra" are on the side "train". A label-conflict within
    one side has split_a == split_b. `distance` is 0 for all of these kinds.
    """

    kind: str
    id_a: str
    id_b: str
    split_a: str
    split_b: str
    distance: float = 0.0

    @property
    def crosses(self) -> bool:
        """Whether it stands on two sides (else it is a warning)."""
        return self.split_a != self.split_b


def sides(samples: Samples) -> TextArray:
    """The side of each row: "extra" is trained on and so belongs to "train"; "" is on no side."""
    return np.where(samples.split == "extra", "train", samples.split)


def find_leaks(samples: Samples) -> list[Leak]:
    """Leaks across the user's split, and label-conflicts anywhere; one per key and pair of sides.

    Undeclared groups can't leak. Rows without a side leak nothing; a conflict between them has sides "".
    Sorted by kind, sides and ids. Time and memory grow as N log N.
    """
    frame = pd.DataFrame(
        {
            "id": samples.id,
            "side": sides(samples),
            "label": samples.label,
            "group": samples.group,
            "bytes": samples.sha256,
        }
    ).sort_values("id")
    leaks: list[Leak] = []
    if samples.groups_declared:
        leaks += _crossing(frame, "group")
    leaks += _crossing(frame, "bytes")
    leaks += _conflicts(frame[frame["label"] >= 0])
    rank = {name: position for position, name in enumerate(("", *SIDES))}
    return sorted(
        leaks,
        key=lambda leak: (
            LEAK_KINDS.index(leak.kind),
            rank[leak.split_a],
            rank[leak.split_b],
            leak.id_a,
            leak.id_b,
        ),
    )


def _crossing(frame: pd.DataFrame, kind: str) -> list[Leak]:
    """A leak for each key of column `kind` and each pair of sides that it stands on."""
    known = frame[(frame[kind] != "") & (frame["side"] != "")]
    first = known.drop_duplicates([kind, "side"]).pivot_table(
        index=kind, columns="side", values="id", aggfunc="first"
    )
    leaks: list[Leak] = []
    for position, a in enumerate(SIDES):
        for b in SIDES[position + 1 :]:
            if a in first and b in first:
                both = first[[a, b]].dropna()
                leaks += [Leak(kind, str(x), str(y), a, b) for x, y in zip(both[a], both[b], strict=True)]
    return leaks


def _conflicts(frame: pd.DataFrame) -> list[Leak]:
    """Byte-equal images with different labels: per image and pair of sides the first two that differ."""
    known = frame[frame["bytes"] != ""]
    doubtful = known[known.groupby("bytes")["label"].transform("nunique") > 1]
    distinct = doubtful.drop_duplicates(["bytes", "side", "label"])
    # Two labels per side are enough to find a pair that differs, within the side and across to another.
    distinct = distinct.assign(rank=distinct.groupby(["bytes", "side"]).cumcount())
    by_side = {
        (side, rank): distinct[(distinct["side"] == side) & (distinct["rank"] == rank)].set_index("bytes")[
            ["id", "label"]
        ]
        for side in ("", *SIDES)
        for rank in (0, 1)
    }
    leaks: list[Leak] = []
    for a, b in (("", ""), *((a, b) for i, a in enumerate(SIDES) for b in SIDES[i:])):
        found: set[str] = set()
        for left, right in ((0, 1),) if a == b else ((0, 0), (0, 1), (1, 0)):
            pairs = by_side[a, left].add_suffix("_a").join(by_side[b, right].add_suffix("_b"), how="inner")
            pairs = pairs[(pairs["label_a"] != pairs["label_b"]) & ~pairs.index.isin(found)]
            found.update(pairs.index)
            leaks += [
                Leak("label-conflict", str(x), str(y), a, b)
                for x, y in zip(pairs["id_a"], pairs["id_b"], strict=True)
            ]
    return leaks
