"""Shows that several processes train the model that one trains, and that what stops one stops all.

Run as a program, this file is two processes that train together in the folder it is given.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from featprobe.errors import ConfigError
from featprobe.heads import HeadStart, Progress, TrainingRecipe
from featprobe.heads.inference import FittedHead, predict
from featprobe.heads.team import SOLO, EndedTogetherError, Team
from featprobe.heads.training import train_fold

PROCESSES = 2
BOUND = 5e-6
"""Weights of one process and of two differ by the rounding of their sums: by 5e-7 at most where it was measured, ten
times less than allowed here, in steps of up to 3e-3. No layer here has a bias before a BatchNorm layer:
the gradient of such a one is 0 but for rounding, and AdamW, which divides by its size, makes whole steps of it.
"""

COMMON = {"epochs": 2, "batch_size": 9, "lr": 3e-3, "patience": 0}
RECIPES = {
    "head": TrainingRecipe(mode="head", **COMMON, dropout=0.2),
    "head, augmented": TrainingRecipe(mode="head", **COMMON, augment=True, class_weight="balanced"),
    "solved": TrainingRecipe(mode="head", optimizer="lbfgs", l2=0.1, epochs=1, batch_size=9),
    "last": TrainingRecipe(mode="last:1", **COMMON, dropout=0.2),
    "full": TrainingRecipe(**COMMON, dropout=0.2, class_weight="balanced", label_smoothing=0.1, clip_norm=0.1),
    "portions": TrainingRecipe(**COMMON, dropout=0.2, micro_batch=4, class_weight="balanced", ema=0.9),
    "mixed": TrainingRecipe(**COMMON, mixup=0.4, cutmix=0.5, sampling="balanced"),
    "mixed portions": TrainingRecipe(**COMMON, mixup=0.4, micro_batch=3),
    "still": TrainingRecipe(**COMMON, freeze_norm_stats=True, weight_decay=0.2),
    "lora": TrainingRecipe(mode="lora:2", **COMMON),
    "gradual": TrainingRecipe(mode="gradual", **COMMON, layer_decay=0.8),
    "lp-ft": TrainingRecipe(mode="lp-ft", **COMMON),
    "stopped": TrainingRecipe(**{**COMMON, "epochs": 9, "patience": 1}, monitor="val_accuracy", deterministic=True),
    "two": TrainingRecipe(**{**COMMON, "batch_size": 2, "epochs": 1}),
    "one": TrainingRecipe(**{**COMMON, "batch_size": 1, "epochs": 1}, freeze_norm_stats=True),
}  # fmt: skip

SEVERAL = TrainingRecipe(**COMMON, mixup=0.4, class_weight="balanced")


class Source:
    """41 noise images of 8 x 8 in two classes, 26 to 15, augmented by seeded noise."""

    def __init__(self, seed: int, labels: np.ndarray | None = None) -> None:
        self.labels = (np.arange(41) >= 26).astype(np.int64) if labels is None else labels
        bright = self.labels.reshape(41, -1)[:, 0]
        values = np.random.default_rng(seed).normal(size=(41, 3, 8, 8)) + bright[:, None, None, None]
        self.images = torch.from_numpy(values.astype(np.float32))
        self.names = [f"image-{row}" for row in range(41)]

    def batches(self, order, batch_size, *, augment_seed):
        for start in range(0, len(order), batch_size):
            positions = order[start : start + batch_size]
            shifts = [
                0.0 if augment_seed is None else np.random.default_rng([augment_seed, int(p)]).normal()
                for p in positions
            ]
            yield self.images[torch.from_numpy(positions)] + torch.tensor(shifts).float()[:, None, None, None]


def several_labels() -> np.ndarray:
    """Two labels of which every fifth is missing."""
    labels = np.random.default_rng(3).integers(0, 2, size=(41, 2))
    labels[::5, 1] = -1
    return labels


class Deep(nn.Module):
    """Stochastic depth as timm has it around a layer: whole rows are left out."""

    def __init__(self) -> None:
        super().__init__()
        from timm.layers import DropPath

        self.conv, self.path = nn.Conv2d(4, 4, 3, padding=1, bias=False), DropPath(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept: torch.Tensor = self.path(self.conv(x))
        return x + kept


def net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), Deep(),
            nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False, momentum=0.3), nn.Flatten(),
        )  # fmt: skip


class Cramped(nn.Sequential):
    """`net` on a machine where the process that is `poor` holds two images at a time."""

    poor = False

    def __init__(self, *, poor: bool) -> None:
        super().__init__(*net())
        self.poor = poor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = super().forward(images)  # statistics have moved before it fails
        if self.poor and self.training and len(images) > 2:
            raise torch.OutOfMemoryError("out of memory, says the test")
        return features


class Broken(Source):
    """Its sixth batch can't be read."""

    def batches(self, order, batch_size, *, augment_seed):
        for number, images in enumerate(super().batches(order, batch_size, augment_seed=augment_seed)):
            yield images[:1] if number == 2 else images


