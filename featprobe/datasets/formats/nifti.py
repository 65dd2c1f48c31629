"""NIfTI volumes in one frame and in square pixels, whatever scanner and converter they come from.

The frame is nibabel's closest canonical one: the axes run to the patient's Right, Anterior and Superior. Slices are
shown as radiologists look at them:

    axial     rows from anterior to posterior, columns from the patient's right (left in the image) to left
    coronal   rows from superior to inferior, columns from the patient's right to left
    sagittal  rows from superior to inferior, columns from anterior (left in the image) to posterior

A volume that is read whole is the stack of these slices, from the inferior, posterior or left end, in its own voxels.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt

from featprobe.datasets.decoding import UnreadableImageError, UnsupportedImageError
from featprobe.datasets.formats.deep import finite
from featprobe.errors import FeatprobeError, MissingExtraError
from featprobe.imaging import MAX_PIXELS, Reference

if TYPE_CHECKING:
    from featprobe.records import AnyArray

AXES: Final = {"axial": 2, "coronal": 1, "sagittal": 0}
"""View -> the axis of the canonical frame along which its slices lie one behind the other."""

MAX_VOXELS: Final = 1_000_000_000
"""Voxels of one volume at most: 4 GB as float32."""

REFERENCE_VOXELS: Final = 2**21
"""In volumes of twice as many, the grey levels that scale all slices are those of every n-th voxel, at least so many."""

_SAME_SPACING: Final = 1.01
_MOST_STRETCH: Final = 50.0
"""Ratios of the spacings in a slice: up to the first, pixels count as square; beyond the second, the header as
wrong (5 mm between slices of 0.25 mm pixels are 20)."""

_GZIP: Final = b"\x1f\x8b"
_TAIL: Final = 2**20
_MAGICS: Final = (b"n+1\0", b"ni1\0", b"n+2\0", b"ni2\0")


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """`values`: float32 [X, Y, Z] to the right, anterior and superior, finite; `spacing`: mm between voxels.

    `remarks`: what had to be mended, in words that are alike for all volumes.
    """

    values: npt.NDArray[np.float32]
    spacing: tuple[float, float, float]
    remarks: tuple[str, ...] = ()

    def reference(self) -> Reference:
        """The grey levels of the whole volume."""
        return Reference.of(sampled(self.values, REFERENCE_VOXELS))

    def slice(self, axis: str, number: int) -> AnyArray:
        """Slice `number` (from the left, posterior or inferior end) as it is shown: float32 [H, W], square pixels."""
        across = AXES[axis]
        plane = np.moveaxis(self.values, across, 0)[number, ::-1, ::-1].T
        _, high, wide = self.spacing_of(axis)
        return squared(np.ascontiguousarray(plane), high, wide)

    def stacked(self, axis: str) -> AnyArray:
        """All slices as they lie in the volume, one behind the other: float32 [slices, rows, columns]."""
        planes = np.moveaxis(self.values, AXES[axis], 0)[:, ::-1, ::-1]
        return np.ascontiguousarray(planes.transpose(0, 2, 1))

    def spacing_of(self, axis: str) -> tuple[float, float, float]:
        """The distances between slices, rows and columns in mm."""
        across = AXES[axis]
        wide, high = (self.spacing[other] for other in range(3) if other != across)
        return self.spacing[across], high, wide


def sampled(values: AnyArray, least: int) -> AnyArray:
    """All of `values`, or, of more than twice `least`, every n-th with n that divides no row: [M]."""
    flat: AnyArray = values.reshape(-1)
    step = flat.size // least
    if step < 2:
        return flat
    while any(math.gcd(step, side) > 1 for side in values.shape):
        step -= 1
    return flat[::step]


def squared(plane: AnyArray, high: float, wide: float) -> AnyArray:
    """`plane` (float32 [H, W], pixels of `high` x `wide` mm) in square pixels of the finer spacing, bilinear."""
    from PIL import Image

    finer = min(high, wide)
    if max(high, wide) <= finer * _SAME_SPACING:
        return plane
    size = (max(round(plane.shape[1] * wide / finer), 1), max(round(plane.shape[0] * high / finer), 1))
    if max(high, wide) > finer * _MOST_STRETCH or size[0] * size[1] > MAX_PIXELS:
        return plane
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR))


def open_volume(path: Path) -> Volume:
    """The volume in the file at `path`, scaled by its slope and intercept, in the canonical frame.

    Raises UnreadableImageError for a damaged or empty volume, one of more than MAX_VOXELS or without a finite
    value; UnsupportedImageError for 4-D, RGB and complex images; MissingExtraError without nibabel;
    FileNotFoundError.
    """
    with path.open("rb") as stream:
        return _opened(stream, path.name)


def is_nifti(data: bytes) -> bool:
    """Whether `data` is a NIfTI file, or compressed by gzip, as no image is."""
    return data.startswith(_GZIP) or data[344:348] in _MAGICS[:2] or data[4:8] in _MAGICS[2:]


def why_no_slice(data: bytes) -> str:
    """Why the NIfTI file `data` gives no slices: what is read whole is what could not be taken apart."""
    try:
        _opened(io.BytesIO(data), "the volume")
    except UnreadableImageError as error:
        return str(error)
    except FeatprobeError as error:
        return error.wrong
    return "a volume without a slice to show: each that was asked for is of one grey level"


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError("NIfTI volumes", "nibabel", "nifti") from error
    # Its remarks on headers would stand between the lines of the console: featprobe makes its own.
    nibabel.imageglobals.logger.setLevel("CRITICAL")
    return nibabel


def _opened(source: BinaryIO, name: str) -> Volume:
    nibabel = _nibabel()
    try:
        # Odd headers make NumPy warn; what is wrong with them is found below.
        with np.errstate(all="ignore"), _unpacked(source) as stream:
            image = _image(stream)
            shape = _shape(image, name)
            raw = np.asanyarray(image.dataobj.get_unscaled()).reshape(shape)
            stream.read(_TAIL)  # at the end of the file, gzip compares its checksum
            ways, spacing, remarks = _frame(image)
            values, replaced = _scaled(raw, image.dataobj)
    except (FeatprobeError, UnreadableImageError, MemoryError):
        raise
    except Exception as error:
        raise UnreadableImageError(_why(error)) from error
    values = nibabel.orientations.apply_orientation(values, ways)
    if replaced:
        remarks.append("voxels without a finite value, which take the smallest one")
    return Volume(np.ascontiguousarray(values), spacing, tuple(remarks))


def _unpacked(source: BinaryIO) -> BinaryIO:
    """The file's bytes, unpacked where it is packed, whatever it is called."""
    packed = source.read(2) == _GZIP
    source.seek(0)
    return cast("BinaryIO", gzip.GzipFile(fileobj=source)) if packed else source


