"""A decoded image or volume with the numbers it came with: 8 bits come later, by a rule that the user can see."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from featprobe.errors import ConfigError
from featprobe.imaging.intensity import AUTO, Intensity

if TYPE_CHECKING:
    from PIL.Image import Image

    from featprobe.records import AnyArray

MAX_PIXELS: Final = 178_956_970
"""Pixels of one image at most: twice Pillow's warning level. More is taken for a decompression bomb."""

_MAGIC: Final = b"featprobe raster "


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Grey levels of a volume, so that it and all its slices are scaled alike.

    `quantiles`: float64 [1001], the values at 0, 0.1, ..., 100 %. `mean`, `std`: over all voxels; `mean_nonzero`,
    `std_nonzero`: over those that are not 0 (as the former where there are none).
    """

    quantiles: npt.NDArray[np.float64]
    mean: float
    std: float
    mean_nonzero: float
    std_nonzero: float

    @classmethod
    def of(cls, values: AnyArray) -> Reference:
        """The reference of finite `values` of any shape."""
        flat = np.asarray(values, dtype=np.float64).reshape(-1)
        inside = flat[flat != 0]
        inside = inside if len(inside) else flat
        return cls(
            np.percentile(flat, np.linspace(0, 100, 1001)),
            float(flat.mean()),
            float(flat.std()),
            float(inside.mean()),
            float(inside.std()),
        )

    def percentile(self, share: float) -> float:
        """The value at `share` per cent, linear between the stored ones."""
        return float(np.interp(share, np.linspace(0, 100, 1001), self.quantiles))


@dataclass(frozen=True, slots=True, eq=False)
class Raster:
    """One decoded image, or one volume.

    `values`: [H, W] grey, [H, W, 3] colour or, where there is a `spacing`, [Z, Y, X], a volume; any real dtype,
    finite; for DICOM after the modality LUT (such as Hounsfield units). `shown`: uint8, of the same sides (and
    colours): the file's own presentation (window, VOI LUT, palette, inversion) where it has one; the rule "auto"
    takes it as it is. `inverted`: small values are to be shown bright (MONOCHROME1); every rule but "auto" turns
    its result around. `reference`: of a volume, or of that which a slice is part of. `format`: what the file is,
    such as "PNG", "DICOM". `spacing`: of a volume, the distance between its voxels along [Z, Y, X] in mm, 1 each
    where the file does not tell; None for an image.
    """

    values: AnyArray
    format: str
    shown: npt.NDArray[np.uint8] | None = None
    inverted: bool = False
    reference: Reference | None = None
    spacing: tuple[float, float, float] | None = None

    @property
    def is_volume(self) -> bool:
        """Whether `values` are [Z, Y, X]."""
        return self.spacing is not None

    @property
    def height(self) -> int:
        """In pixels; of a volume, of its slices along the first axis."""
        return int(self.values.shape[1 if self.is_volume else 0])

    @property
    def width(self) -> int:
        """In pixels; of a volume, of its slices along the first axis."""
        return int(self.values.shape[2 if self.is_volume else 1])

    def middle(self) -> Raster:
        """An image as it is; of a volume the middle slice along the first axis, where a picture is needed."""
        if not self.is_volume:
            return self
        at = len(self.values) // 2
        shown = None if self.shown is None else self.shown[at]
        return dataclasses.replace(self, values=self.values[at], shown=shown, spacing=None)

    def rgb(self, intensity: Intensity = AUTO) -> Image:
        """The image in 8 bits, mode "RGB": each window of the rule is a channel, one is repeated.

        "auto": the file's own presentation; else 8-bit values as they are; else the 0.5th to 99.5th
        percentile (of the volume, for a slice). ConfigError for a volume: see `middle` and `levels`.
        """
        from PIL import Image

        if self.is_volume:
            raise ConfigError(
                f"a volume of {' x '.join(str(side) for side in self.values.shape)} voxels is no image",
                "--slices volume makes one row of a volume, and 2-D backbones take images",
                "type --slices all, or use a 3-D backbone such as medicalnet_resnet10",
            )
        levels = self._presented() if intensity.kind == "auto" else self._scaled(intensity)
        pixels = np.repeat(levels[:, :, None], 3, axis=2) if levels.ndim == 2 else levels
        return Image.fromarray(np.ascontiguousarray(pixels))

    def levels(self, intensity: Intensity = AUTO) -> npt.NDArray[np.uint8]:
        """The volume in 8 bits, uint8 [Z, Y, X], each slice as `rgb` gives it.

        ConfigError for an image, and for three windows: a volume has one channel.
        """
        if not self.is_volume:
            raise ConfigError(
                f"an image of {self.width} x {self.height} pixels is no volume",
                "a 3-D backbone takes NIfTI volumes and DICOM and TIFF files of several frames or pages",
                "type --slices volume for those, or use a 2-D backbone",
            )
        if len(intensity.numbers) > 1:
            raise ConfigError(
                f"--intensity {intensity.text} makes three channels",
                "a volume has one",
                "type one window, such as --intensity window:40:400",
            )
        levels = self._presented() if intensity.kind == "auto" else self._scaled(intensity)
        return np.ascontiguousarray(levels)

    def _presented(self) -> npt.NDArray[np.uint8]:
        if self.shown is not None:
            return self.shown
        if self.values.dtype == np.uint8:
            levels: npt.NDArray[np.uint8] = self.values
            return 255 - levels if self.inverted else levels
        return self._scaled(Intensity("percentile", ((0.5, 99.5),)))

    def _scaled(self, intensity: Intensity) -> npt.NDArray[np.uint8]:
        """uint8 [H, W], [H, W, 3] or [Z, Y, X]: linear between the rule's bounds, rounded to the nearest level."""
        if self.is_volume and self.reference is not None:
            # Slice by slice: in float64, a volume at the limit would take 8 GB.
            ((low, high),) = intensity.bounds(self.values, self.reference)
            levels = np.stack(
                [_levels(np.asarray(plane, dtype=np.float64), low, high) for plane in self.values]
            )
            return 255 - levels if self.inverted else levels
        values = np.asarray(self.values, dtype=np.float64)
        bounds = intensity.bounds(values, self.reference)
        channels = [_levels(values, low, high) for low, high in bounds]
        if len(channels) == 1:
            levels = channels[0]
        elif values.ndim == 2:
            levels = np.stack(channels, axis=2)
        else:  # a colour image under three windows: the n-th window on the n-th colour
            levels = np.stack([channel[:, :, c] for c, channel in enumerate(channels)], axis=2)
        return 255 - levels if self.inverted else levels


