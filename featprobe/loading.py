"""From a data set's rows to batches of pixels: one decode serves every preprocessing, whatever the workers do.

Workers send 8-bit pixels, a quarter of the bytes of floats, through pipes, which need no shared memory; the
division by 255 and the normalisation follow in the receiving process. Both ways give the same floats.
"""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from featprobe.errors import ConfigError, DataError, FeatprobeError, nearest
from featprobe.imaging import AUTO, THUMBNAIL_SIDE, Print, Raster, parse_intensity, print_of
from featprobe.records import FITS, IntArray, Preprocessing, Samples, TextArray, texts

LOADING_NUMERICS: Final = 2
"""Part of every recipe; raised when a decoded image gives another input under the same preprocessing."""

_PR_SET_PDEATHSIG: Final = 1  # prctl(2): the signal that a process gets when its parent dies
_INTERPOLATIONS: Final = {mode.value: mode for mode in InterpolationMode if mode.value != "nearest-exact"}


class ImageSource(Protocol):
    """What loading needs of a data set."""

    @property
    def samples(self) -> Samples:
        """N rows."""

    def read(self, row: int) -> bytes:
        """The image's bytes, or OSError."""

    def decode(self, data: bytes) -> Raster:
        """The decoded image, or OSError, or DataError where the data set must not be used."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some rows of a data set as a backbone's input.

    `rows`: int64 [B], the rows whose image could be read. `images`: one float32 tensor [B, 3, H, W] per
    preprocessing, in their order (equal preprocessings share one tensor: do not write into it).
    `pixel_sha256`, `phash` [B], `thumbnail` uint8 [B, T]: see `featprobe.imaging.Print`.
    `quarantined`: (row, reason) of the others.
    """

    rows: IntArray
    images: tuple[torch.Tensor, ...]
    pixel_sha256: TextArray
    phash: TextArray
    thumbnail: npt.NDArray[np.uint8]
    quarantined: tuple[tuple[int, str], ...]


def batches(
    dataset: ImageSource,
    rows: IntArray,
    preprocessings: Sequence[Preprocessing],
    *,
    batch_size: int,
    workers: int,
) -> Iterator[Batch]:
    """Batch i covers `rows[i * batch_size : (i + 1) * batch_size]`, in that order.

    `workers`: processes that read and decode, 0 for none. It changes no value. Images that can't be read
    leave their batch, which may then be empty, and are listed in it. Raises DataError for a file that has gone
    or that must not be used, ConfigError for a preprocessing that can't be done.
    """
    if batch_size < 1:
        raise ConfigError(f"the batch size is {batch_size}", "it must be at least 1", "type --batch-size 32")
    unique = list(dict.fromkeys(preprocessings))
    for rule in unique:
        _interpolation(rule)
        parse_intensity(rule.intensity)
    order = [unique.index(rule) for rule in preprocessings]
    starts = range(0, len(rows), batch_size)
    source = _Parts(dataset, [rows[start : start + batch_size] for start in starts], unique)
    parts = iter(map(source.load, range(len(source)))) if workers < 1 else _in_workers(source, workers)
    for part in parts:
        normalised = [
            normalise(torch.from_numpy(pixels), rule)
            for pixels, rule in zip(part.pixels, unique, strict=True)
        ]
        yield Batch(
            rows=np.asarray(part.rows, dtype=np.int64),
            images=tuple(normalised[index] for index in order),
            pixel_sha256=texts([found.pixel_sha256 for found in part.prints]),
            phash=texts([found.phash for found in part.prints]),
            thumbnail=np.array([found.thumbnail for found in part.prints], dtype=np.uint8).reshape(
                len(part.prints), THUMBNAIL_SIDE**2
            ),
            quarantined=tuple(part.quarantined),
        )


