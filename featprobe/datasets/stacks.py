"""Files that hold several images: NIfTI volumes, TIFF files of several pages, DICOM files of several frames.

Every slice, page or frame becomes a row of its own; its number counts from 0. Slices of a volume of N that are to
be taken (`--slices`):

    all                  each
    every:K              each K-th, from the middle one of the first K (of all N where there are fewer)
    central:N            the N in the middle; all of a volume that has fewer
    foreground[:SHARE]   those of which at least SHARE (5 % where none is given) lies above Otsu's threshold for the
                         whole volume (256 bins between its 0.1th and 99.9th percentile)

Then those of one grey level are left out. These rules are for volumes (NIfTI): pages and frames are all taken.

    volume               none: each NIfTI volume, each DICOM file of several frames and each TIFF file of several pages
                         is one row, for 3-D backbones

A volume's first axis is the one across its slices (`--axis`), and each slice lies as it is shown alone. Frames and
pages are taken in the file's order and their spacing, which featprobe does not read, counts as 1 mm in each direction;
they must be grey and of one size and kind.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from featprobe.datasets.decoding import IMAGE_SUFFIXES
from featprobe.errors import ConfigError, nearest
from featprobe.imaging import encode_raster

if TYPE_CHECKING:
    from featprobe.records import AnyArray, IntArray

AXES: Final = ("axial", "coronal", "sagittal")
NIFTI_SUFFIXES: Final = (".nii", ".nii.gz")
DICOM_SUFFIXES: Final = (".dcm", ".dicom")
TIFF_SUFFIXES: Final = (".tif", ".tiff")
FOREGROUND_SHARE: Final = 0.05

_LETTER: Final = {"axial": "z", "coronal": "y", "sagittal": "x"}
VOLUME: Final = "volume"

_RULES: Final = ("all", "every", "central", "foreground", VOLUME)
_GRAMMAR: Final = "known: all, every:K, central:N, foreground, foreground:SHARE or volume"
_UNSURE_SUFFIX: Final = re.compile(r"(\.[0-9]+|\.ima|)", re.IGNORECASE)
"""Suffixes under which DICOM files lie: none, a number (the end of a UID), and what one maker's scanners write."""


@dataclass(frozen=True, slots=True)
class SliceRule:
    """How a volume becomes images. ConfigError for an unknown view or rule.

    `axis`: the view, one of AXES, in the frame of `formats.nifti`. `which`: see the module.
    """

    axis: str = "axial"
    which: str = "all"

    def __post_init__(self) -> None:
        if self.axis not in AXES:
            hint = nearest(self.axis, AXES) or f"known: {', '.join(AXES)}"
            raise ConfigError(f"{self.axis!r} is no view of a volume", hint, "type: --axis axial")
        parse_slices(self.which)

    @property
    def whole(self) -> bool:
        """Whether a volume is one row."""
        return parse_slices(self.which)[0] == VOLUME


