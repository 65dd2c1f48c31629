from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from featprobe import cache as cache_room
from featprobe.cache import Cache, StoredRowsChangedError, Writer, export, gc, verify
from featprobe.cache.sealing import seal
from featprobe.errors import CacheError, ConfigError, DataError, OutputError
from featprobe.records import Preprocessing, Recipe, Samples, images_sha256, texts

DIMS = {"cls": 8}
ENVIRONMENT = {"device": "cpu", "versions": {"torch": "2.15"}}


def samples_of(count: int, *, first: int = 0, groups: bool = True) -> Samples:
    numbers = range(first, first + count)
    samples = Samples.build(
        path=[f"a/{n}.png" for n in numbers],
        label=[n % 3 for n in numbers],
        label_names=("one", "two", "drei"),
        group=[f"patient {n // 2}" for n in numbers] if groups else None,
        split=[("train", "test")[n % 2] for n in numbers],
        columns={"age/years": [str(n) for n in numbers], ".": ["x"] * count},
    )
    return samples.replace(sha256=texts([f"{n:064x}" for n in numbers]))


def recipe_of(samples: Samples, **changes: Any) -> Recipe:
    rule = Preprocessing((224, 224), "crop", 256, "bicubic", (0.5,) * 3, (0.5,) * 3)
    values = {"backbone": "resnet", "architecture": "resnet18", "weights": "w", "preprocessing": rule}
    return Recipe(images=images_sha256(samples.sha256), **{**values, **changes})


def values_of(samples: Samples, rows: Any, dim: int = 8) -> Any:
    """An embedding that follows from the image alone."""
    seeds = [int(value, 16) for value in samples.sha256[rows]]
    return np.array([np.random.default_rng([seed, dim]).normal(size=dim) for seed in seeds]).reshape(-1, dim)


def writer_of(cache: Cache, samples: Samples, **changes: Any) -> Writer:
    arguments = {
        "poolings": DIMS,
        "batch_size": 4,
        "weights_label": "pretrained",
        "environment": ENVIRONMENT,
        "recipe": recipe_of(samples),
        **changes,
    }
    recipe, poolings = arguments.pop("recipe"), arguments.pop("poolings")
    return cache.writer("digits", recipe, samples, poolings, **arguments)


def fill(writer: Writer, samples: Samples, *, bad: tuple[int, ...] = (), until: int | None = None) -> None:
    until = len(samples) if until is None else until
    while writer.position < until:
        window = range(writer.position, min(len(samples), writer.position + writer.batch_size))
        rows = np.array([row for row in window if row not in bad], dtype=np.int64)
        writer.append(
            rows,
            {key: values_of(samples, rows, 9 if key == "mean" else 8) for key in writer.poolings},
            texts([f"{row:064d}" for row in rows]),
            texts(["f" * 16 for _ in rows]),
            [(row, f"broken: {row}") for row in window if row in bad],
            window[-1] + 1,
        )


def write(cache: Cache, samples: Samples, *, bad: tuple[int, ...] = (), **changes: Any) -> Path:
    with writer_of(cache, samples, **changes) as writer:
        fill(writer, samples, bad=bad)
        return writer.finish({**ENVIRONMENT, "seconds": 1.5})


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_the_layout_is_the_contracts_for_plain_h5py(cache: Cache) -> None:
    samples = samples_of(300)
    path = write(cache, samples, bad=(7, 299))
    recipe = recipe_of(samples)
    assert path == cache.root / "digits" / f"resnet-{recipe.fingerprint[:12]}.h5"
    kept = np.delete(np.arange(300), [7, 299])
    with h5py.File(path) as file:
        assert file.attrs["schema"] == 1
        assert file.attrs["recipe"] == recipe.to_json()
        assert file.attrs["fingerprint"] == recipe.fingerprint
        assert json.loads(file.attrs["environment"])["seconds"] == 1.5
        assert file.attrs["n_images"] == 300
        embeddings = file["embeddings/cls"]
        assert (embeddings.dtype, embeddings.chunks) == (np.float32, (256, 8))
        assert (embeddings.fletcher32, embeddings.compression) == (True, None)
        assert (embeddings.attrs["rows"], bool(embeddings.attrs["complete"])) == (298, True)
        assert np.array_equal(embeddings[:], values_of(samples, kept).astype(np.float32))
        assert file["samples/id"].asstr()[:].tolist() == samples.id[kept].tolist()
        assert file["samples/label"][:].tolist() == samples.label[kept].tolist()
        assert file["samples/group"].attrs["declared"]
        assert file["label_names"].asstr()[:].tolist() == ["one", "two", "drei"]
        assert file["columns/age%2Fyears"].asstr()[0] == "0"
        assert file["quarantine/row"][:].tolist() == [7, 299]
        assert file["quarantine/reason"].asstr()[0] == "broken: 7"
    assert names_in(path.parent) == [path.name, f"{path.name}.lock"]
    assert verify(path) == []


