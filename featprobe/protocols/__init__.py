"""Published rules by name, so that a figure means what the paper's figure means: grid, choice, rows, scaling."""

from __future__ import annotations

from featprobe.errors import ProbeError
from featprobe.protocols.contract import Draw, Facts, ProbeProtocol, Trained
from featprobe.registry import PROTOCOLS

__all__ = ["Draw", "Facts", "ProbeProtocol", "Trained", "need_suitable", "protocols_for"]


def protocols_for(task: str) -> list[str]:
    """The protocols that fit this kind of target."""
    return [name for name, protocol in PROTOCOLS.items() if task in protocol.tasks]


def need_suitable(name: str, task: str, dataset: str) -> None:
    """ConfigError where no protocol has this name, ProbeError where it does not fit the target of `dataset`."""
    protocol: ProbeProtocol = PROTOCOLS.get(name)
    if task not in protocol.tasks:
        raise ProbeError(
            f"--protocol {name} does not fit the target of {dataset!r}, which is of kind {task!r}",
            f"protocols that do: {', '.join(protocols_for(task))}",
            "type --protocol featprobe, or name data sets with --data",
        )