@dataclass(slots=True, eq=False)
class _Part:
    """A batch on its way from a worker; `pixels`: one uint8 [B, 3, H, W] per unique preprocessing."""

    rows: list[int]
    pixels: list[npt.NDArray[np.uint8]]
    prints: list[Print]
    quarantined: list[tuple[int, str]]


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """The batches to load, as torch's DataLoader wants them. Errors are returned: raised, they lose their words."""

    dataset: ImageSource
    chunks: list[IntArray]
    rules: list[Preprocessing]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> _Part | FeatprobeError:
        try:
            return self.load(index)
        except FeatprobeError as error:
            return error

    def load(self, index: int) -> _Part:
        part = _Part([], [], [], [])
        inputs: list[list[npt.NDArray[np.uint8]]] = [[] for _ in self.rules]
        for row in self.chunks[index].tolist():
            try:
                raster = self._raster(row)
            except OSError as error:
                part.quarantined.append((row, error.strerror or str(error)))
                continue
            presented = raster.rgb(AUTO)
            images = {AUTO.text: presented}
            for found, rule in zip(inputs, self.rules, strict=True):
                if rule.intensity not in images:
                    images[rule.intensity] = raster.rgb(parse_intensity(rule.intensity))
                found.append(_pixels(_fit(images[rule.intensity], rule)))
            part.rows.append(row)
            part.prints.append(print_of(presented))
        for found, rule in zip(inputs, self.rules, strict=True):
            height, width = rule.image_size
            part.pixels.append(np.stack(found) if found else np.empty((0, 3, height, width), dtype=np.uint8))
        return part

    def _raster(self, row: int) -> Raster:
        data = self.dataset.read(row)
        try:
            return self.dataset.decode(data)
        except DataError as error:
            error.wrong = f"{self.dataset.samples.path[row]}: {error.wrong}"
            raise


def _in_workers(source: _Parts, workers: int) -> Iterator[_Part]:
    # Forked workers share the data set's memory; elsewhere the platform's own way is the safe one.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    with warnings.catch_warnings():
        # torch warns of more workers than cores, Python of forking beside threads: workers use no other thread.
        warnings.simplefilter("ignore")
        loader: Any = DataLoader(
            source,  # type: ignore[arg-type]  # a sequence of batches; DataLoader needs no more
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=min(workers, max(len(source), 1)),
            multiprocessing_context=context,
            worker_init_fn=functools.partial(_start_worker, parent=os.getpid()),
        )
        iterator: Any = iter(loader)
    try:
        for part in iterator:
            if isinstance(part, FeatprobeError):
                raise part
            yield part
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            "a process that loads images has died",
            "most likely the machine ran out of memory",
            "type --workers 0, or a smaller --batch-size",
        ) from error
    finally:
        iterator._shutdown_workers()  # noqa: SLF001 - leaving it to the garbage collector lets workers linger


def _as_it_is(part: Any) -> Any:
    return part


def _start_worker(_: int, *, parent: int) -> None:
    if sys.platform == "linux":
        # A forked worker shares the parent's open files, and with them its lock on the cache: after the parent
        # is killed the lock must not live on in a worker that has yet to notice.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers


def preprocess(image: Image.Image, rule: Preprocessing) -> torch.Tensor:
    """An 8-bit RGB image as a backbone's input: float32 [3, H, W]."""
    return normalise(torch.from_numpy(_pixels(_fit(image, rule))), rule)


def normalise(pixels: torch.Tensor, rule: Preprocessing) -> torch.Tensor:
    """uint8 [..., 3, H, W] to float32 of the same shape: (pixels / 255 - mean) / std per channel."""
    mean = torch.tensor(rule.mean, dtype=torch.float32)[:, None, None]
    std = torch.tensor(rule.std, dtype=torch.float32)[:, None, None]
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)


