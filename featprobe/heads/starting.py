"""Lets the main process fit the probe that a training begins from, and tells all others what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from featprobe.heads.sources import HeadStart
from featprobe.heads.team import Team
from featprobe.records import FloatArray

_ARRAYS = ("centre", "deviation", "weight", "bias")


def agreed_start(
    start: Callable[[FloatArray, FloatArray], HeadStart], rows: FloatArray, held: FloatArray, team: Team
) -> HeadStart:
    """`start(rows, held)`, called in the main process of `team` alone, bit for bit the same in all."""
    words: list[str] = []

    def fitted() -> Mapping[str, Tensor]:
        found = start(rows, held)
        words.append(found.words)
        return {name: torch.from_numpy(getattr(found, name)) for name in _ARRAYS}

    arrays = team.tensors(fitted)
    return HeadStart(**{name: arrays[name].numpy() for name in _ARRAYS}, words=team.decided(lambda: words[0]))
