"""The rule that brings grey levels to 8 bits, as text that stands in every recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from featprobe.errors import ConfigError, nearest

if TYPE_CHECKING:
    from featprobe.imaging.raster import Reference
    from featprobe.records import AnyArray

KINDS: Final = ("auto", "window", "range", "percentile", "minmax", "zscore", "zscore-nonzero")
_GRAMMAR: Final = (
    "known: auto, window:CENTRE:WIDTH, range:LOW:HIGH, percentile:LOW:HIGH, minmax, zscore[:SDS], "
    "zscore-nonzero[:SDS]; three windows with commas between are three channels"
)


@dataclass(frozen=True, slots=True)
class Intensity:
    """A rule for grey levels; `numbers` has one pair per channel (1 or 3).

    "window": (centre, width); black is centre - width / 2, white centre + width / 2 (DICOM PS3.3 C.11.2.1.3.2,
    LINEAR_EXACT), in the values' own units. "range": (black, white). "percentile": (low, high) in per cent.
    "minmax": the smallest and the largest value. "zscore": (sds, 0), mean -/+ sds standard deviations;
    "zscore-nonzero": the same over the values that are not 0. Statistics are of the volume for a slice, else of
    the image. "auto": see `Raster.rgb`.
    """

    kind: str
    numbers: tuple[tuple[float, float], ...] = ()

    @property
    def text(self) -> str:
        """The rule as it is typed, in one canonical form."""
        if self.kind in {"auto", "minmax"}:
            return self.kind
        if self.kind.startswith("zscore"):
            return f"{self.kind}:{self.numbers[0][0]:g}"
        pairs = [f"{a:.12g}:{b:.12g}" for a, b in self.numbers]
        return ",".join(f"{self.kind}:{pair}" for pair in pairs)

    def bounds(self, values: AnyArray, reference: Reference | None) -> list[tuple[float, float]]:
        """(black, white) per channel."""
        if self.kind == "window":
            return [(centre - width / 2, centre + width / 2) for centre, width in self.numbers]
        if self.kind == "range":
            return list(self.numbers)
        if self.kind in {"percentile", "minmax"}:
            shares = self.numbers or ((0.0, 100.0),)
            if reference is not None:
                return [(reference.percentile(low), reference.percentile(high)) for low, high in shares]
            return [
                (float(np.percentile(values, low)), float(np.percentile(values, high)))
                for low, high in shares
            ]
        sds = self.numbers[0][0]
        mean, std = self._moments(values, reference)
        return [(mean - sds * std, mean + sds * std)]

    def _moments(self, values: AnyArray, reference: Reference | None) -> tuple[float, float]:
        nonzero = self.kind == "zscore-nonzero"
        if reference is not None:
            return (
                (reference.mean_nonzero, reference.std_nonzero)
                if nonzero
                else (reference.mean, reference.std)
            )
        chosen = values[values != 0] if nonzero and (values != 0).any() else values
        return float(chosen.mean()), float(chosen.std())


AUTO: Final = Intensity("auto")


def parse_intensity(text: str) -> Intensity:
    """The rule that `text` names, such as "auto", "percentile:1:99" or "window:40:400,window:-600:1500,window:300:1500".

    Raises ConfigError for another grammar or impossible numbers.
    """
    parts = [part.strip().split(":") for part in text.strip().lower().split(",")]
    kinds = {part[0] for part in parts}
    kind = parts[0][0]
    if len(kinds) > 1 or kind not in KINDS:
        wrong = next((part[0] for part in parts if part[0] not in KINDS), "")
        raise _bad(text, nearest(wrong, KINDS) if wrong else "its channels are of different kinds")
    try:
        numbers = tuple(tuple(float(word) for word in part[1:]) for part in parts)
    except ValueError:
        raise _bad(text, "a number can't be read") from None
    if not all(math.isfinite(number) for part in numbers for number in part):
        raise _bad(text, "its numbers must be finite")
    return _checked(text, kind, numbers)


def _checked(text: str, kind: str, numbers: tuple[tuple[float, ...], ...]) -> Intensity:
    if kind in {"auto", "minmax"}:
        if numbers != ((),):
            raise _bad(text, f"{kind} takes no numbers")
        return Intensity(kind)
    if kind.startswith("zscore"):
        sds = numbers[0] or (3.0,)
        if len(numbers) > 1 or len(sds) > 1 or sds[0] <= 0:
            raise _bad(text, f"{kind} takes one positive number of standard deviations")
        return Intensity(kind, ((sds[0], 0.0),))
    if len(numbers) not in {1, 3} or any(len(pair) != 2 for pair in numbers):
        raise _bad(text, f"{kind} takes two numbers, for one channel or for three")
    pairs = tuple((a, b) for a, b in numbers)
    if kind == "window" and any(width <= 0 for _, width in pairs):
        raise _bad(text, "a window's width is positive")
    if kind != "window" and any(low >= high for low, high in pairs):
        raise _bad(text, "the first number must be below the second")
    if kind == "percentile" and any(low < 0 or high > 100 for low, high in pairs):
        raise _bad(text, "percentiles lie between 0 and 100")
    return Intensity(kind, pairs)


def canonical_intensity(text: str) -> str:
    """`text` in its one canonical form, for the recipe; ConfigError where it is no rule."""
    return parse_intensity(text).text


def _bad(text: str, why: str) -> ConfigError:
    return ConfigError(
        f"{text!r} is no rule for intensities",
        f"{why}; {_GRAMMAR}" if why else _GRAMMAR,
        "type: --intensity percentile:0.5:99.5",
    )
