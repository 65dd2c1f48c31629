"""Rows must come back from the files exactly as they went in: records to frames to bytes and back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from featprobe.errors import ResultsError
from featprobe.records import ESTIMATE_COLUMNS, KEY_COLUMNS, Estimate, Predictions, sha256_json

SCORE: Final = "y_score_"
MODEL_COLUMNS: Final = tuple(name for name in KEY_COLUMNS if name != "fold")
"""The columns that name a model over all its folds: what a later run replaces as one."""

_LATER: Final = (("inputs", "fusion"), ("variant",))
"""Columns that tables of earlier versions lack, by version: where all of one are "" they are no part of a model's name."""

THRESHOLDS: Final = "thresholds"
"""Column of predictions: where decisions are moved, one number per class or label ("0.3|0.7"); "" where they are not."""

COLUMN: Final = "column_"
"""Prefix of the manifest's columns that were kept (--keep-column); like SITE they stand there where one says something."""

SITE: Final = "site"

_FLOATS: Final = ("fraction", "value", "ci_low", "ci_high")
_INTEGERS: Final = ("shots", "seed", "n_train", "n_test", "n_groups")
_TEXTS: Final = tuple(name for name in (*ESTIMATE_COLUMNS, THRESHOLDS) if name not in (*_FLOATS, *_INTEGERS))
_ROW_COLUMNS: Final = (*KEY_COLUMNS, "id", "case", "group", "modality", "split", "y_true")


def estimate_frame(estimates: Sequence[Estimate]) -> pd.DataFrame:
    """The columns of results.csv, one row per estimate. ValueError where a metric of a model comes twice."""
    rows = [estimate.to_dict() for estimate in estimates]
    frame = _typed(pd.DataFrame(rows, columns=list(ESTIMATE_COLUMNS)))
    if frame.duplicated([*KEY_COLUMNS, "metric"]).any():
        raise ValueError("two estimates of one metric of one model")
    return frame


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    kinds = (
        dict.fromkeys(_FLOATS, "float64") | dict.fromkeys(_INTEGERS, "int64") | dict.fromkeys(_TEXTS, "str")
    )
    return frame.astype({name: kind for name, kind in kinds.items() if name in frame.columns})


def prediction_frame(predictions: Sequence[Predictions]) -> pd.DataFrame:
    """The columns of predictions.parquet, one row per model, fold and image.

    ValueError where an image comes twice or class names clash, ResultsError for scores that are not finite.
    """
    parts = [_rows_of(item) for item in predictions]
    if not parts:
        return _typed(pd.DataFrame(columns=[*_ROW_COLUMNS, "labels_sha256", "n_train", THRESHOLDS]))
    frame = merge(parts, list(KEY_COLUMNS))
    if frame.duplicated([*KEY_COLUMNS, "id"]).any():
        raise ValueError("two predictions of one model for one image")
    return frame


def _rows_of(item: Predictions) -> pd.DataFrame:
    """The rows of one record; the class order and whether groups were declared travel in `attrs`.

    So does what y_true is where it is no class: `attrs["targets"]`, labels_sha256 -> {task, names}.
    """
    samples, names = item.samples, item.samples.label_names
    if len(set(names)) != len(names) or "" in names:
        raise ValueError(f"class names must differ and not be empty: {names}")
    if not np.isfinite(item.y_score).all():
        raise ResultsError(
            f"{item.key.backbone} ({item.key.mode}, {item.key.probe}) on {item.key.dataset} predicted NaN or infinity",
            "its training diverged; nothing was written",
            "train again with a smaller --lr, or another --seed",
        )
    columns: dict[str, Any] = {**item.key.to_dict(), "id": samples.id, "case": samples.case}
    columns |= {"group": samples.group, "modality": samples.modality, "split": samples.split}
    columns["y_true"] = samples.label_texts()
    columns |= {SCORE + name: item.y_score[:, i] for i, name in enumerate(names)}
    labels = samples.labels_sha256()
    moved = "" if item.thresholds is None else "|".join(map(repr, item.thresholds.tolist()))
    columns |= {"labels_sha256": labels, "n_train": item.n_train, THRESHOLDS: moved}
    kept = {SITE: samples.site} | {COLUMN + name: column for name, column in sorted(samples.columns.items())}
    columns |= {name: column for name, column in kept.items() if (column != "").any()}
    frame = _typed(pd.DataFrame(columns))
    frame.attrs = {"classes": {item.key.dataset: list(names)}}
    frame.attrs["groups_declared"] = {item.key.dataset: samples.groups_declared}
    if samples.task != "classes":
        frame.attrs["targets"] = {labels: {"task": samples.task, "names": list(names)}}
    return frame


