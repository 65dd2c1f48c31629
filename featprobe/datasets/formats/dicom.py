"""DICOM files: frames as rasters, with the file's own presentation, and not one word of what identifies a patient.

What is done: stored values -> modality LUT or rescale (`Raster.values`) -> first VOI LUT, else first window ->
inversion for MONOCHROME1 (`Raster.shown`, None for a grey image that brings neither). Colour becomes RGB, palettes
are applied. An enhanced multi-frame file's functional groups hold frame by frame. Overlays, real-world value
maps, ICC profiles and pixel spacing are left aside: an image with oblong pixels keeps its rows and columns.

pydicom parses headers and undoes compression. Its warnings, log records and error messages quote the file, so none
of them leaves this module: every reason given here is a fixed sentence with at most numbers and the
standard's own names.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from featprobe.datasets.decoding import UnreadableImageError, UnsupportedImageError
from featprobe.datasets.formats.dicom_headers import (
    PIXEL_KEYWORDS,
    PIXEL_TAGS,
    SIZE_TAGS,
    Layout,
    grey_rules,
    layout_of,
    palette_table,
    size_of,
    whole,
)
from featprobe.datasets.formats.dicom_pixels import colour_raster, grey_raster
from featprobe.datasets.formats.dicom_streams import (
    MAX_INFLATED,
    Watched,
    codestream_size,
    inflates_to,
    looks_bare,
)
from featprobe.errors import FeatprobeError, MissingExtraError
from featprobe.imaging import MAX_PIXELS, Raster

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset
    from pydicom.pixels.decoders.base import Decoder

    from featprobe.records import AnyArray

T = TypeVar("T")

DAMAGED: Final = "a DICOM file whose header is damaged or contradicts itself"
TRUNCATED: Final = "a DICOM file that ends too early"
NO_PIXELS: Final = "a DICOM file without an image (such as a report, a plan or a structure set)"
BAD_PIXELS: Final = "a DICOM file whose pixel data are damaged or shorter than its header says"
NOT_FINITE: Final = "a DICOM file without one pixel that is a finite number"

_PLUGINS: Final = ("pylibjpeg", "pillow", "pydicom", "pyjpegls", "gdcm")
"""In this order, whatever else is installed: for lossy JPEG, two decoders differ by a grey level."""

_DEFLATED: Final = "1.2.840.10008.1.2.1.99"


@dataclass(frozen=True, slots=True)
class DicomFacts:
    """What a header says. `patient` and `study` never leave the datasets room, and no repr shows them."""

    frames: int
    patient: str = field(repr=False)
    study: str = field(repr=False)
    modality: str
    rows: int
    columns: int


def is_dicom(data: bytes) -> bool:
    """Whether `data` (a file, or at least its first 400 bytes) is DICOM.

    True for "DICM" at byte 128, for a file that lacks the preamble and starts with the file meta group, and for
    a bare data set (little-endian) whose first two elements are well-formed and of group 0008 in rising order,
    which no picture, table or text begins with. Bare big-endian data sets are not recognised.
    """
    return data[128:132] == b"DICM" or looks_bare(data)


def decode(data: bytes) -> Raster:
    """The (first) frame of a DICOM file's bytes; raises as `open_frames` and `Frames` do."""
    return open_frames(data)[0]


def frame(source: bytes | Path, number: int) -> Raster:
    """Frame `number`, from 0; for many frames of a file `open_frames` parses it once."""
    return open_frames(source)[number]


def open_frames(source: bytes | Path) -> Frames:
    """The frames of a DICOM file, each decoded when it is asked for.

    Raises UnreadableImageError for a file that is damaged, truncated, without pixels or above MAX_PIXELS (before
    anything is decoded); UnsupportedImageError for a transfer syntax or colour model that can't be decoded,
    with the extra to install where that helps; MissingExtraError where pydicom is missing.
    """
    _require_pydicom()
    data = source.read_bytes() if isinstance(source, Path) else source
    return _guarded(lambda: _opened(data), DAMAGED)


