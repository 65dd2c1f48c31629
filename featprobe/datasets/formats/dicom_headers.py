"""What a DICOM header says about pixels, read from a pydicom data set into plain records; no identifier is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from featprobe.datasets.formats.dicom_pixels import WINDOW_FUNCTIONS, GreyRules, Table, Window

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from featprobe.records import AnyArray

PIXEL_KEYWORDS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

SIZE_TAGS: Final = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated")

PIXEL_TAGS: Final = (
    *SIZE_TAGS,
    *("PhotometricInterpretation", "PlanarConfiguration", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
    *("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit", "PresentationLUTShape"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(
        f"{kind}{c}PaletteColorLookupTableData"
        for kind in ("", "Segmented")
        for c in ("Red", "Green", "Blue")
    ),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", *PIXEL_KEYWORDS),
)
"""All that is read of a file whose pixels are wanted. Names, dates and ids are skipped unread, so that nothing
that pydicom says of them can come out. (Functional groups are read whole, but only the entries below are used.)"""

_GREY: Final = ("MONOCHROME1", "MONOCHROME2")
_COLOUR: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
UNSUPPORTED_COLOURS: Final = ("HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "XYB")
"""Photometric interpretations that the standard knows or knew and pydicom does not convert."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Sides, number of frames, kind ("grey", "palette", "colour") and stored bits (0 for floats) of the pixels."""

    rows: int
    columns: int
    frames: int
    kind: str
    bits: int


def layout_of(ds: Dataset) -> Layout | str:
    """The layout of `ds`; the photometric interpretation where it is one that can't be converted.

    Raises ValueError where the header contradicts itself or the standard.
    """
    photometric = str(ds.get("PhotometricInterpretation") or "").strip()
    if photometric in UNSUPPORTED_COLOURS:
        return photometric
    kinds = {"PALETTE COLOR": "palette", **dict.fromkeys(_GREY, "grey"), **dict.fromkeys(_COLOUR, "colour")}
    kind = kinds[photometric]
    if whole(ds, "SamplesPerPixel", 1) != (3 if kind == "colour" else 1):
        raise ValueError
    if photometric in {"YBR_ICT", "YBR_RCT"} and not ds.file_meta.TransferSyntaxUID.is_encapsulated:
        raise ValueError  # transforms of JPEG 2000, undone by its decoder
    bits = whole(ds, "BitsStored", 0) if "PixelData" in ds else 0
    rows, columns, frames = size_of(ds)
    return Layout(rows, columns, frames, kind, bits)


def size_of(ds: Dataset) -> tuple[int, int, int]:
    """(rows, columns, frames), all positive; ValueError where they are not."""
    rows, columns = whole(ds, "Rows", 0), whole(ds, "Columns", 0)
    frames = whole(ds, "NumberOfFrames", 1) or 1  # 0 is written by some devices for one frame
    if min(rows, columns, frames) < 1:
        raise ValueError
    return rows, columns, frames


def whole(ds: Dataset, keyword: str, default: int) -> int:
    """The whole number at `keyword`, `default` where it is absent or empty; ValueError for anything else."""
    value = ds.get(keyword)
    return default if value is None or value == "" else int(value)


def grey_rules(ds: Dataset, frame: int, bits: int) -> GreyRules:
    """The rules for frame `frame`: its own functional groups before the shared ones before the top level.

    Raises ValueError (or pydicom's errors) for numbers that are none.
    """
    rescale = _group(ds, frame, "PixelValueTransformationSequence")
    slope, intercept = _number(rescale, "RescaleSlope"), _number(rescale, "RescaleIntercept")
    luts = ds.get("ModalityLUTSequence") if rescale is ds else None
    if slope is None or intercept is None:  # as pydicom: one without the other says nothing
        slope, intercept = 1.0, 0.0
    inverted = ds.PhotometricInterpretation == "MONOCHROME1" or ds.get("PresentationLUTShape") == "INVERSE"
    return GreyRules(
        bits=bits,
        slope=slope,
        intercept=intercept,
        modality=_table(ds, luts[0]) if luts else None,
        voi=_voi(ds, _group(ds, frame, "FrameVOILUTSequence")),
        padding=_padding(ds),
        inverted=inverted,
    )