def test_what_is_read_is_what_was_written(cache: Cache) -> None:
    samples = samples_of(10)
    path = write(cache, samples, bad=(3,))
    table = cache.read(path, "cls")
    kept = np.delete(np.arange(10), 3)
    assert (table.dataset, table.weights_label, table.pooling) == ("digits", "pretrained", "cls")
    assert table.recipe == recipe_of(samples)
    assert np.array_equal(table.embeddings, values_of(samples, kept).astype(np.float32))
    assert table.samples.labels_sha256() == samples.take(kept).labels_sha256()
    assert table.samples.groups_declared
    assert sorted(table.samples.columns) == [".", "age/years"]
    (entry,) = cache.entries()
    assert (entry.n, entry.n_images, entry.poolings, entry.dims) == (9, 10, ("cls",), {"cls": 8})
    assert entry.environment["device"] == "cpu"
    with pytest.raises(CacheError, match=r"no pooling 'clss'; it holds cls; did you mean cls\?"):
        cache.read(path, "clss")


def test_a_pooling_is_added_without_touching_the_others(cache: Cache) -> None:
    samples = samples_of(300)
    path = write(cache, samples, bad=(1,))
    before = cache.read(path, "cls").embeddings
    both = {"cls": 8, "mean": 9, "blocks.3/cls": 8}
    with writer_of(cache, samples, poolings=both) as writer:
        assert (writer.poolings, writer.position) == (("mean", "blocks.3/cls"), 0)
        assert cache.read(path, "cls").embeddings.shape == (299, 8)
        fill(writer, samples, bad=(1,))
        writer.finish(ENVIRONMENT)
    assert set(cache.entries()[0].poolings) == set(both)
    assert np.array_equal(cache.read(path, "cls").embeddings, before)
    table = cache.read(path, "cls", layer="blocks.3")
    assert (table.layer, table.pooling, table.embeddings.shape) == ("blocks.3", "cls", (299, 8))
    assert cache.read(path, "blocks.3/cls").layer == "blocks.3"
    assert verify(path) == []
    assert not cache.parts()
    with writer_of(cache, samples, poolings=both) as writer:
        assert (writer.poolings, writer.position) == ((), 300)
        assert writer.finish(ENVIRONMENT) == path


def test_poolings_of_other_pixels_are_refused_and_fresh_rewrites_all(cache: Cache) -> None:
    samples = samples_of(10)
    path = write(cache, samples, bad=(6,))
    both = {"cls": 8, "mean": 9}
    with writer_of(cache, samples, poolings=both) as writer:
        fill(writer, samples, until=4)
        with pytest.raises(StoredRowsChangedError, match=r"1 images read otherwise .* a/6.png"):
            fill(writer, samples)
        assert writer.position == 4
    with pytest.raises(ValueError, match="would lose"):
        writer_of(cache, samples, poolings={"mean": 9}, fresh=True)
    with writer_of(cache, samples, poolings=both, fresh=True) as writer:
        assert (writer.position, writer.poolings) == (0, ("cls", "mean"))
        assert "begun anew" in writer.notes[0]
        fill(writer, samples)
        assert cache.entries()[0].n == 9
        writer.finish(ENVIRONMENT)
    assert cache.entries()[0].n == 10
    assert verify(path) == []


