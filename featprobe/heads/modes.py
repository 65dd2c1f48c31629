"""Names what of a backbone is trained, so that "frozen" and "unfrozen" mean one thing each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from featprobe.errors import ConfigError, nearest

LORA_RANK: Final = 8

MODES: Final[Mapping[str, str]] = {
    "full": "every weight",
    "head": "a head on the frozen backbone",
    "last:N": "the last N blocks, and what comes after them",
    "lora[:RANK]": f"low-rank adapters beside the frozen weights (rank {LORA_RANK} unless named)",
    "bitfit": "the biases alone",
    "norm": "gains and biases of the normalisation layers alone",
    "gradual": "the head first, then block after block from the last one",
    "lp-ft": "every weight, from the head of featprobe's own linear probe",
    "huang-frozen": "what Huang et al. 2024 call frozen: classifier layers of VGG16 and DenseNet121 are trained",
}
"""How a mode is written -> what it trains."""

KINDS: Final = tuple(re.split(r"[:\[]", name)[0] for name in MODES)
_NUMBERED: Final = {"last": None, "lora": LORA_RANK}


@dataclass(frozen=True, slots=True)
class Mode:
    """`kind`, one of KINDS; `number`: blocks of "last", rank of "lora", else 0."""

    kind: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}" if self.number else self.kind

    @property
    def standardises(self) -> bool:
        """Whether the head's input is standardised by the untrained backbone's features.

        Not where all weights move: a random backbone's features are not what they will be in training. In the
        study's own frozen networks nothing is standardised. Where it is, BatchNorm layers keep their statistics, also
        those whose gains are trained: with a batch's own statistics the features would not be those any more.
        """
        return self.kind not in {"full", "huang-frozen"}

    @property
    def whole(self) -> bool:
        """Whether, in the end, every weight is trained."""
        return self.kind in {"full", "gradual", "lp-ft"}


def parse_mode(text: str) -> Mode:
    """The mode written as in MODES; ConfigError with the nearest name for anything else."""
    kind, colon, number = text.partition(":")
    if kind not in KINDS:
        raise ConfigError(
            f"unknown mode {text!r}",
            nearest(kind, KINDS) or f"known: {', '.join(MODES)}",
            f"type --mode {next(iter(MODES))}",
        )
    if kind not in _NUMBERED:
        if colon:
            raise ConfigError(f"mode {text!r}: {kind} takes no number", "", f"type --mode {kind}")
        return Mode(kind)
    value = number if colon else str(_NUMBERED[kind] or "")
    if not re.fullmatch(r"[1-9]\d{0,3}", value):
        what = "how many blocks, from 1" if kind == "last" else "a rank, from 1"
        raise ConfigError(f"mode {text!r} lacks its number", f"it is {what}", f"type --mode {kind}:2")
    return Mode(kind, int(value))