def start(rows: np.ndarray, held: np.ndarray) -> HeadStart:
    weight = np.stack([-rows.mean(axis=0), held.mean(axis=0)])
    return HeadStart(rows.mean(axis=0), rows.std(axis=0) + 0.1, weight, np.zeros(2), "a test's")


def fit(
    folder: Path,
    recipe: TrainingRecipe,
    *,
    team: Team = SOLO,
    train: Source | None = None,
    backbone: nn.Module | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    save_seconds: float = 300.0,
    task: str = "classes",
) -> FittedHead:
    several = several_labels() if task == "multilabel" else None
    return train_fold(
        backbone or net(), 64, 2, train=train or Source(0, several), val=Source(1, several), recipe=recipe, device="cpu",
        checkpoint_dir=folder, resume_key="key", on_progress=on_progress, save_seconds=save_seconds, team=team, task=task,
        start=start if recipe.mode == "lp-ft" else None,
    )  # fmt: skip


# --- what two processes do; each writes FOLDER/NAME-RANK.json ---------------------------------------------------


def trained(folder: Path, team: Team) -> dict[str, Any]:
    """Every recipe, several labels, and predictions of 41, of 1 and of 2 rows."""
    found: dict[str, Any] = {}
    for name, recipe in RECIPES.items():
        head = fit(folder / name, recipe, team=team)
        scores = predict(head, Source(2), device="cpu", team=team)
        found[name] = {"history": head.history, "best": head.best_epoch, "scores": scores.tolist()}
    fit(folder / "several", SEVERAL, team=team, task="multilabel")
    return found


def cramped(folder: Path, team: Team) -> dict[str, Any]:
    head = fit(folder, RECIPES["full"], team=team, backbone=Cramped(poor=team.rank == 1))
    return {"notes": head.notes}


def diverged(folder: Path, team: Team) -> dict[str, Any]:
    source = Source(0)
    source.images[7] = float("nan")
    return {"error": said(lambda: fit(folder, RECIPES["full"], team=team, train=source))}


def unreadable(folder: Path, team: Team) -> dict[str, Any]:
    source = Broken(0) if team.rank == 1 else Source(0)
    first = said(lambda: fit(folder / "a", RECIPES["full"], team=team, train=source))
    # All know, and go on together with what comes next, as a search does.
    return {"error": first, "best": fit(folder / "b", RECIPES["still"], team=team).best_epoch}


def faulty(folder: Path, team: Team) -> dict[str, Any]:
    def stumble(now: Progress) -> None:
        if team.rank == 1 and now.step == 2:
            raise ZeroDivisionError("a fault, says the test")

    return {"error": said(lambda: fit(folder, RECIPES["full"], team=team, on_progress=stumble))}


def pruned(folder: Path, team: Team) -> dict[str, Any]:
    def stop(now: Progress) -> None:
        if now.metrics is not None and team.decided(lambda: now.epoch == 2):
            raise EndedTogetherError

    with pytest.raises(EndedTogetherError):
        fit(folder, RECIPES["full"], team=team, on_progress=stop)
    return {"most": team.most(10 + team.rank), "same": said(lambda: team.same(str(team.rank), "the images"))}


def killed(folder: Path, team: Team) -> dict[str, Any]:
    def stop(now: Progress) -> None:
        if team.rank == 1 and (now.epoch, now.step) == (2, 3):
            os.kill(os.getpid(), signal.SIGKILL)

    return {
        "error": said(lambda: fit(folder, RECIPES["portions"], team=team, on_progress=stop, save_seconds=0))
    }


def resumed(folder: Path, team: Team) -> dict[str, Any]:
    return {"notes": fit(folder, RECIPES["portions"], team=team).notes}


LAUNCHES: dict[str, tuple[Callable[[Path, Team], dict[str, Any]], str]] = {
    "trained": (trained, "trained"),
    "cramped": (cramped, "cramped"),
    "diverged": (diverged, "diverged"),
    "unreadable": (unreadable, "unreadable"),
    "faulty": (faulty, "faulty"),
    "pruned": (pruned, "pruned"),
    "killed": (killed, "killed"),
    "resumed": (resumed, "killed"),
}
"""Name -> (what each process does, the folder it trains in)."""


def said(work: Callable[[], Any]) -> list[str]:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
        return [type(error).__name__, str(error)]
    return []


