"""From flags to recipes of training: a protocol's settings, what the user set beside them, the mode's own defaults."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from featprobe.config import FinetuneConfig
from featprobe.errors import ConfigError
from featprobe.heads import TrainingRecipe, parse_mode
from featprobe.heads.protocols import TRAININGS, Training
from featprobe.stages.training_calibrating import need_recalibratable
from featprobe.stages.variants import BALANCED

_ALIKE: Final = tuple(
    field.name
    for field in dataclasses.fields(TrainingRecipe)
    if field.name not in {"mode", "seed", "augment", "precision"}
)
"""Fields that a flag of the same name sets."""


def check_settings(config: FinetuneConfig) -> None:
    """ConfigError for settings that contradict each other, before any image is read."""
    if config.shots and config.fraction != (1.0,):
        raise ConfigError(
            "--shots and --fraction are both given",
            "both say how much is learnt from",
            "leave one of them out",
        )
    if config.trials is not None and config.minutes is not None:
        raise ConfigError(
            "--trials and --minutes are both given", "one budget ends a search", "leave one of them out"
        )
    need_recalibratable(config)
    for mode in config.mode:
        recipe_of(config, mode, "")


def recipe_of(config: FinetuneConfig, mode: str, pooling: str) -> TrainingRecipe:
    """What trains `mode` on features of `pooling`; ConfigError for what can't be trained."""
    protocol = TRAININGS[config.protocol]
    values: dict[str, Any] = dict(protocol.settings)
    if pooling == "logits" and protocol.logits_head:
        values["head"] = protocol.logits_head
    kind = parse_mode(mode).kind
    # No flag can say more than --no-augment: a protocol without augmentation keeps to that.
    values["augment"] = config.augment and kind != "head" and values.get("augment", True)
    given = {name: getattr(config, name, None) for name in _ALIKE}
    values |= {name: value for name, value in given.items() if value is not None and value is not False}
    if config.optimizer == "lbfgs":
        values |= {"epochs": 1, "patience": 0}
    return TrainingRecipe(**values, mode=mode, precision=config.precision, seed=config.seed)


def protocol_of(config: FinetuneConfig) -> Training:
    """The recipe that was named."""
    return TRAININGS[config.protocol]


def variant_of(config: FinetuneConfig, recipe: TrainingRecipe) -> str:
    """What departs from the plain way, as a result's column `variant` says it."""
    words = [BALANCED] if recipe.class_weight == "balanced" else []
    words += [f"{recipe.head} head"] if recipe.hidden else []
    words += [f"{config.trials} trials"] if config.trials else []
    words += [f"{config.minutes:g} minutes of trials"] if config.minutes else []
    return ", ".join(words)
