"""What is said of a subgroup and of the largest gap between two, as rows of a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import pandas as pd


@dataclasses.dataclass(frozen=True, slots=True)
class Subgroup:
    """One system's value in one subgroup, and its gap to the rest (value less that of all other known rows).

    `remark`: why it is not `judged`, or what else a reader must know ("" for nothing).
    """

    dataset: str
    level: str
    metric: str
    system: str
    column: str
    subgroup: str
    n_rows: int
    n_groups: int
    value: float
    ci_low: float
    ci_high: float
    ci_method: str
    gap: float
    gap_low: float
    gap_high: float
    judged: bool
    remark: str


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """The largest less the smallest value of the judged subgroups; NaN where fewer than two can be judged."""

    dataset: str
    level: str
    metric: str
    system: str
    column: str
    lowest: str
    highest: str
    gap: float
    ci_low: float
    ci_high: float
    method: str


SUBGROUP_COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Subgroup))
SPREAD_COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Spread))


def frame_of(rows: Sequence[Subgroup] | Sequence[Spread], columns: Sequence[str]) -> pd.DataFrame:
    """One row per record, in these columns."""
    return pd.DataFrame([[getattr(row, name) for name in columns] for row in rows], columns=list(columns))