def survey(path: Path) -> DicomFacts:
    """What the header of the file at `path` says, without its pixels.

    Raises UnreadableImageError for a damaged header, one that announces more frames than the file has room for,
    and for a file without an image; OSError where the file can't be read; MissingExtraError without pydicom.
    """
    _require_pydicom()
    with path.open("rb") as stream:
        return _guarded(lambda: _surveyed(stream, path.stat().st_size), DAMAGED)


class Frames:
    """The frames of one file: `len`, and `[number]` a Raster. Holds pixels and functional groups, no patient."""

    def __init__(self, ds: FileDataset, layout: Layout, decoder: Decoder) -> None:
        self._ds, self._layout, self._decoder = ds, layout, decoder

    def __len__(self) -> int:
        return self._layout.frames

    def __getitem__(self, number: int) -> Raster:
        """Frame `number`; IndexError beyond the last, UnreadableImageError where its pixels are damaged."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        stored, bits = _guarded(lambda: self._stored(number), BAD_PIXELS)
        raster = _guarded(lambda: self._raster(stored, bits, number), DAMAGED)
        if raster is None:
            raise UnreadableImageError(NOT_FINITE)
        return raster

    def _raster(self, stored: AnyArray, bits: int, number: int) -> Raster | None:
        if self._layout.kind == "grey":
            return grey_raster(stored, grey_rules(self._ds, number, bits))
        if self._layout.kind == "palette":
            table = palette_table(self._ds)
            return colour_raster(table.look_up(stored), table.bits)
        return colour_raster(stored, bits)

    def _stored(self, number: int) -> tuple[AnyArray, int]:
        """(stored values [H, W], or RGB [H, W, 3]; their stored bits) of frame `number`."""
        self._refuse_codestream_bomb(number)
        available = self._decoder.available_plugins
        plugins = [name for name in _PLUGINS if name in available] if self._decoder.is_encapsulated else [""]
        for plugin in plugins:
            try:
                array, _ = self._decoder.as_array(self._ds, index=number, decoding_plugin=plugin)
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001, S112 - plug-ins raise any type; the last word is said below
                continue
            return array, self._layout.bits
        if self._decoder.is_encapsulated and "pylibjpeg" not in available:
            raise _not_installed(self._decoder.UID.name)
        raise UnreadableImageError(BAD_PIXELS)

    def _refuse_codestream_bomb(self, number: int) -> None:
        """A codestream may announce other sides than the header; the decoder would believe the codestream."""
        if not self._decoder.is_encapsulated:
            return
        from pydicom.encaps import get_frame
        from pydicom.pixels.utils import as_pixel_options

        options = as_pixel_options(self._ds)
        encoded = get_frame(
            self._ds.PixelData,
            number,
            number_of_frames=self._layout.frames,
            extended_offsets=options.get("extended_offsets"),
        )
        width, height = codestream_size(encoded)
        _refuse_bomb(height, width)


def _opened(data: bytes) -> Frames:
    _refuse_inflation(data)
    ds, stream = _parsed(data, (*PIXEL_TAGS,))
    if not any(keyword in ds for keyword in PIXEL_KEYWORDS):
        raise UnreadableImageError(TRUNCATED if stream.ended_early else NO_PIXELS)
    rows, columns, _ = size_of(ds)
    _refuse_bomb(rows, columns)
    decoder = _decoder(ds)
    layout = layout_of(ds)
    if isinstance(layout, str):
        raise UnsupportedImageError(
            f"DICOM images in the colour model {layout} are not supported",
            "known: MONOCHROME1, MONOCHROME2, PALETTE COLOR, RGB, YBR_FULL, YBR_FULL_422, YBR_ICT, YBR_RCT",
            "convert the files to RGB and use those",
        )
    return Frames(ds, layout, decoder)


def _parsed(data: bytes, tags: tuple[str, ...]) -> tuple[FileDataset, Watched]:
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    stream = Watched(data)
    ds = pydicom.dcmread(stream, force=True, specific_tags=list(tags))
    if not ds.file_meta.get("TransferSyntaxUID"):
        implicit, little = ds.original_encoding
        uid = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        ds.file_meta.TransferSyntaxUID = uid if little else ExplicitVRBigEndian
    ds.buffer = None  # the file, identifiers and all
    return ds, stream


def _surveyed(stream: Any, size: int) -> DicomFacts:
    import pydicom

    head = stream.read(1024)
    _refuse_inflation(head + stream.read() if _DEFLATED.encode() in head else head)
    stream.seek(0)
    tags = ["PatientID", "StudyInstanceUID", "Modality", *SIZE_TAGS]
    ds = pydicom.dcmread(stream, force=True, stop_before_pixels=True, specific_tags=list(tags))
    if "Rows" not in ds or "Columns" not in ds:
        raise UnreadableImageError(TRUNCATED if stream.tell() > size else NO_PIXELS)
    rows, columns, frames = size_of(ds)
    syntax = ds.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_compressed:
        bits = rows * columns * whole(ds, "SamplesPerPixel", 1) * whole(ds, "BitsAllocated", 16)
    else:
        bits = 64  # at least the tag and the length of a fragment
    if frames > 1 and frames * bits > 8 * size and syntax != _DEFLATED:
        raise UnreadableImageError(TRUNCATED)
    patient, study, modality = (str(ds.get(tag) or "").strip() for tag in tags[:3])
    return DicomFacts(frames, patient, study, modality, rows, columns)


def _decoder(ds: FileDataset) -> Decoder:
    """The decoder of pydicom for the transfer syntax of `ds`; UnsupportedImageError where there is none."""
    from pydicom._uid_dict import UID_dictionary
    from pydicom.pixels.decoders.base import get_decoder

    syntax = ds.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None:
        # A UID that the standard does not know is text of the file, so it is not repeated.
        name = UID_dictionary[syntax][0] if syntax in UID_dictionary else "that the standard does not name"
        raise UnsupportedImageError(
            f"DICOM files in the transfer syntax {name} are not supported",
            "known: uncompressed, deflated, RLE, JPEG, JPEG-LS, JPEG 2000 and HTJ2K",
            "convert the files to Explicit VR Little Endian and use those",
        )
    if not decoder.is_available:
        raise _not_installed(decoder.UID.name)
    return decoder


def _not_installed(syntax: str) -> UnsupportedImageError:
    return UnsupportedImageError(
        f"DICOM files in the transfer syntax {syntax} need a decoder that is not installed",
        "it is part of the extra 'dicom'",
        "type: pip install 'featprobe[dicom]'",
    )


def _refuse_bomb(rows: int, columns: int) -> None:
    if rows * columns > MAX_PIXELS:
        raise UnreadableImageError(f"{columns:,} x {rows:,} pixels, more than the limit of {MAX_PIXELS:,}")


def _refuse_inflation(data: bytes) -> None:
    """A deflated file is unpacked whole before its header can be read, so its size is measured first."""
    if _DEFLATED.encode() in data[:1024] and inflates_to(data) > MAX_INFLATED:
        raise UnreadableImageError(f"a deflated DICOM file of more than {MAX_INFLATED:,} bytes")


def _require_pydicom() -> None:
    try:
        import pydicom.pixels  # noqa: F401 - pydicom 3 has it
    except ModuleNotFoundError:
        missing = True
    else:
        missing = False
    if missing:
        raise MissingExtraError("DICOM files", "pydicom", "dicom")


def _guarded(work: Callable[[], T], reason: str) -> T:
    """What `work` returns, in silence; for any error that is not featprobe's own, UnreadableImageError(reason).

    The new error is raised after the old one is gone: as its context it would be shown by --debug.
    """
    with _silence():
        try:
            return work()
        except (FeatprobeError, UnreadableImageError, MemoryError):
            raise
        except Exception:  # noqa: BLE001, S110 - pydicom raises many types, and their texts quote the file
            pass
    raise UnreadableImageError(reason)


class _Muzzle(logging.Filter):
    """Drops the records of threads that are inside `_silence`."""

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - logging's signature
        return not _HERE.depth


class _Here(threading.local):
    depth = 0


_HERE: Final = _Here()
_MUZZLE: Final = _Muzzle()
_LOUD: Final = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "jpeg_ls", "gdcm", "PIL")


@contextmanager
def _silence() -> Iterator[None]:
    """No warning is shown and no record logged by pydicom and its plug-ins: both quote what stands in the file."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _LOUD:
            logger.addFilter(_MUZZLE)  # once per logger: it is one filter
    _HERE.depth += 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _HERE.depth -= 1
