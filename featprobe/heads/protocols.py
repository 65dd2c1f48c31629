"""Published recipes of fine-tuning by name, beside featprobe's own: settings, head, what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """`settings`: fields of TrainingRecipe. `source`, `describe`, `differs`: what a report must say.

    `logits_head`: the head on a backbone's own logits, where that is another one. `poolings`: what is taken of a
    backbone where the user names nothing, the first that it has; (): its default.
    """

    name: str
    settings: Mapping[str, Any]
    source: str = ""
    describe: str = ""
    logits_head: str = ""
    poolings: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()

    def pooling(self, offered: tuple[str, ...], default: str) -> str:
        """The pooling for a backbone that offers `offered`, by itself `default`."""
        if default in self.poolings:
            return default
        return next((name for name in self.poolings if name in offered and name != "logits"), default)

    def sentences(self) -> tuple[str, ...]:
        """What every report must say of it."""
        first = (f"recipe {self.name}: {self.describe} ({self.source})",) if self.describe else ()
        return (*first, *(f"recipe {self.name}: {words}" for words in self.differs))


_ALL: Final = (
    Training(name="featprobe", settings=MappingProxyType({})),
    Training(
        name="huang2024",
        source="Huang et al. 2024, arXiv 2402.07595; GuanghuiFU/medical_dino_eval at f2b17be",
        describe=(
            "Adam at 1e-4, batches of 32, 100 epochs, cross-entropy, no augmentation; the epoch with the best accuracy "
            "on the validation part, else on a random 20 % of the training rows (seed 1); one linear layer on the "
            "penultimate features of convolutional networks, 256 hidden units on the 1,000 logits of DINOv2's _lc"
        ),
        settings=MappingProxyType(
            {
                "optimizer": "adam",
                "lr": 1e-4,
                "head_lr_factor": 1.0,
                "weight_decay": 0.0,
                "schedule": "constant",
                "warmup": 0.0,
                "clip_norm": 0.0,
                "epochs": 100,
                "patience": 0,
                "batch_size": 32,
                "monitor": "val_accuracy",
                "head_start": "torch",
                "augment": False,
            }
        ),
        logits_head="mlp:256",
        poolings=("logits", "pre_logits"),
        differs=(
            (
                "the publication shuffles the list of images before it draws, in an order that can't be repeated: here "
                "rows are drawn in the order of the data set"
            ),
            (
                "a last batch of at most half the size is left out of each epoch; of epochs with equal accuracy the "
                "first is kept"
            ),
        ),
    ),
)

TRAININGS: Final[Mapping[str, Training]] = MappingProxyType({one.name: one for one in _ALL})
"""Every recipe by name."""
