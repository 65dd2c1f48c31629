"""What retrieval found is kept: two tables and a record that vouches for both, so that no crash mixes two runs.

retrieval.csv (estimates), retrieval.parquet (neighbours) and retrieval.json, which holds the SHA-256 of both and
is renamed into place last. Tables that do not match it count as not there: everything is then computed again.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import filelock
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featprobe.errors import OutputError
from featprobe.records import KEY_COLUMNS

ESTIMATES, NEIGHBOURS, RECORD = "retrieval.csv", "retrieval.parquet", "retrieval.json"

ESTIMATE_COLUMNS: Final = (
    *KEY_COLUMNS,
    "distance",
    "k",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "ci_method",
    "n_queries",
    "n_groups",
    "n_index",
    "unit",
)
"""retrieval.csv: `distance` is the kind of distance, sizes are of the fold ("mean": queries summed, index averaged)."""

NEIGHBOUR_COLUMNS: Final = (
    *KEY_COLUMNS,
    "distance_kind",
    "query",
    "query_label",
    "rank",
    "neighbour",
    "neighbour_label",
    "distance",
    "hit",
    "unit",
)
"""retrieval.parquet: one row for each query and rank (from 1); `query` and `neighbour` are ids, `unit` a hash's start."""

UNIT: Final = 16
"""Characters of a unit's hash in the table."""

_TYPES: Final = {"rank": pa.int32(), "distance": pa.float64(), "hit": pa.bool_(), "fraction": pa.float64()}
_TYPES_TOO: Final = {"shots": pa.int64(), "seed": pa.int64()}
_PLAIN: Final = ("query", "neighbour")
_LOCK_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """What is computed and kept as one: all folds of one table of embeddings under one distance.

    `estimates`: rows of retrieval.csv; `neighbours`: columns of retrieval.parquet but `unit`, each an array of R
    values or one value for all; `info`: JSON, of which `identity` says which earlier units this one replaces.
    """

    hash: str
    estimates: Sequence[Mapping[str, Any]]
    neighbours: Mapping[str, Any]
    info: Mapping[str, Any]


