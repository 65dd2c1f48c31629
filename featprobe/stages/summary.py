"""What a stage did, so that a study can say what was computed and what was there already."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of what was computed anew and what was found, and where the outcome lies."""

    computed: int = 0
    reused: int = 0
    paths: tuple[Path, ...] = field(default=())
    status: int = 0