def test_an_interrupted_run_resumes_with_its_batch_size(cache: Cache) -> None:
    samples = samples_of(10)
    with writer_of(cache, samples) as writer:
        fill(writer, samples, until=8)
    assert cache.parts()
    assert not cache.entries()
    with pytest.raises(CacheError, match="still incomplete"):
        cache.read(cache.parts()[0], "cls")
    with writer_of(cache, samples, batch_size=3, environment={"device": "cuda"}) as writer:
        assert (writer.position, writer.batch_size) == (8, 4)
        assert "another machine" in writer.notes[0]
        fill(writer, samples)
        path = writer.finish(ENVIRONMENT)
    assert cache.entries()[0].environment["begun_under"] == ENVIRONMENT
    assert np.array_equal(cache.read(path, "cls").embeddings, values_of(samples, slice(None)).astype("f4"))


def test_a_run_killed_between_the_two_renamings_is_promoted(cache: Cache) -> None:
    samples = samples_of(10)
    path = write(cache, samples)
    path.rename(path.with_name(path.name + ".part"))
    with writer_of(cache, samples) as writer:
        assert (writer.position, writer.poolings) == (10, ())
        assert writer.finish(ENVIRONMENT) == path
    assert verify(path) == []
    assert not cache.parts()


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_part_that_hdf5_cant_open_is_begun_anew(cache: Cache, damage: str) -> None:
    samples = samples_of(10)
    with writer_of(cache, samples) as writer:
        fill(writer, samples, until=8)
    (part,) = cache.parts()
    content = part.read_bytes()
    part.write_bytes({"cut": content[:1500], "noise": b"x" * len(content), "empty": b""}[damage])
    with writer_of(cache, samples) as writer:
        assert writer.position == 0
        assert "damaged and is begun anew" in writer.notes[0]
        fill(writer, samples)
        assert verify(writer.finish(ENVIRONMENT)) == []


def test_rows_of_a_part_that_never_reached_the_disk_are_computed_again(cache: Cache) -> None:
    samples = samples_of(10)
    with writer_of(cache, samples) as writer:
        fill(writer, samples, until=8)
    with h5py.File(cache.parts()[0], "r+") as file:
        file["embeddings/cls"][5] = 0
    with writer_of(cache, samples) as writer:
        assert writer.position == 4
        assert writer.notes == ("4 rows of the unfinished file were damaged and are computed again",)
        fill(writer, samples)
        path = writer.finish(ENVIRONMENT)
    assert np.array_equal(cache.read(path, "cls").embeddings, values_of(samples, slice(None)).astype("f4"))


def test_a_part_of_another_recipe_is_refused(cache: Cache) -> None:
    samples = samples_of(10)
    with writer_of(cache, samples) as writer:
        fill(writer, samples, until=4)
        part = cache.parts()[0]
    other = cache.path("digits", recipe_of(samples, precision="bf16"))
    part.rename(other.with_name(other.name + ".part"))
    with pytest.raises(CacheError, match="another recipe"):
        writer_of(cache, samples, recipe=recipe_of(samples, precision="bf16"))


def test_a_value_that_is_not_finite_is_refused_with_its_image(cache: Cache) -> None:
    samples = samples_of(2)
    bad = np.array([[0.0] * 8, [70000.0] * 8])
    with writer_of(cache, samples, recipe=recipe_of(samples, storage="float16")) as writer:
        with pytest.raises(CacheError, match=r"1 embeddings are not finite, the first of image a/1.png"):
            writer.append(np.arange(2), {"cls": bad}, texts(["", ""]), texts(["", ""]), [], 2)
        assert writer.position == 0
    assert not cache.parts()


def test_every_image_of_a_batch_must_be_accounted_for(cache: Cache) -> None:
    samples = samples_of(4)
    with writer_of(cache, samples) as writer, pytest.raises(ValueError, match="images 0 to 4 once"):
        writer.append(np.arange(3), {"cls": np.zeros((3, 8))}, texts("abc"), texts("abc"), [], 4)


def test_all_unreadable_is_an_error_and_leaves_nothing(cache: Cache) -> None:
    samples = samples_of(5)
    with pytest.raises(DataError, match=r"none of the 5 images .* broken: 0"):
        write(cache, samples, bad=tuple(range(5)))
    assert not cache.parts()
    assert not cache.files()


