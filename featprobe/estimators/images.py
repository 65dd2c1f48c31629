"""What scikit-learn hands over, paths or pixels, as a data set that loading reads: one decoder for all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from featprobe.datasets.decoding import decode, encode_array, orientation_of, turned
from featprobe.errors import DataError
from featprobe.estimators.faults import EstimatorError
from featprobe.imaging import Raster
from featprobe.records import AnyArray, Samples

_KINDS = (
    "paths (str or Path), uint8 arrays [H, W] or [H, W, 3], one array [N, H, W] or [N, H, W, 3], PIL images"
)


@dataclass(frozen=True)
class GivenImages:
    """N images, each a path or uint8 pixels; reads and decodes like a data set."""

    items: tuple[Path | AnyArray, ...]

    @cached_property
    def samples(self) -> Samples:
        """N rows, named by their path, or by their number."""
        names = [
            str(item) if isinstance(item, Path) else f"image {row}" for row, item in enumerate(self.items)
        ]
        return Samples.build(
            path=names,
            id=[f"{row}: {name}" for row, name in enumerate(names)],
            label=[-1] * len(names),
            label_names=(),
        )

    def read(self, row: int) -> bytes:
        """The file's bytes, or the pixels as the decoder takes them. DataError where there is no such file."""
        item = self.items[row]
        if not isinstance(item, Path):
            return encode_array(item)
        try:
            return item.read_bytes()
        except FileNotFoundError:
            raise DataError(
                f"there is no image {item}",
                f"looked in {Path.cwd()}",
                "give paths that exist, or absolute ones",
            ) from None

    def decode(self, data: bytes) -> Raster:
        """See `featprobe.datasets.decoding.decode`."""
        return decode(data)

    def hashes(self) -> list[str]:
        """SHA-256 (hex) of what `read` gives, "" for an image that can't be read."""
        return [self._hash(row) for row in range(len(self.items))]

    def _hash(self, row: int) -> str:
        try:
            return hashlib.sha256(self.read(row)).hexdigest()
        except OSError:
            return ""


def images_of(X: Any) -> GivenImages:
    """The images in `X`; EstimatorError (a ValueError) for anything but `_KINDS`."""
    items = _items(X)
    if not len(items):
        raise EstimatorError("there is no image in X", f"X holds {_KINDS}", "give at least one")
    return GivenImages(tuple(_item(item, row) for row, item in enumerate(items)))


def _items(X: Any) -> Sequence[Any]:
    """One element for each image; a column of paths (from a ColumnTransformer) is one too."""
    if isinstance(X, (str, Path)) or not hasattr(X, "__len__"):
        raise EstimatorError(f"X is one {type(X).__name__}", f"X holds {_KINDS}", "give a list of images")
    if hasattr(X, "to_numpy"):
        X = X.to_numpy()
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "OUT" and X.shape[1] == 1:
        X = X[:, 0]
    if isinstance(X, np.ndarray) and X.dtype.kind not in "OUT" and X.ndim not in {3, 4}:
        raise EstimatorError(
            f"X is an array {X.shape} of {X.dtype}",
            f"X holds {_KINDS}; flattened images have lost their sides",
            "give X.reshape(N, H, W)",
        )
    return X  # type: ignore[no-any-return]  # an array, a list or a tuple


def _item(item: Any, row: int) -> Path | AnyArray:
    from PIL import Image

    if isinstance(item, (str, Path)):
        return Path(item).expanduser()
    if isinstance(item, Image.Image):
        return _pixels(item, row)
    array = np.asarray(item)
    sides = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not sides or not array.size:
        raise EstimatorError(
            f"image {row} is {type(item).__name__} {array.shape} of {array.dtype}",
            f"X holds {_KINDS}",
            "bring grey levels to 8 bits, or give the files' paths: deeper files are scaled as in extract",
        )
    return np.ascontiguousarray(array)


def _pixels(image: Any, row: int) -> AnyArray:
    """A PIL image as the decoder would read its file: turned upright, grey or RGB."""
    if image.mode.startswith(("I", "F")):
        raise EstimatorError(
            f"image {row} has the PIL mode {image.mode!r}, more than 8 bits",
            f"X holds {_KINDS}",
            "give the file's path: deeper files are scaled as in extract",
        )
    plain = image.convert("L" if image.mode in {"1", "L", "LA", "La"} else "RGB")
    return turned(np.asarray(plain), orientation_of(image))
