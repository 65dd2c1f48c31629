"""The table ood.csv: its columns, what names a row, and what of it a report shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from featprobe.results.single import SingleTable
from featprobe.results.store import ESTIMATES

COLUMNS: Final = (
    *(
        "inside",
        "outside",
        "backbone",
        "weights",
        "pooling",
        "layer",
        "preprocessing",
        "detector",
        "protocol",
    ),
    *(
        "seed",
        "fold",
        "metric",
        "value",
        "ci_low",
        "ci_high",
        "ci_method",
        "n_train",
        "n_inside",
        "n_outside",
    ),
    *("n_groups_inside", "n_groups_outside", "fingerprint_inside", "fingerprint_outside"),
)
KEY: Final = (*COLUMNS[: COLUMNS.index("value")], "fingerprint_inside")

NUMBERS: Final = ("value", "ci_low", "ci_high")
COUNTS: Final = ("n_train", "n_inside", "n_outside", "n_groups_inside", "n_groups_outside")
NAME: Final = "ood"


def table_in(root: Path) -> SingleTable:
    """The table of one results folder."""
    return SingleTable(root, NAME, COLUMNS, KEY)


def embedding_name(row: Mapping[str, Any], *, seeds: bool) -> str:
    """The embedding of a row as a reader knows it, with its seed where there are several."""
    weights = "" if row["weights"] == "pretrained" else f" ({row['weights']})"
    place = "/".join(filter(None, [row["layer"], row["pooling"]]))
    return f"{row['backbone']}{weights} {place}" + (f" seed {row['seed']}" if seeds else "")


def with_estimates(roots: Sequence[Path]) -> list[Path]:
    """`roots` without those that hold an ood.csv and no results; all of them where none would be left."""
    kept = [root for root in roots if (root / ESTIMATES).exists() or not table_in(root).path.exists()]
    return kept or list(roots)


def strange(roots: Sequence[Path]) -> tuple[pd.DataFrame, dict[str, str], list[str]]:
    """(what the folders' tables say of pairs of data sets, settings by folder, notes), [] where there is none.

    COLUMNS and `system`, one row per pair, embedding, detector, seed and measure: of the one fold, or of the mean over
    folds. A row that several folders hold counts once, the first. A table that its record does not vouch for is left
    out, with a note.
    """
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    settings, notes = {}, []
    for root in dict.fromkeys(roots):
        table = table_in(root)
        own = table.rows()
        if not own and table.path.exists():
            notes.append(f"{table.path} is not what {table.record.name} vouches for and is left out")
        for row in own:
            rows.setdefault(tuple(row[name] for name in KEY), row)
        if own:
            run = json.loads(table.record.read_text(encoding="utf-8"))["run"]["configuration"]
            shown = ", ".join(f"{name}={value}" for name, value in run.items() if value not in (None, [], ""))
            settings[f"ood settings ({root})"] = shown
    frame = pd.DataFrame(list(rows.values()), columns=[*COLUMNS])
    if frame.empty:
        return frame.assign(system=""), settings, notes
    for name in (*NUMBERS, *COUNTS):
        frame[name] = pd.to_numeric(frame[name].replace("", None))
    whole = [name for name in KEY if name != "fold"]
    frame = frame[(frame["fold"] == "mean") | ~frame.duplicated(whole, keep=False)]
    seeds = frame.groupby(["inside", "outside"])["seed"].transform("nunique") > 1
    names = [
        embedding_name({str(name): value for name, value in row.items()}, seeds=bool(several))
        for row, several in zip(frame.to_dict("records"), seeds, strict=True)
    ]
    return frame.assign(system=names).reset_index(drop=True), settings, notes