def test_a_second_writer_is_told_who_holds_the_file(cache: Cache) -> None:
    samples = samples_of(5)
    message = rf"being written by another process; process {os.getpid()} on .* since 20"
    with writer_of(cache, samples) as writer:
        for other in (cache, Cache(cache.root)):
            with pytest.raises(CacheError, match=message):
                writer_of(other, samples)
        fill(writer, samples)
        path = writer.finish(ENVIRONMENT)
        with pytest.raises(CacheError, match="another process"), Cache(cache.root).lock(path):
            pass
    with cache.lock(path):
        assert cache.refresh(path, samples) is False
        with writer_of(cache, samples) as writer:
            assert writer.position == 5


def test_refresh_takes_over_the_manifest_and_keeps_the_embeddings(cache: Cache) -> None:
    samples = samples_of(300)
    path = write(cache, samples, bad=(2,))
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
    assert np.array_equal(after.samples.pixel_sha256, before.samples.pixel_sha256)
    assert (entry.environment["machine"], entry.environment["device"]) == ("b", "cpu")
    assert verify(path) == []
    with pytest.raises(CacheError, match="of other images"):
        cache.refresh(path, samples_of(300, first=1))
    with pytest.raises(CacheError, match="of other images"):
        cache.refresh(path, samples_of(299))


def test_a_grown_list_takes_rows_over_and_supersedes_the_old_file(cache: Cache) -> None:
    small, large = samples_of(6), samples_of(10)
    old = write(cache, small, bad=(1,))
    donated = cache.donated_rows("digits", recipe_of(large), ["cls"])
    assert sorted(donated) == sorted(np.delete(small.sha256, 1).tolist())
    assert np.array_equal(donated[small.sha256[4]]["cls"], values_of(small, [4]).astype("f4")[0])
    assert not cache.donors("digits", recipe_of(large, precision="bf16"))
    assert not cache.donors("digits", recipe_of(large), ["mean"])
    new = write(cache, large)
    assert [entry.path for entry in cache.current()] == [new]
    assert [entry.path for entry in cache.superseded()] == [old]
    cache.refresh(old, small)
    assert [entry.path for entry in cache.current()] == [old]
    copied = Cache(cache.root.with_name("copy"))
    for path in (old, new):
        os.utime(path, (0, 0) if path == old else None)
    shutil.copytree(cache.root, copied.root)
    assert [entry.path.name for entry in copied.current()] == [old.name]


def test_gc_removes_what_nobody_needs_and_nothing_that_is_held(cache: Cache) -> None:
    small, large, other = samples_of(6), samples_of(10), samples_of(4, first=50)
    old, new = write(cache, small), write(cache, large)
    with writer_of(cache, other) as writer:
        fill(writer, other, until=4)
    (part,) = cache.parts()
    stray = new.with_name(new.name + ".part.tmp")
    stray.write_bytes(b"x")
    doomed = {old, part, stray}
    with cache.lock(old):
        assert {waste.path for waste in gc(cache, dry_run=True)} & doomed == {part, stray}
    assert all(path.exists() for path in doomed)
    assert {waste.path for waste in gc(cache)} >= doomed
    assert names_in(new.parent) == [new.name]
    assert verify(new) == []


def test_files_that_cant_be_used_give_the_next_step(cache: Cache) -> None:
    path = write(cache, samples_of(300))
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
        file.attrs["schema"] = 7
    with pytest.raises(
        CacheError, match=r"cache schema 7; this version of featprobe reads schema 1; .* extract"
    ):
        cache.entries()
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
        (lambda file: file["quarantine/row"].__setitem__(0, 99), "do not make up"),
        (lambda file: file.attrs.__setitem__("recipe", "{}"), "fingerprint"),
    ],
)
def test_verify_names_what_was_tampered_with(
    cache: Cache, change: Callable[[Any], None], problem: str
) -> None:
    path = write(cache, samples_of(10), bad=(3,))
    with h5py.File(path, "r+") as file:
        change(file)
    assert any("bytes were changed" in found for found in verify(path))
    seal(path)  # with a seal that fits again, only the check of this one thing is left to find it
    assert any(problem in found for found in verify(path))


