"""The same command in one process and under a launcher, and what a launcher must not be used for."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from featprobe.stages.launch import first_here, processes_here

TINY = ("--backbone", "timm:test_vit", "--weights", "random", "--image-size", "32", "--batch-size", "12")
QUICK = ("--epochs", "1", "--holdout", "0.3", "--resamples", "50")


def launched(tmp_path: Path, *arguments: Any) -> subprocess.CompletedProcess[str]:
    """The command in two processes of torchrun's, which accelerate's launcher calls, too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "FEATPROBE_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(port),
    ]
    command = [*launcher, "-m", "featprobe.cli", *map(str, arguments)]
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=240
    )


def test_two_processes_predict_what_one_predicts_and_one_of_them_speaks_and_writes(
    quick_featprobe, manifest: Path, tmp_path: Path
) -> None:
    command = ("finetune", "--data", manifest, *TINY, *QUICK, "--mode", "lp-ft", "--trials", "2")
    together = launched(tmp_path, *command, "--out", "two", "--export")
    assert together.returncode == 0, together.stderr
    lines = together.stdout.splitlines()
    assert len(lines) == len(set(lines)), "each line once"
    assert sum(": trial 1 " in line and " chosen " not in line for line in lines) == 1
    alone = quick_featprobe(*command, "--out", "one")
    assert alone.returncode == 0, alone.stderr
    said = [line for line in alone.stdout.splitlines() if "computed" not in line]
    assert said == [line for line in lines if "computed" not in line]
    one, two = (pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("one", "two"))
    keys = ["mode", "seed", "fold", "id", "y_true"]
    assert one[keys].equals(two[keys]), "all test rows, once, in order"
    scores = [name for name in one.columns if name.startswith("y_score_")]
    assert np.abs(one[scores].to_numpy() - two[scores].to_numpy()).max() < 1e-5
    estimates = [pd.read_csv(tmp_path / name / "results.csv") for name in ("one", "two")]
    assert len(estimates[0]) == len(estimates[1]) > 0
    assert len(list((tmp_path / "two" / "models").glob("*.safetensors"))) == 1
    # What is there is not trained again, whoever asks.
    again = quick_featprobe(*command, "--out", "two", "--export")
    assert "0 computed, 1 there already" in again.stdout


def test_an_error_of_the_first_process_ends_all_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    done = launched(tmp_path, "finetune", *TINY, "--out", "out")
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if line.startswith("featprobe:")]
    assert ours == [
        "featprobe: error: can't write to out; File exists; choose another folder with --out or --cache, or change its permissions"
    ]
    statuses = re.findall(r"exitcode\s*:\s*(-?\d+)", done.stderr)
    assert set(statuses) <= {"2", "-15"}, "2, or ended by the launcher because another one had ended"
    assert "2" in statuses


@pytest.mark.parametrize(
    ("values", "here", "first"),
    [
        ({}, 1, True),
        ({"LOCAL_WORLD_SIZE": "4"}, 1, True),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "3"}, 4, False),
        (
            {
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                "OMPI_COMM_WORLD_LOCAL_RANK": "0",
            },
            2,
            True,
        ),
        ({"WORLD_SIZE": "some"}, 1, True),
    ],
)
def test_what_launchers_say(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], here: int, first: bool
) -> None:
    launcher_says(monkeypatch, **values)
    assert (processes_here(), first_here()) == (here, first)


def launcher_says(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("command", ["extract", "probe", "compare", "inspect"])
def test_a_command_of_one_process_refuses_to_be_started_twice(
    quick_featprobe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    launcher_says(monkeypatch, WORLD_SIZE="2", RANK="0", LOCAL_RANK="0")
    flags = ("results one",) if command == "compare" else ("--data", "my images")
    done = quick_featprobe(command, *flags)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"featprobe {command} was started in 2 processes" in done.stderr
    assert f"type it without the launcher: featprobe {command} " in done.stderr
    assert f"'{flags[-1]}'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_second_process_leaves_the_word_to_the_first(
    quick_featprobe, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("featprobe.stages.launch.time.sleep", waited.append)
    launcher_says(monkeypatch, WORLD_SIZE="2", RANK="1", LOCAL_RANK="1")
    done = quick_featprobe("extract")
    assert done.returncode == 2
    assert len(waited) == 1
    assert "featprobe extract was started in 2 processes" in done.stderr, "nobody ended it meanwhile"


@pytest.mark.parametrize(
    ("values", "flags", "says"),
    [
        (
            {"RANK": "0"},
            ("--device", "cuda:1"),
            "--device cuda:1 is one device, and 2 processes were started",
        ),
        ({}, (), "WORLD_SIZE speaks of 2 processes, but nothing says which of them this is"),
        ({"RANK": "0"}, (), "type: pip install 'featprobe[distributed]'"),
    ],
)
def test_a_launch_that_can_not_work_says_so(
    quick_featprobe,
    monkeypatch: pytest.MonkeyPatch,
    manifest: Path,
    values: dict[str, str],
    flags: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)  # as where it is not installed
    launcher_says(monkeypatch, WORLD_SIZE="2", **values)
    done = quick_featprobe("finetune", "--data", manifest, *TINY, *flags)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says in done.stderr


def test_one_process_needs_no_accelerate_and_says_where_several_come_from(
    quick_featprobe, monkeypatch: pytest.MonkeyPatch, manifest: Path
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    # What `accelerate launch --cpu --num_processes 2` sets for the one process that it starts.
    launcher_says(monkeypatch, ACCELERATE_MIXED_PRECISION="no", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    done = quick_featprobe("finetune", "--data", manifest, *TINY, *QUICK, "--mode", "head")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "finetune: accelerate started one process; on the CPU several are started by: torchrun"
    )
