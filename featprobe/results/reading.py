"""A comparison reads several results folders as one, and predictions as the records they once were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featprobe.errors import ResultsError, nearest
from featprobe.records import KEY_COLUMNS, FloatArray, Predictions, RunKey, Samples
from featprobe.records.outcome import ROUNDING
from featprobe.results.store import ESTIMATES, ResultsFolder
from featprobe.results.tables import COLUMN, SCORE, SITE, THRESHOLDS, drop, merge, model_ids


def load_many(
    roots: Sequence[Path],
) -> tuple[pd.DataFrame, pd.DataFrame, tuple[dict[str, Any], ...]]:
    """(estimates, predictions, run.json of each folder) of several results folders as one.

    A model that lies in several folders with equal rows counts once. Raises ResultsError for a folder that is
    missing, empty or damaged, and for a model whose rows differ between folders.
    """
    folders = [_opened(Path(root)) for root in dict.fromkeys(roots)]
    estimates = _united(folders, [folder.estimates() for folder in folders], [*KEY_COLUMNS, "metric"])
    predictions = _united(folders, [folder.predictions() for folder in folders], list(KEY_COLUMNS))
    return estimates, predictions, tuple(folder.run() for folder in folders)


def to_predictions(frame: pd.DataFrame) -> list[Predictions]:
    """The records behind the rows of predictions.parquet (or some of them), one per key including its fold.

    Classes are the `y_score_<class>` columns that a model filled, in the order of `frame.attrs["classes"]`
    (else of the columns). What y_true is, where it is no class, stands in `frame.attrs["targets"]` under the
    row's labels_sha256. A y_true of "" is a missing label. What the table does not hold (paths, hashes; site and
    kept columns of a data set that has none) is "".
    """
    declared = frame.attrs.get("groups_declared", {})
    targets = frame.attrs.get("targets", {})
    ranks = {
        name: {c: i for i, c in enumerate(order)} for name, order in frame.attrs.get("classes", {}).items()
    }
    scores = [str(column) for column in frame.columns if str(column).startswith(SCORE)]
    records = []
    for values, rows in frame.groupby(list(KEY_COLUMNS), sort=False, dropna=False):
        key = _run_key(dict(zip(KEY_COLUMNS, values, strict=True)))
        target = targets.get(str(rows["labels_sha256"].iloc[0]), {}) if "labels_sha256" in rows else {}
        task = str(target.get("task", "classes"))
        filled = [c.removeprefix(SCORE) for c in scores if rows[c].notna().any()]
        rank = ranks.get(key.dataset, {})
        names = tuple(sorted(filled, key=lambda name: rank.get(name, len(rank))))
        if task in {"multilabel", "continuous"}:  # names are part of the hash, so they are these rows' own
            names = tuple(target["names"])
        y_score = rows[[SCORE + name for name in names]].to_numpy(dtype=np.float64)
        _need_sound(key, rows["y_true"].unique().tolist(), names, y_score, task)
        samples = Samples.build(
            id=rows["id"],
            path=[""] * len(rows),
            label=_labels(rows["y_true"].tolist(), names, task),
            label_names=names,
            group=rows["group"],
            case=rows["case"],
            split=rows["split"],
            modality=rows["modality"],
            site=rows[SITE].fillna("") if SITE in rows else None,
            columns={
                str(name).removeprefix(COLUMN): rows[name].fillna("")
                for name in rows.columns
                if str(name).startswith(COLUMN) and rows[name].notna().any()
            },
            task=task,
        ).replace(groups_declared=declared.get(key.dataset, True))
        moved = str(rows[THRESHOLDS].iloc[0]) if THRESHOLDS in rows else ""
        thresholds = np.array([float(word) for word in moved.split("|")]) if moved else None
        records.append(Predictions(key, samples, y_score, int(rows["n_train"].iloc[0]), thresholds))
    return records


def _need_sound(
    key: RunKey, said: Sequence[str], names: Sequence[str], y_score: FloatArray, task: str
) -> None:
    """ResultsError for rows that no stage writes: edited by hand, or by another program."""
    wrong = ""
    unknown = [word for word in said if word and word not in names] if task in {"classes", "ordinal"} else []
    if unknown:
        wrong = f"the true class {unknown[0]!r} has no column of scores"
    elif not np.isfinite(y_score).all():
        wrong = "a score is no number"
    elif task != "continuous" and not ((y_score > -ROUNDING) & (y_score < 1 + ROUNDING)).all():
        wrong = f"scores reach from {y_score.min():g} to {y_score.max():g}: no probabilities"
    if wrong:
        raise ResultsError(
            f"the predictions of {key.backbone} ({key.mode}, {key.probe}) on {key.dataset} can't be judged: {wrong}",
            "predictions.parquet was changed by another hand than featprobe's",
            "compute them again in another folder: featprobe probe --out DIR",
        )


def _labels(words: Sequence[str], names: Sequence[str], task: str) -> Any:
    """What `Samples.label_texts` wrote, back as labels."""
    if task == "continuous":
        return [float(word or "nan") for word in words]
    if task == "multilabel":
        return [[int(mark or -1) for mark in word.split("|")] for word in words]
    index = {"": -1} | {name: i for i, name in enumerate(names)}
    return [index[word] for word in words]


def _opened(root: Path) -> ResultsFolder:
    if not root.is_dir():
        siblings = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() else []
        raise ResultsError(
            f"there is no results folder {root}",
            nearest(root.name, siblings),
            f"type: featprobe probe --out {root}",
        )
    folder = ResultsFolder(root)
    for note in folder.notes:
        raise ResultsError(note, "its rows may be a mixture", f"type: featprobe probe --out {root}")
    if folder.estimates().empty:
        raise ResultsError(
            f"{root} holds no results",
            f"it has no {ESTIMATES}, or an empty one",
            f"type: featprobe probe --out {root}",
        )
    return folder


def _united(folders: list[ResultsFolder], frames: list[pd.DataFrame], order: list[str]) -> pd.DataFrame:
    """The rows of all folders, each model once; ResultsError where two folders disagree about one."""
    first: dict[str, tuple[Path, pd.DataFrame]] = {}
    for folder, frame in zip(folders, frames, strict=True):
        for model, rows in frame.groupby(model_ids(frame), sort=False):
            own = rows.dropna(axis="columns", how="all").reset_index(drop=True)
            where, known = first.setdefault(str(model), (folder.root, own))
            if set(known) != set(own) or not known.equals(own[known.columns]):
                name = ", ".join(
                    str(own[c].iloc[0]) for c in ("dataset", "backbone", "weights", "mode", "probe")
                )
                raise ResultsError(
                    f"{where} and {folder.root} hold different rows of the same model ({name})",
                    "they come from other labels, splits, settings or versions",
                    "compare one of the two folders, or compute one again with featprobe probe",
                )
    seen: set[str] = set()
    parts = []
    for frame in frames:
        parts.append(drop(frame, seen))
        seen.update(model_ids(frame))
    return merge(parts, order)


def _run_key(values: Mapping[str, Any]) -> RunKey:
    kinds: dict[str, type[Any]] = {"fraction": float, "shots": int, "seed": int}
    return RunKey(**{name: kinds.get(name, str)(value) for name, value in values.items()})