def test_export_is_read_without_featprobe_and_without_pickle(cache: Cache, tmp_path: Path) -> None:
    samples = samples_of(10).replace(label=np.arange(10) % 4 - 1)
    path = write(cache, samples)
    with np.load(export(path, "cls", tmp_path / "out" / "x.npz"), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["embeddings"], values_of(samples, slice(None)).astype("f4"))
        assert arrays["label_names"].tolist() == ["one", "two", "drei"]
        assert str(arrays["recipe"]) == recipe_of(samples).to_json()
    frame = pd.read_parquet(export(path, "cls", tmp_path / "out" / "x.parquet"))
    assert frame.columns.tolist()[:8] == ["id", "path", "label", "label_name", "group", "case", "split", "e0"]
    assert frame.label_name.tolist()[:4] == ["", "one", "two", "drei"]
    assert np.array_equal(frame["e7"], values_of(samples, slice(None)).astype("f4")[:, 7])
    assert names_in(tmp_path / "out") == ["x.npz", "x.parquet"]
    with pytest.raises(ConfigError, match=r"\.npz or \.parquet"):
        export(path, "cls", tmp_path / "x.csv")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="can't be written"):
        export(path, "cls", tmp_path / "file" / "x.npz")


def test_a_folder_that_cant_be_written_to_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="can't be written to"):
        writer_of(Cache(tmp_path / "file"), samples_of(3))


def _limited(root: Path, megabytes: float, stage: str, answers: Any) -> None:
    cache, samples = Cache(root), samples_of(4000)
    limit = int(megabytes * 1e6)
    try:
        if stage == "open":
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with writer_of(cache, samples, poolings={"cls": 8, "mean": 400}, batch_size=1000) as writer:
            window = np.arange(4000)
            hashes = texts([f"{row:064d}" for row in window])
            if writer.position == 0:
                writer.append(window, {"mean": np.ones((4000, 400))}, hashes, texts([""] * 4000), [], 4000)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            writer.finish(ENVIRONMENT)
    except OutputError as error:
        answers.put(str(error))
    else:
        answers.put("finished")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("stage", ["open", "finish"])
def test_a_full_disk_is_an_output_error_and_harms_nothing(cache: Cache, stage: str) -> None:
    samples = samples_of(4000)
    with writer_of(cache, samples, batch_size=4000) as writer:
        rows, none = np.arange(4000), texts([""] * 4000)
        hashes = texts([f"{row:064d}" for row in rows])
        writer.append(rows, {"cls": np.ones((4000, 8))}, hashes, none, [], 4000)
        path = writer.finish(ENVIRONMENT)
    before = path.read_bytes()
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    for megabytes, expected in [(2, "can't be written: File too large; "), (1000, "finished")]:
        process = context.Process(target=_limited, args=(cache.root, megabytes, stage, answers))
        process.start()
        answer = answers.get(timeout=60)
        process.join()
        assert expected in answer
        if expected != "finished":
            assert "MB are needed" in answer
            assert path.read_bytes() == before
            assert len(cache.parts()) == (stage == "finish")
            assert not list(path.parent.glob("*.tmp"))
    assert verify(path) == []
    assert set(cache.entries()[0].poolings) == {"cls", "mean"}


def test_the_room_of_a_part_is_taken_before_the_first_image(cache: Cache) -> None:
    with writer_of(cache, samples_of(500), poolings={"cls": 1000}):
        (part,) = cache.parts()
        assert part.stat().st_blocks * 512 >= 500 * 1000 * 4


def test_names_that_look_alike_get_folders_of_their_own(cache: Cache) -> None:
    recipe = recipe_of(samples_of(2), backbone="timm:vit/a")
    folders = {cache.path(name, recipe).parent for name in ("a_b", "a/b", "a b", "..", ".")}
    assert len(folders) == 5
    assert all(folder.parent == cache.root for folder in folders)
    assert cache.path("a", recipe).name.startswith("timm_vit_a-")


def test_the_public_names_exist() -> None:
    assert all(hasattr(cache_room, name) for name in cache_room.__all__)
