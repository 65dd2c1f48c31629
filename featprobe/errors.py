"""Every deliberate error, so that each one says what was wrong, what is known and what to type next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class FeatprobeError(Exception):
    """An error that the user can mend: one line, exit status 2, no traceback.

    `wrong` says what was wrong, `known` what featprobe knows about it, `next_step` what to type next.
    """

    exit_status = 2
    told = False
    """Whether it has been printed, as by another of several processes."""

    def __init__(self, wrong: str, known: str = "", next_step: str = "") -> None:
        self.wrong, self.known, self.next_step = wrong, known, next_step
        super().__init__(wrong, known, next_step)

    @property
    def line(self) -> str:
        """What the console says."""
        return f"featprobe: error: {self}"

    def __str__(self) -> str:
        parts = (" ".join(part.split()) for part in (self.wrong, self.known, self.next_step))
        return "; ".join(part for part in parts if part)


class ConfigError(FeatprobeError):
    """An unknown flag, key, name or a value that can't be used."""


class DataError(FeatprobeError):
    """A data set that can't be read as it stands."""


class BackboneError(FeatprobeError):
    """A backbone, its weights or its pooling that can't be had."""


class CacheError(FeatprobeError):
    """A cache file that is damaged, incomplete, of another schema or locked."""


class SplitError(FeatprobeError):
    """A split that can't be made, such as fewer groups of a class than folds."""


class LeakError(FeatprobeError):
    """The gate: the same group or image stands on both sides of a split."""


class ProbeError(FeatprobeError):
    """A probe or a head that can't be fitted on these data."""


class ResultsError(FeatprobeError):
    """Results that are missing, or that can't be compared with each other."""


class OutputError(FeatprobeError):
    """A place that can't be written to, or a disk that is full."""


class MissingExtraError(FeatprobeError):
    """An optional dependency that is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the package {package}, which is not installed",
            f"it is part of the extra {extra!r}",
            f"type: pip install 'featprobe[{extra}]'",
        )


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """The known names nearest to `name`, as a clause for an error ('' where none is near)."""
    matches = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f"did you mean {' or '.join(matches)}?" if matches else ""


def listed(names: Sequence[str], count: int = 10) -> str:
    """The first `count` names, and how many more there are, for an error."""
    shown = ", ".join(names[:count])
    return shown if len(names) <= count else f"{shown} and {len(names) - count} more"
