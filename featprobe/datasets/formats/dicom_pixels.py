"""DICOM's grey scale and colour arithmetic, on plain arrays: what a header says is in `dicom_headers.py`.

The order is that of PS3.4 N.2: stored values -> modality -> values of interest (VOI) -> presentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from featprobe.imaging import Raster

if TYPE_CHECKING:
    from featprobe.records import AnyArray

WINDOW_FUNCTIONS: Final = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A lookup table (PS3.3 C.11.1.1): `entries` unsigned [E] or [E, 3] of `bits` bits, `first` the value that
    takes entry 0; values outside take the nearest end.
    """  # noqa: D205 - one sentence

    first: int
    bits: int
    entries: AnyArray

    def look_up(self, values: AnyArray) -> AnyArray:
        """The entry of every value: [...] or [..., 3]."""
        # Not pydicom's apply_voi and apply_color_lut: they keep indices in the entries' type, so that a table
        # of 8-bit entries for 12-bit values wraps at 256.
        place = np.clip(values, self.first, self.first + len(self.entries) - 1)
        found: AnyArray = self.entries[np.asarray(place, dtype=np.int64) - self.first]
        return found

    def share(self, values: AnyArray) -> npt.NDArray[np.float64]:
        """The entries as shares of the largest that their bits allow: 0 to 1."""
        shares: npt.NDArray[np.float64] = self.look_up(values) / float(2**self.bits - 1)
        return shares


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window; `function` is one of WINDOW_FUNCTIONS (PS3.3 C.11.2.1.2.1 and C.11.2.1.3)."""

    centre: float
    width: float
    function: str = "LINEAR"

    @property
    def usable(self) -> bool:
        """Whether the standard allows it: LINEAR is at least 1 wide, the others more than 0."""
        return self.width >= 1 if self.function == "LINEAR" else self.width > 0

    def share(self, values: AnyArray) -> npt.NDArray[np.float64]:
        """How far every value lies between the output range's ends: 0 to 1."""
        from scipy.special import expit

        x = np.asarray(values, dtype=np.float64)
        if self.function == "SIGMOID":
            return np.asarray(expit(4 * (x - self.centre) / self.width))
        exact = self.function == "LINEAR_EXACT"
        centre, width = (self.centre, self.width) if exact else (self.centre - 0.5, self.width - 1)
        if width == 0:  # LINEAR of width 1: a threshold
            return np.where(x > centre, 1.0, 0.0)
        return np.clip((x - centre) / width + 0.5, 0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class GreyRules:
    """How the stored values of one frame come to what is shown.

    `bits`: stored bits, 0 for floating-point pixels. `modality`: comes before `slope` and `intercept`. `padding`:
    the stored values (lowest, highest) that stand for "no image here". `inverted`: MONOCHROME1, or a
    presentation LUT of shape INVERSE (in image files both say the same, PS3.3 C.8.11.3: turned around once).
    """

    bits: int
    slope: float = 1.0
    intercept: float = 0.0
    modality: Table | None = None
    voi: Table | Window | None = None
    padding: tuple[float, float] | None = None
    inverted: bool = False


def grey_raster(stored: AnyArray, rules: GreyRules) -> Raster | None:
    """The raster of a grey frame of `stored` values [H, W]; None where no pixel is finite.

    Padded and non-finite pixels take the darkest of the other values (the smallest; where small values are
    bright, the largest) in `values` and are black in `shown`, so that they move no minimum and no percentile.
    """
    values = _modality(stored, rules)
    absent = ~np.isfinite(values)
    if absent.all():
        return None
    if rules.padding is not None:
        low, high = rules.padding
        absent |= (stored >= low) & (stored <= high)
    shown = _presentation(values, rules)
    if absent.any():
        present = values[~absent] if not absent.all() else values[np.isfinite(values)]
        values = np.where(absent, present.max() if rules.inverted else present.min(), values)
        if shown is not None:
            shown[absent] = 0
    return Raster(values=_small(values), format="DICOM", shown=shown, inverted=rules.inverted)


def colour_raster(pixels: AnyArray, bits: int) -> Raster:
    """The raster of RGB `pixels` [H, W, 3] of `bits` bits; 8-bit ones are `values` alone, others also `shown`."""
    pixels = _native(pixels)
    if pixels.dtype == np.uint8 and bits == 8:
        return Raster(values=pixels, format="DICOM")
    share = np.clip(pixels / float(2**bits - 1), 0, 1)
    return Raster(values=pixels, format="DICOM", shown=_levels(share))


def _modality(stored: AnyArray, rules: GreyRules) -> AnyArray:
    """Stored values after the modality LUT or rescale; in their own type where neither changes them."""
    stored = _native(stored)
    if rules.modality is not None:
        return rules.modality.look_up(stored)
    if rules.slope == 1 and rules.intercept == 0:
        return stored
    values = stored.astype(np.float64) * rules.slope
    values += rules.intercept
    return values


def _presentation(values: AnyArray, rules: GreyRules) -> npt.NDArray[np.uint8] | None:
    """What the file wants to be shown, uint8 [H, W]; None where it has no wish."""
    if rules.voi is not None:
        # A pixel that is no number becomes 0 here and is painted over by the caller.
        finite = np.nan_to_num(values, nan=0, posinf=0, neginf=0) if values.dtype.kind == "f" else values
        share = rules.voi.share(finite)
    elif values.dtype == np.uint8 and 0 < rules.bits < 8:
        # Masks of 1 bit and the like: as 8-bit levels they would be black.
        share = np.clip(values / float(2**rules.bits - 1), 0, 1)
    else:
        return None
    levels = _levels(share)
    return 255 - levels if rules.inverted else levels


def _levels(share: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Shares of 0 to 1 as the nearest of 256 levels, halves up."""
    return np.floor(share * 255 + 0.5).astype(np.uint8)


def _small(values: AnyArray) -> AnyArray:
    """float64 `values` in the smallest of int16, int32, float32 that holds each of them exactly."""
    if values.dtype != np.float64:
        return values
    low, high = float(values.min()), float(values.max())
    if not (values != np.rint(values)).any():
        for kind in (np.int16, np.int32):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return values.astype(kind)
    if max(abs(low), abs(high)) <= float(np.finfo(np.float32).max):
        single = values.astype(np.float32)
        if (single == values).all():
            return single
    return values


def _native(array: AnyArray) -> AnyArray:
    """`array` in this machine's byte order."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)
