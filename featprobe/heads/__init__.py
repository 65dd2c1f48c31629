"""Trains heads and whole backbones, so that fine-tuned models end in the same predictions as frozen ones.

This file is light: torch is imported by `featprobe.heads.training` (`train_fold`) and
`featprobe.heads.inference` (`predict`), which a caller imports where it trains.
"""

from __future__ import annotations

from featprobe.heads.modes import MODES, Mode, parse_mode
from featprobe.heads.recipe import HEADS_NUMERICS, MONITORS, TrainingRecipe
from featprobe.heads.sources import BatchSource, HeadStart, Progress

__all__ = [
    "HEADS_NUMERICS",
    "MODES",
    "MONITORS",
    "BatchSource",
    "HeadStart",
    "Mode",
    "Progress",
    "TrainingRecipe",
    "parse_mode",
]
