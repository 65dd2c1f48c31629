from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest

from featprobe import cache as cache_room
from featprobe.cache import Cache, verify
from featprobe.cache.sealing import seal
from featprobe.errors import CacheError
from featprobe.records import TASKS, texts


def test_the_layout_is_the_contracts_for_plain_h5py(bench: Any, cache: Cache) -> None:
    samples = bench.samples(300)
    path = bench.write(samples, bad=(7, 299))
    recipe = bench.recipe(samples)
    assert path == cache.root / "digits" / f"resnet-{recipe.fingerprint[:12]}.h5"
    kept = np.delete(np.arange(300), [7, 299])
    with h5py.File(path) as file:
        assert file.attrs["schema"] == 2
        assert file.attrs["recipe"] == recipe.to_json()
        assert file.attrs["fingerprint"] == recipe.fingerprint
        assert json.loads(file.attrs["environment"])["seconds"] == 1.5
        assert file.attrs["n_images"] == 300
        embeddings = file["embeddings/cls"]
        assert (embeddings.dtype, embeddings.chunks) == (np.float32, (256, 8))
        assert (embeddings.fletcher32, embeddings.compression) == (True, None)
        assert (embeddings.attrs["rows"], bool(embeddings.attrs["complete"])) == (298, True)
        assert np.array_equal(embeddings[:], bench.values(samples, kept).astype(np.float32))
        assert file["samples/id"].asstr()[:].tolist() == samples.id[kept].tolist()
        assert file["samples/label"][:].tolist() == samples.label[kept].tolist()
        assert file["samples/label"].attrs["task"] == "classes"
        thumbnail = file["samples/thumbnail"]
        assert (thumbnail.dtype, thumbnail.shape) == (np.uint8, (298, 1024))
        assert np.array_equal(thumbnail[:], bench.thumbnails(samples, kept))
        assert "twin" not in file["samples"]
        assert file["samples/group"].attrs["declared"]
        assert file["label_names"].asstr()[:].tolist() == ["one", "two", "drei"]
        assert file["columns/age%2Fyears"].asstr()[0] == "0"
        assert file["quarantine/row"][:].tolist() == [7, 299]
        assert file["quarantine/reason"].asstr()[0] == "broken: 7"
    assert bench.names_in(path.parent) == [path.name, f"{path.name}.lock"]
    assert verify(path) == []


@pytest.mark.parametrize("task", TASKS)
def test_the_labels_of_every_task_are_stored_as_they_are(bench: Any, cache: Cache, task: str) -> None:
    samples = bench.samples(12, task=task)
    path = bench.write(samples, bad=(3,))
    kept = np.delete(np.arange(12), 3)
    with h5py.File(path) as file:
        label = file["samples/label"]
        assert label.attrs["task"] == task
        assert label.dtype == (np.float64 if task == "continuous" else np.int64)
        assert np.array_equal(label[:], samples.label[kept], equal_nan=task == "continuous")
    for read in (cache.read(path, "cls").samples, cache.read_samples(path)):
        assert (read.task, read.label_names) == (task, samples.label_names)
        assert read.label.dtype == samples.label.dtype
        assert np.array_equal(read.label, samples.label[kept], equal_nan=task == "continuous")
        assert np.array_equal(read.labelled, samples.labelled[kept])
    assert verify(path) == []


def test_thumbnails_are_left_out_where_the_caller_only_lists(bench: Any, cache: Cache) -> None:
    samples = bench.samples(10).replace(twin=texts(["a copy"] * 10))
    path = bench.write(samples)
    whole, bare = cache.read_samples(path), cache.read_samples(path, thumbnails=False)
    assert np.array_equal(whole.thumbnail, bench.thumbnails(samples, slice(None)))
    assert (bare.thumbnail.shape, bare.thumbnail.dtype) == ((10, 0), np.uint8)
    assert bare.id.tolist() == whole.id.tolist()
    assert whole.phash.tolist() == ["" if row % 7 == 0 else "f" * 16 for row in range(10)]
    assert whole.twin.tolist() == [""] * 10, "near copies are worked out, not stored"
    assert cache.read(path, "cls").samples.thumbnail.shape == (10, 1024)
    assert cache.read(path, "cls", thumbnails=False).samples.thumbnail.shape == (10, 0)


