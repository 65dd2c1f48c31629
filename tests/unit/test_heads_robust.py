"""Shows that a training survives being killed at any step, too little memory, and says which images made it diverge.

Run as a program, this file trains in the folder it is given, over and over, and is killed at the steps it is given.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from featprobe.errors import ProbeError
from featprobe.heads import Progress, TrainingRecipe
from featprobe.heads.inference import FittedHead, run_batches
from featprobe.heads.loop import FeatureSource
from featprobe.heads.memory import Portions
from featprobe.heads.training import train_fold
from featprobe.records import IntArray

KILLS = 10
"""Three steps at most lie between two kills, and RECIPE has 8 x 4: it is never done before the last kill."""

RECIPE = TrainingRecipe(
    mode="gradual", epochs=8, batch_size=8, lr=3e-3, dropout=0.2, patience=0, ema=0.9, mixup=0.4, cutmix=0.5, layer_decay=0.8,
    sampling="balanced", label_smoothing=0.1, deterministic=True,
)  # fmt: skip


class Source:
    """32 noise images of 8 x 8 in two classes, 20 to 12, with names."""

    def __init__(self, seed: int) -> None:
        self.labels: IntArray = (np.arange(32) >= 20).astype(np.int64)
        values = np.random.default_rng(seed).normal(size=(32, 3, 8, 8)) + self.labels[:, None, None, None]
        self.images = torch.from_numpy(values.astype(np.float32))
        self.names = [f"image-{row}" for row in range(32)]

    def batches(self, order, batch_size, *, augment_seed):
        for start in range(0, len(order), batch_size):
            positions = order[start : start + batch_size]
            shifts = [
                0.0 if augment_seed is None else np.random.default_rng([augment_seed, int(p)]).normal()
                for p in positions
            ]
            yield self.images[torch.from_numpy(positions)] + torch.tensor(shifts).float()[:, None, None, None]


def net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(4, 4, 3), nn.Flatten()
        )  # fmt: skip


def fit(
    folder: Path,
    recipe: TrainingRecipe = RECIPE,
    *,
    backbone: nn.Module | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    save_seconds: float = 0.0,
) -> FittedHead:
    return train_fold(
        backbone or net(), 64, 2, train=Source(0), val=Source(1), recipe=recipe, device="cpu", checkpoint_dir=folder,
        resume_key="key", on_progress=on_progress, save_seconds=save_seconds,
    )  # fmt: skip


def test_killed_at_ten_random_steps_it_ends_in_the_same_weights(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    program = [sys.executable, __file__, str(tmp_path), str(seed), str(torch.get_num_threads())]
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(program, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    killed = int(done.stdout.split()[-1])
    assert killed == KILLS, f"seed {seed}: {done.stdout}"
    one, other = (tmp_path / name / "best.safetensors" for name in ("killed", "unbroken"))
    assert one.read_bytes() == other.read_bytes(), f"seed {seed}"


class Cramped(nn.Sequential):
    """`net` on a machine that holds `room` images at a time."""

    room = 100
    passed: list[int]

    def __init__(self, room: int) -> None:
        super().__init__(*net())
        self.room, self.passed = room, []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("out of memory, says the test")
        self.passed.append(len(images))
        features: torch.Tensor = super().forward(images)
        return features


STILL = {"epochs": 2, "batch_size": 8, "lr": 3e-3, "augment": False, "freeze_norm_stats": True}


def test_out_of_memory_halves_what_passes_and_keeps_the_batch(tmp_path: Path) -> None:
    wide, narrow = Cramped(100), Cramped(3)
    wide[3].p = narrow[3].p = 0.0  # dropout draws for each part anew
    roomy = fit(tmp_path / "wide", TrainingRecipe(**STILL), backbone=wide)
    cramped = fit(tmp_path / "narrow", TrainingRecipe(**STILL), backbone=narrow)
    assert max(cramped.model.backbone.passed) <= 3
    expected = "memory ran out: 2 images passed at a time, their gradients added up to the batch of 8"
    assert cramped.notes[0] == expected
    assert expected not in roomy.notes
    one, other = dict(roomy.model.state_dict()), dict(cramped.model.state_dict())
    # The sums differ in their last digits; AdamW's steps make at most as much of them as a step is long.
    assert max(float((one[name].float() - other[name].float()).abs().max()) for name in one) < 1e-4
    asked = fit(tmp_path / "asked", TrainingRecipe(**STILL, micro_batch=2), backbone=narrow)
    assert all(torch.equal(value, other[name]) for name, value in asked.model.state_dict().items())


def test_a_step_that_ran_out_of_memory_leaves_no_trace_in_the_statistics(tmp_path: Path) -> None:
    class Late(Cramped):
        """Fails behind the BatchNorm layer, whose statistics have moved by then."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = nn.Sequential.forward(self, images)
            if len(images) > self.room:
                raise torch.OutOfMemoryError("out of memory, says the test")
            return features

    moving = {**STILL, "freeze_norm_stats": False, "epochs": 1}
    late, asked = Late(2), Late(2)
    late[3].p = asked[3].p = 0.0
    failed = fit(tmp_path / "late", TrainingRecipe(**moving), backbone=late)
    planned = fit(tmp_path / "asked", TrainingRecipe(**moving, micro_batch=2), backbone=asked)
    assert failed.notes[0].endswith("BatchNorm statistics are of these")
    other = dict(planned.model.state_dict())
    assert all(torch.equal(value, other[name]) for name, value in failed.model.state_dict().items())


