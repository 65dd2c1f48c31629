from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featprobe.cache import Cache, verify
from featprobe.errors import OutputError
from featprobe.records import texts

PRINTS = (texts([f"{row:064d}" for row in range(4000)]), texts([""] * 4000), np.ones((4000, 1024), "u1"))
"""Of 4000 images."""


def test_a_folder_that_cant_be_written_to_is_an_output_error(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="can't be written to"):
        bench.writer(bench.samples(3), cache=Cache(tmp_path / "file"))


def _limited(bench: Any, megabytes: float, stage: str, answers: Any) -> None:
    samples = bench.samples(4000)
    limit = int(megabytes * 1e6)
    try:
        if stage == "open":
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with bench.writer(samples, poolings={"cls": 8, "mean": 400}, batch_size=1000) as writer:
            if writer.position == 0:
                writer.append(np.arange(4000), {"mean": np.ones((4000, 400))}, *PRINTS, [], 4000)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            writer.finish(bench.ENVIRONMENT)
    except OutputError as error:
        answers.put(str(error))
    else:
        answers.put("finished")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("stage", ["open", "finish"])
def test_a_full_disk_is_an_output_error_and_harms_nothing(bench: Any, cache: Cache, stage: str) -> None:
    samples = bench.samples(4000)
    with bench.writer(samples, batch_size=4000) as writer:
        writer.append(np.arange(4000), {"cls": np.ones((4000, 8))}, *PRINTS, [], 4000)
        path = writer.finish(bench.ENVIRONMENT)
    before = path.read_bytes()
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    for megabytes, expected in [(2, "can't be written: File too large; "), (1000, "finished")]:
        process = context.Process(target=_limited, args=(bench, megabytes, stage, answers))
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


def test_the_room_of_a_part_is_taken_before_the_first_image(bench: Any, cache: Cache) -> None:
    with bench.writer(bench.samples(500), poolings={"cls": 1000}):
        (part,) = cache.parts()
        assert part.stat().st_blocks * 512 >= 500 * (1000 * 4 + 1024)


@pytest.mark.parametrize(("task", "width"), [("classes", 1), ("multilabel", 500)])
def test_no_file_grows_beyond_the_room_that_was_asked_before_the_first_image(
    bench: Any, monkeypatch: pytest.MonkeyPatch, task: str, width: int
) -> None:
    asked: dict[str, int] = {}
    monkeypatch.setattr("featprobe.cache.part.reserve", lambda _, size: asked.update(part=size))
    monkeypatch.setattr("featprobe.cache.writer.need_free", lambda _, size: asked.update(finished=size))
    samples = bench.samples(4000, task=task)
    if task == "multilabel":
        names = tuple(f"label {number}" for number in range(width))
        samples = samples.replace(label=np.ones((4000, width), dtype=np.int64), label_names=names)
    with bench.writer(samples, poolings={"cls": 1}, batch_size=4000) as writer:
        writer.append(np.arange(4000), {"cls": np.ones((4000, 1))}, *PRINTS, [], 4000)
        assert bench.cache.parts()[0].stat().st_size <= asked["part"]
        assert writer.finish({}).stat().st_size <= asked["finished"]
