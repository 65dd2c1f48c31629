"""How much is learnt from, what rows weigh, where decisions are cut: the part of a probe's configuration about labels."""

from __future__ import annotations

from dataclasses import dataclass

from featprobe.options import Bounded, option


@dataclass(frozen=True, kw_only=True)
class LabelOptions(Bounded):
    """Amounts of labels, class weights and thresholds."""

    fraction: tuple[float, ...] = option(
        (1.0,), "shares of the training groups to learn from, nested", metavar="SHARE", least=0.0001, most=1
    )
    shots: tuple[int, ...] = option(
        (),
        "how much to learn from per class, nested, instead of fractions; 1 where nothing is to be chosen",
        metavar="N",
        least=1,
    )
    shots_of: tuple[str, ...] = option(
        ("image",),
        "what a shot is: an image, each of another group, or a whole group",
        choices=("image", "group"),
    )
    class_weight: tuple[str, ...] = option(
        ("none",), "what rows weigh in the fit: all the same, or all classes", choices=("none", "balanced")
    )
    thresholds: tuple[str, ...] = option(
        ("plain",),
        "where decisions are cut: the largest probability (above 1/2), or moved on held-out training rows for balanced "
        "accuracy",
        choices=("plain", "moved"),
    )
