"""Samples with their units: what may never be torn apart, worked out once and carried along."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featprobe.records import IntArray, Samples, TextArray


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some rows of a data set and the unit of each (int64 [N]), as worked out over all its rows.

    A row that is left out (without a label, say) still joins the groups that share it.
    """

    samples: Samples
    units: IntArray

    @classmethod
    def of(cls, samples: Samples) -> Part:
        """All rows of `samples`."""
        return cls(samples, samples.units())

    def __len__(self) -> int:
        return len(self.units)

    def take(self, rows: IntArray | npt.NDArray[np.bool_]) -> Part:
        """The part at `rows` (int [M] or bool [N])."""
        return Part(self.samples.take(rows), self.units[rows])

    def by_id(self) -> tuple[IntArray, Part]:
        """The order of the ids, int64 [N], and the part in that order: what follows can't see that of the rows."""
        order = np.argsort(self.samples.id, kind="stable")
        return order.astype(np.int64), self.take(order)

    def apart(self) -> tuple[IntArray, IntArray]:
        """Positions of the ordinary rows and of those of the split "extra", which are only ever trained on."""
        extra = self.samples.split == "extra"
        return np.flatnonzero(~extra), np.flatnonzero(extra)

    def spare(self, extra: IntArray, held: IntArray) -> IntArray:
        """Those of the positions `extra` whose unit is not among the held-out positions `held`."""
        return extra[~np.isin(self.units[extra], self.units[held])]


def lots(names: TextArray, seed: int) -> TextArray:
    """A lot per name, hex [N]: SHA-256 of seed and name, so that no other row has a say in it."""
    drawn = [hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest()[:16] for name in names.tolist()]
    return np.array(drawn, dtype=np.str_).reshape(-1)
