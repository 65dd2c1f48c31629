"""Promises 1 to 3 of the cache, over drawn inputs: a kill, a resume, a flipped byte, a changed recipe."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featprobe.cache import Cache, verify
from featprobe.errors import CacheError
from featprobe.imaging import THUMBNAIL_SIDE
from featprobe.records import TASKS, AnyArray, Preprocessing, Recipe, Samples, images_sha256, texts

FEW = settings(max_examples=15, deadline=None)
DIMS: dict[str, Any] = {
    "cls": 5,
    "mean": 3,
    "patches": (2, 3, 4),
    "@hflip/cls": 2,
    "last4@crop:tl/cls+mean": 1,
    "blocks.5/patches": (1, 2, 1),
}
RULE = Preprocessing((224, 224), "crop", 256, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.3, 0.1))


def samples_of(count: int, **columns: Any) -> Samples:
    ids = columns.pop("id", [f"image {n}" for n in range(count)])
    known = {"path": ids, "id": ids, "label": [0] * count, "label_names": ("x",), **columns}
    return Samples.build(**known).replace(sha256=texts([f"{n:064x}" for n in range(count)]))


def recipe_of(samples: Samples) -> Recipe:
    return Recipe(
        images=images_sha256(samples.sha256),
        backbone="vit",
        architecture="vit",
        weights="0",
        preprocessing=RULE,
        numerics={"family": 1, "decoder": 1},
    )


def writer_of(cache: Cache, samples: Samples, batch_size: int) -> Any:
    return cache.writer(
        "d",
        recipe_of(samples),
        samples,
        DIMS,
        batch_size=batch_size,
        weights_label="random",
        environment={},
    )


def append(writer: Any, bad: frozenset[int], count: int) -> None:
    """The next batch; what an embedding is depends on how the batch was cut, as on a real device."""
    start, until = writer.position, min(count, writer.position + writer.batch_size)
    rows = np.array([row for row in range(start, until) if row not in bad], dtype=np.int64)
    writer.append(
        rows,
        {key: values_of(key, rows) + start / 7 - until / 3 for key in writer.poolings},
        texts([f"{row:064x}" for row in rows]),
        texts([f"{row:016x}" if row % 5 else "" for row in rows]),
        thumbnails_of(rows),
        [(row, f"why {row} ü") for row in range(start, until) if row in bad],
        until,
    )


def values_of(key: str, rows: AnyArray) -> Any:
    """What the embedding of each row would be in a batch of its own: every value another one."""
    shape = np.atleast_1d(DIMS[key])
    places = np.arange(shape.prod()).reshape(shape) + 100 * list(DIMS).index(key)
    return places + np.asarray(rows, dtype=np.float64).reshape(-1, *np.ones_like(shape)) / 8


def thumbnails_of(rows: AnyArray) -> Any:
    return ((rows[:, None] * 7 + np.arange(THUMBNAIL_SIDE**2)) % 251).astype(np.uint8)


def write(root: Path, samples: Samples, batch_size: int = 4, bad: frozenset[int] = frozenset()) -> Path:
    with writer_of(Cache(root), samples, batch_size) as writer:
        while writer.position < len(samples):
            append(writer, bad, len(samples))
        path: Path = writer.finish({})
        return path


def contents(path: Path) -> dict[str, Any]:
    """Every dataset of a file as plain h5py sees it."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:

        def visit(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                values = node[:]
                found[name] = values.tolist() if values.dtype.hasobject else values.tobytes()

        file.visititems(visit)
    return found


def changed_values(value: Any) -> Iterator[Any]:
    """Other values for a field of a recipe, whatever the field is."""
    if value is None:
        yield from (0, 1)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield value + 1
    elif isinstance(value, str):
        yield value + "x"
    elif isinstance(value, tuple):
        yield (*value, value[0])
        for index, item in enumerate(value):
            yield from ((*value[:index], other, *value[index + 1 :]) for other in changed_values(item))
    elif isinstance(value, Mapping):
        yield {**value, "another": 1}
        yield from ({name: value[name] for name in value if name != key} for key in value)
        yield from ({**value, key: other} for key in value for other in changed_values(value[key]))
    elif isinstance(value, Preprocessing):
        for field in dataclasses.fields(value):
            others = changed_values(getattr(value, field.name))
            yield from (dataclasses.replace(value, **{field.name: other}) for other in others)
    else:
        raise TypeError(f"the test does not know how to change a {type(value).__name__}")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe)])
