"""The images of a data set as columns, and those that could not be read."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featprobe.errors import DataError
from featprobe.records.values import SPLITS, IntArray, TextArray, sha256_json, texts


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
