"""What a split looks after for each kind of target: what every part must hold, and what it is balanced by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from featprobe.records import FloatArray, IntArray, Samples
from featprobe.splitting.units import Part

BINS = 10
"""Most bins of a number's range that a split is balanced by."""


@dataclass(frozen=True, slots=True, eq=False)
class Aspects:
    """What a probe must have seen to learn a target, and which rows show it.

    An aspect is a class, or of several labels the presence or the absence of one; a number has none. Row
    `row[i]` shows aspect `what[i]`. Of C = 2L aspects of L labels the first L are the presences.
    """

    row: IntArray
    what: IntArray
    names: tuple[str, ...]
    labels: bool

    @classmethod
    def of(cls, samples: Samples) -> Aspects:
        """The aspects of the known targets."""
        if samples.task == "continuous":
            none = np.empty(0, dtype=np.int64)
            return cls(none, none, (), labels=False)
        if samples.task == "multilabel":
            row, label = np.nonzero(samples.label >= 0)
            absent = samples.label[row, label] == 0
            what = label + absent * len(samples.label_names)
            return cls(row, what, samples.label_names * 2, labels=True)
        row = np.flatnonzero(samples.label >= 0)
        return cls(row, samples.label[row], samples.label_names, labels=False)

    def __len__(self) -> int:
        return len(self.names)

    def held(self, part: IntArray, parts: int) -> npt.NDArray[np.bool_]:
        """Whether each of `parts` parts shows each aspect, bool [parts, C]; `part` is that of each row."""
        result = np.zeros((parts, len(self)), dtype=np.bool_)
        result[part[self.row], self.what] = True
        return result

    def units(self, units: IntArray) -> pd.DataFrame:
        """Each pair of `unit` and `what` that occurs, once."""
        return pd.DataFrame({"unit": units[self.row], "what": self.what}).drop_duplicates()

    def groups(self, units: IntArray) -> IntArray:
        """Units that show each aspect, int64 [C]."""
        what = self.units(units)["what"].to_numpy()
        return np.bincount(what, minlength=len(self)).astype(np.int64)

    def image(self, aspect: int) -> str:
        """The aspect in a phrase that follows "no test image": "of the class 'b'"."""
        if not self.labels:
            return f"of the class {self.names[aspect]!r}"
        return f"{self._sign(aspect)} for {self.names[aspect]!r}"

    def count(self, aspect: int, groups: int) -> str:
        """How many groups show the aspect: "class 'b' has 4 groups"."""
        noun = "group" if groups == 1 else "groups"
        if not self.labels:
            return f"class {self.names[aspect]!r} has {groups} {noun}"
        return f"label {self.names[aspect]!r} has {groups} {self._sign(aspect)} {noun}"

    def _sign(self, aspect: int) -> str:
        return "negative" if aspect >= len(self.names) // 2 else "positive"


def bins_of(units: int, least: int) -> int:
    """How many bins a number's range is cut into where each is to hold `least` units."""
    return max(1, min(BINS, units // least))


def _bins(values: FloatArray, of_row: IntArray, bins: int) -> IntArray:
    """The bin of each unit, int64 [U]: equally many units per bin, in the order of their means."""
    means = np.bincount(of_row, weights=values) / np.bincount(of_row)
    rank = np.empty(len(means), dtype=np.int64)
    rank[np.argsort(means, kind="stable")] = np.arange(len(means))
    return rank * bins // max(1, len(means))


def unit_strata(part: Part, least: int) -> tuple[IntArray, IntArray]:
    """The stratum of each unit, int64 [U], and the position of each row's unit in that list, int64 [N].

    A unit stands under the rarest class that it holds (the fewest units); of several labels under the rarest
    that it is positive for, with those that are positive for none in a stratum of their own; of a number in
    the bin of its mean: BINS bins of as many units each, or fewer, so that each holds at least `least` units.
    """
    codes, of_row = np.unique(part.units, return_inverse=True)
    if part.samples.task == "continuous":
        return _bins(part.samples.label, of_row, bins_of(len(codes), least)), of_row
    aspects = Aspects.of(part.samples)
    kinds = len(aspects) // 2 if aspects.labels else len(aspects)
    shown = aspects.what < kinds
    rarity = np.argsort(np.argsort(aspects.groups(of_row)[:kinds], kind="stable"), kind="stable")
    result = np.full(len(codes), kinds, dtype=np.int64)
    np.minimum.at(result, of_row[aspects.row[shown]], rarity[aspects.what[shown]])
    return result, of_row
