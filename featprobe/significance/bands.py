"""A column of the manifest parts the test rows into subgroups: its values as they are, or numbers in bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from featprobe.errors import ConfigError
from featprobe.records import FloatArray, IntArray, TextArray

MOST: Final = 12
"""Values up to this many are subgroups of their own; more numbers are put into quarters, more words are refused."""

QUARTERS: Final = 4


@dataclass(frozen=True, slots=True)
class Division:
    """How a column parts the rows: by its values (neither given), by `edges`, or into `parts` of equal size."""

    column: str
    edges: tuple[float, ...] = ()
    parts: int = 0

    @classmethod
    def parse(cls, text: str) -> Division:
        """`site`, `age=0,40,60,80` (edges, rising) or `age=q4` (quantiles). ConfigError for anything else."""
        column, equals, how = text.partition("=")
        if not equals:
            return cls(column)
        if how[:1] == "q" and how[1:].isdigit() and 2 <= int(how[1:]) <= MOST:
            return cls(column, parts=int(how[1:]))
        try:
            edges = tuple(float(word) for word in how.split(","))
        except ValueError:
            edges = ()
        if len(edges) < 2 or not all(a < b for a, b in pairwise(edges)):
            raise ConfigError(
                f"--by {text} is no division",
                f"bands are edges that rise, or q2 to q{MOST} for parts of equal size",
                f"type --by {column}=0,40,60,80 or --by {column}=q4",
            )
        return cls(column, edges=edges)


def divide(values: TextArray, division: Division) -> tuple[tuple[str, ...], IntArray]:
    """(names of the subgroups in order, subgroup of each row int64 [N], -1 where the value is "").

    Bands are half-open, [40, 60), but for the last one given, which holds its upper edge; numbers outside the edges
    are subgroups of their own, so that nobody drops out unseen. Quantiles are those of the rows. Subgroups without
    rows are left out. Raises ConfigError for bands of words, or for more than MOST different words.
    """
    known = values != ""
    if not known.any():
        return (), np.full(len(values), -1, dtype=np.int64)
    numbers = _numbers(values[known])
    words, code = np.unique(values[known], return_inverse=True)
    result = np.full(len(values), -1, dtype=np.int64)
    if not division.edges and not division.parts and (numbers is None or len(words) <= MOST):
        names, own = _as_they_are(words, code, numbers, division)
    elif numbers is None:
        word = next(str(value) for value in words if _numbers(words[words == value]) is None)
        raise ConfigError(
            f"--by {division.column} asks for bands, but {word!r} is no number",
            "bands are of numbers",
            f"type --by {division.column} for its values as they are",
        )
    else:
        edges = (
            np.array(division.edges) if division.edges else _quantiles(numbers, division.parts or QUARTERS)
        )
        names, own = _in_bands(numbers, edges, closed=bool(division.edges))
    result[known] = own
    held = [k for k in range(len(names)) if (own == k).any()]
    places = np.full(len(names) + 1, -1, dtype=np.int64)
    places[held] = np.arange(len(held))
    return tuple(names[k] for k in held), places[result]


def _numbers(values: TextArray) -> FloatArray | None:
    """The values as numbers, [N]; None where one is none."""
    try:
        found = np.array([float(value) for value in values.tolist()], dtype=np.float64)
    except ValueError:
        return None
    return found if np.isfinite(found).all() else None


def _as_they_are(
    words: TextArray, code: IntArray, numbers: FloatArray | None, division: Division
) -> tuple[Sequence[str], IntArray]:
    if len(words) > MOST:
        raise ConfigError(
            f"--by {division.column}: it has {len(words)} different values",
            f"at most {MOST} can be compared as subgroups",
            "name another column, or put its values together in the manifest",
        )
    own = code.reshape(-1)
    if numbers is not None:  # 9 before 10
        order = np.argsort([float(word) for word in words.tolist()], kind="stable")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        words, own = words[order], rank[own]
    return words.tolist(), own.astype(np.int64)


def _quantiles(numbers: FloatArray, parts: int) -> FloatArray:
    """Edges that are values of rows, so that a name says the edge exactly."""
    return np.unique(np.quantile(numbers, np.linspace(0, 1, parts + 1), method="higher"))


def _in_bands(numbers: FloatArray, edges: FloatArray, *, closed: bool) -> tuple[list[str], IntArray]:
    """Bands between the edges, below the first and above the last; `closed`: the edges were given."""
    if len(edges) == 1:  # quantiles of one number
        return [f"{edges[0]:g}"], np.zeros(len(numbers), dtype=np.int64)
    code = np.searchsorted(edges, numbers, side="right")
    code[numbers == edges[-1]] = len(edges) - 1
    shown = [f"{edge:g}" for edge in edges]
    names = [f"below {shown[0]}", *(f"{a} to below {b}" for a, b in pairwise(shown))]
    if len(edges) > 1:
        names[-1] = f"{shown[-2]} to {shown[-1]}"
    names.append(f"above {shown[-1]}" if closed else "")
    return names, code.astype(np.int64)