def test_parts_are_near_equal_and_never_a_stump() -> None:
    portions = Portions(6)
    assert [len(part) for (part,) in portions.parts(torch.zeros(13, 2))] == [5, 4, 4]
    with pytest.raises(RuntimeError, match="another fault"):
        portions.run(_raise(RuntimeError("another fault")), undo=lambda: None, rows=6)
    assert portions.size == 6
    with pytest.raises(MemoryError):
        portions.run(_raise(MemoryError()), undo=lambda: None, rows=6)
    assert portions.size == 1


def _raise(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_predicting_halves_its_batches_too() -> None:
    source = FeatureSource(torch.arange(20.0).reshape(10, 2), np.zeros(10, dtype=np.int64))
    sizes: list[int] = []

    def narrow(rows: torch.Tensor) -> torch.Tensor:
        if len(rows) > 3:
            raise torch.OutOfMemoryError("out of memory, says the test")
        sizes.append(len(rows))
        return rows * 2

    found = run_batches(narrow, source, torch.device("cpu"), precision="fp32", batch_size=8)
    assert torch.equal(found, source.features * 2)
    assert max(sizes) <= 3


def test_a_loss_that_is_not_finite_names_the_images_of_its_batch(tmp_path: Path) -> None:
    class Poisoned(Source):
        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            self.images[7] = float("nan")

    with pytest.raises(
        ProbeError, match=r"became nan at step \d of epoch 1;.*the batch was .*\bimage-7\b"
    ) as caught:
        train_fold(
            net(), 64, 2, train=Poisoned(0), val=Source(1), device="cpu", checkpoint_dir=tmp_path, resume_key="key",
            recipe=TrainingRecipe(epochs=1, batch_size=8),
        )  # fmt: skip
    assert str(caught.value).count("image-") == 8


def test_the_average_of_the_weights_is_judged_kept_and_differs_from_the_last(tmp_path: Path) -> None:
    settings = {"epochs": 3, "batch_size": 8, "lr": 1e-2, "augment": False, "patience": 0}
    plain = fit(tmp_path / "plain", TrainingRecipe(**settings))
    averaged = fit(tmp_path / "average", TrainingRecipe(**settings, ema=0.99))
    assert [row["train_loss"] for row in plain.history] == [row["train_loss"] for row in averaged.history]
    assert plain.history[-1]["val_loss"] != averaged.history[-1]["val_loss"]
    kept = load_file(averaged.checkpoint)
    assert set(kept) == set(load_file(plain.checkpoint))


def test_compiling_and_channels_last_are_asked_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, layouts = [], set()

    def compile_(model: nn.Module) -> nn.Module:
        compiled.append(model)
        return model

    class Watching(Cramped):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if self.training:
                layouts.add(images.is_contiguous(memory_format=torch.channels_last))
            return super().forward(images)

    monkeypatch.setattr(torch, "compile", compile_)
    one = fit(tmp_path, TrainingRecipe(**STILL, compile=True, channels_last=True), backbone=Watching(100))
    assert len(compiled) == 1
    assert layouts == {True}
    assert one.trained


def test_deterministic_algorithms_are_on_inside_alone(tmp_path: Path) -> None:
    seen = set()

    def watch(_: Progress) -> None:
        seen.add(torch.are_deterministic_algorithms_enabled())

    fit(tmp_path, TrainingRecipe(**STILL, deterministic=True), on_progress=watch)
    assert seen == {True}
    assert not torch.are_deterministic_algorithms_enabled()


def _until_killed(folder: Path, step: int) -> int:
    """Train in a process of its own that kills itself after `step` more steps; its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    left = [step]

    def stop(now: Progress) -> None:
        left[0] -= now.metrics is None
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    # Saved now after every step, now only at the end of an epoch: what was not saved is done again.
    fit(folder, on_progress=stop, save_seconds=0.0 if step % 2 else 300.0)
    os._exit(0)


def _main(folder: Path, seed: int, threads: int) -> None:
    torch.set_num_threads(threads)
    draw, killed = random.Random(seed), 0  # noqa: S311 - no secret
    while killed < KILLS:
        killed += os.WIFSIGNALED(_until_killed(folder / "killed", draw.randint(1, 3)))
        if (folder / "killed" / "best.json").is_file() and not (
            folder / "killed" / "last.safetensors"
        ).is_file():
            break
    fit(folder / "killed")
    fit(folder / "unbroken", save_seconds=300.0)
    sys.stdout.write(f"{killed}\n")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
