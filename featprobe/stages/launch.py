"""What a launcher (torchrun, accelerate launch, mpirun) started: how many processes, which one this is, who speaks.

Fine-tuning shares its work among them; every other command would do the same work several times over, and write the
same files at once, so that it stops. Nothing heavy is imported here: without a launcher it costs nothing.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from featprobe.errors import ConfigError, FeatprobeError

if TYPE_CHECKING:
    import torch

    from featprobe.heads.crew import Crew
    from featprobe.heads.team import Team

SIZES: Final = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables in which torchrun (which accelerate calls), Open MPI, MPICH and MVAPICH say how many processes they start."""

RANKS: Final = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
"""Variables in which they say which process this is."""

LOCAL_RANKS: Final = (
    "LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
)
"""Variables in which they say which of this machine's processes this is."""

LOCAL_SIZES: Final = (
    "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "MV2_COMM_WORLD_LOCAL_SIZE",
)
"""Variables in which they say how many processes they start on this machine."""

SHARING: Final = "finetune"
"""The one command that several processes share."""

_TURN: Final = 10.0
"""Seconds: launchers end all processes when one ends, so that the first one's words must come first."""


def processes() -> int:
    """How many processes were started together; 1 without a launcher."""
    return max(1, _number(SIZES, 1))


def processes_here() -> int:
    """How many of them share this machine's memory."""
    return min(processes(), max(1, _number(LOCAL_SIZES, 1)))


def first_here() -> bool:
    """Whether this is the first process of this machine."""
    return processes() == 1 or _number(LOCAL_RANKS, 0) == 0


def tell(error: FeatprobeError) -> None:
    """Print `error`, once for each machine: the first process speaks, another one where the first has no error."""
    if error.told:
        return
    if not first_here():
        time.sleep(_TURN)  # the launcher ends this process as soon as the first one has spoken and ended
    print(error.line, file=sys.stderr)


def need_one_process(command: str, typed: Sequence[str]) -> None:
    """ConfigError where several processes were started for a command that one does."""
    count = processes()
    if count > 1 and command != SHARING:
        raise ConfigError(
            f"featprobe {command} was started in {count} processes",
            f"it runs in one, which uses all cores; featprobe {SHARING} alone is shared among several",
            f"type it without the launcher: featprobe {shlex.join(typed)}",
        )


@contextlib.contextmanager
def company(device: str) -> Iterator[Team]:
    """The processes that share a fine-tuning. All of them leave together, also by an error, which the first one tells.

    What any but the first prints, bars too, is dropped. ConfigError where `device` names one GPU for several processes,
    MissingExtraError where accelerate is not installed.
    """
    from featprobe.heads.team import SOLO

    if processes() == 1:
        _mention_accelerate()
        yield SOLO
        return
    crew = _crew(device)
    with contextlib.ExitStack() as silence:
        if not crew.main:
            nowhere = silence.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123 - no path
            silence.enter_context(contextlib.redirect_stdout(nowhere))
            silence.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            with crew.agreeing():
                yield crew
                crew.leave()
        except FeatprobeError as error:
            _part(crew, error)
            raise


def device_of(team: Team, name: str) -> torch.device:
    """The device called `name`, of this process; ConfigError where it is not there."""
    from featprobe.stages.machine import pick_device

    return pick_device(name) if team.size == 1 else pick_device(str(team.device))


def _part(crew: Crew, error: FeatprobeError) -> None:
    """End together: the first process tells what all know before any of them ends."""
    if crew.torn or not crew.knows(error):
        return
    if crew.main:
        print(error.line, file=sys.stderr)
    error.told = True
    with contextlib.suppress(FeatprobeError):  # a process whose own fault it was may have ended already
        crew.leave()


def _crew(device: str) -> Crew:
    import torch

    if _number(RANKS, -1) < 0:
        raise ConfigError(
            f"WORLD_SIZE speaks of {processes()} processes, but nothing says which of them this is",
            "a launcher sets RANK, too",
            f"type: torchrun --nproc-per-node {processes()} -m featprobe.cli {SHARING} ..., or unset WORLD_SIZE",
        )
    kind, _, number = device.partition(":")
    if number or kind not in {"auto", "cuda", "cpu"}:
        raise ConfigError(
            f"--device {device} is one device, and {processes()} processes were started",
            "each process takes the GPU of its own number, or a share of the CPU",
            "type --device auto, or cpu",
        )
    from featprobe.heads.crew import Crew

    return Crew(cpu=kind == "cpu" or not torch.cuda.is_available())


def _mention_accelerate() -> None:
    """`accelerate launch --cpu --num_processes N` starts one process without a word: it leaves several to mpirun."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ and processes() == 1:
        print(
            "finetune: accelerate started one process; on the CPU several are started by: "
            f"torchrun --nproc-per-node N -m featprobe.cli {SHARING} ..."
        )


def _number(names: Sequence[str], default: int) -> int:
    """The first of the variables `names` that holds a number."""
    for name in names:
        with contextlib.suppress(KeyError, ValueError):
            return int(os.environ[name])
    return default
