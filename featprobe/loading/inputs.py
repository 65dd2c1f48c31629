"""8-bit images as a backbone's 2-D inputs: resized once, then cut, mirrored and normalised, view by view."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from featprobe.errors import ConfigError, nearest
from featprobe.imaging import AUTO, Print, Raster, parse_intensity, print_of
from featprobe.records import FITS, Preprocessing
from featprobe.records.views import CORNERS, PLAIN

Pixels = npt.NDArray[np.uint8]

INTERPOLATIONS: Final = {mode.value: mode for mode in InterpolationMode if mode.value != "nearest-exact"}


def check_image_rule(rule: Preprocessing) -> None:
    """ConfigError for a 2-D preprocessing that can't be done."""
    interpolation_of(rule)
    if rule.depth is not None:
        raise ConfigError(
            f"a preprocessing of {rule.depth} slices",
            "an image has none",
            "type --slices volume for volumes, or use a 2-D backbone",
        )


def check_views(rule: Preprocessing) -> None:
    """ConfigError for an unknown view or intensity, or several views: one at a time (`rule.one(view)`)."""
    if len(rule.views) != 1:
        raise ConfigError(
            f"a preprocessing with {len(rule.views)} views",
            "an input is one view of an image",
            "split it: [rule.one(view) for view in rule.views]",
        )
    parse_intensity(rule.intensity)
    if rule.one(rule.views[0]) != rule:
        raise ConfigError(
            f"a preprocessing for {rule.image_size} that calls itself the view {rule.views[0]!r}",
            "its sizes are not the view's",
            f"take rule.one({rule.views[0]!r})",
        )


def pixels_rule(rule: Preprocessing) -> Preprocessing:
    """What the 8-bit pixels of an input depend on: rules that differ in mean and std alone share them."""
    return dataclasses.replace(rule, mean=(), std=())


@functools.lru_cache(maxsize=256)
def resize_rule(rule: Preprocessing) -> Preprocessing:
    """What the resized image depends on: not how it is cut and mirrored afterwards."""
    size = (0, 0) if rule.fit == "crop" and rule.depth is None else rule.image_size
    return dataclasses.replace(pixels_rule(rule), views=(PLAIN,), image_size=size)


def inputs_of(raster: Raster, rules: Sequence[Preprocessing]) -> tuple[list[Pixels], Print]:
    """(uint8 [3, H, W] for each of `rules`, the image's print): each resize is done once."""
    presented = raster.rgb(AUTO)
    images = {AUTO.text: presented}
    resized: dict[Preprocessing, Image.Image] = {}
    found = []
    for rule in rules:
        key = resize_rule(rule)
        if key not in resized:
            if rule.intensity not in images:
                images[rule.intensity] = raster.rgb(parse_intensity(rule.intensity))
            resized[key] = _resized(images[rule.intensity], rule)
        found.append(_viewed(resized[key], rule))
    return found, print_of(presented)


def preprocess(image: Image.Image, rule: Preprocessing) -> torch.Tensor:
    """An 8-bit RGB image as a backbone's input: float32 [3, H, W]. `rule` has one view."""
    check_views(rule)
    check_image_rule(rule)
    return normalise(torch.from_numpy(_viewed(_resized(image, rule), rule)), rule)


def normalise(pixels: torch.Tensor, rule: Preprocessing) -> torch.Tensor:
    """uint8 [..., C, H, W], or [..., C, D, H, W], to float32 of the same shape: (pixels / 255 - mean) / std."""
    shape = (-1, 1, 1) if rule.depth is None else (-1, 1, 1, 1)
    mean = torch.tensor(rule.mean, dtype=torch.float32).reshape(shape)
    std = torch.tensor(rule.std, dtype=torch.float32).reshape(shape)
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)


def fitted(image: Image.Image, rule: Preprocessing) -> Image.Image:
    """`image` at `rule.image_size`, still 8-bit RGB, whatever the view."""
    return _cut(_resized(image, rule), rule, PLAIN)


def _resized(image: Image.Image, rule: Preprocessing) -> Image.Image:
    """All of `image`: at `rule.image_size`, or its shorter side at `rule.resize` where a cut is to follow."""
    how = interpolation_of(rule)
    height, width = rule.image_size
    resized: Image.Image
    if rule.fit == "squash":
        resized = transforms.resize(image, [height, width], how)
        return resized
    if rule.fit == "crop":
        resized = transforms.resize(image, [rule.resize], how)
        return resized
    scale = min(height / image.height, width / image.width)
    inner = (
        min(max(round(image.height * scale), 1), height),
        min(max(round(image.width * scale), 1), width),
    )
    canvas = Image.new("RGB", (width, height), (rule.pad_value,) * 3)
    canvas.paste(
        transforms.resize(image, list(inner), how), ((width - inner[1]) // 2, (height - inner[0]) // 2)
    )
    return canvas


def _cut(resized: Image.Image, rule: Preprocessing, view: str) -> Image.Image:
    if rule.fit != "crop":
        return resized
    height, width = rule.image_size
    if view in CORNERS:
        top = 0 if view[-2] == "t" else resized.height - height
        left = 0 if view[-1] == "l" else resized.width - width
        return resized.crop((left, top, left + width, top + height))
    centre: Image.Image = transforms.center_crop(resized, [height, width])
    return centre


def _viewed(resized: Image.Image, rule: Preprocessing) -> Pixels:
    """The view as uint8 [3, H, W]."""
    view = rule.views[0]
    pixels = np.asarray(_cut(resized, rule, view))
    if view == "hflip":
        pixels = pixels[:, ::-1]
    elif view == "vflip":
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def pixels_of(image: Image.Image) -> Pixels:
    """uint8 [3, H, W], contiguous."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def interpolation_of(rule: Preprocessing) -> InterpolationMode:
    """What torchvision calls the interpolation. ConfigError for a preprocessing that can't be done on 8-bit images."""
    check_resize(rule, tuple(INTERPOLATIONS), what="images")
    return INTERPOLATIONS[rule.interpolation]


def check_resize(rule: Preprocessing, interpolations: Sequence[str], *, what: str) -> None:
    """ConfigError for an interpolation that is none of those of `what`, images or volumes, or an unknown fit."""
    if rule.interpolation not in interpolations:
        hint = nearest(rule.interpolation, interpolations) or f"known: {', '.join(sorted(interpolations))}"
        raise ConfigError(f"unknown interpolation {rule.interpolation!r} of {what}", hint, "use one of these")
    if rule.fit not in FITS or (rule.fit == "crop" and rule.resize is None):
        raise ConfigError(
            f"unknown fit {rule.fit!r} of {what}"
            if rule.fit not in FITS
            else "the fit 'crop' has no size to resize to",
            f"fits are {', '.join(FITS)}",
            "type --fit squash",
        )
    if not rule.antialias:
        raise ConfigError(
            "a preprocessing without antialiasing can't be done",
            f"{what} are resized with antialiasing",
            "use antialias = true",
        )
