"""What decides a fine-tuning, as options; `featprobe.config.FinetuneConfig` joins them to data and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from featprobe.options import Bounded, option

TRAINING_PROTOCOLS: Final = ("featprobe", "huang2024")
"""Recipes of fine-tuning by name, as `featprobe.heads.protocols.TRAININGS` (a test compares them)."""

TRAINING_MODES: Final = (
    "full",
    "head",
    "last:N",
    "lora[:RANK]",
    "bitfit",
    "norm",
    "gradual",
    "lp-ft",
    "huang-frozen",
)
"""What can be trained, as `featprobe.heads.MODES` (a test compares them)."""

MONITORED: Final = ("val_loss", "val_accuracy", "val_balanced_accuracy", "val_auroc", "val_mae")
"""What the best epoch can be chosen by, as `featprobe.heads.MONITORS` (a test compares them)."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Bounded):
    """What is trained, how, for how long, and what of it is searched."""

    image_size: int | None = option(None, "side of the square input in pixels", metavar="PIXELS", least=1)
    mode: tuple[str, ...] = option(("full",), f"what is trained: {', '.join(TRAINING_MODES)}", metavar="MODE")
    protocol: str = option(
        "featprobe", "whose recipe and head; flags given beside it win", choices=TRAINING_PROTOCOLS
    )
    head: str | None = option(None, "linear (default), or mlp:H with H hidden units", metavar="HEAD")
    epochs: int | None = option(
        None, "passes over the training images at most (default: 10, for a head 100)", metavar="N", least=1
    )
    patience: int | None = option(
        None, "epochs without a better one before stopping, 0 for never (default: 5)", metavar="N", least=0
    )
    monitor: str | None = option(
        None, "what the best epoch is chosen by (default: val_loss)", choices=MONITORED
    )
    optimizer: str | None = option(
        None,
        "adamw (default), adam, or lbfgs for the convex problem of a linear head",
        choices=("adamw", "adam", "lbfgs"),
    )
    lr: float | None = option(
        None, "learning rate (default: 1e-4 where weights themselves move, else 1e-3)", metavar="RATE"
    )
    head_lr_factor: float | None = option(
        None, "how many times faster the head learns (default: 10 for full, last, gradual)", metavar="FACTOR"
    )
    layer_decay: float | None = option(
        None, "factor on the learning rate for each block further from the head (default: 1)",
        metavar="FACTOR", least=0.001, most=1,
    )  # fmt: skip
    weight_decay: float | None = option(
        None, "weight decay, decoupled in AdamW (default: 0.05)", metavar="RATE", least=0
    )
    l2: float | None = option(
        None, "penalty in the loss with --optimizer lbfgs: 1 / (C n) for a probe's C", metavar="L2", least=0
    )
    schedule: str | None = option(
        None, "the learning rate after the warm-up (default: cosine)", choices=("cosine", "constant")
    )
    warmup: float | None = option(
        None, "share of the steps in which the rate rises (default: 0.1)", metavar="SHARE", least=0, most=1
    )
    clip_norm: float | None = option(
        None, "bound of the gradient's norm, 0 for none (default: 1)", metavar="NORM", least=0
    )
    ema: float | None = option(
        None, "judge and keep a moving average of the weights with this decay (default: 0, none)",
        metavar="DECAY", least=0, most=1,
    )  # fmt: skip
    micro_batch: int | None = option(
        None, "images that pass at a time, in all processes together, gradients added up to --batch-size (default: all)",
        metavar="N", least=1,
    )  # fmt: skip
    case_images: int | None = option(
        None,
        "images of a case that a training step sees, drawn anew every epoch, 0 for all (default: 8, all with max pooling)",
        metavar="N", least=0,
    )  # fmt: skip
    label_smoothing: float | None = option(None, "of the training loss", metavar="SHARE", least=0, most=1)
    class_weight: str | None = option(
        None, "weight classes by how rare they are (default: none)", choices=("none", "balanced")
    )
    sampling: str | None = option(
        None,
        "draw classes as they come, or equally often (default: shuffle)",
        choices=("shuffle", "balanced"),
    )
    ordinal: str | None = option(
        None, "loss of ordered classes (default: cross-entropy)", choices=("cross-entropy", "corn")
    )
    dropout: float | None = option(None, "on the head's input (default: 0)", metavar="SHARE", least=0, most=1)
    augment: bool = option(
        True, "random resized crops and light jitter of the training images (never for a head)"
    )
    flip: bool = option(False, "also flip training images left to right (changes anatomy: off by default)")
    vertical_flip: bool = option(
        False, "also flip them upside down (for images without an up, such as skin or slides)"
    )
    rotate: float = option(
        0.0, "also rotate them by up to so many degrees either way", metavar="DEGREES", least=0, most=180
    )
    mixup: float | None = option(
        None, "mix images in pairs: Beta parameter (default: 0, off)", metavar="ALPHA", least=0
    )
    cutmix: float | None = option(
        None,
        "paste patches of one image into another: Beta parameter (default: 0, off)",
        metavar="ALPHA",
        least=0,
    )
    freeze_norm_stats: bool = option(False, "BatchNorm layers keep their running statistics")
    channels_last: bool = option(False, "keep images channels last in memory: often faster for CNNs on a GPU")
    compile: bool = option(False, "compile the model with torch.compile: worth it for long trainings")
    deterministic: bool = option(False, "only algorithms that give the same numbers each time")
    fraction: tuple[float, ...] = option(
        (1.0,), "shares of the training groups to learn from, nested, as in probe",
        metavar="SHARE", least=0.0001, most=1,
    )  # fmt: skip
    shots: tuple[int, ...] = option(
        (), "groups per class to learn from, nested, instead of fractions", metavar="N", least=2
    )
    trials: int | None = option(
        None, "search learning rate, layer decay and weight decay in N trials per fold", metavar="N", least=1
    )
    minutes: float | None = option(
        None, "search for so many minutes per fold instead", metavar="M", least=0.001
    )
    calibrate: str = option(
        "none",
        "recalibrate scores, fitted on the validation rows",
        choices=("none", "temperature", "isotonic"),
    )
    export: bool = option(False, "also write each trained model to OUT/models, for plain timm")
    tensorboard: bool = option(False, "also write every epoch to OUT/tensorboard")
    watts: float | None = option(
        None, "power of the device for the energy estimate (default: the GPU's limit; 10 W for each CPU thread)",
        metavar="W", least=0,
    )  # fmt: skip
