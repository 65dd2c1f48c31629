"""Shows that a killed training goes on where it was and ends in the same weights, bit for bit.

Run as a program, this file trains in the folder it is given and kills itself after the first epoch.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from featprobe.errors import OutputError
from featprobe.heads import Progress, TrainingRecipe
from featprobe.heads.checkpoints import CheckpointStore
from featprobe.heads.inference import FittedHead, predict
from featprobe.heads.training import train_fold
from featprobe.records import IntArray


class Source:
    """48 noise images of 8 x 8 in two classes, augmented by seeded noise."""

    def __init__(self, seed: int) -> None:
        self.labels: IntArray = np.arange(48, dtype=np.int64) % 2
        values = np.random.default_rng(seed).normal(size=(48, 3, 8, 8)) + self.labels[:, None, None, None]
        self.images = torch.from_numpy(values.astype(np.float32))
        self.loaded = 0

    def batches(
        self, order: IntArray, batch_size: int, *, augment_seed: int | None
    ) -> Iterator[torch.Tensor]:
        for start in range(0, len(order), batch_size):
            positions = order[start : start + batch_size]
            self.loaded += len(positions)
            shifts = [
                0.0 if augment_seed is None else np.random.default_rng([augment_seed, int(p)]).normal()
                for p in positions
            ]
            shift = torch.tensor(shifts, dtype=torch.float32)[:, None, None, None]
            yield self.images[torch.from_numpy(positions)] + shift


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Conv2d(4, 4, 3),
            nn.Flatten(),
        )


RECIPES = {
    "full": TrainingRecipe(epochs=3, batch_size=10, lr=3e-3, dropout=0.2),
    "head": TrainingRecipe(mode="head", epochs=3, batch_size=10, dropout=0.2),
    "head, augmented": TrainingRecipe(mode="head", epochs=3, batch_size=10, dropout=0.2, augment=True),
}


def fit(
    folder: Path,
    recipe: TrainingRecipe = RECIPES["full"],
    *,
    key: str = "key",
    source: Source | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    save_seconds: float = 300.0,
) -> FittedHead:
    return train_fold(
        net(),
        64,
        2,
        train=source or Source(0),
        val=Source(1),
        recipe=recipe,
        device="cpu",
        checkpoint_dir=folder,
        resume_key=key,
        on_progress=on_progress,
        save_seconds=save_seconds,
    )


class InterruptedHereError(Exception):
    """What a test raises in the middle of a training."""


def interrupt_at(epoch: int, step: int, *, closed: bool) -> Callable[[Progress], None]:
    def stop(now: Progress) -> None:
        if (now.epoch, now.step, now.metrics is not None) == (epoch, step, closed):
            raise InterruptedHereError

    return stop


def assert_same_end(resumed: FittedHead, unbroken: FittedHead) -> None:
    one, other = dict(resumed.model.state_dict()), dict(unbroken.model.state_dict())
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert resumed.checkpoint.read_bytes() == unbroken.checkpoint.read_bytes()
    assert (resumed.history, resumed.best_epoch) == (unbroken.history, unbroken.best_epoch)
    assert [path.name for path in sorted(resumed.checkpoint.parent.iterdir())] == [
        "best.json",
        "best.safetensors",
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_broken_off_after_an_epoch_ends_in_the_same_weights(tmp_path: Path, name: str) -> None:
    unbroken = fit(tmp_path / "unbroken", RECIPES[name])
    with pytest.raises(InterruptedHereError):
        fit(tmp_path / "broken", RECIPES[name], on_progress=interrupt_at(1, 5, closed=True))
    seen: list[Progress] = []
    resumed = fit(tmp_path / "broken", RECIPES[name], on_progress=seen.append)
    assert (seen[0].epoch, seen[0].step) == (2, 1)
    assert resumed.notes[0] == "resumed after epoch 1 of 3"
    assert_same_end(resumed, unbroken)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_broken_off_inside_an_epoch_ends_in_the_same_weights(tmp_path: Path, name: str) -> None:
    unbroken = fit(tmp_path / "unbroken", RECIPES[name])
    with pytest.raises(InterruptedHereError):
        fit(tmp_path / "broken", RECIPES[name], save_seconds=0, on_progress=interrupt_at(2, 3, closed=False))
    seen: list[Progress] = []
    resumed = fit(tmp_path / "broken", RECIPES[name], on_progress=seen.append)
    assert (seen[0].epoch, seen[0].step) == (2, 4)
    assert_same_end(resumed, unbroken)


def test_kill_9_after_an_epoch_ends_in_the_same_weights(tmp_path: Path) -> None:
    unbroken = fit(tmp_path / "unbroken")
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    threads = str(torch.get_num_threads())
    program = [sys.executable, __file__, str(tmp_path / "killed"), threads]
    assert subprocess.run(program, check=False, env=environment).returncode == -signal.SIGKILL
    resumed = fit(tmp_path / "killed")
    assert resumed.notes[0] == "resumed after epoch 1 of 3"
    assert_same_end(resumed, unbroken)


# Writes 0: claim; 1, 2, 3: last, best, record of epoch 1; ... 7, 8, 9: of epoch 3, the best; 10: the end.
@pytest.mark.parametrize("breaking_write", [0, 2, 4, 8, 9, 10])
def test_a_kill_between_any_two_writes_leaves_a_state_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaking_write: int
) -> None:
    unbroken = fit(tmp_path / "unbroken")
    assert unbroken.best_epoch == 3
    replace, calls = Path.replace, iter(range(100))

    def dying_replace(self: Path, target: Path) -> Path:
        if next(calls) == breaking_write:
            raise InterruptedHereError
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying_replace)
        with pytest.raises(InterruptedHereError):
            fit(tmp_path / "broken")
    assert_same_end(fit(tmp_path / "broken"), unbroken)


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first, source = fit(tmp_path), Source(0)
    again = fit(tmp_path, source=source, on_progress=interrupt_at(1, 1, closed=False))
    assert (first.trained, again.trained, source.loaded) == (True, False, 0)
    test = Source(2)
    assert np.array_equal(predict(first, test, device="cpu"), predict(again, test, device="cpu"))
    assert (again.history, again.best_epoch, again.recipe) == (first.history, first.best_epoch, first.recipe)


def test_checkpoints_of_another_key_are_ignored_with_a_note(tmp_path: Path) -> None:
    unbroken = fit(tmp_path / "unbroken", key="new")
    with pytest.raises(InterruptedHereError):
        fit(tmp_path / "shared", key="old", on_progress=interrupt_at(2, 5, closed=True))
    after_broken = fit(tmp_path / "shared", key="new")
    assert any("another training: ignored" in note for note in after_broken.notes)
    assert_same_end(after_broken, unbroken)
    assert fit(tmp_path / "shared", key="newer").notes[0].endswith("another training: replaced")


@pytest.mark.parametrize("damage", ["best.safetensors", "best.json"])
def test_a_damaged_result_is_trained_again_and_not_trusted(tmp_path: Path, damage: str) -> None:
    first = fit(tmp_path)
    before = {name: value.clone() for name, value in load_file(first.checkpoint).items()}
    content = bytearray((tmp_path / damage).read_bytes())
    content[-9] ^= 1
    (tmp_path / damage).write_bytes(content if damage == "best.safetensors" else content[:-9])
    again = fit(tmp_path)
    assert again.trained
    assert "trained again" in again.notes[0]
    assert all(torch.equal(before[name], value) for name, value in load_file(again.checkpoint).items())


def test_a_damaged_last_checkpoint_begins_anew(tmp_path: Path) -> None:
    unbroken = fit(tmp_path / "unbroken")
    with pytest.raises(InterruptedHereError):
        fit(tmp_path / "broken", on_progress=interrupt_at(1, 5, closed=True))
    last = tmp_path / "broken" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-100])
    resumed = fit(tmp_path / "broken")
    assert "training begins anew" in resumed.notes[0]
    assert_same_end(resumed, unbroken)


def test_a_best_epoch_that_vanished_begins_anew(tmp_path: Path) -> None:
    unbroken = fit(tmp_path / "unbroken")
    with pytest.raises(InterruptedHereError):
        fit(tmp_path / "broken", save_seconds=0, on_progress=interrupt_at(2, 3, closed=False))
    (tmp_path / "broken" / "best.safetensors").unlink()
    resumed = fit(tmp_path / "broken")
    assert "missing or damaged: training begins anew" in resumed.notes[0]
    assert_same_end(resumed, unbroken)


def test_a_full_disk_is_explained_and_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, "key")
    store.save_best({"weight": torch.ones(3)}, {"epoch": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, path, metadata)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("featprobe.heads.checkpoints.save_file", full)
    with pytest.raises(OutputError, match="No space left on device; what was there before is unharmed"):
        store.save_best({"weight": torch.zeros(3)}, {"epoch": 2})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert json.loads(before["best.json"])["complete"] is False


def kill_after_the_first_epoch(now: Progress) -> None:
    if now.metrics is not None:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    fit(Path(sys.argv[1]), on_progress=kill_after_the_first_epoch)
