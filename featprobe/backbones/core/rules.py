"""Preprocessing rules as resolved numbers: what a name such as `authors` means for one backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from featprobe.backbones.core.info import BackboneInfo
from featprobe.errors import BackboneError, nearest
from featprobe.records import FITS, Preprocessing

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
HALF: Final = (0.5, 0.5, 0.5)


def crop(
    resize: int,
    size: int,
    *,
    interpolation: str = "bicubic",
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Preprocessing:
    """Shorter side to `resize` pixels, the central `size` x `size` cut out."""
    return Preprocessing(
        image_size=(size, size), fit="crop", resize=resize, interpolation=interpolation, mean=mean, std=std
    )


def with_common(rules: Mapping[str, Preprocessing]) -> dict[str, Preprocessing]:
    """`rules` plus "common": one geometry for every backbone, 256 -> 224 bicubic.

    Mean and std stay the weights' own: they belong to what the first layer was trained on, not to how the
    image is cut, and weights fed with foreign statistics would be compared at a disadvantage.
    """
    native = rules["native"]
    return {**rules, "common": crop(256, 224, mean=native.mean, std=native.std)}


def rule_name(info: BackboneInfo, rule: str | None) -> str:
    """The name of the rule that `rule` (None: the default) stands for.

    "authors" is "native", the weights' own configuration, where no other evaluation is published, so that one flag
    serves a call of many backbones.
    """
    name = rule or info.default_rule
    return "native" if name == "authors" and name not in info.rules else name


def resolve_rule(
    info: BackboneInfo, rule: str | None, *, image_size: int | None, fit: str | None
) -> Preprocessing:
    """The preprocessing called `rule` (see `rule_name`), with another size or fit on top.

    Another `image_size` (pixels) scales `resize` in proportion, rounded. `fit="crop"` on a rule that does
    not crop takes the shorter side to the image size. BackboneError for a rule or fit that does not exist.
    """
    name = rule_name(info, rule)
    if name not in info.rules:
        raise BackboneError(
            f"{info.name} has no preprocessing rule {name!r}",
            f"it has {', '.join(sorted(info.rules))}",
            f"type --preprocessing {info.default_rule}",
        )
    chosen = info.rules[name]
    if image_size is not None:
        chosen = _scaled(chosen, image_size)
    return chosen if fit is None or fit == chosen.fit else _fitted(chosen, fit)


def _scaled(rule: Preprocessing, size: int) -> Preprocessing:
    if size < 1:
        raise BackboneError(f"an image size of {size} pixels", "it must be positive", "type --image-size 224")
    shorter = min(rule.image_size)
    return dataclasses.replace(
        rule,
        image_size=(size, size),
        resize=None if rule.resize is None else round(size * rule.resize / shorter),
        depth=None if rule.depth is None else max(round(size * rule.depth / shorter), 1),
    )


def _fitted(rule: Preprocessing, fit: str) -> Preprocessing:
    if fit not in FITS:
        raise BackboneError(
            f"unknown fit {fit!r}", nearest(fit, FITS) or f"known: {', '.join(FITS)}", "type --fit crop"
        )
    return dataclasses.replace(rule, fit=fit, resize=max(rule.image_size) if fit == "crop" else None)
