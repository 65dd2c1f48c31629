"""Building an architecture by its name, so that the dry run and the real model come from one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from featprobe.errors import BackboneError

_CREATORS: Final[dict[str, Callable[[str], Any]]] = {}

F = TypeVar("F", bound=Callable[[str], Any])


def creator(prefix: str) -> Callable[[F], F]:
    """Decorator for the function of a family that builds the architectures PREFIX:REST, given REST.

    What it returns is a `Trunk`, with weights drawn from the global generator where they are drawn at all, and
    must also be buildable on the meta device.
    """

    def add(function: F) -> F:
        _CREATORS[prefix] = function
        return function

    return add


def create(architecture: str) -> Any:
    """The model called `architecture`, with its classifier where it has one, in eval mode.

    timm builds what has no prefix, at the image size of its weights. BackboneError for an unknown prefix;
    MissingExtraError where the library of the architecture is not installed.
    """
    import timm  # families register their creators where no torch may be loaded yet

    prefix, colon, rest = architecture.partition(":")
    if not colon:
        return timm.create_model(architecture, pretrained=False).eval()
    if prefix not in _CREATORS:
        raise BackboneError(
            f"nothing builds the architecture {architecture!r}",
            f"known prefixes: {', '.join(sorted(_CREATORS))}",
            "see featprobe backbones ls",
        )
    return _CREATORS[prefix](rest).eval()
