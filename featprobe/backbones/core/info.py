"""The records that a backbone family exchanges with its callers; importing them loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from featprobe.records import Preprocessing

if TYPE_CHECKING:
    from featprobe.backbones.core.model import Backbone

PRETRAINED: Final = "pretrained"
RANDOM: Final = "random"

TOKEN_POOLINGS: Final = ("cls", "mean", "cls+mean", "pre_logits")
MAP_POOLINGS: Final = ("gap", "mean", "pre_logits")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneInfo:
    """What is known about a backbone without its weights.

    `architecture` is timm's name of what is built (with the tag of the pretrained weights). `parameters`
    and `dims` (pooling -> D) are filled where asked for; parameters count no classifier. `rules`: name ->
    resolved preprocessing; `default_rule` is one of them. `poolings` lists what `forward` can give.
    """

    name: str
    family: str
    architecture: str
    licence: str
    citation: str
    weights_source: str
    poolings: tuple[str, ...]
    default_pooling: str
    rules: Mapping[str, Preprocessing]
    default_rule: str = "native"
    notes: tuple[str, ...] = ()
    parameters: int | None = None
    dims: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """What `load` was asked for.

    `weights`: "pretrained", "random" (from `seed`) or a file's path. `poolings`: those that must work, ()
    for the default one. `image_size`: side in pixels, None for the default rule's. `announce` is told, in a
    sentence, what is about to be downloaded.
    """

    weights: str = PRETRAINED
    seed: int = 0
    offline: bool = False
    poolings: Sequence[str] = ()
    image_size: int | None = None
    announce: Callable[[str], None] = print


class Family(Protocol):
    """Backbones of one kind: one file of this folder, its object given to `BACKBONES.register(NAME)`.

    An optional attribute `signatures`, name -> {tensor: shape}, lets errors recognise a file as this family's.
    """

    def names(self) -> tuple[str, ...]:
        """The registered (curated) names."""

    def accepts(self, name: str) -> bool:
        """Whether `name`, registered or not, is one of this family's."""

    def candidates(self) -> Iterable[str]:
        """Every name that an error may suggest."""

    def describe(self, name: str, *, deep: bool = False) -> BackboneInfo:
        """What is known about `name`; `deep` adds parameters and dims."""

    def build(self, name: str, request: LoadRequest) -> Backbone:
        """The backbone with its weights, in eval mode; BackboneError where it can't be had."""
