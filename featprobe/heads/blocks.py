"""The one place that knows a network's blocks: timm's groups where it has them, else its children in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from featprobe.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """Where each parameter of a backbone stands.

    `number`: parameter name -> 0 (the stem) to `top`. `tail`: the number of what comes after the blocks
    (a classifier's layers), None where nothing does. `path`: the parameters that the embedding depends on;
    the others are never trained. `trunk`: the prefix under which the network itself lies.
    """

    number: Mapping[str, int]
    tail: int | None
    path: frozenset[str]
    trunk: str

    @property
    def top(self) -> int:
        """The highest number of a parameter on the path."""
        return max((self.number[name] for name in self.path), default=0)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Numbers of the blocks on the path, in the order of the forward pass: without stem and tail."""
        found = {self.number[name] for name in self.path} - {self.tail}
        return tuple(sorted(found))[1:] if len(found) > 1 else tuple(found)

    def last(self, count: int) -> frozenset[str]:
        """The last `count` blocks with all that follows them; ConfigError where there are not so many."""
        blocks = self.blocks
        if count > len(blocks):
            raise ConfigError(
                f"--mode last:{count} asks for more blocks than the backbone has",
                f"it has {len(blocks)}",
                f"type --mode last:{len(blocks)}, or full",
            )
        least = blocks[-count]
        return frozenset(name for name in self.path if self.number[name] >= least)


def layers_of(backbone: nn.Module) -> Layers:
    """The layers of `backbone`, a network or what wraps one.

    timm's models say themselves which parameters belong together (`group_matcher`, the finest grouping: a
    transformer block, a residual block, a dense layer; the last norm belongs to the last block), which is what
    its layer-wise learning rates go by. Other libraries' transformers have `blocks`; of anything else each
    child with parameters is a block. `backbone.unread`, where there is one, names parameters off the path.
    """
    prefix, network = _network(backbone)
    number = _timm(network) if hasattr(network, "group_matcher") else _children(network)
    named = {prefix + name: value for name, value in number.items()}
    unread = frozenset(getattr(backbone, "unread", ()))
    every = [name for name, _ in backbone.named_parameters()]
    tail = _tail(network, number)
    return Layers(
        number={name: named.get(name, 0) for name in every},
        tail=tail,
        path=frozenset(name for name in every if name not in unread),
        trunk=prefix,
    )


def _network(backbone: nn.Module) -> tuple[str, Any]:
    """(prefix of its parameters' names, the network): the outermost module that knows its groups or blocks."""
    for wanted in ("group_matcher", "blocks"):
        for name, module in backbone.named_modules():
            if hasattr(module, wanted):
                return (f"{name}." if name else ""), module
    return "", backbone


def _timm(network: Any) -> dict[str, int]:
    from timm.models import group_parameters

    groups: dict[str, int] = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
    return groups


def _children(network: Any) -> dict[str, int]:
    """Blocks and other children by the order in which they were made."""
    blocks = {id(block) for block in getattr(network, "blocks", ()) or ()}
    units: list[tuple[str, nn.Module]] = []
    for name, child in network.named_children():
        inner = [(f"{name}.{key}", one) for key, one in child.named_modules() if id(one) in blocks]
        units += inner or [(name, child)]
    # What is no block follows the block before it, as timm's last norm does; what comes first is the stem.
    numbers: dict[str, int] = {name: 0 for name, _ in network.named_parameters()}
    number = -1
    for name, unit in units:
        names = [f"{name}.{key}" for key, _ in unit.named_parameters()]
        if not names:
            continue
        if number < 0 or not blocks or id(unit) in blocks:
            number += 1
        numbers |= dict.fromkeys(names, number)
    return numbers


def _tail(network: Any, number: Mapping[str, int]) -> int | None:
    """The group that holds the classifier, where the network says which it is."""
    config = getattr(network, "pretrained_cfg", None) or {}
    named = config.get("classifier") or ()
    classifiers = (named,) if isinstance(named, str) else tuple(named)
    found = [value for name, value in number.items() if name.startswith(tuple(f"{c}." for c in classifiers))]
    return max(found) if classifiers and found else None
