"""MedMNIST's two-dimensional sets (all sizes), from the .npz files that already lie on this machine.

Source: J. Yang et al., MedMNIST v2, Scientific Data 10, 41 (2023); class names as published with it.
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
from featprobe.errors import DataError, nearest
from featprobe.records import Samples
from featprobe.registry import DATASETS

PREFIX: Final = "medmnist:"
SPLITS: Final = ("train", "val", "test")
SIZES: Final = ("28", "64", "128", "224")

_ORGANS: Final = (
    "bladder|femur-left|femur-right|heart|kidney-left|kidney-right|liver|lung-left|lung-right|pancreas|spleen"
)
CLASS_NAMES: Final = {
    name: tuple(classes.split("|"))
    for name, classes in {
        "bloodmnist": "basophil|eosinophil|erythroblast|"
        "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)|"
        "lymphocyte|monocyte|neutrophil|platelet",
        "breastmnist": "malignant|normal, benign",
        "dermamnist": "actinic keratoses and intraepithelial carcinoma|basal cell carcinoma|"
        "benign keratosis-like lesions|dermatofibroma|melanoma|melanocytic nevi|vascular lesions",
        "octmnist": "choroidal neovascularization|diabetic macular edema|drusen|normal",
        "organamnist": _ORGANS,
        "organcmnist": _ORGANS,
        "organsmnist": _ORGANS,
        "pathmnist": "adipose|background|debris|lymphocytes|mucus|smooth muscle|normal colon mucosa|"
        "cancer-associated stroma|colorectal adenocarcinoma epithelium",
        "pneumoniamnist": "normal|pneumonia",
        "retinamnist": "0|1|2|3|4",
        "tissuemnist": "Collecting Duct, Connecting Tubule|Distal Convoluted Tubule|"
        "Glomerular endothelial cells|Interstitial endothelial cells|Leukocytes|Podocytes|"
        "Proximal Tubule Segments|Thick Ascending Limb",
    }.items()
}
"""Name -> class names in the order of the class numbers, for the two-dimensional sets with one label each."""

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
        """Rows: train, val, test. DataError where the file is missing, damaged, 3-D or multi-label."""
        refuse_columns(options, location, paths=False)
        path = _find(location)
        labels = _read_labels(path)
        shapes = [_image_shape(path, split) for split in SPLITS]
        for split, shape, known in zip(SPLITS, shapes, labels, strict=True):
            if shape[0] != len(known):
                raise _damaged(path, f"{split} has {shape[0]} images but {len(known)} labels")
        if len({shape[1:] for shape in shapes}) > 1:
            raise _damaged(path, f"its splits hold images of different shapes: {shapes}")
        samples = _samples(path, labels, options)
        return MedMnistDataset(name, samples, (NO_GROUPS,), path.absolute())


@dataclass(slots=True, eq=False)
class MedMnistDataset:
    """The images of one .npz file: read into memory (uint8) when the first is asked for, not pickled."""

    name: str
    samples: Samples
    notes: tuple[str, ...]
    path: Path
    kind: str = "medmnist"
    _images: npt.NDArray[np.uint8] | None = field(default=None, repr=False)

    def read(self, row: int) -> bytes:
        """Dtype and shape in a line of text, then the pixels. DataError where the file has gone bad."""
        with _LOADING:
            if self._images is None:
                self._images = _read_images(self.path)
        return encode_array(self._images[row])

    def decode(self, data: bytes) -> Any:
        """See `decoding.decode`."""
        return decode(data)

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "samples": self.samples, "notes": self.notes, "path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "kind": "medmnist", "_images": None}.items():
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
    if len(shape) != 3 and not (len(shape) == 4 and shape[3] == 3):
        raise DataError(
            f"{path.name} holds images of shape {'x'.join(str(side) for side in shape[1:])}: volumes are not "
            "supported yet",
            "featprobe reads MedMNIST's two-dimensional sets, grey or colour",
            f"use one of them: {', '.join(sorted(CLASS_NAMES))}",
        )
    return tuple(shape)


def _read_labels(path: Path) -> list[npt.NDArray[np.int64]]:
    labels = _arrays(path, "labels")
    for label in labels:
        if label.ndim == 2 and label.shape[1] > 1:
            raise DataError(
                f"{path.name} has {label.shape[1]} labels per image: several labels are not supported yet",
                "featprobe needs one label per image",
                "write a manifest (.csv) with the one label that you want",
            )
        if label.dtype.kind not in "iu" or label.ndim not in {1, 2} or (label < 0).any():
            raise _damaged(path, f"its labels are {label.dtype} of shape {label.shape}")
    return [label.reshape(-1).astype(np.int64) for label in labels]


def _read_images(path: Path) -> npt.NDArray[np.uint8]:
    images: npt.NDArray[np.uint8] = np.concatenate(_arrays(path, "images"))
    return images


def _samples(path: Path, labels: list[npt.NDArray[np.int64]], options: DatasetOptions) -> Samples:
    counts = [len(label) for label in labels]
    numbers = np.concatenate(labels)
    rows = [(split, row) for split, count in zip(SPLITS, counts, strict=True) for row in range(count)]
    if not rows:
        raise _damaged(path, "it holds no images")
    classes = range(int(numbers.max()) + 1)
    published = CLASS_NAMES.get(path.stem.partition("_")[0].lower(), ())
    names = published if len(published) >= len(classes) else tuple(str(number) for number in classes)
    if not options.unlabelled:
        present = [names[number] for number in np.unique(numbers)]
        require_classes(present, path.name, "use another file, or extract without labels: --label none")
    return Samples.build(
        id=[f"{split}-{row:06d}" for split, row in rows],
        path=[f"{path.name}/{split}_images/{row}" for split, row in rows],
        label=np.full(len(rows), -1) if options.unlabelled else numbers,
        label_names=() if options.unlabelled else names,
        split=None if options.split_column == "none" else [split for split, _ in rows],
    )