def test_every_field_of_the_recipe_gives_another_file(field: str, tmp_path: Path) -> None:
    recipe, cache = recipe_of(samples_of(3)), Cache(tmp_path)
    changed = [
        dataclasses.replace(recipe, **{field: other}) for other in changed_values(getattr(recipe, field))
    ]
    assert changed
    paths = [cache.path("d", other) for other in (recipe, *changed)]
    assert len(set(paths)) == len(paths)
    assert len({other.fingerprint for other in (recipe, *changed)}) == len(paths)


@FEW
@given(
    count=st.integers(1, 24),
    batch_size=st.integers(1, 9),
    bad=st.frozensets(st.integers(1, 23), max_size=4),
    breaks=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 2)), max_size=3),
)
def test_a_run_broken_anywhere_between_flushes_ends_like_an_unbroken_one(
    count: int, batch_size: int, bad: frozenset[int], breaks: list[tuple[int, int]]
) -> None:
    samples = samples_of(count)
    with tempfile.TemporaryDirectory() as folder:
        expected = contents(write(Path(folder) / "unbroken", samples, batch_size, bad))
        cache = Cache(Path(folder) / "broken")
        for whole_batches, flush in breaks:
            asked = batch_size + 1 if cache.parts() else batch_size
            with suppress(BrokenOffError), writer_of(cache, samples, asked) as writer:
                for _ in range(whole_batches):
                    if writer.position < count:
                        append(writer, bad, count)
                if writer.position < count:
                    break_at(writer, flush)
                    append(writer, bad, count)
        path = write(cache.root, samples, batch_size + 1 if cache.parts() else batch_size, bad)
        assert contents(path) == expected
        assert verify(path) == []


class BrokenOffError(Exception):
    pass


def break_at(writer: Any, flush: int) -> None:
    """Let the next commit stop right after its first or its second flush."""
    part = writer._part
    left = itertools.count(flush - 1, -1)

    class Breaking:
        def flush(self) -> None:
            file.flush()
            if next(left) == 0:
                part._file = file
                raise BrokenOffError

        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

    file, part._file = part._file, Breaking()


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


@FEW
@given(
    st.lists(TEXT, min_size=1, max_size=8, unique=True),
    st.lists(TEXT, min_size=1, max_size=3, unique=True),
    st.dictionaries(TEXT, TEXT, max_size=3),
)
@example(["a\udcff.png", "ä", ""], ["", "名"], {"": "x", ".": "y", "..": "z", "a/b%2F": ""})
def test_text_of_any_script_survives(ids: list[str], names: list[str], columns: dict[str, str]) -> None:
    samples = samples_of(
        len(ids),
        id=ids,
        label_names=tuple(names),
        columns={key: [value] * len(ids) for key, value in columns.items()},
    )
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), samples)
        read = Cache(Path(folder)).read_samples(path)
        assert read.id.tolist() == ids
        assert read.label_names == tuple(names)
        assert {key: set(values.tolist()) for key, values in read.columns.items()} == {
            key: {value} for key, value in columns.items()
        }
        assert verify(path) == []


@st.composite
def targets(draw: st.DrawFn, count: int) -> Samples:
    """Labels of any task, missing ones, numbers of any kind and no labels at all among them."""
    task = draw(st.sampled_from(TASKS))
    names = tuple(draw(st.lists(TEXT, min_size=task == "continuous", max_size=3, unique=True)))
    names = names[:1] if task == "continuous" else names
    one: st.SearchStrategy[Any] = st.integers(-1, len(names) - 1)
    if task == "multilabel":
        one = st.lists(st.integers(-1, 1), min_size=len(names), max_size=len(names))
    elif task == "continuous":
        one = st.floats()
    label = draw(st.lists(one, min_size=count, max_size=count))
    array = np.array(label, dtype=np.float64 if task == "continuous" else np.int64)
    array = array.reshape((count, len(names)) if task == "multilabel" else count)
    return samples_of(count).replace(task=task, label=array, label_names=names)