def test_what_is_read_is_what_was_written(bench: Any, cache: Cache) -> None:
    samples = bench.samples(10)
    path = bench.write(samples, bad=(3,))
    table = cache.read(path, "cls")
    kept = np.delete(np.arange(10), 3)
    assert (table.dataset, table.weights_label, table.pooling) == ("digits", "pretrained", "cls")
    assert table.recipe == bench.recipe(samples)
    assert np.array_equal(table.embeddings, bench.values(samples, kept).astype(np.float32))
    assert table.samples.labels_sha256() == samples.take(kept).labels_sha256()
    assert table.samples.groups_declared
    assert sorted(table.samples.columns) == [".", "age/years"]
    (entry,) = cache.entries()
    assert (entry.n, entry.n_images, entry.poolings, entry.dims) == (9, 10, ("cls",), {"cls": 8})
    assert entry.environment["device"] == "cpu"
    with pytest.raises(CacheError, match=r"no pooling 'clss'; it holds cls; did you mean cls\?"):
        cache.read(path, "clss")


def test_files_that_cant_be_used_give_the_next_step(bench: Any, cache: Cache) -> None:
    path = bench.write(bench.samples(300))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        CacheError, match=r"truncated or damaged: .*; featprobe cache verify .*; remove the file"
    ):
        cache.entries()
    assert verify(path)
    assert cache.scan()[0] == []
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = 1
        del file["samples/thumbnail"], file["samples/label"].attrs["task"]
    seal(path)
    problem = r"cache schema 1; .* reads schema 2, with the thumbnails .*; remove the file and .* extract"
    for use in (cache.entries, lambda: cache.read(path, "cls"), lambda: bench.writer(bench.samples(300))):
        with pytest.raises(CacheError, match=problem):
            use()
    with pytest.raises(CacheError, match=problem):
        cache.refresh(path, bench.samples(300))
    with h5py.File(path, "w") as file:
        file["x"] = 1
    assert cache.entries() == []
    with pytest.raises(CacheError, match="there is no cache file"):
        cache.read(path.with_name("none.h5"), "cls")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda file: file["embeddings/cls"].__setitem__((0, 0), np.nan), "not finite"),
        (lambda file: file["embeddings/cls"].__setitem__((0, 0), 1), "embeddings/cls: the values are not"),
        (lambda file: file["embeddings/cls"].attrs.__setitem__("rows", 4), "rows 4 for 9 samples"),
        (lambda file: file["embeddings/cls"].attrs.__setitem__("complete", False), "not complete"),
        (lambda file: file["samples/sha256"].__setitem__(0, "ab" * 32), "not those of the recipe"),
        (lambda file: file["samples/phash"].__setitem__(0, "0"), "samples, quarantine or attributes"),
        (lambda file: file["samples/label"].__setitem__(0, 1), "samples, quarantine or attributes"),
        (lambda file: file["samples/label"].__setitem__(0, 9), "outside label_names"),
        (lambda file: file["samples/label"].attrs.__setitem__("task", "ordinal"), "samples, quarantine or"),
        (lambda file: file["samples/label"].attrs.__setitem__("task", "guess"), "unknown task 'guess'"),
        (
            lambda file: file["samples/thumbnail"].__setitem__((8, 1023), 0),
            "samples, quarantine or attributes",
        ),
        (lambda file: file["quarantine/row"].__setitem__(0, 99), "do not make up"),
        (lambda file: file.attrs.__setitem__("recipe", "{}"), "fingerprint"),
    ],
)
def test_verify_names_what_was_tampered_with(bench: Any, change: Callable[[Any], None], problem: str) -> None:
    path = bench.write(bench.samples(10), bad=(3,))
    with h5py.File(path, "r+") as file:
        change(file)
    assert any("bytes were changed" in found for found in verify(path))
    seal(path)  # with a seal that fits again, only the check of this one thing is left to find it
    assert any(problem in found for found in verify(path))


@pytest.mark.parametrize("value", [np.nan, 0.25])
def test_verify_notices_another_number_where_labels_are_missing(bench: Any, value: float) -> None:
    path = bench.write(bench.samples(10, task="continuous"))
    with h5py.File(path, "r+") as file:
        assert np.isnan(file["samples/label"][5])
        file["samples/label"][5 if np.isfinite(value) else 6] = value
    seal(path)
    assert any("samples, quarantine or attributes" in found for found in verify(path))


def test_names_that_look_alike_get_folders_of_their_own(bench: Any, cache: Cache) -> None:
    recipe = bench.recipe(bench.samples(2), backbone="timm:vit/a")
    folders = {cache.path(name, recipe).parent for name in ("a_b", "a/b", "a b", "..", ".")}
    assert len(folders) == 5
    assert all(folder.parent == cache.root for folder in folders)
    assert cache.path("a", recipe).name.startswith("timm_vit_a-")


def test_the_public_names_exist() -> None:
    assert all(hasattr(cache_room, name) for name in cache_room.__all__)
