"""Holds everything that decides a training, so that its hash can name the result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from featprobe.errors import ConfigError, nearest
from featprobe.records import PRECISIONS, sha256_json

HEADS_NUMERICS: Final = 1
"""Raised when the same recipe and data give other weights than before."""

MODES: Final = ("full", "head")
MONITORS: Final = ("val_loss", "val_accuracy", "val_balanced_accuracy")
CLASS_WEIGHTS: Final = ("none", "balanced")

EPOCHS_BY_MODE: Final[Mapping[str, int]] = {"full": 10, "head": 100}
LR_BY_MODE: Final[Mapping[str, float]] = {"full": 1e-4, "head": 1e-3}
AUGMENT_BY_MODE: Final[Mapping[str, bool]] = {"full": True, "head": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecipe:
    """All that decides a training besides data, backbone and device.

    `mode`: "full" trains backbone and head; "head" keeps the backbone frozen and in evaluation mode.
    `epochs`: at most so many; None is 10 in mode full and 100 in mode head, where an epoch costs next to
    nothing and 10 of a small data set leave the head short of its optimum.
    `lr`: peak learning rate of the backbone (full, 1e-4) or of the head (head, 1e-3) where None; in mode full
    the head learns at `lr * head_lr_factor`. AdamW (Loshchilov and Hutter 2019), `weight_decay` on matrices
    and kernels alone; the rate rises linearly over the share `warmup` of all steps, then falls along a cosine
    to 0. `clip_norm`: bound of the gradient's norm, 0 for none. `label_smoothing`: of the training loss.
    `class_weight`: "balanced" weights class k by N / (K * N_k) in the training and the validation loss.
    `dropout`: on the head's input. `augment`: None is on in mode full, off in mode head, where features are
    then computed once. `precision`: fp32, tf32, bf16 or fp16 (fp16 on a GPU alone); weights, head and loss
    stay float32. `monitor`: what chooses the best epoch, by default the validation loss: it still moves where
    the accuracy of a small validation set stands still, and it is a proper score, so that the chosen model's
    probabilities are meant too. `patience`: epochs without a better one before training stops, 0 for never.
    `freeze_norm_stats`: BatchNorm layers keep their running statistics in mode full. Off by default: a
    randomly initialised control has no statistics worth keeping, and both sides of a comparison must be
    trained under one rule. `seed`: of the head, the order, augmentation and dropout.
    """

    mode: str = "full"
    epochs: int | None = None
    batch_size: int = 32
    lr: float | None = None
    head_lr_factor: float = 10.0
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip_norm: float = 1.0
    label_smoothing: float = 0.0
    class_weight: str = "none"
    dropout: float = 0.0
    augment: bool | None = None
    precision: str = "fp32"
    monitor: str = "val_loss"
    patience: int = 5
    freeze_norm_stats: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (
            ("mode", MODES),
            ("class_weight", CLASS_WEIGHTS),
            ("precision", PRECISIONS),
            ("monitor", MONITORS),
        ):
            _check_choice(name, getattr(self, name), choices)
        for name, low, high, open_end in _BOUNDS:
            _check_number(name, getattr(self, name), low, high, open_end)

    def resolved(self) -> TrainingRecipe:
        """The recipe with `epochs`, `lr` and `augment` filled in from the mode."""
        return dataclasses.replace(self, epochs=self.max_epochs, lr=self.peak_lr, augment=self.augments)

    @property
    def max_epochs(self) -> int:
        """The number of epochs that the learning rate is planned for."""
        return EPOCHS_BY_MODE[self.mode] if self.epochs is None else self.epochs

    @property
    def peak_lr(self) -> float:
        """The learning rate at the end of the warm-up: of the backbone in mode full, of the head in mode head."""
        return LR_BY_MODE[self.mode] if self.lr is None else self.lr

    @property
    def augments(self) -> bool:
        """Whether training images are augmented."""
        return AUGMENT_BY_MODE[self.mode] if self.augment is None else self.augment

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON types, as resolved: recipes that train alike give one dictionary."""
        return dataclasses.asdict(self.resolved())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingRecipe:
        """The inverse of `to_dict`; ConfigError names the nearest field where one is unknown."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(
                    f"unknown training setting {name!r}",
                    nearest(name, known) or f"known: {', '.join(known)}",
                    "see featprobe finetune --help",
                )
        return cls(**values)

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) over `to_dict` and HEADS_NUMERICS."""
        return sha256_json({"recipe": self.to_dict(), "numerics": HEADS_NUMERICS})


_BOUNDS: Final[tuple[tuple[str, float, float, bool], ...]] = (
    ("epochs", 1, 1_000_000, False),
    ("batch_size", 1, 1_000_000, False),
    ("lr", 1e-12, 1e6, False),
    ("head_lr_factor", 1e-6, 1e6, False),
    ("weight_decay", 0, 1e6, False),
    ("warmup", 0, 1, True),
    ("clip_norm", 0, 1e12, False),
    ("label_smoothing", 0, 1, True),
    ("dropout", 0, 1, True),
    ("patience", 0, 1_000_000, False),
    ("seed", 0, 2**63 - 1, False),
)
_WHOLE: Final = ("epochs", "batch_size", "patience", "seed")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(
            f"unknown {name.replace('_', ' ')} {value!r}",
            nearest(str(value), choices) or f"known: {', '.join(choices)}",
            f"type {_flag(name)} {choices[0]}",
        )


def _check_number(name: str, value: float | None, low: float, high: float, open_end: bool) -> None:
    if value is None:
        return
    whole = name not in _WHOLE or float(value).is_integer()
    inside = math.isfinite(value) and low <= value <= high and not (open_end and value == high)
    if not (whole and inside):
        kind = "a whole number" if name in _WHOLE else "a number"
        raise ConfigError(
            f"{name.replace('_', ' ')} {value} can't be used",
            f"it is {kind} from {low:g} to {'below ' if open_end else ''}{high:g}",
            f"mend {_flag(name)}",
        )
