"""Backbones by name: what exists, what it needs, and the model itself with its weights proven to fit.

Importing this package loads no torch; asking for a model does. Each family is one file of this folder.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from featprobe.backbones.core.info import BackboneInfo, Family, LoadRequest
from featprobe.errors import BackboneError, nearest
from featprobe.registry import BACKBONES

if TYPE_CHECKING:
    from featprobe.backbones.core.model import Backbone, Pooled
    from featprobe.records import Preprocessing

__all__ = [
    "Backbone",
    "BackboneInfo",
    "Family",
    "LoadRequest",
    "Pooled",
    "account",
    "default_rule",
    "describe",
    "layers",
    "learn",
    "list_backbones",
    "load",
    "preprocessing",
    "resolve",
    "timm_names",
]

_TIMM: Final = "timm"


def __getattr__(name: str) -> Any:
    if name in {"Backbone", "Pooled"}:
        from featprobe.backbones.core import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def resolve(name: str) -> tuple[str, str]:
    """(family, name in that family) of `name`; BackboneError with the nearest names where there is none.

    A registered name wins over timm's; `PREFIX:NAME` is of the family with that prefix, such as `timm:resnet50`.
    """
    prefix, _, rest = name.partition(":")
    for key, family in BACKBONES.items():
        if rest and prefix == (getattr(family, "prefix", "") or None):
            if family.accepts(rest):
                return key, rest
            raise _unknown(name, rest)
    for key, family in BACKBONES.items():
        if name in family.names():
            return key, name
    if BACKBONES.get(_TIMM).accepts(name):
        return _TIMM, name
    raise _unknown(name, name)


def list_backbones() -> list[BackboneInfo]:
    """The registered backbones by family and size, without touching weights or torch."""
    return [family.describe(name) for _, family in BACKBONES.items() for name in family.names()]


def describe(name: str, *, deep: bool = False) -> BackboneInfo:
    """What is known about `name`; `deep` adds parameters and dims per pooling, from a dry run."""
    family, inner = resolve(name)
    info: BackboneInfo = BACKBONES.get(family).describe(inner, deep=deep)
    return info


def default_rule(name: str) -> str:
    """The preprocessing rule used unless another is asked for: "authors" where published, else "native"."""
    return describe(name).default_rule


def preprocessing(
    name: str, rule: str | None = None, *, image_size: int | None = None, fit: str | None = None
) -> Preprocessing:
    """What an image must become for `name`, without its weights; see `Backbone.preprocessing`."""
    from featprobe.backbones.core.rules import resolve_rule
    from featprobe.backbones.core.survey import check_image_size

    info = describe(name)
    resolved = resolve_rule(info, rule, image_size=image_size, fit=fit)
    check_image_size(info.name, info.architecture, resolved.image_size)
    return resolved


def timm_names(pattern: str) -> list[str]:
    """Timm's architectures, and tags of pretrained weights, that match `pattern` (as in a shell), sorted."""
    return sorted(fnmatch.filter(BACKBONES.get(_TIMM).candidates(), pattern))


def load(
    name: str,
    *,
    weights: str = "pretrained",
    seed: int = 0,
    offline: bool = False,
    poolings: Sequence[str] = (),
    image_size: int | None = None,
    weights_dir: Path | None = None,
    remote_code: bool = False,
    announce: Callable[[str], None] = print,
) -> Backbone:
    """The backbone `name` with its weights: on the CPU, frozen, in eval mode.

    `weights`: "pretrained", "random" (from `seed`) or the path of a .safetensors, .pth, .pt or .bin file.
    `poolings`: those that the weights must serve, () for the default one. `image_size` in pixels, None for
    the default rule's. `weights_dir` (or FEATPROBE_WEIGHTS_DIR): a folder made by `featprobe backbones fetch`,
    asked before any other place. `announce` is told host and size before a download; `offline` (or
    FEATPROBE_OFFLINE) forbids downloads. `remote_code`: code that comes with a hub's model may run. BackboneError for anything that can't be had; nothing is loaded in part unsaid.
    """
    family, inner = resolve(name)
    request = LoadRequest(
        weights=weights,
        seed=seed,
        offline=offline,
        poolings=tuple(poolings),
        image_size=image_size,
        weights_dir=weights_dir,
        remote_code=remote_code,
        announce=announce,
    )
    backbone: Backbone = BACKBONES.get(family).build(inner, request)
    return backbone


def learn(
    name: str,
    *,
    offline: bool = False,
    weights_dir: Path | None = None,
    remote_code: bool = False,
    announce: Callable[[str], None] = print,
) -> None:
    """Read what `describe` needs of a name that is not registered, such as a Hugging Face model's configuration.

    It is downloaded where `offline` does not forbid it; `remote_code`: code that comes with it may run. BackboneError where it can't be had. Nothing happens for
    names that are known beforehand.
    """
    family, inner = resolve(name)
    study = getattr(BACKBONES.get(family), "learn", None)
    if study is not None:
        study(
            inner,
            LoadRequest(offline=offline, weights_dir=weights_dir, remote_code=remote_code, announce=announce),
        )


def layers(name: str) -> tuple[str, ...]:
    """The layers of `name` worth naming with --layer, from a dry run."""
    from featprobe.backbones.core.survey import survey

    return survey(describe(name).architecture).layers


def account(name: str, weights: str, report: Callable[[str], None]) -> None:
    """Tell `report`, line by line, what becomes of every tensor of the file `weights` in the backbone `name`.

    BackboneError, after the lines, where the weights don't fit.
    """
    family, inner = resolve(name)
    BACKBONES.get(family).build(inner, LoadRequest(weights=weights, report=report))


def _unknown(name: str, wanted: str) -> BackboneError:
    prefixes = {family.prefix for family in _prefixed()}
    if name.removesuffix(":") in prefixes:
        return BackboneError(
            f"{name!r} names no backbone",
            f"it is the prefix of a family: {name.removesuffix(':')}:NAME is one of its models",
            "see featprobe backbones ls",
        )
    if name.startswith((".", "/", "~")):
        return BackboneError(
            f"{name!r} is a path, no name of a backbone",
            "a file of weights belongs to a backbone, a folder of a Hugging Face model is hf:FOLDER",
            "type --backbone NAME --weights NAME=FILE, or see featprobe backbones ls",
        )
    others = [f"{family.prefix}:{wanted}" for family in _prefixed() if family.accepts(wanted)]
    if others and wanted == name:
        return BackboneError(
            f"{name!r} needs the prefix of its family",
            f"it may be {' or '.join(others)}",
            f"type --backbone {others[0]}",
        )
    known = dict.fromkeys(name for _, family in BACKBONES.items() for name in family.candidates())
    cases = {each.casefold(): each for each in known}
    folded = cases.get(wanted.casefold())
    return BackboneError(
        f"unknown backbone {name!r}",
        (f"did you mean {folded}?" if folded else nearest(wanted, known))
        or "neither registered nor one of timm's models",
        "see featprobe backbones ls",
    )


def _prefixed() -> list[Any]:
    return [family for _, family in BACKBONES.items() if getattr(family, "prefix", "")]
