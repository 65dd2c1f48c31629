"""Where a class is too rare for the intervals that were asked for, as docs/coverage.md has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from featprobe import significance
from featprobe.errors import listed
from featprobe.records import Predictions

SIMULATED: Final = {"percentile": (81.7, 86.2), "bca": (84.0, 91.5), "t": (91.5, 96.5)}
"""How often 95 % intervals of AUROC hold the truth with 8 groups of a class, in percent, least and most over 50, 200 and
1,000 groups in all: docs/coverage.md, rare class."""


def too_rare(interval: str, folds: Sequence[Predictions]) -> list[str]:
    """What must be said of intervals by `interval` (of INTERVALS) on the test rows of `folds`; [] for other methods.

    Every class, or value of a label, with fewer groups than the bootstrap keeps strata for is named.
    """
    rare = significance.rare_parts(folds) if interval in {"percentile", "bca"} else []
    if not rare:
        return []
    named = listed([f"{name} has {count} test group{'' if count == 1 else 's'}" for name, count in rare])
    (low, high), (least, most) = SIMULATED[interval], SIMULATED["t"]
    found = f"held the truth in {low:g} to {high:g} % of simulations, those of --interval t in {least:g} to {most:g} %"
    words = f"--interval {interval} is too narrow where a class is rare: {named}"
    return [f"{words}; with 8, intervals of AUROC called 95 % {found}"]
