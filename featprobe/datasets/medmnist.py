"""MedMNIST's sets, flat and in three dimensions, from the .npz files that already lie on this machine.

Source: J. Yang et al., MedMNIST v2, Scientific Data 10, 41 (2023).
"""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from featprobe.datasets.base import (
    NO_GROUPS,
    Dataset,
    DatasetOptions,
    name_of,
    neighbours,
    refuse_columns,
    require_classes,
)
from featprobe.datasets.decoding import decode, encode_array
from featprobe.datasets.formats.medmnist_sets import CLASS_NAMES
from featprobe.datasets.stacks import SliceRule, slices_of
from featprobe.errors import ConfigError, DataError, listed, nearest
from featprobe.imaging import Raster, Reference, encode_raster
from featprobe.records import IntArray, Samples
from featprobe.registry import DATASETS

PREFIX: Final = "medmnist:"
SPLITS: Final = ("train", "val", "test")
SIZES: Final = ("28", "64", "128", "224")

VIEWS: Final = {"axial": 0, "coronal": 1, "sagittal": 2}
"""View -> axis of a volume [28, 28, 28] along which its slices lie. The files do not say how their axes lie in the
patient: the first is taken for the axial one, and slices are shown as they are stored."""

NO_PATIENTS: Final = "no groups declared: every volume counts as its own group, with all its slices (whose it is, is not published)"

_DAMAGE: Final = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
_LOADING: Final = threading.Lock()


@DATASETS.register("medmnist")
class MedMnist:
    """`medmnist:NAME[@SIZE]`, looked for where MedMNIST keeps its files, or the path of such a .npz file."""

    @classmethod
    def accepts(cls, location: str) -> bool:
        """The prefix, or a file that ends in .npz."""
        path = Path(location).expanduser()
        return location.startswith(PREFIX) or (path.suffix.lower() == ".npz" and not path.is_dir())

    @classmethod
    def default_name(cls, location: str) -> str:
        """The file's stem: NAME, or NAME_SIZE where a size is given."""
        if location.startswith(PREFIX):
            return location.removeprefix(PREFIX).lower().replace("@", "_")
        return name_of(Path(location))

    @classmethod
    def open(cls, location: str, name: str, options: DatasetOptions) -> Dataset:
        """Rows: train, val, test; of volumes, every slice that the options take.

        DataError where the file is missing or damaged, ConfigError for options that do not fit it.
        """
        refuse_columns(options, location, paths=False)
        path = _find(location)
        labels = _read_labels(path)
        shapes = [_image_shape(path, split) for split in SPLITS]
        for split, shape, known in zip(SPLITS, shapes, labels, strict=True):
            if shape[0] != len(known):
                raise _damaged(path, f"{split} has {shape[0]} images but {len(known)} labels")
        if len({shape[1:] for shape in shapes}) > 1:
            raise _damaged(path, f"its splits hold images of different shapes: {shapes}")
        if not any(shape[0] for shape in shapes):
            raise _damaged(path, "it holds no images")
        is_flat = len(shapes[0]) == 3 or shapes[0][3] == 3
        rows = _flat_rows(labels) if is_flat else _sliced_rows(path, options)
        samples = _samples(path, labels, rows, options)
        return MedMnistDataset(name, samples, rows.notes, path.absolute(), rows)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """`item` int64 [M]: the row's image or volume, counted over train, val and test. `part` int64 [M]: the slice,
    -1 for a flat image or a whole volume. `axis`: of a volume, along which its slices lie. `whole`: rows are volumes.
    """  # noqa: D205 - three fields, one paragraph

    item: IntArray
    part: IntArray
    axis: int
    notes: tuple[str, ...]
    whole: bool = False


@dataclass(slots=True, eq=False)
class MedMnistDataset:
    """The images of one .npz file: read into memory (uint8) when the first is asked for, not pickled."""

    name: str
    samples: Samples
    notes: tuple[str, ...]
    path: Path
    rows: _Rows
    kind: str = "medmnist"
    _images: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    _references: dict[int, Reference] = field(default_factory=dict, repr=False)

    def read(self, row: int) -> bytes:
        """The pixels as `encode_raster` writes them. DataError where the file has gone bad."""
        with _LOADING:
            if self._images is None:
                self._images = _read_images(self.path)
        item, part = int(self.rows.item[row]), int(self.rows.part[row])
        image = self._images[item]
        if part < 0 and not self.rows.whole:
            return encode_array(image)
        if item not in self._references:  # of 8 KB each; two threads may both work it out
            self._references[item] = Reference.of(image)
        if self.rows.whole:
            stacked = np.ascontiguousarray(np.moveaxis(image, self.rows.axis, 0))
            volume = Raster(stacked, "array", reference=self._references[item], spacing=(1.0, 1.0, 1.0))
            return encode_raster(volume)
        values = image.take(part, axis=self.rows.axis)
        return encode_raster(Raster(values, "array", reference=self._references[item]))

    def decode(self, data: bytes) -> Raster:
        """See `decoding.decode`."""
        return decode(data)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("name", "samples", "notes", "path", "rows")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "kind": "medmnist", "_images": None, "_references": {}}.items():
            setattr(self, name, value)


