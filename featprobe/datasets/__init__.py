"""Where images and labels come from: folders, manifests, shards, MedMNIST, scikit-learn's digits, one file each.

`open_dataset` asks every registered kind whether it accepts a SPEC. Importing this package is light: the
libraries that read tables and images are imported when something is opened.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from featprobe.datasets.base import Dataset, DatasetKind, DatasetOptions, neighbours
from featprobe.datasets.decoding import DECODER_NUMERICS, UnreadableImageError, UnsupportedImageError
from featprobe.errors import DataError, nearest
from featprobe.registry import DATASETS

__all__ = [
    "DECODER_NUMERICS",
    "Dataset",
    "DatasetKind",
    "DatasetOptions",
    "UnreadableImageError",
    "UnsupportedImageError",
    "open_dataset",
    "split_spec",
]

KINDS_IN_WORDS: Final = (
    "--data takes a folder of class folders, a manifest (.csv, .tsv, .parquet), WebDataset shards (a .tar, a folder "
    "of them, or NAME-{0000..0009}.tar), a folder of Hugging Face datasets, a MedMNIST .npz, medmnist:NAME[@SIZE] or "
    "digits"
)
_DEFAULTS: Final = DatasetOptions()


def open_dataset(spec: str, options: DatasetOptions = _DEFAULTS) -> Dataset:
    """The data set that `[NAME=]SPEC` names, with its samples read and its files found; with pseudonyms, if asked.

    Raises DataError where there is nothing at SPEC or it can't be used as it stands, ConfigError where an
    option does not fit the kind of data.
    """
    given, location = split_spec(spec)
    for known in DATASETS.names():
        kind: DatasetKind = DATASETS.get(known)
        if kind.accepts(location):
            name = safe_name(given or kind.default_name(location), spec)
            if given and name != given:
                raise _bad_name(given, location)
            return _opened(kind, location, name, options)
    raise _not_found(location)


def _opened(kind: DatasetKind, location: str, name: str, options: DatasetOptions) -> Dataset:
    dataset = kind.open(location, name, options)
    if options.pseudonymize is None:
        return dataset
    from featprobe.datasets.privacy import pseudonymized

    return pseudonymized(dataset, options.pseudonymize)


def split_spec(spec: str) -> tuple[str, str]:
    """(NAME or "", SPEC) of `[NAME=]SPEC`; an "=" inside a path is not taken for a name."""
    head, sign, tail = spec.partition("=")
    if not sign or Path(spec).expanduser().exists():
        head, tail = "", spec
    elif "/" in head or "\\" in head:
        if Path(tail).expanduser().exists():
            raise _bad_name(head, tail)
        head, tail = "", spec
    elif not head:
        raise DataError(f"--data {spec!r} has no name before '='", KINDS_IN_WORDS, "type: --data NAME=SPEC")
    if not tail:
        raise DataError(f"--data {spec!r} names no data", KINDS_IN_WORDS, "type: --data digits")
    return head, tail


def safe_name(name: str, spec: str) -> str:
    """`name` with everything but ASCII letters, digits, "-", "_" and inner "." replaced by "_".

    DataError where nothing of the name is left, such as for the folder `/`.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    safe = re.sub(r"^\.+", "_", safe)
    if not re.search(r"[A-Za-z0-9]", safe):
        raise DataError(
            f"no name for the data set can be made from {name!r}",
            "a name holds the letters a-z, digits, '-', '_' and '.'",
            f"name it: --data NAME={spec}",
        )
    return safe


def _bad_name(name: str, location: str) -> DataError:
    return DataError(
        f"the name {name!r} can't be used",
        "a name holds the letters a-z, digits, '-', '_' and '.'",
        f"type: --data {safe_name(name, location)}={location}",
    )


def _not_found(location: str) -> DataError:
    path = Path(location).expanduser()
    if path.exists():
        return DataError(
            f"{location!r} is not a kind of data that featprobe reads",
            KINDS_IN_WORDS,
            "point --data at one of these",
        )
    hint = nearest(location, ["digits"]) or neighbours(path) or KINDS_IN_WORDS
    return DataError(f"there is no data at {location!r}", hint, "mend the path after --data")