def _levels(values: AnyArray, low: float, high: float) -> npt.NDArray[np.uint8]:
    if not high > low:  # nothing varies: everything above is white, everything else black
        return np.where(values > high, 255, 0).astype(np.uint8)
    share = np.clip((values - low) / (high - low), 0, 1)
    return np.floor(share * 255 + 0.5).astype(np.uint8)


def is_raster(data: bytes) -> bool:
    """Whether `data` was made by `encode_raster`."""
    return data.startswith(_MAGIC)


def encode_raster(raster: Raster) -> bytes:
    """The raster as bytes, equal for equal rasters: JSON in a line, then the arrays, little-endian."""
    arrays = {"values": raster.values, "shown": raster.shown}
    if raster.reference is not None:
        arrays["quantiles"] = raster.reference.quantiles
    # In the order in which the JSON names them.
    present = {name: _little(array) for name, array in sorted(arrays.items()) if array is not None}
    about: dict[str, Any] = {
        "format": raster.format,
        "inverted": raster.inverted,
        "arrays": {name: [array.dtype.str, list(array.shape)] for name, array in present.items()},
    }
    if raster.spacing is not None:
        about["spacing"] = list(raster.spacing)
    if raster.reference is not None:
        about["reference"] = {
            f.name: getattr(raster.reference, f.name)
            for f in dataclasses.fields(Reference)
            if f.name != "quantiles"
        }
    header = json.dumps(about, sort_keys=True, separators=(",", ":")).encode()
    return b"".join([_MAGIC, header, b"\n", *(array.tobytes() for array in present.values())])


def decode_raster(data: bytes) -> Raster:
    """The inverse of `encode_raster`."""
    header, _, rest = data[len(_MAGIC) :].partition(b"\n")
    about = json.loads(header)
    arrays: dict[str, Any] = {}
    start = 0
    for name, (kind, shape) in about["arrays"].items():
        dtype = np.dtype(kind)
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(rest, dtype=dtype, count=count, offset=start).reshape(shape)
        start += count * dtype.itemsize
    reference = Reference(arrays["quantiles"], **about["reference"]) if "reference" in about else None
    return Raster(
        values=arrays["values"],
        format=about["format"],
        shown=arrays.get("shown"),
        inverted=about["inverted"],
        reference=reference,
        spacing=tuple(about["spacing"]) if "spacing" in about else None,
    )


def _little(array: AnyArray) -> AnyArray:
    kind = array.dtype.newbyteorder("<")
    return np.ascontiguousarray(array, dtype=kind)
