"""From images to cases: one examination may bring several slices, views or sequences and still gets one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from featprobe.errors import DataError
from featprobe.records import AnyArray, FloatArray, IntArray, Samples, TextArray, texts

POOLINGS: Final = ("mean", "max")
_CHECKED: Final = {"label": "labels", "group": "groups", "split": "splits"}


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """The cases of N images. `samples`: one row per case, M; `of_image`: int64 [N], the case of each image.

    A case's `id`, `case` and `path` are the case's name, its modality the names of all that it has ("A+B"); cases
    stand in the order of their first image. Of a further column it has what all its images agree on.
    """

    samples: Samples
    of_image: IntArray


def cases_of(samples: Samples, *, sides: bool = True) -> Cases:
    """The cases of the images in `samples`; without `sides` their split says nothing (it is made anew).

    Raises DataError where images of one case differ in label, group or split: a case has one answer, of one
    patient, on one side.
    """
    names, first, of_image = np.unique(samples.case, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    of_case = rank[of_image.reshape(-1)]
    head = first[order]
    for column, plural in _CHECKED.items():
        values = samples.label_texts() if column == "label" else getattr(samples, column)
        differs = values != values[head][of_case]
        if differs.any() and (sides or column != "split"):
            row = int(differs.argmax())
            raise DataError(
                f"the images of {len(np.unique(of_case[differs]))} cases have different {plural}: "
                f"case {samples.case[row]} has {str(values[head[of_case[row]]])!r} and {str(values[row])!r}",
                "a case is one examination with one answer",
                "mend the manifest's column case, or judge single images with --level image",
            )
    own = names[order]
    blank = texts([""] * len(own))
    merged = samples.take(head).replace(
        id=own,
        path=own,
        case=own,
        modality=_modalities(samples, of_case, len(own)),
        sha256=blank,
        pixel_sha256=blank,
        phash=blank,
        twin=blank,
        columns={name: _agreed(column, head, of_case) for name, column in samples.columns.items()},
    )
    return Cases(merged, of_case)


def _agreed(column: TextArray, head: IntArray, of_case: IntArray) -> TextArray:
    """The value of each case on which all its images agree, "" where they differ, [M]."""
    value = column[head]
    differs = np.zeros(len(head), dtype=bool)
    differs[of_case[column != value[of_case]]] = True
    return np.where(differs, "", value).astype(np.str_)


def _modalities(samples: Samples, of_case: IntArray, count: int) -> TextArray:
    found: list[set[str]] = [set() for _ in range(count)]
    for case, name in zip(of_case.tolist(), samples.modality.tolist(), strict=True):
        found[case].add(name)
    return texts(["+".join(sorted(names - {""})) for names in found])


def pool(X: AnyArray, of_case: IntArray, count: int, how: str) -> FloatArray:
    """Embeddings [N, D] of images to float64 [count, D] of cases, by "mean" or "max"; NaN for a case without any."""
    rows = np.asarray(X, dtype=np.float64)
    if how not in POOLINGS:
        raise ValueError(f"unknown pooling {how!r}")
    result = np.full((count, rows.shape[1]), np.nan)
    if not len(rows):
        return result
    order = np.argsort(of_case, kind="stable")
    present, starts = np.unique(of_case[order], return_index=True)
    if how == "max":
        result[present] = np.maximum.reduceat(rows[order], starts)
    else:
        sums = np.add.reduceat(rows[order], starts)
        result[present] = sums / np.diff([*starts, len(rows)])[:, None]
    return result


def fuse(
    X: AnyArray, of_case: IntArray, modality: TextArray, count: int, *, modalities: tuple[str, ...], how: str
) -> FloatArray:
    """Each modality pooled over its images of a case, side by side in the order of `modalities`, [count, D x K].

    The block of a modality that a case lacks is NaN, for `fill_missing` or `complete`.
    """
    blocks = []
    for name in modalities:
        rows = modality == name
        blocks.append(pool(np.asarray(X)[rows], of_case[rows], count, how))
    return np.concatenate(blocks, axis=1)


def complete(modality: TextArray, of_case: IntArray, count: int, modalities: tuple[str, ...]) -> AnyArray:
    """Whether a case has an image of every modality, bool [count]."""
    has = np.zeros((count, len(modalities)), dtype=bool)
    for k, name in enumerate(modalities):
        has[of_case[modality == name], k] = True
    return np.asarray(has.all(axis=1))


def fill_missing(X: FloatArray, train: IntArray) -> FloatArray:
    """A copy of `X` [M, D] whose NaN are the column's mean over the rows `train`: learnt from the training part alone.

    A column that no training row knows is 0: it then says nothing.
    """
    missing = np.isnan(X)
    if not missing.any():
        return X
    known = ~missing[train]
    count = known.sum(axis=0)
    sums = np.where(known, X[train], 0.0).sum(axis=0)
    means = np.divide(sums, count, out=np.zeros(X.shape[1]), where=count > 0)
    return np.where(missing, means, X)
