"""Opened volumes and stacks, kept for the rows to come: neighbouring rows are slices of one file.

Memory per process and kind: two opened files, whatever their size (a volume takes 4 bytes per voxel, at most 4 GB;
while it is opened, the file's own numbers besides), and more of them while all take at most KEPT_BYTES together.
Several threads may ask at once: each file is opened by one of them, and the others wait for it.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import numpy as np

from featprobe.datasets.decoding import UnreadableImageError, decode_pages, guarded
from featprobe.datasets.formats import dicom, nifti, tiff
from featprobe.imaging import Raster, Reference

KEPT_BYTES: Final = 2**28
KEPT_FILES: Final = 2

T = TypeVar("T")
_Key = tuple[str, int, int]


class Opened(Generic[T]):
    """What `load` makes of files, the last ones kept; `size`: its bytes. A file that changes is opened anew."""

    def __init__(self, load: Callable[[Path], T], size: Callable[[T], int]) -> None:
        self._load, self._size = load, size
        self.forget()
        # A forked child must neither wait for its parent's threads nor find a lock that one of them holds.
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Drop everything."""
        self._lock = threading.Lock()
        self._kept: dict[_Key, Future[T]] = {}

    def get(self, path: Path) -> T:
        """What the file at `path` holds. Raises what `load` raises, and FileNotFoundError."""
        about = path.stat()
        key = (str(path), about.st_mtime_ns, about.st_size)
        with self._lock:
            known = self._kept.pop(key, None)
            future: Future[T] = Future() if known is None else known
            self._kept[key] = future  # the last one used is the last one dropped
        if known is None:
            self._fill(key, path, future)
        return future.result()

    def _fill(self, key: _Key, path: Path, future: Future[T]) -> None:
        try:
            future.set_result(self._load(path))
        except BaseException as error:  # noqa: BLE001 - whoever waits for it must hear of it, too
            with self._lock:
                self._kept.pop(key, None)
            future.set_exception(error)
            return
        with self._lock:
            ready = [key for key, other in self._kept.items() if other.done()]
            sizes = {key: self._size(self._kept[key].result()) for key in ready}
            while len(ready) > KEPT_FILES and sum(sizes[key] for key in ready) > KEPT_BYTES:
                self._kept.pop(ready.pop(0))


@dataclass(frozen=True, slots=True, eq=False)
class OpenedVolume:
    """A NIfTI volume and the grey levels that all its slices are scaled by."""

    volume: nifti.Volume
    reference: Reference

    def slice(self, axis: str, number: int) -> Raster:
        """Slice `number` of the view `axis`, with the grey levels of the volume."""
        return Raster(self.volume.slice(axis, number), "NIfTI", reference=self.reference)

    def whole(self, axis: str) -> Raster:
        """The volume, its first axis across the slices of the view `axis`."""
        return Raster(
            self.volume.stacked(axis),
            "NIfTI",
            reference=self.reference,
            spacing=self.volume.spacing_of(axis),
        )


@dataclass(frozen=True, slots=True, eq=False)
class OpenedStack:
    """The pages of a TIFF file, by number; an error stands for a damaged one."""

    pages: dict[int, Raster | UnreadableImageError]
    reference: Reference | None

    def page(self, number: int) -> Raster:
        """The page, with the grey levels of the stack. UnreadableImageError where it is damaged."""
        page = self.pages.get(number, UnreadableImageError(f"the file has no page {number} any more"))
        if isinstance(page, UnreadableImageError):
            raise UnreadableImageError(str(page))
        return dataclasses.replace(page, reference=self.reference)

    def whole(self) -> Raster:
        """The volume of all pages, in their order. UnreadableImageError where they make none."""
        return _stacked([self.page(number) for number in self.pages], "pages")


@dataclass(frozen=True, slots=True, eq=False)
class OpenedFrames:
    """The frames of a DICOM file, decoded one at a time, and the grey levels of all."""

    frames: dicom.Frames
    reference: Reference | None
    lock: threading.Lock  # pydicom's decoders are not known to be safe for several threads

    def frame(self, number: int) -> Raster:
        """The frame, with the grey levels of all. UnreadableImageError where it is damaged."""
        if number >= len(self.frames):
            raise UnreadableImageError(f"the file has no frame {number} any more")
        with self.lock:
            return dataclasses.replace(self.frames[number], reference=self.reference)

    def whole(self) -> Raster:
        """The volume of all frames, in their order. UnreadableImageError where they make none."""
        return _stacked([self.frame(number) for number in range(len(self.frames))], "frames")


def _stacked(images: list[Raster], what: str) -> Raster:
    """The volume of some images, which must be grey, of one size and presented in one way, and vary."""
    first = images[0]
    if any(image.values.ndim != 2 for image in images):
        raise UnreadableImageError(f"its {what} are coloured: a volume is grey")
    ways = {(image.values.shape, image.values.dtype, image.inverted, image.shown is None) for image in images}
    if len(ways) > 1 or any(image.shown is not None and image.shown.ndim != 2 for image in images):
        raise UnreadableImageError(f"its {what} are of several sizes or kinds: no volume")
    values = np.stack([image.values for image in images])
    if values.min() == values.max():
        raise UnreadableImageError("a volume of one grey level")
    shown = [image.shown for image in images if image.shown is not None]
    return dataclasses.replace(
        first, values=values, shown=np.stack(shown) if shown else None, spacing=(1.0, 1.0, 1.0)
    )


def _common(images: Iterable[Raster | UnreadableImageError], count: int) -> Reference | None:
    """The grey levels of `count` images together; None where they are of several kinds, or all damaged."""
    each = max(nifti.REFERENCE_VOXELS // count, 1)
    some, kinds = [], set()
    for image in images:
        if isinstance(image, Raster):
            some.append(nifti.sampled(image.values, each))
            kinds.add((image.values.dtype, image.values.ndim))
    return Reference.of(np.concatenate(some)) if len(kinds) == 1 else None


def _open_volume(path: Path) -> OpenedVolume:
    volume = nifti.open_volume(path)
    return OpenedVolume(volume, volume.reference())


def _open_stack(path: Path) -> OpenedStack:
    data = path.read_bytes()
    numbers = guarded(lambda: tiff.pages(path))
    pages: dict[int, Raster | UnreadableImageError] = {}
    total = 0
    for number, page in zip(numbers, decode_pages(data, numbers), strict=True):
        total += page.values.size if isinstance(page, Raster) else 0
        if total > nifti.MAX_VOXELS:
            raise UnreadableImageError(f"a stack of more than {nifti.MAX_VOXELS:,} numbers")
        pages[number] = page
    return OpenedStack(pages, _common(pages.values(), max(len(pages), 1)))


def _open_frames(path: Path) -> OpenedFrames:
    frames = dicom.open_frames(path)

    def each() -> Iterator[Raster | UnreadableImageError]:
        for number in range(len(frames)):
            try:
                yield frames[number]
            except UnreadableImageError as error:
                yield error

    return OpenedFrames(frames, _common(each(), max(len(frames), 1)), threading.Lock())


def _stack_size(stack: OpenedStack) -> int:
    return sum(page.values.nbytes for page in stack.pages.values() if isinstance(page, Raster))


VOLUMES: Final = Opened(_open_volume, lambda opened: opened.volume.values.nbytes)
STACKS: Final = Opened(_open_stack, _stack_size)
FRAMES: Final = Opened(_open_frames, lambda _: KEPT_BYTES)
