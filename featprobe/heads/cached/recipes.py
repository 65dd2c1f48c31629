"""Holds every rule by which a head is trained on cached embeddings, each with its source, as plain records."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from featprobe.errors import ConfigError, nearest
from featprobe.heads.recipe import HEADS_NUMERICS
from featprobe.records import TASKS, sha256_json

BLOCK_INPUTS: Final = ("cls", "cls+mean", "last4/cls", "last4/cls+mean")
"""Keys of DINOv2's linear inputs: class tokens of the last 1 or 4 blocks, without and with the patch mean."""

_NO_AUGMENTATION: Final = (
    "features are cached: the published training augments images (random resized crop, flip), this one can't"
)
_POSITIVE: Final = ("batch_size", "epochs", "hidden", "head_width", "lr", "init_std", "iterations")
_NOT_NEGATIVE: Final = ("weight_decay", "warmup", "clip_norm", "patience", "momentum")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecipe:
    """What every head trained on cached embeddings has.

    `tasks`: kinds of target that it can be fitted to. `inputs`: keys of the embeddings it looks for, in the
    order in which ties are broken. `source`: paper and code; `remarks`: what every result must say. Neither
    of the two is part of the hash.
    """

    name: str
    tasks: tuple[str, ...]
    inputs: tuple[str, ...]
    batch_size: int
    source: str
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field.name, getattr(self, field.name))
        for task in self.tasks:
            if task not in TASKS:
                raise ConfigError(f"unknown task {task!r}", f"known: {', '.join(TASKS)}", "mend tasks")

    def to_dict(self) -> dict[str, Any]:
        """All that decides a training, as JSON types."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in {"source", "remarks"}}

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) over `to_dict` and HEADS_NUMERICS."""
        return sha256_json({"recipe": self.to_dict(), "numerics": HEADS_NUMERICS})


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSearch(HeadRecipe):
    """Linear heads for every learning rate and input, trained at once by SGD; the validation part chooses one.

    Weights start from N(0, `init_std`), biases from 0. SGD with `momentum`, no weight decay; the rate falls
    along a cosine from its peak to 0 over all steps: `iterations`, or where that is None `epochs` times the
    batches of the training part. The steps never depend on the embedding. `scaled`: the rate is multiplied by
    batch / 256. Batches are drawn from shuffled passes without end; a batch larger than the data repeats rows,
    or with `shrink_batch` is cut to the number of training rows. `monitor`: "accuracy" or "auroc" (mean over
    classes or labels, one against the rest, of the linear scores); among equals the first in the order of
    `inputs`, then of `learning_rates`. `refit`: the chosen combination is trained again on train + val.
    `binary_output`: two classes get one logistic output instead of two softmax outputs. `multilabel_sum`: the
    loss of a multi-label batch is summed over rows (mean over labels) instead of averaged over both.
    """

    learning_rates: tuple[float, ...]
    scaled: bool = False
    momentum: float = 0.9
    init_std: float = 0.01
    iterations: int | None = None
    epochs: int = 10
    shrink_batch: bool = False
    monitor: Literal["accuracy", "auroc"] = "accuracy"
    refit: bool = False
    binary_output: bool = False
    multilabel_sum: bool = False

    def __post_init__(self) -> None:
        HeadRecipe.__post_init__(self)  # super() misses the class that slots make anew
        _check_choice("monitor", self.monitor, ("accuracy", "auroc"))
        if not self.learning_rates or not all(0 < rate < math.inf for rate in self.learning_rates):
            raise ConfigError(
                f"learning rates {self.learning_rates} can't be used",
                "a search needs one at least, all positive",
                "mend learning_rates",
            )

    def batch(self, rows: int) -> int:
        """Rows of one batch where training has `rows`."""
        return min(self.batch_size, rows) if self.shrink_batch else self.batch_size

    def steps(self, rows: int) -> int:
        """Steps where training has `rows`, whatever the width of the embedding."""
        if self.iterations is not None:
            return self.iterations
        return self.epochs * math.ceil(rows / self.batch(rows))

    def peak(self, learning_rate: float, rows: int) -> float:
        """The rate of the first step."""
        return learning_rate * self.batch(rows) / 256 if self.scaled else learning_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochTraining(HeadRecipe):
    """One head trained epoch by epoch; the validation part chooses the epoch, and is not trained on.

    `model`: "linear"; "mlp", D -> `hidden` -> ReLU -> K; "attentive", one learnt query that attends to the
    patch tokens in heads of `head_width` channels, then linear. Layers start as torch's do. `standardise`: by
    mean and deviation of the training rows (of a token's channel over all training tokens), fixed.
    `optimizer`: Adam or AdamW with `lr` and `weight_decay` (AdamW only; on vectors too with `decay_vectors`).
    `schedule`: "constant"; "cosine" to 0 by step after the share `warmup` of all steps; "cosine-epochs", which
    lowers the rate after each epoch and is one epoch late. `clip_norm`: bound of the gradient's norm, 0 for
    none. `epochs`: at most so many; `patience`: epochs without a better one before it stops, 0 for never.
    `monitor`: "val_loss" or "val_accuracy"; of equal epochs the first. `reshuffle`: another order each epoch,
    else one order drawn once. `every_row`: also a short last batch is trained on, else it is left out where it
    holds at most half a batch. `class_weight`: "balanced" weights the loss of class k by N / (K * N_k).
    """

    model: Literal["linear", "mlp", "attentive"]
    lr: float
    epochs: int = 100
    optimizer: Literal["adam", "adamw"] = "adamw"
    weight_decay: float = 0.0
    decay_vectors: bool = False
    schedule: Literal["constant", "cosine", "cosine-epochs"] = "constant"
    warmup: float = 0.0
    clip_norm: float = 0.0
    patience: int = 0
    monitor: Literal["val_loss", "val_accuracy"] = "val_loss"
    hidden: int = 256
    head_width: int = 64
    standardise: bool = False
    reshuffle: bool = True
    every_row: bool = False
    class_weight: Literal["none", "balanced"] = "none"

    def __post_init__(self) -> None:
        HeadRecipe.__post_init__(self)  # super() misses the class that slots make anew
        for name, known in _CHOICES.items():
            _check_choice(name, getattr(self, name), known)
        if self.warmup >= 1:
            raise ConfigError(f"warmup {self.warmup} can't be used", "it is a share of all steps, below 1")


