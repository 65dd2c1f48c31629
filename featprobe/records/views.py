"""The views of an image that test-time augmentation adds: one grammar for flags, recipes and loading.

    plain                               the image as the preprocessing presents it
    hflip, vflip                        that input mirrored: left and right, top and bottom
    crop:tl, crop:tr, crop:bl, crop:br  the input cut from a corner of the resized image instead of its centre
    size:PIXELS                         the same preprocessing for an input of PIXELS, its resizing in proportion

With "plain", the corners are torchvision's five crops.
"""

from __future__ import annotations

from typing import Final

from featprobe.errors import ConfigError, nearest

PLAIN: Final = "plain"
CORNERS: Final = ("crop:tl", "crop:tr", "crop:bl", "crop:br")
_KNOWN: Final = (PLAIN, "hflip", "vflip", *CORNERS)
_GRAMMAR: Final = f"known: {', '.join(_KNOWN)}, size:PIXELS"


def parse_view(text: str) -> tuple[str, int]:
    """(the view in its one spelling, PIXELS of "size:PIXELS", else 0). ConfigError for another word."""
    view = text.strip().lower()
    kind, _, tail = view.partition(":")
    if view in _KNOWN:
        return view, 0
    if kind == "size" and tail.isdecimal() and int(tail) > 0:
        return f"size:{int(tail)}", int(tail)
    why = nearest(view, (*_KNOWN, "size"))
    if kind == "size":
        why = "size takes a whole number of pixels from 1"
    raise ConfigError(
        f"{text!r} is no view of an image", f"{why}; {_GRAMMAR}" if why else _GRAMMAR, "use one of these"
    )