def _find(location: str) -> Path:
    if not location.startswith(PREFIX):
        path = Path(location).expanduser()
        if path.is_file():
            return path
        raise DataError(
            f"there is no file {location}", neighbours(path), "mend the path, or type medmnist:NAME[@SIZE]"
        )
    name, sign, size = location.removeprefix(PREFIX).lower().partition("@")
    if sign and size not in SIZES:
        raise DataError(
            f"MedMNIST has no size {size!r}", f"its sizes are {', '.join(SIZES)}", f"type {PREFIX}{name}@28"
        )
    files = [f"{name}_{size}.npz"] if sign else [f"{name}.npz"]
    files += [f"{name}.npz"] if size == "28" else []
    folders = _folders()
    for folder in folders:
        for file in files:
            if (folder / file).is_file():
                return folder / file
    hint = "" if name in CLASS_NAMES else nearest(name, CLASS_NAMES)
    raise DataError(
        f"there is no {' or '.join(files)} for {location}",
        f"looked in {', '.join(str(folder) for folder in folders)}{hint and f' ({hint})'}",
        f"download {files[0]} from medmnist.com into ~/.medmnist, or set MEDMNIST_ROOT to its folder",
    )


def _folders() -> list[Path]:
    given = os.environ.get("MEDMNIST_ROOT")
    return [*([Path(given).expanduser()] if given else []), Path("~/.medmnist").expanduser(), Path.cwd()]


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        f"{path.name} can't be read as a MedMNIST file",
        why,
        "it must hold train_images, train_labels and the same for val and test; fetch it again",
    )


def _arrays(path: Path, part: str) -> list[npt.NDArray[Any]]:
    """The arrays SPLIT_`part` of the three splits."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return [archive[f"{split}_{part}"] for split in SPLITS]
    except KeyError as error:
        raise _damaged(path, str(error.args[0])) from error
    except _DAMAGE as error:
        raise _damaged(path, str(error)) from error


def _image_shape(path: Path, split: str) -> tuple[int, ...]:
    """Shape of SPLIT_images from its header alone. DataError where it is not uint8 [N, H, W] or [N, H, W, 3]."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{split}_images.npy") as stream:
            version = np.lib.format.read_magic(stream)
            header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = header(stream)
    except (KeyError, *_DAMAGE) as error:
        raise _damaged(path, str(error)) from error
    if dtype != np.uint8:
        raise DataError(
            f"{path.name} holds {dtype} images", "8-bit images are supported so far", "convert them to uint8"
        )
    if len(shape) not in {3, 4}:
        raise _damaged(path, f"its images are of shape {'x'.join(str(side) for side in shape[1:])}")
    return tuple(shape)


def _read_labels(path: Path) -> list[npt.NDArray[np.int64]]:
    """The labels of the three splits: [N], or [N, L] of 0 and 1 where each image has L > 1 labels."""
    labels = _arrays(path, "labels")
    for label in labels:
        several = label.ndim == 2 and label.shape[1] > 1
        if label.dtype.kind not in "iu" or label.ndim not in {1, 2} or (label < 0).any():
            raise _damaged(path, f"its labels are {label.dtype} of shape {label.shape}")
        if several and label.size and label.max() > 1:
            raise _damaged(path, f"it has {label.shape[1]} labels per image, and some are neither 0 nor 1")
    if len({label.shape[1:] for label in labels}) > 1:
        raise _damaged(path, "its splits have different numbers of labels per image")
    wide = labels[0].ndim == 2 and labels[0].shape[1] > 1
    return [(label if wide else label.reshape(-1)).astype(np.int64) for label in labels]


def _read_images(path: Path) -> npt.NDArray[np.uint8]:
    images: npt.NDArray[np.uint8] = np.concatenate(_arrays(path, "images"))
    return images


def _flat_rows(labels: list[npt.NDArray[np.int64]]) -> _Rows:
    count = sum(len(label) for label in labels)
    return _Rows(np.arange(count, dtype=np.int64), np.full(count, -1, dtype=np.int64), 0, (NO_GROUPS,))


