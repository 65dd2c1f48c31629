"""From flags to what every image becomes: the preprocessing of a run, its views, and both in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from featprobe.errors import ConfigError, nearest
from featprobe.imaging import canonical_intensity
from featprobe.records import PLAIN, Preprocessing

_VIEWS: Final = {
    "hflip": ("hflip",),
    "vflip": ("vflip",),
    "five-crops": ("crop:tl", "crop:tr", "crop:bl", "crop:br"),
}
_SCALE: Final = "scale"


def resolved_rule(config: Any, backbone: Any, image_size: int | None = None) -> Preprocessing:
    """The preprocessing that the flags and the backbone resolve to, without test-time augmentation."""
    rule: Preprocessing = backbone.preprocessing(config.preprocessing, image_size=image_size, fit=config.fit)
    return dataclasses.replace(rule, intensity=canonical_intensity(config.intensity))


def with_views(rule: Preprocessing, tta: Sequence[str], *, patch: int) -> Preprocessing:
    """`rule` with the views of `tta` beside the plain one; scaled sides are rounded to multiples of `patch` pixels.

    ConfigError for an unknown view, or one that the rule can't give.
    """
    views = [PLAIN]
    for text in tta:
        kind, _, factor = text.partition(":")
        if text in _VIEWS:
            views += _VIEWS[text]
        elif kind == _SCALE:
            views.append(f"size:{_scaled(min(rule.image_size), factor, patch)}")
        else:
            raise ConfigError(
                f"unknown --tta {text!r}",
                nearest(text, [*_VIEWS, "scale:0.75"]) or f"known: {', '.join(_VIEWS)}, scale:FACTOR",
                "type --tta hflip",
            )
    views = list(dict.fromkeys(views))
    for view in views:
        rule.one(view)
    return dataclasses.replace(rule, views=tuple(views))


def _scaled(side: int, factor: str, patch: int) -> int:
    try:
        scale = float(factor)
    except ValueError:
        scale = float("nan")
    if not 0.1 <= scale <= 4:
        raise ConfigError(
            f"--tta scale:{factor} is no factor", "it must be a number from 0.1 to 4", "type --tta scale:1.25"
        )
    scaled = max(round(scale * side / patch), 1) * patch
    if scaled == side:
        raise ConfigError(
            f"--tta scale:{factor} is no view of its own",
            f"{scale * side:g} pixels round to {side}, the plain size, in steps of {patch}",
            f"type --tta scale:{(side + patch) / side:.4g}, or leave it out",
        )
    return scaled


def described(rule: Preprocessing) -> str:
    """`rule` in words and numbers, as printed before an extraction."""
    numbers = "; ".join(
        f"{name} {', '.join(f'{value:g}' for value in values)}"
        for name, values in (("mean", rule.mean), ("std", rule.std))
    )
    return f"{rule.label}; {numbers}"
