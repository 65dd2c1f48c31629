from __future__ import annotations

import os
from typing import Any

import h5py
import numpy as np
import pytest

from featprobe.cache import Cache, StoredRowsChangedError, verify
from featprobe.errors import CacheError, DataError
from featprobe.records import texts


def test_a_pooling_is_added_without_touching_the_others(bench: Any, cache: Cache) -> None:
    samples = bench.samples(300)
    path = bench.write(samples, bad=(1,))
    first = cache.read(path, "cls")
    before = first.embeddings
    both = {"cls": 8, "mean": 9, "blocks.3/cls": 8}
    with bench.writer(samples, poolings=both) as writer:
        assert (writer.poolings, writer.position) == (("mean", "blocks.3/cls"), 0)
        assert cache.read(path, "cls").embeddings.shape == (299, 8)
        bench.fill(writer, samples, bad=(1,))
        writer.finish(bench.ENVIRONMENT)
    assert set(cache.entries()[0].poolings) == set(both)
    assert np.array_equal(cache.read(path, "cls").embeddings, before)
    table = cache.read(path, "cls", layer="blocks.3")
    assert np.array_equal(table.samples.thumbnail, first.samples.thumbnail)
    assert (table.layer, table.pooling, table.embeddings.shape) == ("blocks.3", "cls", (299, 8))
    assert cache.read(path, "blocks.3/cls").layer == "blocks.3"
    assert verify(path) == []
    assert not cache.parts()
    with bench.writer(samples, poolings=both) as writer:
        assert (writer.poolings, writer.position) == ((), 300)
        assert writer.finish(bench.ENVIRONMENT) == path


def test_poolings_of_other_pixels_are_refused_and_fresh_rewrites_all(bench: Any, cache: Cache) -> None:
    samples = bench.samples(10)
    path = bench.write(samples, bad=(6,))
    both = {"cls": 8, "mean": 9}
    with bench.writer(samples, poolings=both) as writer:
        bench.fill(writer, samples, until=4)
        with pytest.raises(StoredRowsChangedError, match=r"1 images read otherwise .* a/6.png"):
            bench.fill(writer, samples)
        assert writer.position == 4
    with pytest.raises(ValueError, match="would lose"):
        bench.writer(samples, poolings={"mean": 9}, fresh=True)
    with bench.writer(samples, poolings=both, fresh=True) as writer:
        assert (writer.position, writer.poolings) == (0, ("cls", "mean"))
        assert "begun anew" in writer.notes[0]
        bench.fill(writer, samples)
        assert cache.entries()[0].n == 9
        writer.finish(bench.ENVIRONMENT)
    assert cache.entries()[0].n == 10
    assert verify(path) == []


def test_an_interrupted_run_resumes_with_its_batch_size(bench: Any, cache: Cache) -> None:
    samples = bench.samples(10)
    with bench.writer(samples) as writer:
        bench.fill(writer, samples, until=8)
    assert cache.parts()
    assert not cache.entries()
    with pytest.raises(CacheError, match="still incomplete"):
        cache.read(cache.parts()[0], "cls")
    with bench.writer(samples, batch_size=3, environment={"device": "cuda"}) as writer:
        assert (writer.position, writer.batch_size) == (8, 4)
        assert "another machine" in writer.notes[0]
        bench.fill(writer, samples)
        path = writer.finish(bench.ENVIRONMENT)
    assert cache.entries()[0].environment["begun_under"] == bench.ENVIRONMENT
    assert np.array_equal(cache.read(path, "cls").embeddings, bench.values(samples, slice(None)).astype("f4"))


def test_a_run_killed_between_the_two_renamings_is_promoted(bench: Any, cache: Cache) -> None:
    samples = bench.samples(10)
    path = bench.write(samples)
    path.rename(path.with_name(path.name + ".part"))
    with bench.writer(samples) as writer:
        assert (writer.position, writer.poolings) == (10, ())
        assert writer.finish(bench.ENVIRONMENT) == path
    assert verify(path) == []
    assert not cache.parts()


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_part_that_hdf5_cant_open_is_begun_anew(bench: Any, cache: Cache, damage: str) -> None:
    samples = bench.samples(10)
    with bench.writer(samples) as writer:
        bench.fill(writer, samples, until=8)
    (part,) = cache.parts()
    content = part.read_bytes()
    part.write_bytes({"cut": content[:1500], "noise": b"x" * len(content), "empty": b""}[damage])
    with bench.writer(samples) as writer:
        assert writer.position == 0
        assert "damaged and is begun anew" in writer.notes[0]
        bench.fill(writer, samples)
        assert verify(writer.finish(bench.ENVIRONMENT)) == []


