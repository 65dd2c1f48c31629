from __future__ import annotations

import itertools
import os
import shutil
from typing import Any

import numpy as np
import pytest

from featprobe.cache import Cache, gc, verify
from featprobe.errors import CacheError
from featprobe.records import TASKS


def test_refresh_takes_over_the_manifest_and_keeps_the_embeddings(bench: Any, cache: Cache) -> None:
    samples = bench.samples(300)
    path = bench.write(samples, bad=(2,))
    before, inode, seen = cache.read(path, "cls"), path.stat().st_ino, cache.entries()[0].seen
    assert cache.refresh(path, samples) is False
    assert path.stat().st_ino == inode
    assert cache.entries()[0].seen > seen
    changed = samples.replace(
        label=1 - samples.label % 2,
        label_names=("no", "yes"),
        group=samples.id,
        columns={},
        groups_declared=False,
    )
    assert cache.refresh(path, changed, {"machine": "b"}) is True
    after, entry = cache.read(path, "cls"), cache.entries()[0]
    kept = np.delete(np.arange(300), 2)
    assert after.embeddings.tobytes() == before.embeddings.tobytes()
    assert after.samples.labels_sha256() == changed.take(kept).labels_sha256()
    assert (after.samples.columns, after.samples.groups_declared) == ({}, False)
    for name in ("pixel_sha256", "phash", "thumbnail"):
        assert np.array_equal(getattr(after.samples, name), getattr(before.samples, name)), name
    assert (entry.environment["machine"], entry.environment["device"]) == ("b", "cpu")
    assert verify(path) == []
    with pytest.raises(CacheError, match="of other images"):
        cache.refresh(path, bench.samples(300, first=1))
    with pytest.raises(CacheError, match="of other images"):
        cache.refresh(path, bench.samples(299))


def test_refresh_calls_the_weights_what_they_are_called_now(bench: Any, cache: Cache) -> None:
    samples = bench.samples(6)
    path = bench.write(samples)
    assert cache.refresh(path, samples, weights_label="mine") is False, "no label of an image changed"
    assert cache.entries()[0].weights_label == "mine"
    assert cache.read(path, "cls").weights_label == "mine"
    inode = path.stat().st_ino
    cache.refresh(path, samples)
    assert (cache.entries()[0].weights_label, path.stat().st_ino) == ("mine", inode)
    assert verify(path) == []


@pytest.mark.parametrize(("old", "new"), [*itertools.permutations(TASKS, 2)])
def test_refresh_goes_from_any_task_to_any_other(bench: Any, cache: Cache, old: str, new: str) -> None:
    path = bench.write(bench.samples(12, task=old), bad=(2,))
    changed = bench.samples(12, task=new)
    assert cache.refresh(path, changed) is True
    assert cache.refresh(path, changed) is False, "missing labels are equal to themselves"
    read = cache.read_samples(path)
    kept = np.delete(np.arange(12), 2)
    assert (read.task, read.label.shape) == (new, changed.label[kept].shape)
    assert read.labels_sha256() == changed.take(kept).labels_sha256()
    assert np.array_equal(read.thumbnail, bench.thumbnails(changed, kept))
    assert verify(path) == []


def test_a_grown_list_takes_rows_over_and_supersedes_the_old_file(bench: Any, cache: Cache) -> None:
    small, large = bench.samples(6), bench.samples(10)
    old = bench.write(small, bad=(1,))
    donated = cache.donated_rows("digits", bench.recipe(large), ["cls"])
    assert sorted(donated) == sorted(np.delete(small.sha256, 1).tolist())
    assert np.array_equal(donated[small.sha256[4]]["cls"], bench.values(small, [4]).astype("f4")[0])
    assert not cache.donors("digits", bench.recipe(large, precision="bf16"))
    assert not cache.donors("digits", bench.recipe(large), ["mean"])
    new = bench.write(large)
    assert [entry.path for entry in cache.current()] == [new]
    assert [entry.path for entry in cache.superseded()] == [old]
    cache.refresh(old, small)
    assert [entry.path for entry in cache.current()] == [old]
    copied = Cache(cache.root.with_name("copy"))
    for path in (old, new):
        os.utime(path, (0, 0) if path == old else None)
    shutil.copytree(cache.root, copied.root)
    assert [entry.path.name for entry in copied.current()] == [old.name]


def test_gc_removes_what_nobody_needs_and_nothing_that_is_held(bench: Any, cache: Cache) -> None:
    small, large, other = bench.samples(6), bench.samples(10), bench.samples(4, first=50)
    old, new = bench.write(small), bench.write(large)
    with bench.writer(other) as writer:
        bench.fill(writer, other, until=4)
    (part,) = cache.parts()
    stray = new.with_name(new.name + ".part.tmp")
    stray.write_bytes(b"x")
    doomed = {old, part, stray}
    with cache.lock(old):
        assert {waste.path for waste in gc(cache, dry_run=True)} & doomed == {part, stray}
    assert all(path.exists() for path in doomed)
    assert {waste.path for waste in gc(cache)} >= doomed
    assert bench.names_in(new.parent) == [new.name]
    assert verify(new) == []