def palette_table(ds: Dataset) -> Table:
    """The palette of a PALETTE COLOR image, entries [E, 3] (PS3.3 C.7.6.3.1.5 and C.7.9.2)."""
    count, first, bits = _descriptor(ds, ds.RedPaletteColorLookupTableDescriptor)
    colours = ("Red", "Green", "Blue")
    if "RedPaletteColorLookupTableData" in ds:
        columns = [_words(ds, ds[f"{c}PaletteColorLookupTableData"].value, count) for c in colours]
        entries = np.stack(columns, axis=1)
        # 8-bit entries may lie in 16-bit words, and a descriptor may announce other bits than the data have.
        width = entries.dtype.itemsize * 8
        return Table(first, bits if bits < width and entries.max() < 2**bits else width, entries)
    if bits == 8 and count > 256:
        raise ValueError  # pydicom wraps the indices of such a table
    from pydicom.pixels.processing import apply_color_lut

    entries = apply_color_lut(np.arange(first, first + count, dtype=np.int32), ds)[:, :3]
    return Table(first, entries.dtype.itemsize * 8, entries)


def _group(ds: Dataset, frame: int, name: str) -> Dataset:
    """The item of functional group `name` that holds for `frame`; `ds` itself where there is none."""
    per_frame = ds.get("PerFrameFunctionalGroupsSequence") or []
    shared = ds.get("SharedFunctionalGroupsSequence") or []
    for groups in (*per_frame[frame : frame + 1], *shared[:1]):
        found = groups.get(name)
        if found:
            item: Dataset = found[0]
            return item
    return ds


def _voi(ds: Dataset, source: Dataset) -> Table | Window | None:
    """The first VOI LUT, else the first window (as pydicom prefers them); None for one the standard forbids."""
    luts = source.get("VOILUTSequence")
    if luts and luts[0].get("LUTDescriptor") is not None and luts[0].get("LUTData") is not None:
        return _table(ds, luts[0])
    centre, width = _number(source, "WindowCenter"), _number(source, "WindowWidth")
    function = str(source.get("VOILUTFunction") or "LINEAR").strip().upper()
    if centre is None or width is None or function not in WINDOW_FUNCTIONS:
        return None
    window = Window(centre, width, function)
    return window if window.usable else None


def _padding(ds: Dataset) -> tuple[float, float] | None:
    """The stored values that are padding, both ends included (PS3.3 C.7.5.1.1.2)."""
    keyword = next(keyword for keyword in PIXEL_KEYWORDS if keyword in ds)
    prefix = keyword.removesuffix("PixelData")
    ends = [_number(ds, f"{prefix}PixelPadding{end}") for end in ("Value", "RangeLimit")]
    if ends[0] is None:
        return None
    if keyword == "PixelData":
        ends = [None if end is None else _as_stored(ds, end) for end in ends]
    known = [end for end in ends if end is not None]
    return min(known), max(known)


def _as_stored(ds: Dataset, value: float) -> float:
    """`value` with the sign of the stored pixels: writers take US for SS and the other way round."""
    steps = 2.0 ** whole(ds, "BitsAllocated", 16)
    if whole(ds, "PixelRepresentation", 0):
        return value - steps if value >= steps / 2 else value
    return value + steps if value < 0 else value


def _table(ds: Dataset, item: Dataset) -> Table:
    count, first, bits = _descriptor(ds, item.LUTDescriptor)
    if not 8 <= bits <= 16:
        raise ValueError
    entries = _words(ds, item["LUTData"].value, count)
    return Table(first, bits, entries.astype(np.uint8 if bits == 8 else np.uint16))


def _descriptor(ds: Dataset, words: Any) -> tuple[int, int, int]:
    """(number of entries, first value, bits) of a LUT descriptor; 0 entries mean 65,536."""
    count, first, bits = (int(word) for word in words)
    if whole(ds, "PixelRepresentation", 0) and first >= 2**15:
        first -= 2**16  # a signed value in an unsigned word
    return count % 2**16 or 2**16, first, bits


def _words(ds: Dataset, data: Any, count: int) -> AnyArray:
    """`count` table entries from bytes (16-bit words; 8-bit where there are too few) or from numbers."""
    if isinstance(data, bytes):
        little = ds.original_encoding[1]
        wide = len(data) >= 2 * count
        entries = np.frombuffer(data, dtype=("<u2" if little else ">u2") if wide else np.uint8)
        entries = entries.astype(entries.dtype.newbyteorder("="))
    else:
        entries = np.atleast_1d(np.asarray(data, dtype=np.uint16))
    if len(entries) < count:
        raise ValueError
    return entries[:count]


def _number(source: Dataset, keyword: str) -> float | None:
    """The (first) number at `keyword`; None where it is absent or empty; ValueError where it is not finite."""
    value = source.get(keyword)
    if value is None or value == "":
        return None
    if isinstance(value, (str, bytes)):
        raise ValueError  # noqa: TRY004 - the one error of every wrong number
    number = float(value[0] if isinstance(value, Sequence) else value)
    if not math.isfinite(number):
        raise ValueError
    return number
