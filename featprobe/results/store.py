"""The results folder: estimates and predictions of many runs, kept so that no crash ever mixes two of them.

Three files belong together: results.csv, predictions.parquet and run.json, which holds the SHA-256 of the
other two. A new generation is written completely beside the old one (NAME.next); the rename that makes
run.json.next appear commits it, and whoever opens the folder next finishes what a killed writer left. Tables
that do not match run.json are never used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import filelock
import numpy as np
import pandas as pd

from featprobe.errors import OutputError
from featprobe.records import KEY_COLUMNS, Estimate, Predictions
from featprobe.results.tables import (
    drop,
    estimate_frame,
    from_csv,
    from_parquet,
    merge,
    model_ids,
    prediction_frame,
    relabelled,
    to_csv_bytes,
    to_parquet_bytes,
)

ESTIMATES, PREDICTIONS, RUN = "results.csv", "predictions.parquet", "run.json"
_LOCK_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """One generation of the folder, with a note where its files contradict each other."""

    estimates: pd.DataFrame
    predictions: pd.DataFrame
    run: dict[str, Any]
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Addition:
    """One unit that is to be added: its rows of both tables, the models they are of, its entry of run.json."""

    unit: str
    estimates: pd.DataFrame
    predictions: pd.DataFrame
    models: set[str]
    info: dict[str, Any]

    @classmethod
    def of(
        cls,
        unit: str,
        predictions: Sequence[Predictions],
        estimates: Sequence[Estimate],
        info: Mapping[str, Any],
    ) -> Addition:
        """See `ResultsFolder.add`; ResultsError for scores that are not finite."""
        rows, table = prediction_frame(predictions), estimate_frame(estimates)
        return cls(unit, table, rows, {*model_ids(rows), *model_ids(table)}, _plain(info))

    def without(self, models: set[str]) -> Addition:
        """Itself, less the rows of `models`."""
        if not self.models & models:
            return self
        return dataclasses.replace(
            self, estimates=drop(self.estimates, models), predictions=drop(self.predictions, models)
        )


class ResultsFolder:
    """The store of one results folder; nothing is written before the first `add` or `record_run`.

    A *unit* is what is computed and reused as one: its name is the SHA-256 (hex) of fingerprint, labels,
    groups, splits, stage configuration, seed and featprobe version, given by the caller.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._seen: tuple[Any, _State] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the console must say, such as that damaged tables are ignored."""
        note = self._load().note
        return (note,) if note else ()

    def has(self, unit: str) -> bool:
        """Whether all rows of `unit` are here, undamaged and not replaced by another unit's."""
        entry = self._load().run["units"].get(unit)
        return entry is not None and not entry["superseded"]

    def estimates(self) -> pd.DataFrame:
        """A copy of results.csv: ESTIMATE_COLUMNS, text as str, floats exactly as they were added."""
        return self._load().estimates.copy()

    def predictions(self) -> pd.DataFrame:
        """A copy of predictions.parquet: KEY_COLUMNS, id, case, group, modality, split, y_true (class name),
        y_score_<class>..., labels_sha256, n_train.

        `y_score_<class>` is NaN in rows of data sets without that class. `attrs["classes"]` holds data set ->
        class names in order.
        """  # noqa: D205 - the list of columns does not fit a first line
        return self._load().predictions.copy()

    def run(self) -> dict[str, Any]:
        """run.json: what `record_run` recorded, `files` (name -> SHA-256) and `units` (unit -> info)."""
        copy: dict[str, Any] = json.loads(json.dumps(self._load().run))
        return copy

    def add(
        self,
        unit: str,
        predictions: Sequence[Predictions],
        estimates: Sequence[Estimate],
        info: Mapping[str, Any],
    ) -> None:
        """Add the rows of `unit`; older rows of the same models, and of the unit itself, are replaced.

        `info` (JSON types) is kept in run.json. Where it holds an `identity`, older units of the same identity
        are replaced too: the same system, judged on an earlier list of images. Raises ResultsError for scores that are not finite and
        OutputError where the folder can't be written to; either leaves the folder as it was.
        """
        self.add_all([Addition.of(unit, predictions, estimates, info)])

    def add_all(self, additions: Sequence[Addition]) -> None:
        """As `add` for each in turn, in one writing: all of them are there afterwards, or none."""
        with self._writing():
            old = self._read()
            units = dict(old.run["units"])
            gone: set[str] = set()
            kept: list[Addition] = []
            for new in additions:
                replaced = new.models | set(units.get(new.unit, {}).get("models", ()))
                for entry in units.values():
                    if "identity" in new.info and entry.get("identity") == new.info["identity"]:
                        replaced |= set(entry["models"])
                units = _others(units, new.unit, replaced)
                units[new.unit] = {**new.info, "models": sorted(new.models), "superseded": False}
                gone |= replaced
                kept = [*(one.without(replaced) for one in kept), new]
            self._write(
                merge(
                    [drop(old.estimates, gone), *(one.estimates for one in kept)], [*KEY_COLUMNS, "metric"]
                ),
                merge([drop(old.predictions, gone), *(one.predictions for one in kept)], list(KEY_COLUMNS)),
                {**old.run, "units": units},
            )

    def relabel(self, unit: str, weights: str, identity: str) -> None:
        """Call the weights of `unit`, which is here, `weights`, where they were called otherwise when it was added.

        Equal tensors are one unit, whatever their file is called; rows show the name that was asked for last.
        `identity`: that of `add` under this name. Raises OutputError where the folder can't be written to.
        """
        entry = self._load().run["units"][unit]
        if entry.get("key", {}).get("weights", weights) == weights:
            return
        with self._writing():
            old = self._read()
            mine = set(entry["models"])
            rows = relabelled(old.predictions, mine, weights)
            table = relabelled(old.estimates, mine, weights)
            models = {*model_ids(rows), *model_ids(table)}
            units = _others(old.run["units"], unit, models)
            key = {**entry["key"], "weights": weights}
            units[unit] = {**entry, "key": key, "identity": identity, "models": sorted(models)}
            self._write(
                merge([drop(old.estimates, mine | models), table], [*KEY_COLUMNS, "metric"]),
                merge([drop(old.predictions, mine | models), rows], list(KEY_COLUMNS)),
                {**old.run, "units": units},
            )

    def record_run(self, **values: Any) -> None:
        """Set top-level entries of run.json (configuration, versions, seeds, hashes); JSON types."""
        if {"units", "files"} & set(values):
            raise ValueError("units and files are the folder's own entries of run.json")
        with self._writing():
            old = self._read()
            new = {**old.run, **_plain(values)}
            if new != old.run:
                self._write(old.estimates, old.predictions, new)

    def _load(self) -> _State:
        """The present generation; read again only where the files changed."""
        if not any((self.root / name).exists() for name in (RUN, f"{RUN}.next", ESTIMATES, PREDICTIONS)):
            return _empty_state()
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # a folder that is not ours to write is read without the lock
                stack.enter_context(self._locked())
                self._finish()
            signature = tuple(_signature(self.root / name) for name in (RUN, ESTIMATES, PREDICTIONS))
            if self._seen is None or self._seen[0] != signature:
                self._seen = (signature, self._read())
            return self._seen[1]

    def _read(self) -> _State:
        """The generation on disk, checked against run.json; empty, with a note, where they disagree."""
        raw = {
            name: (self.root / name).read_bytes()
            for name in (RUN, ESTIMATES, PREDICTIONS)
            if (self.root / name).exists()
        }
        found = {name: _sha256(data) for name, data in raw.items() if name != RUN}
        try:
            run = json.loads(raw.get(RUN, b'{"files": {}, "units": {}}'))
            expected, _ = dict(run["files"]), dict(run["units"])
        except (ValueError, KeyError, TypeError):
            run, expected = {}, {RUN: "unreadable"}
        if expected != found:
            wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
            several = len(wrong) > 1
            why = f"do{'' if several else 'es'} not match run.json"
            if RUN not in raw:
                why = f"stand{'' if several else 's'} without a run.json"
            return _ignored(
                f"{', '.join(wrong)} in {self.root} {why} and {'are' if several else 'is'} ignored"
            )
        try:
            estimates = from_csv(raw[ESTIMATES]) if ESTIMATES in raw else estimate_frame([])
            predictions = from_parquet(raw[PREDICTIONS]) if PREDICTIONS in raw else prediction_frame([])
        except (KeyError, ValueError) as error:  # pyarrow's errors of broken files are ValueErrors
            why = f"another version or another hand wrote them: {error}"
            return _ignored(f"the tables in {self.root} can't be read and are ignored ({why})")
        return _State(estimates, predictions, run)

    def _write(self, estimates: pd.DataFrame, predictions: pd.DataFrame, run: dict[str, Any]) -> None:
        """Commit a new generation (under the lock): complete beside the old one, then renamed."""
        tables = {ESTIMATES: to_csv_bytes(estimates), PREDICTIONS: to_parquet_bytes(predictions)}
        run = {**run, "files": {name: _sha256(data) for name, data in tables.items()}}
        text = json.dumps(run, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        drafts = {f"{name}.next": data for name, data in tables.items()} | {f"{RUN}.part": text.encode()}
        try:
            for name, data in drafts.items():
                _write_synced(self.root / name, data)
        except BaseException:
            for name in drafts:
                (self.root / name).unlink(missing_ok=True)
            raise
        if self._read().note:
            self._set_aside()
        (self.root / f"{RUN}.part").replace(self.root / f"{RUN}.next")
        self._finish()

    def _finish(self) -> None:
        """Complete a committed generation (under the lock), or sweep away one that never was committed."""
        committed = (self.root / f"{RUN}.next").exists()
        for name in (ESTIMATES, PREDICTIONS):
            draft = self.root / f"{name}.next"
            if draft.exists():
                draft.replace(self.root / name) if committed else draft.unlink()
        if committed:
            (self.root / f"{RUN}.next").replace(self.root / RUN)

    def _set_aside(self) -> None:
        """Keep tables that are not featprobe's last word under another name: they may be someone's work."""
        for name in (ESTIMATES, PREDICTIONS, RUN):
            path = self.root / name
            if path.exists():
                path.replace(self.root / f"{name}.{_sha256(path.read_bytes())[:8]}.old")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with filelock.FileLock(self.root / ".lock", timeout=_LOCK_SECONDS):
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """The folder, made and locked; every operating-system error becomes an OutputError."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._finish()
                yield
        except filelock.Timeout:
            raise OutputError(
                f"{self.root} is locked",
                f"another featprobe has been writing to it for over {_LOCK_SECONDS:.0f} s",
                "wait for it, or choose another folder with --out",
            ) from None
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
            raise OutputError(
                f"can't write results to {self.root}",
                "the disk is full, or a limit on file sizes is reached"
                if full
                else error.strerror or str(error),
                "free some space and type the same command again, what is there is kept"
                if full
                else "choose another folder with --out, or change its permissions",
            ) from error


def _others(units: Mapping[str, Any], unit: str, replaced: set[str]) -> dict[str, Any]:
    """All but `unit`, without the models `replaced`; one that holds no model then is gone."""
    left = {name: _without(entry, replaced) for name, entry in units.items() if name != unit}
    return {name: entry for name, entry in left.items() if entry["models"]}


def _without(entry: Mapping[str, Any], models: set[str]) -> dict[str, Any]:
    left = [model for model in entry["models"] if model not in models]
    return {**entry, "models": left, "superseded": entry["superseded"] or len(left) < len(entry["models"])}


def _plain(value: Any) -> Any:
    """`value` in JSON types: NumPy scalars, tuples, paths and NaN (null) are converted."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _ignored(note: str) -> _State:
    return _State(estimate_frame([]), prediction_frame([]), {"files": {}, "units": {}}, note)


def _empty_state() -> _State:
    return _State(estimate_frame([]), prediction_frame([]), {"files": {}, "units": {}})


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