def merge(parts: Sequence[pd.DataFrame], order: list[str]) -> pd.DataFrame:
    """The rows of all parts in a fixed order; what a later part says in `attrs` about classes comes first."""
    classes: dict[str, list[str]] = {}
    declared: dict[str, bool] = {}
    targets: dict[str, Any] = {}
    for part in parts:
        for name, own in part.attrs.get("classes", {}).items():
            classes[name] = list(dict.fromkeys([*own, *classes.get(name, [])]))
        declared |= part.attrs.get("groups_declared", {})
        targets |= part.attrs.get("targets", {})
    filled = [part for part in parts if len(part)] or [parts[0]]
    for part in filled:
        part.attrs = {}  # pandas compares attrs while concatenating
    frame = pd.concat(filled, ignore_index=True).sort_values(order, ignore_index=True, kind="stable")
    scores = [str(column) for column in frame.columns if str(column).startswith(SCORE)]
    others = [column for column in frame.columns if column not in scores]
    split = len(_ROW_COLUMNS) if scores else len(others)
    frame = frame[[*others[:split], *_score_order(scores, classes), *others[split:]]]
    if classes:
        frame.attrs = {"classes": classes, "groups_declared": declared}
        frame.attrs |= {"targets": targets} if targets else {}
    return frame


def _score_order(scores: list[str], classes: Mapping[str, list[str]]) -> list[str]:
    known = [SCORE + name for dataset in sorted(classes) for name in classes[dataset]]
    return [name for name in dict.fromkeys([*known, *scores]) if name in set(scores)]


def relabelled(frame: pd.DataFrame, models: set[str], weights: str) -> pd.DataFrame:
    """The rows of `models`, their weights called `weights`."""
    found = drop(frame, set(model_ids(frame)) - models).assign(weights=weights)
    found.attrs = dict(frame.attrs)
    return found


def drop(frame: pd.DataFrame, models: set[str]) -> pd.DataFrame:
    """The rows of other models; score and kept columns that only the dropped ones filled leave with them."""
    kept = frame[~model_ids(frame).isin(models)]
    empty = [c for c in kept.columns if str(c).startswith((SCORE, COLUMN, SITE)) and kept[c].isna().all()]
    kept = kept.drop(columns=empty)
    kept.attrs = dict(frame.attrs)
    if "classes" in kept.attrs:
        present = {*kept["dataset"], *kept["labels_sha256"]}
        kept.attrs = {
            name: {owner: value for owner, value in values.items() if owner in present}
            for name, values in kept.attrs.items()
        }
    return kept


def model_ids(frame: pd.DataFrame) -> pd.Series[str]:
    """Per row a hash of MODEL_COLUMNS, same index as `frame`.

    A model that says nothing in the columns of _LATER has the hash under which earlier versions recorded it.
    """
    columns = list(MODEL_COLUMNS)
    keys = frame[columns].drop_duplicates()
    ids = [
        sha256_json([value for name, value in zip(columns, row, strict=True) if name not in _unsaid(row)])[
            :16
        ]
        for row in keys.astype(object).to_numpy().tolist()
    ]
    merged = frame[columns].merge(
        keys.assign(model=pd.Series(ids, index=keys.index, dtype="str")), on=columns, how="left"
    )
    return pd.Series(merged["model"].to_numpy(), index=frame.index, dtype="str")


def _unsaid(row: Sequence[Any]) -> set[str]:
    """Columns of _LATER that are no part of the name of the model `row` (values of MODEL_COLUMNS)."""
    said = dict(zip(MODEL_COLUMNS, row, strict=True))
    return {name for version in _LATER if not any(said[other] for other in version) for name in version}


def to_csv_bytes(frame: pd.DataFrame) -> bytes:
    """UTF-8; floats with the fewest digits that give back the same float64; NaN is the empty field."""
    return frame.to_csv(index=False, lineterminator="\n").encode()


def from_csv(data: bytes) -> pd.DataFrame:
    """The inverse of `to_csv_bytes`."""
    header, *rows = csv.reader(
        io.StringIO(data.decode(), newline="")
    )  # float() rounds correctly, on any pandas
    frame = pd.DataFrame(rows, columns=header)
    _need(frame, [name for name in ESTIMATE_COLUMNS if name not in _late()])
    for name in _FLOATS:
        frame[name] = [float(value or "nan") for value in frame[name]]
    return _typed(_completed(frame))


def _late() -> set[str]:
    return {name for version in _LATER for name in version}


def _need(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """ValueError where a column is missing that every version wrote."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}")


def _completed(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with the columns that earlier versions did not write, "" in all rows, in their place."""
    missing = [name for version in _LATER for name in version if name not in frame.columns]
    if not missing:
        return frame
    filled = frame.assign(**dict.fromkeys(missing, ""))
    others = [name for name in frame.columns if name not in KEY_COLUMNS]
    return filled[[*KEY_COLUMNS, *others]]


def to_parquet_bytes(frame: pd.DataFrame) -> bytes:
    """Parquet; `frame.attrs` (class order, declared groups, kinds of target) goes into the schema's metadata `featprobe`."""
    table = pa.Table.from_pandas(frame.copy(), preserve_index=False)
    about = {b"featprobe": json.dumps(frame.attrs, sort_keys=True).encode()}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(about), sink)
    return sink.getvalue()


def from_parquet(data: bytes) -> pd.DataFrame:
    """The inverse of `to_parquet_bytes`."""
    table = pq.read_table(io.BytesIO(data))
    plain = table.to_pandas()
    _need(plain, [name for name in (*_ROW_COLUMNS, "labels_sha256", "n_train") if name not in _late()])
    frame = _completed(plain)
    if THRESHOLDS not in frame.columns:
        frame[THRESHOLDS] = ""
    frame = _typed(frame)
    frame.attrs = json.loads((table.schema.metadata or {}).get(b"featprobe", b"{}"))
    return frame