def _image(stream: BinaryIO) -> Any:
    nibabel = _nibabel()
    second = stream.read(8)[4:] in _MAGICS[2:]
    stream.seek(0)
    return (nibabel.Nifti2Image if second else nibabel.Nifti1Image).from_stream(stream)


def _why(error: Exception) -> str:
    """A reason that is equal in every run, without the addresses that nibabel's messages hold."""
    if isinstance(error, (EOFError, gzip.BadGzipFile, zlib.error)) or str(error).startswith("Expected"):
        return "the NIfTI file is truncated or damaged"
    return f"not a NIfTI volume that nibabel can read ({type(error).__name__})"


def _shape(image: Any, name: str) -> tuple[int, int, int]:
    """The volume's three sides, judged before a voxel is read."""
    sides = tuple(int(side) for side in image.shape)
    kind = image.get_data_dtype()
    if kind.kind not in "iuf":
        what = "complex numbers" if kind.kind == "c" else "colours"
        raise UnsupportedImageError.of(f"NIfTI volumes of {what}", name, "convert it to one number per voxel")
    while len(sides) > 3 and sides[-1] == 1:
        sides = sides[:-1]
    if len(sides) > 3:
        raise UnsupportedImageError(
            f"{name} holds several volumes: its shape is {' x '.join(str(side) for side in sides)}",
            "a volume has three dimensions",
            "split it into 3-D files and list them in a manifest with a column modality",
        )
    if len(sides) < 2 or min(sides) < 1:
        raise UnreadableImageError(f"a volume of {' x '.join(str(side) for side in sides)} voxels")
    if math.prod(sides) > MAX_VOXELS:
        raise UnreadableImageError(
            f"{' x '.join(str(side) for side in sides)} voxels, more than the limit of {MAX_VOXELS:,}"
        )
    return (sides[0], sides[1], sides[2] if len(sides) == 3 else 1)


def _scaled(raw: AnyArray, proxy: Any) -> tuple[AnyArray, int]:
    """(float32 values after slope and intercept, how many were not finite).

    Slice by slice in float64, so that the numbers are those of nibabel's `get_fdata` at an eighth of its memory.
    """
    slope, inter = float(proxy.slope), float(proxy.inter)
    values = np.empty(raw.shape, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for number in range(raw.shape[2]):
            values[..., number] = raw[..., number].astype(np.float64) * slope + inter
    return finite(values)


def _frame(image: Any) -> tuple[AnyArray, tuple[float, float, float], list[str]]:
    """(orientation for nibabel's `apply_orientation`, spacing along the canonical axes, remarks).

    Where the header gives no usable axes, the file's own order is taken for the canonical one; a spacing that is 0,
    negative or no number counts as 1.
    """
    nibabel = _nibabel()
    remarks = []
    header = image.header
    if int(header["qform_code"]) == 0 and int(header["sform_code"]) == 0:
        remarks.append("no stated orientation: nibabel's default is taken (left, anterior, superior)")
    affine = np.asarray(image.affine, dtype=np.float64)
    ways = np.full((3, 2), np.nan)
    if np.isfinite(affine).all():
        ways = nibabel.io_orientation(affine)
    if np.isnan(ways).any():
        remarks.append("an unusable orientation: the axes are taken for right, anterior, superior")
        ways = np.array([[0, 1], [1, 1], [2, 1]], dtype=np.float64)
        sides = np.ones(3)
        zooms = [float(zoom) for zoom in header.get_zooms()[:3]]
        sides[: len(zooms)] = zooms
    else:
        sides = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    good = _positive(sides)
    if not good.all() or not _states_spacing(image):
        remarks.append("a spacing that is no positive number: it counts as 1 mm")
    placed = np.empty(3)
    placed[ways[:, 0].astype(int)] = np.where(good, sides, 1.0)
    spacing = (float(placed[0]), float(placed[1]), float(placed[2]))
    return ways, spacing, remarks


def _states_spacing(image: Any) -> bool:
    """Whether the spacing, as the file has it, is positive. nibabel mends what is not, and only logs that."""
    if int(image.header["sform_code"]) > 0:  # then the spacing is the affine's
        return True
    with image.file_map["image"].get_prepare_fileobj("rb") as stream:
        header = type(image.header).from_fileobj(stream, check=False)
    return bool(_positive(header["pixdim"][1 : 1 + min(len(image.shape), 3)]).all())


def _positive(sides: AnyArray) -> AnyArray:
    return np.isfinite(sides) & (sides > 0)