def augment(
    image: Image.Image, rule: Preprocessing, generator: torch.Generator, *, flip: bool
) -> torch.Tensor:
    """A random view of an 8-bit RGB image for fine-tuning: float32 [3, H, W]; equal for equal generator states.

    A crop of 75 to 100 % of the area with an aspect of 3/4 to 4/3 is scaled to `rule.image_size` (under "pad"
    and "squash", a crop of the padded or squashed image), mirrored with probability 0.5 where `flip`,
    then brightness and contrast are each scaled by 0.9 to 1.1.
    """
    view = image if rule.fit == "crop" else _fit(image, rule)
    top, left, height, width = _random_crop(view, generator)
    view = transforms.resized_crop(
        view, top, left, height, width, list(rule.image_size), _interpolation(rule)
    )
    mirror, brightness, contrast = _uniform(generator, (0, 1), (0.9, 1.1), (0.9, 1.1))
    if flip and mirror < 0.5:
        view = transforms.hflip(view)
    view = transforms.adjust_contrast(transforms.adjust_brightness(view, brightness), contrast)
    return normalise(torch.from_numpy(_pixels(view)), rule)


def _random_crop(image: Image.Image, generator: torch.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width): ten tries at a random crop that fits, then the whole image."""
    for _ in range(10):
        share, log_ratio, down, right = _uniform(
            generator, (0.75, 1), (-np.log(4 / 3), np.log(4 / 3)), (0, 1), (0, 1)
        )
        area, ratio = share * image.width * image.height, float(np.exp(log_ratio))
        height, width = max(round((area / ratio) ** 0.5), 1), max(round((area * ratio) ** 0.5), 1)
        if height <= image.height and width <= image.width:
            return round(down * (image.height - height)), round(right * (image.width - width)), height, width
    return 0, 0, image.height, image.width


def _uniform(generator: torch.Generator, *ranges: tuple[float, float]) -> list[float]:
    draws = torch.rand(len(ranges), generator=generator, dtype=torch.float64).tolist()
    return [low + draw * (high - low) for draw, (low, high) in zip(draws, ranges, strict=True)]


def _fit(image: Image.Image, rule: Preprocessing) -> Image.Image:
    """`image` at `rule.image_size`, still 8-bit RGB."""
    how = _interpolation(rule)
    height, width = rule.image_size
    resized: Image.Image
    if rule.fit == "squash":
        resized = transforms.resize(image, [height, width], how)
        return resized
    if rule.fit == "crop":
        resized = transforms.resize(image, [rule.resize], how)
        cropped: Image.Image = transforms.center_crop(resized, [height, width])
        return cropped
    scale = min(height / image.height, width / image.width)
    inner = (
        min(max(round(image.height * scale), 1), height),
        min(max(round(image.width * scale), 1), width),
    )
    canvas = Image.new("RGB", (width, height), (rule.pad_value,) * 3)
    canvas.paste(
        transforms.resize(image, list(inner), how), ((width - inner[1]) // 2, (height - inner[0]) // 2)
    )
    return canvas


def _interpolation(rule: Preprocessing) -> InterpolationMode:
    """What torchvision calls the interpolation. ConfigError for a preprocessing that can't be done on 8-bit images."""
    if rule.interpolation not in _INTERPOLATIONS:
        hint = nearest(rule.interpolation, _INTERPOLATIONS) or f"known: {', '.join(sorted(_INTERPOLATIONS))}"
        raise ConfigError(f"unknown interpolation {rule.interpolation!r}", hint, "use one of these")
    if rule.fit not in FITS or (rule.fit == "crop" and rule.resize is None):
        raise ConfigError(
            f"unknown fit {rule.fit!r}"
            if rule.fit not in FITS
            else "the fit 'crop' has no size to resize to",
            f"fits are {', '.join(FITS)}",
            "type --fit crop",
        )
    if not rule.antialias:
        raise ConfigError(
            "a preprocessing without antialiasing can't be done",
            "images are resized by Pillow, which always antialiases",
            "use antialias = true",
        )
    return _INTERPOLATIONS[rule.interpolation]


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """uint8 [3, H, W], contiguous."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