@dataclass(frozen=True, slots=True, eq=False)
class Expansion:
    """The M rows that F files become.

    `file`: int64 [M], index of the row's file, ascending. `part`: int64 [M], -1 where the file is one image and is
    read as its bytes; else the number of the slice, frame or page, 0 for a whole volume. `suffix` [M]: "", "#z017", "#frame003",
    "#page002": what the row's id and path end in. `patient`, `study` and `modality` [F]: of DICOM files, "" for
    others; the first two never leave this room.
    """

    file: IntArray
    part: IntArray
    suffix: list[str]
    patient: list[str]
    study: list[str]
    modality: list[str]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What one file is. `parts`: its images; () for one that is read whole. `remarks`: see `formats.nifti`."""

    parts: tuple[int, ...] = ()
    letter: str = ""
    patient: str = ""
    study: str = ""
    modality: str = ""
    remarks: tuple[str, ...] = ()
    slices: int = 0
    chosen: int = 0


def parse_slices(text: str) -> tuple[str, float]:
    """(kind, number) of a rule for slices; the number of "all" and "volume" is 0. ConfigError for another grammar."""
    kind, sign, tail = text.strip().lower().partition(":")
    if kind not in _RULES:
        raise _bad(text, nearest(kind, _RULES))
    if not sign:
        if kind in {"every", "central"}:
            raise _bad(text, f"{kind} takes a number")
        return kind, FOREGROUND_SHARE if kind == "foreground" else 0.0
    try:
        number = float(tail)
    except ValueError:
        raise _bad(text, f"{tail!r} is no number") from None
    if kind in {"all", VOLUME}:
        raise _bad(text, f"{kind} takes no number")
    if kind == "foreground" and not 0 < number <= 1:
        raise _bad(text, "a share lies above 0 and is at most 1")
    if kind != "foreground" and not (number >= 1 and number.is_integer()):
        raise _bad(text, f"{kind} takes a whole number from 1")
    return kind, number


def _bad(text: str, why: str) -> ConfigError:
    known = f"{why}; {_GRAMMAR}" if why else _GRAMMAR
    return ConfigError(f"{text!r} is no rule for slices", known, "type: --slices every:3")


def is_stack_candidate(path: str) -> bool:
    """Whether the file at `path` may hold several images: by its suffix, or, without a telling one, its first bytes."""
    lower = path.lower()
    if lower.endswith((*NIFTI_SUFFIXES, *DICOM_SUFFIXES, *TIFF_SUFFIXES)):
        return True
    if _suffix(lower) in IMAGE_SUFFIXES or not _UNSURE_SUFFIX.fullmatch(_suffix(lower)):
        return False
    try:
        with Path(path).open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def expand(root: Path, paths: Sequence[str], rule: SliceRule) -> Expansion:
    """The rows that the files `paths` (relative to `root`, or absolute) become, in their order.

    Of DICOM files the header is read, of TIFF files the list of pages, of volumes all voxels. A damaged file is one
    row with part -1: it is quarantined when it is read. UnsupportedImageError, naming the file, for volumes that
    featprobe can't take apart.
    """
    volumes = any(path.lower().endswith(NIFTI_SUFFIXES) for path in paths)
    with ThreadPoolExecutor(2 if volumes else 8) as pool:  # each holds a whole volume
        facts = list(pool.map(lambda path: _survey(root / path, rule), paths))
    file, part, suffix = [], [], []
    for index, fact in enumerate(facts):
        for number in fact.parts or (-1,):
            file.append(index)
            part.append(number)
            suffix.append(f"#{fact.letter}{number:03d}" if fact.letter and number >= 0 else "")
    return Expansion(
        np.asarray(file, dtype=np.int64),
        np.asarray(part, dtype=np.int64),
        suffix,
        [fact.patient for fact in facts],
        [fact.study for fact in facts],
        [fact.modality for fact in facts],
        tuple(_notes(facts, rule)),
    )


def read_part(path: Path, part: int, rule: SliceRule) -> bytes:
    """Image `part` of the file, or its volume, as `encode_raster` writes it; the file's own bytes for -1.

    Opened volumes are kept for the rows to come (see `formats.opened`). UnreadableImageError where the file has
    become damaged, FileNotFoundError where it has gone.
    """
    from featprobe.datasets.formats import opened

    if part < 0:
        return path.read_bytes()
    lower = path.name.lower()
    if lower.endswith(NIFTI_SUFFIXES):
        volume = opened.VOLUMES.get(path)
        return encode_raster(volume.whole(rule.axis) if rule.whole else volume.slice(rule.axis, part))
    if lower.endswith(TIFF_SUFFIXES):
        stack = opened.STACKS.get(path)
        return encode_raster(stack.whole() if rule.whole and len(stack.pages) > 1 else stack.page(part))
    frames = opened.FRAMES.get(path)
    return encode_raster(frames.whole() if rule.whole else frames.frame(part))


def slices_of(values: AnyArray, axis: int, which: str) -> tuple[list[int], int]:
    """(the slices of a volume that `which` takes and that vary, how many it took): `values` any dtype [X, Y, Z].

    ConfigError for "volume", which takes no slices.
    """
    kind, number = parse_slices(which)
    if kind == VOLUME:
        raise ConfigError(
            "--slices volume can't be used with this data set",
            "it takes the volumes of NIfTI, DICOM and TIFF files",
            "type --slices all, every:K, central:N or foreground",
        )
    count = values.shape[axis]
    if kind == "every":
        step = int(number)
        chosen = list(range((min(step, count) - 1) // 2, count, step))
    elif kind == "central":
        most = min(int(number), count)
        chosen = list(range((count - most) // 2, (count - most) // 2 + most))
    elif kind == "foreground":
        others = tuple(other for other in range(3) if other != axis)
        shares = (values > otsu(values)).mean(axis=others)
        chosen = [int(at) for at in np.flatnonzero(shares >= number)]
    else:
        chosen = list(range(count))
    return [at for at in chosen if _varies(values.take(at, axis=axis))], len(chosen)


def otsu(values: AnyArray) -> float:
    """The threshold that parts the grey levels best into two (N. Otsu, IEEE Trans. SMC 9, 62, 1979)."""
    from featprobe.datasets.formats.nifti import REFERENCE_VOXELS, sampled

    some = sampled(values, REFERENCE_VOXELS)
    low, high = np.percentile(some, [0.1, 99.9])
    if not high > low:
        low, high = float(some.min()), float(some.max())
    counts, edges = np.histogram(np.clip(some, low, high), bins=256, range=(float(low), float(high)))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
        between = np.nan_to_num(below * (above * gap**2))
    return float(edges[1:-1][int(np.argmax(between))])


def _varies(plane: AnyArray) -> bool:
    return bool(plane.min() < plane.max())


def _suffix(path: str) -> str:
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    stem, dot, tail = name.rpartition(".")
    return f".{tail}" if dot and stem else ""


def _survey(path: Path, rule: SliceRule) -> _Facts:
    """What the file at `path` is; a damaged one is one image."""
    lower = path.name.lower()
    try:
        if lower.endswith(NIFTI_SUFFIXES):
            return _survey_volume(path, rule)
        if lower.endswith(TIFF_SUFFIXES):
            return _survey_pages(path, rule)
        if is_stack_candidate(str(path)):
            return _survey_frames(path, rule)
    except OSError:  # damaged, or not to be read: reading the row gives the reason
        pass
    return _Facts()


def _survey_volume(path: Path, rule: SliceRule) -> _Facts:
    from featprobe.datasets.formats import nifti

    volume = nifti.open_volume(path)
    axis = nifti.AXES[rule.axis]
    count = volume.values.shape[axis]
    if rule.whole:
        return _Facts(
            (0,) if _varies(volume.values) else (), remarks=volume.remarks, slices=count, chosen=count
        )
    kept, chosen = slices_of(volume.values, axis, rule.which)
    return _Facts(tuple(kept), _LETTER[rule.axis], remarks=volume.remarks, slices=count, chosen=chosen)


def _survey_pages(path: Path, rule: SliceRule) -> _Facts:
    from featprobe.datasets.formats import tiff

    try:
        pages = tiff.pages(path)
    except Exception:  # noqa: BLE001 - Pillow raises many types for damaged files; reading it gives the reason
        return _Facts()
    if rule.whole and len(pages) > 1:
        return _Facts((0,), slices=len(pages), chosen=len(pages))
    return _Facts(tuple(pages), "page" if len(pages) > 1 else "")


def _survey_frames(path: Path, rule: SliceRule) -> _Facts:
    from featprobe.datasets.formats import dicom

    facts = dicom.survey(path)
    told = _Facts(patient=facts.patient, study=facts.study, modality=facts.modality)
    if facts.frames < 2:
        return told
    if rule.whole:
        return replace(told, parts=(0,), slices=facts.frames, chosen=facts.frames)
    return replace(told, parts=tuple(range(facts.frames)), letter="frame")


def _notes(facts: Sequence[_Facts], rule: SliceRule) -> list[str]:
    """What the console must say about volumes: numbers, no names."""
    volumes = [fact for fact in facts if fact.slices]
    if not volumes:
        return []
    total, chosen = sum(fact.slices for fact in volumes), sum(fact.chosen for fact in volumes)
    kept = sum(len(fact.parts) for fact in volumes)
    if rule.whole:
        notes = [f"{kept} volumes of {total} slices, one row each (--slices {VOLUME})"]
        left, what = len(volumes) - kept, "are of one grey level"
    else:
        notes = [
            f"{len(volumes)} volumes: {kept} of {total} {rule.axis} slices are images (--slices {rule.which})"
        ]
        if chosen > kept:
            notes.append(f"{chosen - kept} slices of one grey level are left out")
        left, what = sum(not fact.parts for fact in volumes), "have no slice left"
    if left:
        notes.append(f"{left} volumes {what} and are quarantined")
    counts = Counter(remark for fact in volumes for remark in fact.remarks)
    return [*notes, *(f"{count} of {len(volumes)} volumes have {remark}" for remark, count in counts.items())]
