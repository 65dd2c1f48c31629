"""An index that others can search: a flat FAISS file, and which image each of its rows is."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from featprobe.errors import ConfigError, MissingExtraError, OutputError
from featprobe.records import AnyArray
from featprobe.retrieval.space import Space

_ROWS = 4096


def faiss_module() -> Any:
    """The package FAISS; MissingExtraError where it is not installed."""
    try:
        return import_module("faiss")
    except ModuleNotFoundError:
        raise MissingExtraError("a FAISS index", "faiss-cpu", "faiss") from None


def need_index(path: Path) -> Path:
    """Where the ids go that belong to the index at `path`; raises as `write_index`, before any work."""
    faiss_module()
    table = path.with_suffix(".csv")
    if table == path:
        raise ConfigError(
            f"--index {path} ends in .csv",
            "the ids and labels of its rows are written to that name",
            f"type --index {path.with_suffix('.faiss')}",
        )
    return table


def write_index(
    path: Path, rows: AnyArray, *, distance: str, ids: Sequence[str], labels: Sequence[str]
) -> tuple[Path, Path]:
    """Write `rows` [N, D] as a flat FAISS index to `path`, and row, id and label beside it as .csv; both paths.

    "euclidean": IndexFlatL2 of the rows in float32, which answers with squared distances. "cosine": IndexFlatIP of
    the rows at length 1 (a row of zeros stays zeros), to be asked with queries of length 1; it answers with
    cosines. Both files appear whole or not at all. Raises MissingExtraError without FAISS, ConfigError for a path
    that ends in .csv, ResultsError for values that are not finite, OutputError where nothing can be written.
    """
    table = need_index(path)
    faiss = faiss_module()
    space = Space.of(rows, distance, queries=False, what="index")
    width = rows.shape[1]
    index = faiss.IndexFlatL2(width) if distance == "euclidean" else faiss.IndexFlatIP(width)
    for start in range(0, len(rows), _ROWS):
        points = space.points(slice(start, start + _ROWS))[:, :width]
        index.add(points.astype("float32"))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["row", "id", "label"])
    lines.writerows(zip(range(len(rows)), ids, labels, strict=True))
    drafts = {path: path.with_name(f"{path.name}.next"), table: table.with_name(f"{table.name}.next")}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        faiss.write_index(index, str(drafts[path]))
        drafts[table].write_text(text.getvalue(), encoding="utf-8")
        for target, draft in drafts.items():
            draft.replace(target)
    except (OSError, RuntimeError) as error:  # FAISS reports a full disk as a RuntimeError
        for draft in drafts.values():
            with contextlib.suppress(OSError):
                draft.unlink()
        raise OutputError(
            f"can't write the index to {path}",
            str(error),
            "choose another file with --index, or free some space",
        ) from None
    return path, table