_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "model": ("linear", "mlp", "attentive"),
    "optimizer": ("adam", "adamw"),
    "schedule": ("constant", "cosine", "cosine-epochs"),
    "monitor": ("val_loss", "val_accuracy"),
    "class_weight": ("none", "balanced"),
}


def find_recipe(name: str) -> HeadRecipe:
    """The recipe called `name`; ConfigError with the nearest names where there is none."""
    if name not in RECIPES:
        hint = nearest(name, RECIPES) or f"known: {', '.join(RECIPES)}"
        raise ConfigError(f"unknown head {name!r}", hint, f"type {next(iter(RECIPES))}")
    return RECIPES[name]


def _check(name: str, value: Any) -> None:
    if value is None or name not in (*_POSITIVE, *_NOT_NEGATIVE):
        return
    least = 0 if name in _NOT_NEGATIVE else 1 if isinstance(value, int) else 1e-12
    if not (math.isfinite(value) and value >= least):
        words = name.replace("_", " ")
        raise ConfigError(f"{words} {value} can't be used", f"it is at least {least:g}", f"mend {name}")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {name.replace('_', ' ')} {value!r}", f"known: {', '.join(known)}")


_CLASSES: Final = ("classes", "ordinal")

_ALL: Final = (
    LinearSearch(
        name="dinov2-linear",
        tasks=(*_CLASSES, "multilabel"),
        inputs=BLOCK_INPUTS,
        learning_rates=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1),
        scaled=True,
        batch_size=128,
        iterations=12_500,
        # On one GPU at batch 128 the code names heads by a rate rounded to five decimals, so that 1e-5 and 2e-5
        # share a name and 48 heads are left. Here all 52 are compared, as the paper says.
        source="Oquab et al. 2023 (arXiv 2304.07193); facebookresearch/dinov2 at b8931f7, dinov2/eval/linear.py",
        remarks=(_NO_AUGMENTATION,),
    ),
    LinearSearch(
        name="baharoon-linear",
        tasks=(*_CLASSES, "multilabel"),
        inputs=("cls+mean", "cls", "last4/cls+mean", "last4/cls"),  # the order of the code, which breaks ties
        learning_rates=(1e-3, 5e-3, 1e-2, 5e-2),
        batch_size=128,
        epochs=10,
        shrink_batch=True,
        monitor="auroc",
        refit=True,
        binary_output=True,
        multilabel_sum=True,
        source="Baharoon et al. 2023 (arXiv 2312.02366); MohammedSB/DINOv2ForRadiology at cb91e01",
        remarks=(_NO_AUGMENTATION,),
    ),
    EpochTraining(
        name="huang2024",
        tasks=_CLASSES,
        inputs=("logits",),
        model="mlp",
        optimizer="adam",
        lr=1e-4,
        batch_size=32,
        epochs=100,
        monitor="val_accuracy",
        every_row=True,
        reshuffle=False,  # its loader shuffles the list of images once and never again
        source="Huang et al. 2024 (arXiv 2402.07595); GuanghuiFU/medical_dino_eval at f2b17be, utils.py",
    ),
    EpochTraining(
        name="medmnistplus-linear",
        tasks=(*_CLASSES, "multilabel"),
        inputs=("pre_logits",),
        model="linear",
        lr=1e-4,
        weight_decay=0.01,  # the default of the AdamW that the code takes from timm, for biases too
        decay_vectors=True,
        schedule="cosine-epochs",
        batch_size=64,
        epochs=100,
        patience=5,
        every_row=True,
        source="Doerrich et al. 2025, sdoerrich97/rethinking-model-prototyping-MedMNISTPlus, train.py",
        remarks=(
            "features are cached: the published linear probe lets BatchNorm statistics drift, this one can't",
        ),
    ),
    EpochTraining(
        name="mlp",
        tasks=TASKS,
        inputs=(),
        model="mlp",
        lr=1e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup=0.1,
        clip_norm=1.0,
        batch_size=64,
        epochs=100,
        patience=10,
        standardise=True,
        source="featprobe's own: AdamW (Loshchilov and Hutter 2019), early stopping on the validation loss",
    ),
    EpochTraining(
        name="attentive",
        tasks=TASKS,
        inputs=("patches",),
        model="attentive",
        lr=1e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup=0.1,
        clip_norm=1.0,
        batch_size=64,
        epochs=100,
        patience=10,
        standardise=True,
        source="the attentive probe of AIM, El-Nouby et al. 2024 (arXiv 2401.08541), its BatchNorm without gain "
        "replaced by fixed statistics of the training tokens; training as featprobe's own mlp",
    ),
)

RECIPES: Final[Mapping[str, HeadRecipe]] = MappingProxyType({recipe.name: recipe for recipe in _ALL})
"""Every published rule and featprobe's own, by name; `dataclasses.replace` makes a variant."""