class RetrievalFolder:
    """The three files in the folder `root`; nothing is written before the first `add`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def record(self) -> dict[str, Any]:
        """retrieval.json: `units` (hash -> info), `files` (name -> SHA-256) and what `note` recorded.

        Empty of units where the tables are missing or are not those that it vouches for.
        """
        try:
            record: dict[str, Any] = json.loads((self.root / RECORD).read_text(encoding="utf-8"))
            expected = dict(record["files"])
            dict(record["units"])
            whole = all(
                _sha256((self.root / name).read_bytes()) == expected[name] for name in (ESTIMATES, NEIGHBOURS)
            )
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        return record if whole else {"units": {}, "files": {}}

    def add(self, units: Sequence[Unit]) -> None:
        """Keep `units` in the place of those with their hash or identity. Raises OutputError, and then nothing changed."""
        with self._writing():
            old = self.record()
            identities = {unit.info["identity"] for unit in units}
            kept = {
                name: info
                for name, info in old["units"].items()
                if info["identity"] not in identities and name not in {unit.hash for unit in units}
            }
            rows = [row for row in self._estimates(old) if row["unit"] in {name[:UNIT] for name in kept}]
            rows += [{**row, "unit": unit.hash[:UNIT]} for unit in units for row in unit.estimates]
            tables = [self._neighbours(old, kept), *(_table(unit) for unit in units)]
            neighbours = pa.concat_tables(table for table in tables if table is not None).unify_dictionaries()
            record = {**old, "units": kept | {unit.hash: dict(unit.info) for unit in units}}
            self._write(rows, neighbours, record)

    def note(self, **values: Any) -> None:
        """Record top-level entries (JSON) beside the units."""
        with self._writing():
            record = self.record()
            if record["files"] and any(record.get(name) != value for name, value in values.items()):
                _replace(self.root / RECORD, _json({**record, **values}))

    def neighbours(self, unit: str) -> Any:
        """The rows of one unit, a pandas DataFrame of NEIGHBOUR_COLUMNS."""
        table = pq.read_table(self.root / NEIGHBOURS, filters=[("unit", "==", unit[:UNIT])])
        return table.to_pandas(strings_to_categorical=False)

    def estimates(self, units: Collection[str]) -> list[dict[str, str]]:
        """The rows of retrieval.csv of these units, in order, as text."""
        wanted = {unit[:UNIT] for unit in units}
        return [row for row in self._estimates(self.record()) if row["unit"] in wanted]

    def _estimates(self, record: Mapping[str, Any]) -> list[dict[str, str]]:
        if not record["files"]:
            return []
        with (self.root / ESTIMATES).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def _neighbours(self, record: Mapping[str, Any], kept: Collection[str]) -> pa.Table | None:
        if not record["files"]:
            return None
        table = pq.read_table(self.root / NEIGHBOURS)
        return table.filter(
            pc.is_in(table["unit"].cast(pa.string()), pa.array([u[:UNIT] for u in kept], pa.string()))
        )

    def _write(self, rows: list[dict[str, Any]], neighbours: pa.Table, record: Mapping[str, Any]) -> None:
        text = io.StringIO()
        lines = csv.DictWriter(text, ESTIMATE_COLUMNS, lineterminator="\n")
        lines.writeheader()
        order = sorted(rows, key=lambda row: [str(row[name]) for name in (*KEY_COLUMNS, "distance")])
        lines.writerows({name: _cell(value) for name, value in row.items()} for row in order)
        sink = io.BytesIO()
        pq.write_table(neighbours, sink)
        files = {ESTIMATES: text.getvalue().encode(), NEIGHBOURS: sink.getvalue()}
        record = {**record, "files": {name: _sha256(data) for name, data in files.items()}}
        if not self.record()["files"]:
            self._set_aside()
        drafts = [_draft(self.root / name, data) for name, data in {**files, RECORD: _json(record)}.items()]
        for draft in drafts:
            draft.replace(draft.with_suffix(""))

    def _set_aside(self) -> None:
        """Keep tables that are not featprobe's last word under another name: they may be someone's work."""
        for name in (ESTIMATES, NEIGHBOURS):
            path = self.root / name
            if path.exists():
                path.replace(self.root / f"{name}.{_sha256(path.read_bytes())[:8]}.old")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """The folder, made and locked; every operating-system error becomes an OutputError."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.root / ".retrieval.lock", timeout=_LOCK_SECONDS):
                yield
        except filelock.Timeout:
            raise OutputError(
                f"{self.root} is locked",
                f"another featprobe has been writing to it for over {_LOCK_SECONDS:.0f} s",
                "wait for it, or choose another folder with --out",
            ) from None
        except OSError as error:
            for name in (ESTIMATES, NEIGHBOURS, RECORD):
                with contextlib.suppress(OSError):
                    (self.root / f"{name}.next").unlink()
            full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
            raise OutputError(
                f"can't write to {self.root}",
                "the disk is full" if full else error.strerror or str(error),
                "free some space and type the same command again"
                if full
                else "choose another folder with --out",
            ) from error


def _table(unit: Unit) -> pa.Table:
    """The unit's rows; what repeats is a dictionary column."""
    count = len(unit.neighbours["query"])
    columns: dict[str, Any] = {}
    for name in NEIGHBOUR_COLUMNS:
        value = unit.hash[:UNIT] if name == "unit" else unit.neighbours[name]
        kind = (_TYPES | _TYPES_TOO).get(name, pa.string())
        if isinstance(value, (str, int, float)):
            array = pa.repeat(pa.scalar(value, kind), count)
        else:
            array = pa.array(value, kind)
        columns[name] = array.dictionary_encode() if kind == pa.string() and name not in _PLAIN else array
    return pa.table(columns)


def _cell(value: Any) -> str:
    """Text of a cell: the fewest digits that give back the same float64, the empty field for NaN."""
    if isinstance(value, float):
        return "" if value != value else repr(float(value))  # noqa: PLR0124 - NaN
    return str(value)


def _draft(path: Path, data: bytes) -> Path:
    """`data` beside its place, with .next behind its name."""
    draft = path.with_name(f"{path.name}.next")
    draft.write_bytes(data)
    return draft


def _replace(path: Path, data: bytes) -> None:
    _draft(path, data).replace(path)


def _json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