def _sliced_rows(path: Path, options: DatasetOptions) -> _Rows:
    """A row for every slice that the options take. All voxels are read: slices of one grey level are left out."""
    rule = SliceRule(options.axis, options.slices)
    axis = VIEWS[rule.axis]
    volumes = _read_images(path)
    if rule.whole:
        return _whole_rows(path, volumes, axis)
    item: list[int] = []
    part: list[int] = []
    chosen = 0
    for number, volume in enumerate(volumes):
        kept, taken = slices_of(volume, axis, rule.which)
        item += [number] * len(kept)
        part += kept
        chosen += taken
    if not item:
        raise DataError(
            f"the volumes of {path.name} have no slice with more than one grey level",
            f"they are cut by --axis {rule.axis} --slices {rule.which}",
            "cut them otherwise",
        )
    total = len(volumes) * volumes.shape[1 + axis]
    notes = [
        f"{len(volumes)} volumes: {len(item)} of {total} {rule.axis} slices are images (--slices {rule.which})",
        "which axis of a MedMNIST volume is axial is not published: the first is taken",
    ]
    if chosen > len(item):
        notes.append(f"{chosen - len(item)} slices of one grey level are left out")
    if empty := len(volumes) - len(set(item)):
        notes.append(f"{empty} volumes have no slice left and are left out")
    return _Rows(
        np.asarray(item, dtype=np.int64), np.asarray(part, dtype=np.int64), axis, (NO_PATIENTS, *notes)
    )


def _whole_rows(path: Path, volumes: npt.NDArray[np.uint8], axis: int) -> _Rows:
    """A row for every volume that varies."""
    flat = volumes.reshape(len(volumes), -1)
    kept = np.flatnonzero(flat.min(axis=1) < flat.max(axis=1)).astype(np.int64)
    if not len(kept):
        raise DataError(f"the volumes of {path.name} are of one grey level each", "", "use another file")
    notes = [f"{len(kept)} of {len(volumes)} volumes, one row each (--slices volume)"]
    return _Rows(kept, np.full(len(kept), -1, dtype=np.int64), axis, (NO_PATIENTS, *notes), whole=True)


def _samples(
    path: Path, labels: list[npt.NDArray[np.int64]], rows: _Rows, options: DatasetOptions
) -> Samples:
    """Slices of a volume share its label, split and case; ids are those of the volumes with "#z017" (x, y) added."""
    places = [(split, row) for split, known in zip(SPLITS, labels, strict=True) for row in range(len(known))]
    letter = "zyx"[rows.axis]
    ends = [f"#{letter}{part:03d}" if part >= 0 else "" for part in rows.part.tolist()]
    items = rows.item.tolist()
    cases = [f"{places[item][0]}-{places[item][1]:06d}" for item in items]
    task, numbers, names = _target(path, np.concatenate(labels)[rows.item], options)
    return Samples.build(
        id=[case + end for case, end in zip(cases, ends, strict=True)],
        path=[
            f"{path.name}/{places[item][0]}_images/{places[item][1]}{end}"
            for item, end in zip(items, ends, strict=True)
        ],
        label=numbers,
        label_names=names,
        case=cases,
        split=None if options.split_column == "none" else [places[item][0] for item in items],
        task=task,
    )


def _target(
    path: Path, labels: npt.NDArray[np.int64], options: DatasetOptions
) -> tuple[str, npt.NDArray[np.int64], tuple[str, ...]]:
    """(task, labels, names) of rows with `labels` ([M], or [M, L])."""
    if options.unlabelled:
        return "classes", np.full(len(labels), -1), ()
    several = labels.ndim == 2
    known = ("multilabel",) if several else ("classes", "ordinal")
    unfit = {
        f"--target {options.target}": options.target not in {None, *known},
        "--class-order": bool(options.class_order),
        f"--uncertain {options.uncertain}": options.uncertain != "ignore",
        f"--blank {options.blank}": options.blank != "ignore",
    }
    if any(unfit.values()):
        raise ConfigError(
            f"{next(flag for flag, wrong in unfit.items() if wrong)} does not fit {path.name}",
            f"its targets are {' or '.join(known)}, in the order of its numbers, and none is uncertain or missing",
            "leave it out",
        )
    count = labels.shape[1] if several else int(labels.max()) + 1
    published = CLASS_NAMES.get(path.stem.partition("_")[0].lower(), ())
    fits = len(published) == count if several else len(published) >= count
    names = published if fits else tuple(str(number) for number in range(count))
    if several:
        _require_both(labels, names, path)
        return "multilabel", labels, names
    present = [names[number] for number in np.unique(labels)]
    require_classes(present, path.name, "use another file, or extract without labels: --label none")
    return options.target or "classes", labels, names


def _require_both(labels: npt.NDArray[np.int64], names: tuple[str, ...], path: Path) -> None:
    one_sided = [name for name, known in zip(names, labels.T, strict=True) if known.min() == known.max()]
    if one_sided:
        raise DataError(
            f"{path.name} has images either all with or all without {listed(one_sided)}",
            "a probe needs both",
            "use another file, or write a manifest (.csv) of the labels that you want",
        )
