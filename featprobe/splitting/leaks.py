"""What stands on both sides of the user's split: groups, cases and copies of images, found without pairing all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from featprobe.records import IntArray, Samples, TextArray, texts
from featprobe.splitting.near import NEAR_DISTANCE, distances, with_twins

LEAK_KINDS: Final = ("group", "case", "bytes", "pixels", "near", "label-conflict")
SIDES: Final = ("train", "val", "test")
_PAIRS_OF_SIDES: Final = tuple((a, b) for i, a in enumerate(SIDES) for b in SIDES[i + 1 :])

_CROWD: Final = 32
"""Rows of one cluster and side that are compared with the other side's for the closest pair."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One group, case or image that stands on two sides, shown by one id on each.

    `kind`: one of LEAK_KINDS. "bytes": equal files; "pixels": other bytes, equal pixels; "near": see
    `splitting.near`, the closest pair; "label-conflict": copies of any of these kinds whose targets differ. Of the
    others the first ids are shown. `split_a`, `split_b`: the sides, in the order train, val, test; rows of "extra" are
    on the side "train". A label-conflict within one side has split_a == split_b. `distance`: 0 but between near
    copies, where it is 1 - correlation of the thumbnails.
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


def copies(samples: Samples) -> IntArray:
    """Which image each row shows, int64 [N]: rows of equal bytes, equal pixels or one `twin` share a number."""
    return samples.replace(group=samples.id, case=samples.id).units()


def leak_key(samples: Samples, kind: str) -> TextArray:
    """What leaks under `kind`, as text [N] that is equal for the rows that leak together; "" for none."""
    if kind == "group":
        return samples.group
    if kind == "case":
        return samples.case
    if kind == "bytes":
        return samples.sha256
    if kind == "pixels":
        return np.where(samples.phash == "", "", samples.pixel_sha256)
    return samples.twin if kind == "near" else texts(copies(samples))


def find_leaks(samples: Samples) -> list[Leak]:
    """Leaks across the user's split, and label-conflicts anywhere; one per kind, key and pair of sides.

    Undeclared groups can't leak. Rows without a side leak nothing; a conflict between them has sides "". A pair is
    told once: equal bytes are not repeated as equal pixels, nor copies of one group as near copies. Blank images are
    copies of nothing but their own bytes. Near copies are those of `samples.twin`, which is worked out where it is
    empty. Sorted by kind, sides and ids; N log N once the near copies are known.
    """
    samples = samples if (samples.twin != "").any() else with_twins(samples)
    frame = pd.DataFrame({"row": np.arange(len(samples)), "id": samples.id, "side": sides(samples)})
    frame["bytes"] = samples.sha256
    frame = frame.assign(
        group=leak_key(samples, "group"), case=leak_key(samples, "case"), pixels=leak_key(samples, "pixels")
    ).sort_values("id")
    leaks: list[Leak] = []
    for kind in ("group", "case", "bytes"):
        if kind != "group" or samples.groups_declared:
            leaks += _crossing(frame, kind)
    leaks += _pixels(frame)
    leaks += _near(samples)
    leaks += _conflicts(samples)
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
    for a, b in _PAIRS_OF_SIDES:
        if a in first and b in first:
            both = first[[a, b]].dropna()
            leaks += [Leak(kind, str(x), str(y), a, b) for x, y in zip(both[a], both[b], strict=True)]
    return leaks


def _pixels(frame: pd.DataFrame) -> list[Leak]:
    """Equal pixels on two sides in files of different bytes."""
    known = frame[(frame["pixels"] != "") & (frame["side"] != "")]
    found = _differing(known.assign(key=known["pixels"], value=known["bytes"]), _PAIRS_OF_SIDES)
    return [Leak("pixels", *ids, a, b) for ids, _, a, b in found]