@FEW
@given(
    st.integers(1, 8).flatmap(lambda count: st.tuples(targets(count), targets(count))),
    st.frozensets(st.integers(1, 7), max_size=3),
)
@example(
    (
        samples_of(2, label=[np.nan, -0.0], label_names=("age",), task="continuous"),
        samples_of(2, label=[[], []], label_names=(), task="multilabel"),
    ),
    frozenset({1}),
)
def test_targets_and_thumbnails_survive_writing_and_refreshing(
    manifests: tuple[Samples, Samples], bad: frozenset[int]
) -> None:
    kept = np.array([row for row in range(len(manifests[0])) if row not in bad])
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder))
        path = write(cache.root, manifests[0], 3, bad)
        for samples in manifests:
            cache.refresh(path, samples)
            assert cache.refresh(path, samples) is False
            read, expected = cache.read(path, "cls").samples, samples.take(kept)
            assert (read.task, read.label_names) == (expected.task, expected.label_names)
            assert (read.label.dtype, read.label.shape) == (expected.label.dtype, expected.label.shape)
            assert read.label.tobytes() == expected.label.tobytes()
            assert np.array_equal(read.thumbnail, thumbnails_of(kept))
            assert read.phash.tolist() == [f"{row:016x}" if row % 5 else "" for row in kept.tolist()]
            assert set(read.twin.tolist()) == {""}
            assert verify(path) == []


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sound"), samples_of(600), 50, frozenset({5}))


def test_a_flipped_byte_is_found_wherever_it_stands(sound: Path) -> None:
    assert verify(sound) == []
    content, cache = sound.read_bytes(), Cache(sound.parent.parent)
    rng = np.random.default_rng(0)
    # The seal covers dead space as well, so every offset counts: the user block, headers, heaps, chunks.
    offsets = [*range(0, 512, 37), *range(512, 1500, 61), *rng.integers(0, len(content), 100).tolist()]
    with h5py.File(sound) as file:
        chunk = file["embeddings/cls"].id.get_chunk_info(1).byte_offset
        patch = file["embeddings/patches"].id.get_chunk_info(300).byte_offset
        label, thumbnail = (file[f"samples/{name}"].id.get_offset() for name in ("label", "thumbnail"))
    offsets += [label + 8, thumbnail, thumbnail + 300_000]
    offsets += [
        chunk,
        chunk + 1000,
        patch,
        patch + 50,
        content.index(b"image 17"),
        content.index(b'"backbone"'),
    ]
    try:
        for offset in offsets:
            with sound.open("r+b") as raw:
                raw.seek(offset)
                raw.write(bytes([content[offset] ^ (1 << int(rng.integers(8)))]))
            assert verify(sound), f"the flip at {offset} was not found"
            if offset >= 512:
                with pytest.raises(CacheError, match="damaged"):
                    cache.read(sound, "cls")
            with sound.open("r+b") as raw:
                raw.seek(offset)
                raw.write(content[offset : offset + 1])
        assert verify(sound) == []
    finally:
        sound.write_bytes(content)


def _write_slowly(root: Path, started: Any) -> None:
    with writer_of(Cache(root), samples_of(400), 3) as writer:
        started.set()
        while writer.position < 400:
            append(writer, frozenset({1, 150}), 400)
        writer.finish({})


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_killed_writer_loses_at_most_its_batch(tmp_path: Path) -> None:
    samples, bad = samples_of(400), frozenset({1, 150})
    expected = contents(write(tmp_path / "unbroken", samples, 3, bad))
    context = multiprocessing.get_context("fork")
    root, position, kills = tmp_path / "killed", 0, 0
    for milliseconds in (5, 20, 45, 60, 80):
        started = context.Event()
        process = context.Process(target=_write_slowly, args=(root, started))
        process.start()
        assert started.wait(60)
        time.sleep(milliseconds / 1000)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        with writer_of(Cache(root), samples, 99) as writer:
            assert writer.position >= position
            assert not writer.notes or "only lacked its name" in writer.notes[0]
            position = writer.position
    assert kills >= 2
    with writer_of(Cache(root), samples, 3) as writer:
        while writer.position < 400:
            append(writer, bad, 400)
        path = writer.finish({})
    assert contents(path) == expected
    assert verify(path) == []


def _write_at_once(root: Path, gate: Any, answers: Any) -> None:
    gate.wait(60)
    try:
        with writer_of(Cache(root), samples_of(60), 3) as writer:
            while writer.position < 60:
                append(writer, frozenset(), 60)
                time.sleep(0.005)
            writer.finish({})
    except CacheError as error:
        answers.put(str(error))
    else:
        answers.put("written")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_of_processes_that_write_one_file_one_writes_and_the_others_are_told(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    gate, answers = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_write_at_once, args=(tmp_path, gate, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    said = sorted(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert said[-1] == "written"
    assert all("being written by another process" in answer for answer in said[:-1])
    (path,) = Cache(tmp_path).files()
    assert verify(path) == []
