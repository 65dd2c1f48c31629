"""Keeping files in step with the manifest, and throwing away what no one needs any more."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from featprobe.cache.layout import PART, SUFFIX, Metadata, dims_of, need_seal, opened, read_metadata
from featprobe.cache.locking import held, lock_file
from featprobe.cache.packing import TEMPORARY, copy_embeddings, packed_size, put_in_place, write_whole
from featprobe.cache.sealing import mark_seen
from featprobe.errors import CacheError
from featprobe.records import Quarantine, Samples, canonical_json

if TYPE_CHECKING:
    from featprobe.cache.store import Cache

_FROM_IMAGES = ("sha256", "pixel_sha256", "phash", "thumbnail")


class Waste(NamedTuple):
    """A file that `gc` removed or would remove; `size` in bytes."""

    path: Path
    size: int
    why: str


def refresh(
    path: Path, samples: Samples, environment_changes: Mapping[str, Any], weights_label: str | None = None
) -> bool:
    """See `Cache.refresh`; the caller holds the lock."""
    with opened(path) as file:
        old = read_metadata(file, path)
        new = _refreshed(old, samples, environment_changes, path)
        if weights_label is not None:
            new = dataclasses.replace(
                new, header=dataclasses.replace(new.header, weights_label=weights_label)
            )
        changed = dataclasses.replace(new, header=old.header).sha256() != old.sha256()
        if not changed and _about(new) == _about(old):
            mark_seen(path)
            return False
        need_seal(path)  # or damage would be copied under a new seal
        temporary = write_whole(path, new, partial(copy_embeddings, file), packed_size(new, dims_of(file)))
    put_in_place(temporary, path)
    return changed


def _about(metadata: Metadata) -> str:
    """What the header says of the place and of the weights' name, neither of them in the recipe."""
    return canonical_json([metadata.header.weights_label, dict(metadata.header.environment)])


def _refreshed(
    old: Metadata, samples: Samples, environment_changes: Mapping[str, Any], path: Path
) -> Metadata:
    lost = old.quarantine.row
    readable = np.ones(len(samples), dtype=bool)
    if len(samples) == old.header.n_images:
        readable[lost] = False
    kept = samples.take(readable)
    if len(kept) != len(old.samples) or ((kept.sha256 != "") & (kept.sha256 != old.samples.sha256)).any():
        raise CacheError(
            f"{path} is of other images than the data set",
            f"{old.header.n_images} images then, {len(samples)} now",
            "type the featprobe extract command again",
        )
    environment = json.loads(canonical_json({**old.header.environment, **environment_changes}))
    return Metadata(
        header=dataclasses.replace(old.header, environment=environment),
        samples=kept.replace(**{name: getattr(old.samples, name) for name in _FROM_IMAGES}),
        quarantine=Quarantine(
            row=lost,
            id=samples.id[lost],
            path=samples.path[lost],
            sha256=old.quarantine.sha256,
            reason=old.quarantine.reason,
        ),
    )


def gc(cache: Cache, *, dry_run: bool = False) -> list[Waste]:
    """Remove superseded files, unfinished ones, left-over temporaries and locks that nobody holds.

    A file is superseded when another of the same data set and recipe, but for the list of images, was of use
    later. What a running process holds stays, and so do damaged files (`cache verify` names them). Returns
    what was removed, or would be with `dry_run`.
    """
    found: dict[Path, list[Waste]] = {}
    for path, why in _candidates(cache):
        found.setdefault(_guarded(path), []).append(Waste(path, path.stat().st_size, why))
    removed: list[Waste] = []
    for base, waste in sorted(found.items()):
        try:
            had_lock = lock_file(base).exists()
            if dry_run and not had_lock:
                removed += waste
                continue
            with held(base):
                if not dry_run:
                    for item in waste:
                        item.path.unlink(missing_ok=True)
                    lock_file(base).unlink(missing_ok=True)
        except CacheError:
            continue
        removed += waste
    return removed


def _candidates(cache: Cache) -> Iterator[tuple[Path, str]]:
    for entry in cache.superseded():
        yield entry.path, "superseded: the data set's list of images has changed"
    for part in cache.parts():
        yield part, "unfinished, and nobody is writing it"
    kinds = {
        TEMPORARY: "left over from a killed run",
        ".lock": "a lock that nobody holds",
        ".holder": "the note of a process that died",
    }
    for suffix, why in kinds.items():
        for path in sorted(cache.root.glob(f"*/*{SUFFIX}*{suffix}")):
            yield path, why


def _guarded(path: Path) -> Path:
    """The cache file whose lock guards `path`."""
    name = path.name
    for suffix in (TEMPORARY, ".lock", ".holder", PART):
        name = name.removesuffix(suffix)
    return path.with_name(name)
