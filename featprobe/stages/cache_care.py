"""featprobe cache: list, verify, recheck and clear what extraction left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from featprobe import cache as cache_room
from featprobe.cache import Cache, CacheEntry, row_shape
from featprobe.errors import CacheError, ConfigError, listed, nearest

OK, FAILED = 0, 1


def ls(cache: Path, data: Sequence[str], backbone: Sequence[str]) -> int:
    """Print a table of what the cache holds, and what is unfinished or superseded."""
    store = Cache(cache)
    readable, problems = store.scan()
    entries = chosen(readable, data, backbone)
    rows = [
        {
            "data set": entry.dataset,
            "backbone": entry.recipe.backbone,
            "weights": entry.weights_label,
            "poolings": "+".join(_with_shape(key, entry) for key in entry.poolings),
            "preprocessing": entry.recipe.preprocessing.label,
            "precision": entry.recipe.precision,
            "images": entry.n,
            "MB": f"{entry.size / 1e6:.1f}",
            "fingerprint": entry.recipe.fingerprint[:12],
        }
        for entry in entries
    ]
    print(pd.DataFrame(rows).to_string(index=False) if rows else f"{cache} holds no embeddings")
    for problem in problems:
        print(f"DAMAGED: {problem}")
    for part in store.parts():
        print(f"unfinished: {part} (type the same featprobe extract again to finish it)")
    superseded = store.superseded()
    if superseded:
        print(
            f"superseded by a newer list of images: {len(superseded)} files (featprobe cache gc removes them)"
        )
    return OK


def verify(cache: Path, data: Sequence[str], backbone: Sequence[str]) -> int:
    """Read every byte; 1 where a file is damaged."""
    store = Cache(cache)
    damaged = 0
    entries, _ = store.scan()
    known = {entry.path: entry for entry in entries}
    paths = [path for path in store.files() if _wanted(known.get(path), data, backbone)]
    if not paths:
        raise CacheError(
            f"the cache {cache} holds no such file", "", f"type featprobe cache ls --cache {cache}"
        )
    for path in paths:
        problems = cache_room.verify(path)
        damaged += bool(problems)
        print(f"{'DAMAGED' if problems else 'ok     '}  {path}")
        for problem in problems:
            print(f"         {problem}")
    if damaged:
        print(
            f"{damaged} of {len(paths)} files are damaged: delete them and type the featprobe extract command again"
        )
    return FAILED if damaged else OK


def recheck(
    cache: Path,
    data: Sequence[str],
    backbone: Sequence[str],
    source: Sequence[str],
    rows: int,
    weights: Sequence[str],
    weights_dir: Path | None = None,
) -> int:
    """Compute `rows` rows of every file again and compare; 1 where one differs."""
    from featprobe.stages.recheck import recheck_entry

    if rows < 1:
        raise ConfigError(f"--rows is {rows}", "at least one row must be computed again", "type --rows 16")
    store = Cache(cache)
    entries = chosen(store.entries(), data, backbone)
    outcomes = [
        recheck_entry(store, entry, dict(_named(source)), dict(_named(weights)), rows, weights_dir)
        for entry in entries
    ]
    for entry, outcome in zip(entries, outcomes, strict=True):
        verdict = "ok    " if outcome.agrees else "DIFFER"
        print(
            f"{verdict}  {outcome.rows} rows, largest relative distance {outcome.worst:.1e} "
            f"(allowed {outcome.allowed:.0e})  {entry.path}"
        )
    return OK if all(outcome.agrees for outcome in outcomes) else FAILED


def gc(cache: Path, dry_run: bool) -> int:
    """Remove superseded files, abandoned parts and idle locks; with `dry_run` only say so."""
    removed = cache_room.gc(Cache(cache), dry_run=dry_run)
    for path, size, why in removed:
        print(f"{'would remove' if dry_run else 'removed'}  {size / 1e6:.1f} MB  {why}  {path}")
    print(f"{len(removed)} files, {sum(size for _, size, _ in removed) / 1e6:.1f} MB")
    return OK


def _with_shape(key: str, entry: CacheEntry) -> str:
    """A key, with the shape of an image's row where that is no vector: `patches 16x16x384`."""
    return key if key in entry.flat else f"{key} {'x'.join(map(str, row_shape(entry.dims[key])))}"


def _named(values: Sequence[str]) -> list[tuple[str, str]]:
    """`NAME=VALUE` -> (NAME, VALUE); a bare VALUE is for all ("")."""
    return [(name, rest) for name, _, rest in (value.rpartition("=") for value in values)]


def _wanted(entry: CacheEntry | None, data: Sequence[str], backbone: Sequence[str]) -> bool:
    """Whether a file is asked for; one that can't be opened (no entry) always is."""
    if entry is None:
        return True
    return (not data or entry.dataset in data) and (not backbone or entry.recipe.backbone in backbone)


def chosen(entries: Sequence[CacheEntry], data: Sequence[str], backbone: Sequence[str]) -> list[CacheEntry]:
    """The entries that are asked for; CacheError names the nearest where a name is none of theirs."""
    for kind, wanted, known in (
        ("data set", data, sorted({entry.dataset for entry in entries})),
        ("backbone", backbone, sorted({entry.recipe.backbone for entry in entries})),
    ):
        for name in wanted:
            if name not in known:
                raise CacheError(
                    f"the cache holds no {kind} {name!r}",
                    nearest(name, known) or f"it holds: {listed(known) or 'nothing'}",
                    "type featprobe cache ls",
                )
    return [entry for entry in entries if _wanted(entry, data, backbone)]