def _launch(root: Path, name: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(PROCESSES):
        child = os.fork()
        if not child:
            _take_part(root, name, rank, port)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def _take_part(root: Path, name: str, rank: int, port: int) -> None:
    from featprobe.heads.crew import Crew

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(PROCESSES),
        "LOCAL_WORLD_SIZE": "2",
    }
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    status = 1
    try:
        crew = Crew(cpu=True)
        work, place = LAUNCHES[name]
        found = work(root / place, crew)
        (root / f"{name}-{rank}.json").write_text(json.dumps(found))
        if not crew.torn:
            crew.leave()
        status = 0
    except BaseException:  # noqa: BLE001 - a child that was forked must never become pytest
        traceback.print_exc()
    finally:
        os._exit(status)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes did all of LAUNCHES, in one program that loads torch once."""
    folder = tmp_path_factory.mktemp("together")
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, __file__, str(folder)]
    done = subprocess.run(program, check=False, env=environment, capture_output=True, text=True, timeout=240)
    (folder / "log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr
    return folder


def told(root: Path, name: str) -> list[dict[str, Any]]:
    """What each process found."""
    files = [root / f"{name}-{rank}.json" for rank in range(PROCESSES)]
    assert all(file.is_file() for file in files), (root / "log").read_text()
    return [json.loads(file.read_text()) for file in files]


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_train_the_model_that_one_trains(root: Path, tmp_path: Path, name: str) -> None:
    alone = fit(tmp_path, RECIPES[name])
    both = [found[name] for found in told(root, "trained")]
    assert both[0] == both[1], "all processes return the same history and predictions"
    assert apart(load_file(root / "trained" / name / "best.safetensors"), load_file(alone.checkpoint)) < BOUND
    assert (both[0]["best"], len(both[0]["history"])) == (alone.best_epoch, len(alone.history))
    for one, other in zip(both[0]["history"], alone.history, strict=True):
        assert one == pytest.approx(dict(other), abs=1e-5)
    scores = predict(alone, Source(2), device="cpu")
    assert np.abs(np.array(both[0]["scores"]) - scores).max() < 1e-5, "every row once, in order"


def test_early_stopping_is_one_decision(root: Path) -> None:
    both = [found["stopped"] for found in told(root, "trained")]
    assert len(both[0]["history"]) == both[0]["best"] + 1 < RECIPES["stopped"].max_epochs


def test_several_labels_count_their_known_cells_also_when_mixed(root: Path, tmp_path: Path) -> None:
    alone = fit(tmp_path, SEVERAL, task="multilabel")
    assert apart(load_file(root / "trained/several/best.safetensors"), load_file(alone.checkpoint)) < BOUND


def test_memory_that_runs_out_in_one_halves_what_passes_in_all(root: Path, tmp_path: Path) -> None:
    first, second = told(root, "cramped")
    assert first["notes"] == second["notes"]
    assert first["notes"][0].startswith(
        "memory ran out: 5 images passed at a time in 2 processes together, their gradients"
    )
    asked = fit(tmp_path, dataclasses.replace(RECIPES["full"], micro_batch=5))
    assert apart(load_file(root / "cramped/best.safetensors"), load_file(asked.checkpoint)) < BOUND


def test_a_loss_that_is_not_finite_stops_all_and_names_the_whole_batch(root: Path) -> None:
    for found in told(root, "diverged"):
        kind, words = found["error"]
        assert kind == "ProbeError"
        assert re.search(r"loss became nan at step \d of epoch 1;.*the batch was .*\bimage-7\b", words)
        assert words.count("image-") == 9


def test_an_image_that_one_process_can_not_read_stops_all_who_can_go_on_together(root: Path) -> None:
    first, second = told(root, "unreadable")
    assert second["error"][0] == first["error"][0] == "ProbeError"
    assert first["error"][1] == f"process 1 of 2: {second['error'][1]}"
    assert "can't be read any more" in second["error"][1]
    assert first["best"] == second["best"] >= 1


def test_a_fault_of_one_process_is_its_own_and_ends_the_others(root: Path) -> None:
    first, second = told(root, "faulty")
    assert second["error"] == ["ZeroDivisionError", "a fault, says the test"]
    assert first["error"][0] == "FeatprobeError"
    assert first["error"][1].startswith("process 1 of 2 failed; ZeroDivisionError: a fault, says the test")


def test_processes_that_end_a_training_together_go_on_together(root: Path) -> None:
    for found in told(root, "pruned"):
        assert found["most"] == 11
        assert found["same"][0] == "DataError"
        assert "process 1 of 2 sees the images other than process 0 does" in found["same"][1]


def test_a_process_that_was_killed_ends_the_other_and_resuming_ends_in_the_same_weights(root: Path) -> None:
    survivor = json.loads((root / "killed-0.json").read_text())
    assert survivor["error"][1].startswith("another process of this training is gone")
    assert not (root / "killed-1.json").exists()
    for found in told(root, "resumed")[:1]:
        assert found["notes"][0] == "resumed after epoch 1, step 3 of 2"
    one, other = (root / name / "best.safetensors" for name in ("killed", "trained/portions"))
    assert one.read_bytes() == other.read_bytes()


def test_a_compiled_model_is_shared_where_no_layer_looks_at_the_batch(tmp_path: Path) -> None:
    class Two(Team):
        size = 2

    with pytest.raises(ConfigError, match="--compile in 2 processes does not fit this backbone"):
        fit(tmp_path, TrainingRecipe(**COMMON, compile=True), team=Two())


if __name__ == "__main__":
    torch.set_num_threads(1)
    import accelerate  # noqa: F401 - loaded once, before the processes part
    import peft  # noqa: F401 - see above
    import scipy.stats  # noqa: F401 - see above
    import timm.utils.model_ema  # noqa: F401 - see above

    for name in LAUNCHES if len(sys.argv) < 3 else sys.argv[2:]:
        _launch(Path(sys.argv[1]), name)