def _near(samples: Samples) -> list[Leak]:
    """Per cluster of near copies and pair of sides the closest pair of rows of different units."""
    unit = samples.replace(twin=np.full(len(samples), "", dtype=np.str_)).units()
    side = sides(samples)
    frame = pd.DataFrame({"row": np.arange(len(samples)), "id": samples.id, "side": side, "unit": unit})
    frame = frame.assign(twin=samples.twin)
    frame = frame[(frame["twin"] != "") & (frame["side"] != "")].sort_values("id")
    frame = frame.assign(key=frame.groupby(["twin", "side"], sort=False).ngroup())
    frame = frame[frame.groupby("key").cumcount() < _CROWD]
    found = [
        frame[frame["side"] == a].merge(frame[frame["side"] == b], on="twin").assign(a=a, b=b)
        for a, b in _PAIRS_OF_SIDES
    ]
    pairs = pd.concat(found, ignore_index=True)
    pairs = pairs[pairs["unit_x"] != pairs["unit_y"]]
    pairs = pairs.assign(distance=distances(samples, pairs["row_x"].to_numpy(), pairs["row_y"].to_numpy()))
    # Rows that only a chain of copies joins are no pair of their own.
    pairs = pairs[pairs["distance"] <= NEAR_DISTANCE].sort_values(["distance", "id_x", "id_y"])
    closest = pairs.drop_duplicates(["twin", "a", "b"])
    columns = [closest[name] for name in ("id_x", "id_y", "a", "b", "distance")]
    return [Leak("near", str(x), str(y), a, b, float(d)) for x, y, a, b, d in zip(*columns, strict=True)]


def _conflicts(samples: Samples) -> list[Leak]:
    """Copies whose targets differ: per image, target and pair of sides the first two rows that differ."""
    frame = pd.DataFrame({"row": np.arange(len(samples)), "id": samples.id, "side": sides(samples)})
    image = copies(samples)
    frame = frame.assign(key=image)
    order = np.argsort(samples.id, kind="stable")
    frame = frame.iloc[order]
    frame = frame[frame.duplicated("key", keep=False)]
    inside = tuple((a, a) for a in ("", *SIDES))
    found: dict[tuple[int, str, str], tuple[tuple[str, str], tuple[int, int]]] = {}
    for target in _targets(samples):
        known = frame.assign(value=target[frame["row"].to_numpy()])
        for ids, rows, a, b in _differing(known[known["value"] != ""], (*inside, *_PAIRS_OF_SIDES)):
            found.setdefault((int(image[rows[0]]), a, b), (ids, rows))
    left, right = (np.array([rows[k] for _, rows in found.values()], dtype=np.int64) for k in (0, 1))
    distance = _copy_distances(samples, left, right).tolist()
    return [
        Leak("label-conflict", *ids, a, b, value)
        for ((_, a, b), (ids, _)), value in zip(found.items(), distance, strict=True)
    ]


def _copy_distances(samples: Samples, left: IntArray, right: IntArray) -> Any:
    """0 for equal bytes or pixels, else the distance of near copies."""
    pixels = leak_key(samples, "pixels")
    same = (samples.sha256[left] == samples.sha256[right]) & (samples.sha256[left] != "")
    same |= (pixels[left] == pixels[right]) & (pixels[left] != "")
    result = np.zeros(len(left))
    result[~same] = distances(samples, left[~same], right[~same])
    return result


def _targets(samples: Samples) -> Iterable[TextArray]:
    """Each target's value per row as text, "" where it is missing: one array, or one per label of several."""
    if samples.task != "multilabel":
        return [samples.label_texts()]
    marks = np.array(["0", "1", ""], dtype=np.str_)
    return (marks[column] for column in samples.label.T)


def _differing(
    frame: pd.DataFrame, pairs_of_sides: tuple[tuple[str, str], ...]
) -> list[tuple[tuple[str, str], tuple[int, int], str, str]]:
    """(ids, rows, side, side): per `key` and pair of sides the first two rows whose `value` differs."""
    doubtful = frame[frame.groupby("key")["value"].transform("nunique") > 1]
    distinct = doubtful.drop_duplicates(["key", "side", "value"])
    # Two values per side are enough to find a pair that differs, within the side and across to another.
    distinct = distinct.assign(rank=distinct.groupby(["key", "side"]).cumcount())
    by_side = {
        (side, rank): distinct[(distinct["side"] == side) & (distinct["rank"] == rank)].set_index("key")[
            ["id", "row", "value"]
        ]
        for side in ("", *SIDES)
        for rank in (0, 1)
    }
    result: list[tuple[tuple[str, str], tuple[int, int], str, str]] = []
    for a, b in pairs_of_sides:
        found: set[Any] = set()
        for left, right in ((0, 1),) if a == b else ((0, 0), (0, 1), (1, 0)):
            pairs = by_side[a, left].add_suffix("_a").join(by_side[b, right].add_suffix("_b"), how="inner")
            pairs = pairs[(pairs["value_a"] != pairs["value_b"]) & ~pairs.index.isin(found)]
            found.update(pairs.index)
            columns = [pairs[name] for name in ("id_a", "id_b", "row_a", "row_b")]
            result += [
                ((str(x), str(y)), (int(m), int(n)), a, b) for x, y, m, n in zip(*columns, strict=True)
            ]
    return result