@pytest.mark.parametrize("lost", ["embeddings/cls", "progress/thumbnail", "progress/phash"])
def test_rows_of_a_part_that_never_reached_the_disk_are_computed_again(
    bench: Any, cache: Cache, lost: str
) -> None:
    samples = bench.samples(10)
    with bench.writer(samples) as writer:
        bench.fill(writer, samples, until=8)
    with h5py.File(cache.parts()[0], "r+") as file:
        file[lost][5] = np.zeros((), file[lost].dtype)
    with bench.writer(samples) as writer:
        assert writer.position == 4
        assert writer.notes == ("4 rows of the unfinished file were damaged and are computed again",)
        bench.fill(writer, samples)
        path = writer.finish(bench.ENVIRONMENT)
    assert np.array_equal(cache.read(path, "cls").embeddings, bench.values(samples, slice(None)).astype("f4"))


def test_a_part_of_an_older_schema_is_begun_anew(bench: Any, cache: Cache) -> None:
    samples = bench.samples(10)
    with bench.writer(samples) as writer:
        bench.fill(writer, samples, until=8)
    with h5py.File(cache.parts()[0], "r+") as file:
        file.attrs["schema"] = 1
        del file["progress/thumbnail"]
    with bench.writer(samples) as writer:
        assert (writer.position, len(writer.notes)) == (0, 1)
        assert "damaged and is begun anew" in writer.notes[0]
        bench.fill(writer, samples)
        assert verify(writer.finish(bench.ENVIRONMENT)) == []


def test_a_part_of_another_recipe_is_refused(bench: Any, cache: Cache) -> None:
    samples = bench.samples(10)
    with bench.writer(samples) as writer:
        bench.fill(writer, samples, until=4)
        part = cache.parts()[0]
    other = cache.path("digits", bench.recipe(samples, precision="bf16"))
    part.rename(other.with_name(other.name + ".part"))
    with pytest.raises(CacheError, match="another recipe"):
        bench.writer(samples, recipe=bench.recipe(samples, precision="bf16"))


def test_a_value_that_is_not_finite_is_refused_with_its_image(bench: Any, cache: Cache) -> None:
    samples = bench.samples(2)
    bad = np.array([[0.0] * 8, [70000.0] * 8])
    with bench.writer(samples, recipe=bench.recipe(samples, storage="float16")) as writer:
        with pytest.raises(CacheError, match=r"1 embeddings are not finite, the first of image a/1.png"):
            writer.append(
                np.arange(2), {"cls": bad}, texts(["", ""]), texts(["", ""]), np.zeros((2, 1024), "u1"), [], 2
            )
        assert writer.position == 0
    assert not cache.parts()


def test_every_image_of_a_batch_must_be_accounted_for(bench: Any) -> None:
    samples = bench.samples(4)
    prints = texts("abc"), texts("abc"), np.zeros((3, 1024), "u1")
    with bench.writer(samples) as writer, pytest.raises(ValueError, match="images 0 to 4 once"):
        writer.append(np.arange(3), {"cls": np.zeros((3, 8))}, *prints, [], 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pixel_sha256", texts(["a" * 65, "b"])),
        ("phash", texts(["a"])),
        ("thumbnail", np.zeros((2, 1023), "u1")),
        ("thumbnail", np.zeros((1, 1024), "u1")),
        ("thumbnail", np.zeros((2, 1024))),
        ("thumbnail", np.zeros((2, 1024), "i8")),
    ],
)
def test_prints_that_do_not_fit_are_refused_and_not_cut(bench: Any, name: str, value: Any) -> None:
    prints = {"pixel_sha256": texts("ab"), "phash": texts("ab"), "thumbnail": np.zeros((2, 1024), "u1")}
    with bench.writer(bench.samples(2)) as writer:
        with pytest.raises(ValueError, match=f"{name} is "):
            writer.append(
                np.arange(2), {"cls": np.zeros((2, 8))}, **prints | {name: value}, quarantined=[], consumed=2
            )
        assert writer.position == 0


def test_all_unreadable_is_an_error_and_leaves_nothing(bench: Any, cache: Cache) -> None:
    samples = bench.samples(5)
    with pytest.raises(DataError, match=r"none of the 5 images .* broken: 0"):
        bench.write(samples, bad=tuple(range(5)))
    assert not cache.parts()
    assert not cache.files()


def test_a_second_writer_is_told_who_holds_the_file(bench: Any, cache: Cache) -> None:
    samples = bench.samples(5)
    message = rf"being written by another process; process {os.getpid()} on .* since 20"
    with bench.writer(samples) as writer:
        for other in (cache, Cache(cache.root)):
            with pytest.raises(CacheError, match=message):
                bench.writer(samples, cache=other)
        bench.fill(writer, samples)
        path = writer.finish(bench.ENVIRONMENT)
        with pytest.raises(CacheError, match="another process"), Cache(cache.root).lock(path):
            pass
    with cache.lock(path):
        assert cache.refresh(path, samples) is False
        with bench.writer(samples) as writer:
            assert writer.position == 5
