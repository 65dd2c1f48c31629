"""The images of a data set as columns, and those that could not be read."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featprobe.errors import DataError
from featprobe.records.values import SPLITS, TASKS, AnyArray, IntArray, TextArray, sha256_json, texts


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The images of one data set and what is known about each, column by column, in the data set's order.

    All arrays have N entries. Text that is not known is "".

    `task` (one of TASKS) says what `label` holds. "classes" and "ordinal": int64 [N], an index into
    `label_names`, which "ordinal" has in order, -1 where missing. "multilabel": int64 [N, L], 0 or 1 for each of
    the L `label_names`, -1 where missing. "continuous": float64 [N], NaN where missing; `label_names` is the
    quantity's one name. Without any labels (`--label none`) it is "classes" with no names.

    `group` is the patient, lesion or study: the unit of splitting, resampling and testing. Where the user
    declared none, every image is its own group and `groups_declared` is False. `case` is what one answer is
    given for: the images (slices, views, sequences) of one examination; each image its own where none is
    declared.

    `sha256` is of the image's bytes ("" until they were read). `pixel_sha256`, `phash` and `thumbnail` are of its
    decoded pixels (see `featprobe.imaging`): "" and a width of 0 until decoded, and `phash` stays "" for an image
    without content (one grey level), which is a copy of nothing. `twin` names the near copies that an image
    belongs to ("" for none); it is worked out, not stored.
    """

    id: TextArray
    path: TextArray
    label: AnyArray
    label_names: tuple[str, ...]
    group: TextArray
    case: TextArray
    split: TextArray
    site: TextArray
    modality: TextArray
    sha256: TextArray
    pixel_sha256: TextArray
    phash: TextArray
    thumbnail: npt.NDArray[np.uint8]
    twin: TextArray
    task: str = "classes"
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
        for name in (*self.TEXT_COLUMNS, "twin"):
            if getattr(self, name).shape != (count,):
                raise ValueError(f"samples.{name} has shape {getattr(self, name).shape}, not ({count},)")
        if self.thumbnail.ndim != 2 or len(self.thumbnail) != count:
            raise ValueError(f"samples.thumbnail has shape {self.thumbnail.shape}, not ({count}, T)")
        for name, column in self.columns.items():
            if column.shape != (count,):
                raise ValueError(f"column {name} has shape {column.shape}, not ({count},)")
        unknown = sorted(set(np.unique(self.split).tolist()) - set(SPLITS))
        if unknown:
            raise ValueError(f"unknown split names: {unknown}")
        self._check_labels(count)
        ids, counts = np.unique(self.id, return_counts=True)
        if len(ids) != count:
            raise DataError(
                f"{int((counts > 1).sum())} ids occur more than once, the first is {str(ids[counts > 1][0])!r}",
                "an id names one image",
                "make the column id unique, or leave it out: the path is then the id",
            )

    def _check_labels(self, count: int) -> None:
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}")
        shape = (count, len(self.label_names)) if self.task == "multilabel" else (count,)
        kind = "f" if self.task == "continuous" else "i"
        if self.label.shape != shape or self.label.dtype.kind != kind:
            raise ValueError(
                f"samples.label is {self.label.dtype} {self.label.shape}, not {kind} {shape}, for {self.task}"
            )
        if kind == "f" or not self.label.size:
            return
        most = 1 if self.task == "multilabel" else len(self.label_names) - 1
        if self.label.min() < -1 or self.label.max() > most:
            raise ValueError("a label lies outside label_names")

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
        task: str = "classes",
        columns: Mapping[str, Any] | None = None,
    ) -> Samples:
        """Samples from what is known; what is not given takes its stated default.

        `id` defaults to the path, `case` to the id, `group` to the case (then `groups_declared` is False), all
        other text to "".
        """
        paths = texts(path)
        empty = np.full(len(paths), "", dtype=np.str_)
        ids = paths if id is None else texts(id)
        cases = ids if case is None else texts(case)
        return cls(
            id=ids,
            path=paths,
            label=_label_array(label, task, len(paths)),
            label_names=tuple(label_names),
            group=cases if group is None else texts(group),
            case=cases,
            split=empty if split is None else texts(split),
            site=empty if site is None else texts(site),
            modality=empty if modality is None else texts(modality),
            sha256=empty,
            pixel_sha256=empty,
            phash=empty,
            thumbnail=np.empty((len(paths), 0), dtype=np.uint8),
            twin=empty,
            task=task,
            groups_declared=group is not None,
            columns={name: texts(column) for name, column in (columns or {}).items()},
        )

    def __len__(self) -> int:
        return len(self.id)

    def take(self, rows: Any) -> Samples:
        """The samples at `rows` (int [M] or bool [N]), in that order."""
        names = (*self.TEXT_COLUMNS, "label", "thumbnail", "twin")
        changed: dict[str, Any] = {name: getattr(self, name)[rows] for name in names}
        changed["columns"] = {name: column[rows] for name, column in self.columns.items()}
        return dataclasses.replace(self, **changed)

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """Whether anything is known of each row's target, bool [N]."""
        if self.task == "continuous":
            return np.asarray(np.isfinite(self.label))
        known = self.label >= 0
        return np.asarray(known.any(axis=1) if known.ndim == 2 else known)

    def replace(self, **changes: Any) -> Samples:
        """A copy with other values in the named fields."""
        return dataclasses.replace(self, **changes)

    def units(self) -> IntArray:
        """Independent unit of each row, int64 [N]: rows that may never stand on two sides of a split.

        Rows are joined by equal `group`, `case`, `sha256`, `pixel_sha256` or `twin`, also through others. Text that
        is "" joins nothing, nor do the pixels of an image without content (`phash` ""). Units are numbered in the
        order of their smallest id, so the numbers belong to the ids and not to the order of the rows.
        """
        import pandas as pd
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        order = np.argsort(self.id, kind="stable")
        pixels = np.where(self.phash == "", "", self.pixel_sha256)
        left, right = [], []
        for key in (self.group, self.case, self.sha256, pixels, self.twin):
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
        """A copy in which `group` names the unit: groups joined by copies carry the name of their first id's."""
        unit = self.units()
        order = np.argsort(self.id, kind="stable")
        _, first = np.unique(unit[order], return_index=True)
        return self.replace(group=self.group[order][first][unit])

    def label_texts(self) -> TextArray:
        """Each row's target as text, [N]: the class's name, "0|1|" over the labels, or the number; "" is missing."""
        if self.task == "multilabel":
            marks = np.array(["0", "1", ""], dtype=np.str_)
            return texts(["|".join(row) for row in marks[self.label].tolist()])
        if self.task == "continuous":
            return texts([repr(value) if value == value else "" for value in self.label.tolist()])  # noqa: PLR0124 - NaN
        return np.array([*self.label_names, ""], dtype=np.str_)[self.label]

    def labels_sha256(self) -> str:
        """SHA-256 over (id, target) in the order of the ids: equal for equal questions, in any row order."""
        names = self.label_texts()
        order = np.argsort(self.id, kind="stable")
        pairs = [[str(a), str(b)] for a, b in zip(self.id[order], names[order], strict=True)]
        if self.task in {"multilabel", "continuous"}:  # these names are not in the rows
            return sha256_json([list(self.label_names), pairs])
        return sha256_json(pairs)


def _label_array(label: Any, task: str, count: int) -> AnyArray:
    """`label` in the dtype and shape of its task."""
    if task == "multilabel":
        return np.asarray(label, dtype=np.int64).reshape(count, -1)
    return np.asarray(label, dtype=np.float64 if task == "continuous" else np.int64).reshape(-1)


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


def images_sha256(sha256: TextArray) -> str:
    """SHA-256 over the images' byte hashes (hex, [N]) in row order: the recipe's field `images`.

    An image whose bytes could not be read at all has the hash "" and counts as 32 zero bytes.
    """
    digest = hashlib.sha256()
    for value in sha256:
        digest.update(bytes.fromhex(str(value)) if value else bytes(32))
    return digest.hexdigest()
