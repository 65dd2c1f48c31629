"""Holds everything that decides a training, so that its hash can name the result."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from featprobe.errors import ConfigError, nearest
from featprobe.heads.modes import parse_mode
from featprobe.records import PRECISIONS, sha256_json

HEADS_NUMERICS: Final = 2
"""Raised when the same recipe and data give other weights than before."""

MONITORS: Final = ("val_loss", "val_accuracy", "val_balanced_accuracy", "val_auroc", "val_mae")
CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "optimizer": ("adamw", "adam", "lbfgs"),
    "schedule": ("cosine", "constant"),
    "class_weight": ("none", "balanced"),
    "sampling": ("shuffle", "balanced"),
    "ordinal": ("cross-entropy", "corn"),
    "head_start": ("small", "torch"),
    "precision": PRECISIONS,
    "monitor": MONITORS,
}
"""Field -> what it may be; the first is the default but for `precision`."""

_GENTLE: Final = ("full", "gradual", "lp-ft", "last")
"""Modes that move pretrained weights themselves, and by smaller steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecipe:
    """All that decides a training besides data, backbone and device.

    `mode`: see `featprobe.heads.MODES`. `head`: "linear", or "mlp:H" with H hidden units and ReLU. `head_start`:
    the last layer starts from N(0, 0.01), or as torch's do. `epochs`: at most so many; None is 100 in mode head,
    where an epoch costs next to nothing and 10 of a small data set leave the head short of its optimum, else 10.

    `optimizer`: AdamW (Loshchilov and Hutter 2019) or Adam; `weight_decay` on matrices and kernels alone, decoupled
    in AdamW, in the gradient in Adam. "lbfgs" solves the convex problem of a linear head on a frozen backbone instead (scipy, all
    rows at once), with `l2` / 2 times the squared weights in the loss, the intercept free. `lr`: peak rate of the
    backbone, 1e-4 where weights themselves move (full, last, gradual, lp-ft), else 1e-3 where None; the head
    learns at `lr * head_lr_factor` (None: 10 for full, last and gradual, else 1). `layer_decay`: the rate of a block
    is multiplied by it once for each block between it and the head, as in timm. `schedule`: a cosine to 0
    after a linear rise over the share `warmup` of all steps, or constant. `clip_norm`: bound of the
    gradient's norm, 0 for none. `ema`: decay of an average of the weights, which is then judged and kept, 0 for none.

    `label_smoothing`: of the training loss. `class_weight`: "balanced" weights class k by N / (K * N_k), label l's
    positives by its negatives over its positives, in the training and the validation loss. `sampling`: "balanced"
    draws every class equally often, with replacement. `ordinal`: the loss of ordered classes. `mixup`, `cutmix`: the
    parameter of the Beta distribution that images are mixed by, 0 for none. `dropout`: on the head's input.
    `augment`: None is on but in mode head, where features are then computed once.

    `batch_size`: images of one optimizer step; `micro_batch` of them pass at a time (None: all), their gradients
    added up; both count the images of all processes that share a training. `precision`: fp32, tf32, bf16 or fp16 (fp16 on a GPU alone); weights, head and loss stay float32.
    `channels_last`, `compile`: how the device computes. `deterministic`: only algorithms that give the same numbers
    each time. `monitor`: what chooses the best epoch, by default the validation loss: it still moves where the
    accuracy of a small validation set stands still, and it is a proper score, so that the chosen model's
    probabilities are meant too. `patience`: epochs without a better one before training stops, 0 for never.
    `freeze_norm_stats`: BatchNorm layers keep their running statistics. Off by default: a randomly initialised
    control has no statistics worth keeping, and both sides of a comparison must be trained under one rule; layers
    that are not trained keep theirs in any case, and so do all in modes other than full (see `Mode.standardises`). `seed`: of the head, the order, augmentation and dropout.
    """

    mode: str = "full"
    head: str = "linear"
    head_start: str = "small"
    epochs: int | None = None
    batch_size: int = 32
    micro_batch: int | None = None
    optimizer: str = "adamw"
    lr: float | None = None
    head_lr_factor: float | None = None
    layer_decay: float = 1.0
    weight_decay: float = 0.05
    l2: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.1
    clip_norm: float = 1.0
    ema: float = 0.0
    label_smoothing: float = 0.0
    class_weight: str = "none"
    sampling: str = "shuffle"
    ordinal: str = "cross-entropy"
    mixup: float = 0.0
    cutmix: float = 0.0
    dropout: float = 0.0
    augment: bool | None = None
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    monitor: str = "val_loss"
    patience: int = 5
    freeze_norm_stats: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        for name, low, high, open_end in _BOUNDS:
            _check_number(name, getattr(self, name), low, high, open_end)
        parse_mode(self.mode)
        if not re.fullmatch(r"linear|mlp:[1-9]\d{0,4}", self.head):
            raise ConfigError(
                f"unknown head {self.head!r}",
                "known: linear, and mlp:H with H hidden units",
                "type --head mlp:256",
            )
        _check_combination(self)

    def resolved(self) -> TrainingRecipe:
        """The recipe with everything that follows from the mode filled in."""
        return dataclasses.replace(
            self,
            mode=str(parse_mode(self.mode)),
            epochs=self.max_epochs,
            lr=self.peak_lr,
            head_lr_factor=self.head_factor,
            augment=self.augments,
        )

    @property
    def _kind(self) -> str:
        return parse_mode(self.mode).kind

    @property
    def max_epochs(self) -> int:
        """The number of epochs that the learning rate is planned for."""
        return (100 if self._kind == "head" else 10) if self.epochs is None else self.epochs

    @property
    def peak_lr(self) -> float:
        """The learning rate at the end of the warm-up: of what is trained in the backbone, of the head alone."""
        return (1e-4 if self._kind in _GENTLE else 1e-3) if self.lr is None else self.lr

    @property
    def head_factor(self) -> float:
        """How many times faster the head learns: not where its start is a solution already."""
        gentle = self._kind in _GENTLE and self._kind != "lp-ft"
        return (10.0 if gentle else 1.0) if self.head_lr_factor is None else self.head_lr_factor

    @property
    def augments(self) -> bool:
        """Whether training images are augmented."""
        return self._kind != "head" if self.augment is None else self.augment

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def hidden(self) -> int:
        """Hidden units of the head, 0 for a linear one."""
        return int(self.head.partition(":")[2] or 0)

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
    ("micro_batch", 1, 1_000_000, False),
    ("lr", 1e-12, 1e6, False),
    ("head_lr_factor", 1e-6, 1e6, False),
    ("layer_decay", 1e-3, 1, False),
    ("weight_decay", 0, 1e6, False),
    ("l2", 0, 1e12, False),
    ("warmup", 0, 1, True),
    ("clip_norm", 0, 1e12, False),
    ("ema", 0, 1, True),
    ("label_smoothing", 0, 1, True),
    ("mixup", 0, 100, False),
    ("cutmix", 0, 100, False),
    ("dropout", 0, 1, True),
    ("patience", 0, 1_000_000, False),
    ("seed", 0, 2**63 - 1, False),
)
_WHOLE: Final = ("epochs", "batch_size", "micro_batch", "patience", "seed")


def _check_combination(recipe: TrainingRecipe) -> None:
    """ConfigError for settings that contradict each other."""
    convex = recipe.optimizer == "lbfgs"
    wrong = {
        "--head mlp is not convex": recipe.hidden > 0,
        "--mode head is the only one that is convex": parse_mode(recipe.mode).kind != "head",
        "images must be as they are: leave out --augment, --mixup and --cutmix": recipe.augments
        or recipe.mixes,
        "nothing is drawn: leave out --dropout, --label-smoothing, --ema and --sampling": bool(
            recipe.dropout or recipe.label_smoothing or recipe.ema or recipe.sampling != "shuffle"
        ),
    }
    for why, met in wrong.items():
        if convex and met:
            raise ConfigError(
                "--optimizer lbfgs solves a linear head on fixed features alone", why, "type --mode head"
            )
    if recipe.l2 and not convex:
        raise ConfigError(
            "a penalty in the loss is for --optimizer lbfgs",
            "AdamW decays the weights instead",
            "type --weight-decay",
        )
    if recipe.mixes and recipe.batch_size < 2:
        raise ConfigError("a batch of one image can't be mixed", "", "type --batch-size 2 or more")


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
