"""How much is learnt from, and what departs from the plain way: amounts of labels, class weights, moved thresholds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

from featprobe import probes
from featprobe.config import ProbeConfig
from featprobe.errors import ConfigError
from featprobe.protocols import ProbeProtocol
from featprobe.records import RunKey
from featprobe.registry import PROBES, PROTOCOLS

WHOLE_GROUPS: Final = "whole groups"
BALANCED: Final = "balanced weights"
MOVED: Final = "moved thresholds"
VARIANTS: Final = (WHOLE_GROUPS, BALANCED, MOVED)
"""The words of `RunKey.variant`, in their order."""

LEAST_TO_MOVE: Final = 3
"""Groups of every class that it takes to move thresholds: rows to fit, to calibrate and to cut on, in turn."""


def is_variant(key: RunKey, what: str) -> bool:
    """Whether `what`, one of VARIANTS, holds of the key."""
    return what in key.variant.split(", ")


def variants(plain: RunKey, names: Sequence[str], config: ProbeConfig) -> Iterator[RunKey]:
    """`plain` for every amount of labels, class weight and rule of decision that is asked for, and every probe name."""
    wholes = [of == "group" for of in dict.fromkeys(config.shots_of)]
    amounts = [(1.0, shots, whole) for whole in wholes for shots in dict.fromkeys(config.shots)]
    for fraction, shots, whole in amounts or [(fraction, 0, False) for fraction in config.fraction]:
        for weight in dict.fromkeys(config.class_weight):
            for rule in dict.fromkeys(config.thresholds):
                held = (whole, weight == "balanced", rule == "moved")
                words = [word for word, holds in zip(VARIANTS, held, strict=True) if holds]
                for name in names:
                    yield dataclasses.replace(
                        plain, probe=name, fraction=fraction, shots=shots, variant=", ".join(words)
                    )


def need_possible(config: ProbeConfig) -> None:
    """ConfigError where the flags about labels and decisions contradict each other."""
    if config.shots and config.fraction != (1.0,):
        raise ConfigError(
            "--shots and --fraction are both given",
            "both say how much is learnt from",
            "leave one of them out",
        )
    if "group" in config.shots_of and not config.shots:
        raise ConfigError(
            "--shots-of group without --shots", "it says what a shot counts", "type --shots 1 2 4 8 16 32"
        )
    moved, few = "moved" in config.thresholds, [n for n in config.shots if n < LEAST_TO_MOVE]
    if moved and few:
        raise ConfigError(
            f"--thresholds moved can't be used with --shots {few[0]}",
            f"it takes {LEAST_TO_MOVE} groups of every class: to fit, to calibrate and to cut on, in turn",
            f"type --shots {LEAST_TO_MOVE} or more, or leave --thresholds out",
        )
    if moved and config.fuse:
        raise ConfigError(
            "--thresholds moved can't be used with --fuse",
            "fused answers have no held-out rows left to move thresholds on",
            "leave one of them out",
        )
    if moved and config.models and set(config.thresholds) == {"moved"}:
        raise ConfigError(
            "--models can't save models with --thresholds moved",
            "a saved model gives probabilities, which moved thresholds leave as they are",
            "type --thresholds plain moved, which saves the plain model",
        )


def need_fitting(config: ProbeConfig, protocol: ProbeProtocol, fits: Sequence[str], task: str) -> None:
    """ConfigError, by name, where a protocol or a probe can't be fitted as the flags ask.

    Heads and trainers of a publication know neither class weights nor thresholds; one shot leaves no rows to choose a
    value on.
    """
    asked = ["--class-weight balanced"] * ("balanced" in config.class_weight)
    asked += ["--thresholds moved"] * ("moved" in config.thresholds)
    if asked and (protocol.head or protocol.trainer is not None):
        raise ConfigError(
            f"{asked[0]} can't be used with --protocol {protocol.name}",
            f"it trains {protocol.fits} by its published rule",
            f"leave one of them out, or type --protocol {'featprobe'}",
        )
    if "balanced" in config.class_weight:
        for name in fits:
            probes.need_weighing(name, task)
    if "moved" in config.thresholds and task == "continuous":
        raise ConfigError(
            "--thresholds moved has nothing to decide", "the target is a number", "leave --thresholds out"
        )
    if 1 in config.shots:
        _need_no_choice(config, protocol, fits)


def _need_no_choice(config: ProbeConfig, protocol: ProbeProtocol, fits: Sequence[str]) -> None:
    choosing = [name for name in fits if not chooses_nothing(protocol, name)]
    if not choosing and not config.fuse:
        return
    able = [name for name, member in PROBES.items() if getattr(member, "alone", None) is not None]
    rules = [name for name, member in PROTOCOLS.items() if not member.head and _settled(member)]
    who = f"the {choosing[0]} probe of --protocol {protocol.name}" if choosing else "--fuse"
    raise ConfigError(
        f"--shots 1 can't be used with {who}",
        f"one group of a class leaves none to choose a value on; without a choice are --probe {', '.join(able)} and "
        f"--protocol {', '.join(rules)}",
        "type one of these, or --shots 2 or more",
    )


def _settled(protocol: ProbeProtocol) -> bool:
    """Whether its rule chooses nothing, or on rows that are set apart before the few labels are drawn."""
    return protocol.draw.kind == "none" or protocol.draw.apart


def chooses_nothing(protocol: ProbeProtocol, name: str) -> bool:
    """Whether one shot of a class is enough to fit: nothing is chosen, or on other rows, or the probe has a value alone."""
    own = protocol.draw.kind == "folds" and not protocol.probe
    return _settled(protocol) or (own and alone(name) is not None)


def alone(name: str) -> float | None:
    """The value that a probe takes where no rows are left to choose on, None where it has none."""
    if name not in PROBES.names():
        return None
    return getattr(PROBES.get(name), "alone", None)
