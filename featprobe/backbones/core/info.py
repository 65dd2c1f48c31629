"""The records that a backbone family exchanges with its callers; importing them loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from featprobe.records import Preprocessing

if TYPE_CHECKING:
    from featprobe.backbones.core.model import Backbone

PRETRAINED: Final = "pretrained"
RANDOM: Final = "random"

NO_WEIGHTS: Final = "none"

TOKEN_POOLINGS: Final = ("cls", "mean", "cls+mean", "pre_logits", "patches")
MAP_POOLINGS: Final = ("gap", "mean", "gem", "pre_logits", "patches")
DENSE: Final = "patches"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One place where a file of pretrained weights may be had.

    `kind`: "package", "hub" or "url"; `where`: the package's import name, the hub's repository OWNER/NAME, or
    the file's https address. `files`: the path inside the package, or the names tried in the repository, in
    this order. `revision`: a commit or tag of the repository, None for its main branch. `folder`: whose folder
    of downloads an address belongs to: "torch" (torch.hub), "xrv" (torchxrayvision) or "clip" (OpenAI's).
    `sha256`: the hash, or its first characters, that the source publishes; "" where it publishes none.
    """

    kind: str
    where: str
    files: tuple[str, ...] = ()
    revision: str | None = None
    folder: str = "torch"
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """One file that a backbone needs: `places` are alternatives, the best first.

    `part`: "" for the backbone itself, else what the file adds, such as "head" for DINOv2's classifier.
    """

    places: tuple[Place, ...]
    part: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneInfo:
    """What is known about a backbone without its weights.

    `architecture` names what is built: timm's name (with the tag of the pretrained weights), or PREFIX:REST of
    another library. `parameters`, `gflops` (of one image, two operations per multiply-add) and `dims` (pooling
    -> D) are filled where asked for; parameters count no classifier. `rules`: name -> resolved preprocessing;
    `default_rule` is one of them. `poolings` lists what `forward` can give. `files`: the pretrained weights, ()
    where none can be fetched; `terms`: the notice of a licence that must be accepted, shown before use;
    `needs_weights`: False where the backbone computes without any. `conversion`: the command that makes
    NAME.pth of published weights that are refused as they are, "" where they are not.
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
    gflops: float | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    files: tuple[WeightsFile, ...] = ()
    terms: str = ""
    needs_weights: bool = True
    conversion: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """What `load` was asked for.

    `weights`: "pretrained", "random" (from `seed`) or a file's path. `poolings`: those that must work, ()
    for the default one. `image_size`: side in pixels, None for the default rule's. `weights_dir`: a folder or
    archive made by `featprobe backbones fetch` or `bundle`, asked first. `remote_code`: code that comes with a
    model may run. `announce` is told, in a sentence, what is about to be downloaded; `report`, line by line, what
    became of every tensor of the weights, before they are refused where they don't fit.
    """

    weights: str = PRETRAINED
    seed: int = 0
    offline: bool = False
    poolings: Sequence[str] = ()
    image_size: int | None = None
    weights_dir: Path | None = None
    remote_code: bool = False
    announce: Callable[[str], None] = print
    report: Callable[[str], None] | None = None


class Family(Protocol):
    """Backbones of one kind: one file of this folder, its object given to `BACKBONES.register(NAME)`.

    Optional attributes: `signatures`, name -> {tensor: shape}, lets errors recognise a file as this family's;
    `prefix` claims the names PREFIX:REST.
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
