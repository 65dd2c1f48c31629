"""The nouns that travel between the rooms: Samples, Preprocessing, Recipe, EmbeddingTable, Predictions, Estimate.

Every record is frozen and says the shape and type of each array, so that a room can be read without the
one that filled it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from featprobe.errors import DataError

if TYPE_CHECKING:
    import pandas as pd  # half a second at start, and only ReportContent names it

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
TextArray = npt.NDArray[np.str_]
AnyArray = npt.NDArray[Any]

SPLITS: Final = ("", "train", "val", "test", "extra")
"""Names of the sides of a split; "" is "none given", "extra" may only ever be trained on."""

PRECISIONS: Final = ("fp32", "tf32", "bf16", "fp16")
FITS: Final = ("crop", "pad", "squash")
PREPROCESSING_RULES: Final = ("authors", "native", "common")
POOLINGS: Final = ("cls", "mean", "cls+mean", "gap", "pre_logits")


def texts(values: Any) -> TextArray:
    """`values` as a one-dimensional array of str ([N])."""
    return np.asarray([str(value) for value in values], dtype=np.str_).reshape(-1)


def sha256_json(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`: sorted keys, no spaces, ASCII."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and without spaces, so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The images of one data set and what is known about each, column by column, in the data set's order.

    All arrays have N entries. Text that is not known is "". `label` indexes `label_names`; -1 is missing.
    `group` is the patient, lesion or study: the unit of splitting, resampling and testing. Where the user
    declared none, every image is its own group and `groups_declared` is False. `sha256` is of the image's
    bytes ("" until they were read), `pixel_sha256` and `phash` of its decoded pixels ("" until decoded).
    """

    id: TextArray
    path: TextArray
    label: IntArray
    label_names: tuple[str, ...]
    group: TextArray
    case: TextArray
    split: TextArray
    site: TextArray
    modality: TextArray
    sha256: TextArray
    pixel_sha256: TextArray
    phash: TextArray
    groups_declared: bool = False
    columns: Mapping[str, TextArray] = field(default_factory=dict)

    TEXT_COLUMNS = (
        "id",
        "path",
        "group",
        "case",
        "split",
        "site",
        "modality",
        "sha256",
        "pixel_sha256",
        "phash",
    )

    def __post_init__(self) -> None:
        count = len(self.id)
        for name in (*self.TEXT_COLUMNS, "label"):
            if getattr(self, name).shape != (count,):
                raise ValueError(f"samples.{name} has shape {getattr(self, name).shape}, not ({count},)")
        for name, column in self.columns.items():
            if column.shape != (count,):
                raise ValueError(f"column {name} has shape {column.shape}, not ({count},)")
        unknown = sorted(set(np.unique(self.split).tolist()) - set(SPLITS))
        if unknown:
            raise ValueError(f"unknown split names: {unknown}")
        if count and (self.label.min() < -1 or self.label.max() >= len(self.label_names)):
            raise ValueError("a label lies outside label_names")
        ids, counts = np.unique(self.id, return_counts=True)
        if len(ids) != count:
            raise DataError(
                f"{int((counts > 1).sum())} ids occur more than once, the first is {str(ids[counts > 1][0])!r}",
                "an id names one image",
                "make the column id unique, or leave it out: the path is then the id",
            )

    @classmethod
    def build(
        cls,
        *,
        path: Any,
        label: Any,
        label_names: tuple[str, ...],
        id: Any = None,  # noqa: A002 - the contract's name of the column
        group: Any = None,
        case: Any = None,
        split: Any = None,
        site: Any = None,
        modality: Any = None,
        columns: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Samples from what is known; what is not given takes its stated default.

        `id` defaults to the path, `group` and `case` to the id (then `groups_declared` is False), all other
        text to "".
        """
        paths = texts(path)
        empty = np.full(len(paths), "", dtype=np.str_)
        ids = paths if id is None else texts(id)
        return cls(
            id=ids,
            path=paths,
            label=np.asarray(label, dtype=np.int64).reshape(-1),
            label_names=tuple(label_names),
            group=ids if group is None else texts(group),
            case=ids if case is None else texts(case),
            split=empty if split is None else texts(split),
            site=empty if site is None else texts(site),
            modality=empty if modality is None else texts(modality),
            sha256=empty,
            pixel_sha256=empty,
            phash=empty,
            groups_declared=group is not None,
            columns={name: texts(column) for name, column in (columns or {}).items()},
        )

    def __len__(self) -> int:
        return len(self.id)

    def take(self, rows: Any) -> Samples:
        """The samples at `rows` (int [M] or bool [N]), in that order."""
        changed: dict[str, Any] = {name: getattr(self, name)[rows] for name in (*self.TEXT_COLUMNS, "label")}
        changed["columns"] = {name: column[rows] for name, column in self.columns.items()}
        return dataclasses.replace(self, **changed)

    def replace(self, **changes: Any) -> Samples:
        """A copy with other values in the named fields."""
        return dataclasses.replace(self, **changes)

    def units(self) -> IntArray:
        """Independent unit of each row, int64 [N]: rows joined by equal `group` or equal `sha256`, also through others.

        Text that is "" joins nothing. Units are numbered in the order of their smallest id, so the numbers
        belong to the ids and not to the order of the rows.
        """
        import pandas as pd
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        order = np.argsort(self.id, kind="stable")
        left, right = [], []
        for key in (self.group, self.sha256):
            codes, names = pd.factorize(key[order])
            linked = np.asarray(names)[codes] != ""
            left.append(np.flatnonzero(linked))
            right.append(np.unique(codes, return_index=True)[1][codes][linked])
        ends = (np.concatenate(left), np.concatenate(right))
        graph = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(len(self), len(self)))
        result = np.empty(len(self), dtype=np.int64)
        result[order] = pd.factorize(connected_components(graph, directed=False)[1])[0]
        return result

    def joined(self) -> Samples:
        """A copy in which `group` names the unit: groups joined by equal bytes carry the name of their first id's."""
        unit = self.units()
        order = np.argsort(self.id, kind="stable")
        _, first = np.unique(unit[order], return_index=True)
        return self.replace(group=self.group[order][first][unit])

    def labels_sha256(self) -> str:
        """SHA-256 over (id, label name) in the order of the ids: equal for equal questions, in any row order."""
        names = np.array([*self.label_names, ""], dtype=np.str_)[self.label]
        order = np.argsort(self.id, kind="stable")
        return sha256_json([[str(a), str(b)] for a, b in zip(self.id[order], names[order], strict=True)])


def images_sha256(sha256: TextArray) -> str:
    """SHA-256 over the images' byte hashes (hex, [N]) in row order: the recipe's field `images`.

    An image whose bytes could not be read at all has the hash "" and counts as 32 zero bytes.
    """
    digest = hashlib.sha256()
    for value in sha256:
        digest.update(bytes.fromhex(str(value)) if value else bytes(32))
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a decoded image becomes a backbone's input, as resolved numbers.

    `image_size` (height, width) is what the backbone sees. `fit`: "crop" scales the shorter side to
    `resize` and crops the centre; "pad" scales the longer side to `image_size` and pads with `pad_value`
    (8-bit grey level); "squash" scales both sides, whatever the aspect. `mean` and `std` are per channel of
    [0, 1]-scaled values.
    """

    image_size: tuple[int, int]
    fit: str
    resize: int | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    antialias: bool = True
    pad_value: int = 0
    channels: str = "rgb, grey repeated, alpha dropped"
    intensity: str = "8-bit / 255"

    @property
    def label(self) -> str:
        """A short name for tables, such as `resize256-crop224-bicubic`."""
        height, width = self.image_size
        size = str(height) if height == width else f"{height}x{width}"
        scaled = f"resize{self.resize}-" if self.fit == "crop" else ""
        return f"{scaled}{self.fit}{size}-{self.interpolation}"

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON types."""
        values = dataclasses.asdict(self)
        for name in ("image_size", "mean", "std"):
            values[name] = list(values[name])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`."""
        known = dict(values)
        for name in ("image_size", "mean", "std"):
            known[name] = tuple(known[name])
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that can change an embedding; the SHA-256 of its canonical JSON names the cache file.

    `images`: `images_sha256` of the data set. `backbone`: its name; `architecture`: what was built.
    `weights`: SHA-256 of the loaded tensors. `precision`: arithmetic of the forward pass; `storage`: dtype
    on disk. `numerics`: an integer per family and decoder, raised when reference values change.
    Device, batch size, workers, labels, groups, splits and pooling are not in it.
    """

    images: str
    backbone: str
    architecture: str
    weights: str
    preprocessing: Preprocessing
    precision: str = "fp32"
    storage: str = "float32"
    numerics: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return canonical_json(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON types."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["preprocessing"] = self.preprocessing.to_dict()
        values["numerics"] = dict(self.numerics)
        return values

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The inverse of `to_json`."""
        values = json.loads(text)
        values["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
        return cls(**values)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def images_free(self) -> str:
        """SHA-256 of the recipe without `images`: equal where only the list of images differs."""
        values = self.to_dict()
        del values["images"]
        return sha256_json(values)


@dataclass(frozen=True, slots=True, eq=False)
class Quarantine:
    """The images that could not be read. All have M entries; `row` is the position in the data set."""

    row: IntArray
    id: TextArray
    path: TextArray
    sha256: TextArray
    reason: TextArray

    @classmethod
    def empty(cls) -> Quarantine:
        """No image."""
        none = texts([])
        return cls(row=np.empty(0, dtype=np.int64), id=none, path=none, sha256=none, reason=none)

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingTable:
    """The embeddings of one data set under one recipe and pooling.

    `embeddings`: float32 (or float16 where stored so) [N, D], row i belongs to `samples` row i.
    `weights_label` is "pretrained", "random" or a file's name, for tables; `layer` is "" for the last.
    """

    dataset: str
    samples: Samples
    embeddings: npt.NDArray[np.floating[Any]]
    pooling: str
    recipe: Recipe
    weights_label: str
    layer: str = ""

    @property
    def fingerprint(self) -> str:
        """The recipe's."""
        return self.recipe.fingerprint


KEY_COLUMNS: Final = (
    "dataset",
    "backbone",
    "weights",
    "mode",
    "pooling",
    "layer",
    "preprocessing",
    "probe",
    "protocol",
    "fraction",
    "shots",
    "seed",
    "fold",
    "level",
    "fingerprint",
)
"""The columns that results.csv and predictions.parquet share; together they name one fitted model."""

ESTIMATE_COLUMNS: Final = (
    *KEY_COLUMNS,
    "n_train",
    "n_test",
    "n_groups",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "ci_method",
)


@dataclass(frozen=True, slots=True)
class RunKey:
    """What names one fitted model; the columns KEY_COLUMNS of every table.

    `mode`: frozen, head, full, ...; `fraction`: of the training labels; `shots`: per class, 0 for all;
    `fold`: "test" under the user's split, "0" ... under cross-validation, "mean" for their average;
    `level`: image or case.
    """

    dataset: str
    backbone: str
    weights: str
    mode: str
    pooling: str
    preprocessing: str
    probe: str
    fingerprint: str
    layer: str = ""
    protocol: str = "featprobe"
    fraction: float = 1.0
    shots: int = 0
    seed: int = 0
    fold: str = "test"
    level: str = "image"

    def to_dict(self) -> dict[str, Any]:
        """Column -> value, in the order of KEY_COLUMNS."""
        return {name: getattr(self, name) for name in KEY_COLUMNS}


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What one fitted model said about the test rows: where frozen and fine-tuned models meet.

    `samples`: the N test rows. `y_score`: float64 [N, C], probabilities over `samples.label_names`, rows
    sum to 1. `n_train`: rows it was fitted on.
    """

    key: RunKey
    samples: Samples
    y_score: FloatArray
    n_train: int

    def __post_init__(self) -> None:
        expected = (len(self.samples), len(self.samples.label_names))
        if self.y_score.shape != expected:
            raise ValueError(f"y_score has shape {self.y_score.shape}, not {expected}")

    @property
    def y_true(self) -> IntArray:
        """int64 [N]."""
        return self.samples.label


@dataclass(frozen=True, slots=True)
class Estimate:
    """One metric of one model (or of the average over folds) with its interval, a row of results.csv.

    `n_groups`: independent groups in the test rows. `ci_method` names method, confidence and estimand; an
    interval that is not defined is NaN and `ci_method` says why.
    """

    key: RunKey
    n_train: int
    n_test: int
    n_groups: int
    metric: str
    value: float
    ci_low: float
    ci_high: float
    ci_method: str

    def to_dict(self) -> dict[str, Any]:
        """Column -> value, in the order of ESTIMATE_COLUMNS."""
        values = self.key.to_dict()
        values.update({name: getattr(self, name) for name in ESTIMATE_COLUMNS[len(KEY_COLUMNS) :]})
        return values


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingMap:
    """A two-dimensional map of one embedding table. `xy`: float64 [N, 2]; `label`: int64 [N] into the names."""

    dataset: str
    title: str
    method: str
    xy: FloatArray
    label: IntArray
    label_names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ReportContent:
    """All that a report shows; the report room only draws.

    `estimates`: columns ESTIMATE_COLUMNS plus `system` (see `predictions`). `predictions`: columns of
    predictions.parquet plus `system`, the short name of what is compared (backbone, weights, mode, probe...).
    `comparisons`: one row per pair of systems: dataset, level, metric, a, b, difference (a - b), ci_low,
    ci_high, p_value, p_adjusted, method. `best`: per (dataset, level, metric) the systems that can't be told
    apart from the best. `classes`: dataset -> class names in the order of `y_score_<class>`.
    `findings`: sentences in words, per dataset. `notes`: warnings. `provenance`: command, versions, seeds,
    hashes, as label -> text.
    """

    title: str
    metric: str
    estimates: pd.DataFrame
    predictions: pd.DataFrame
    comparisons: pd.DataFrame
    best: pd.DataFrame
    classes: Mapping[str, tuple[str, ...]]
    maps: tuple[EmbeddingMap, ...]
    findings: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    provenance: Mapping[str, str]
