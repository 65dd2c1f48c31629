"""8-bit volumes as a backbone's 3-D inputs: resized once, then cut, mirrored and stacked, view by view.

A resize is separable and antialiased, as Pillow's is in a plane: a triangle filter along each axis, widened where the
axis shrinks; where nothing shrinks it is trilinear interpolation. PyTorch's own trilinear resize has no antialiasing,
so this one takes two axes at a time by its antialiased bilinear one.

    squash  every axis to its side of the input, whatever the spacing of the voxels
    pad     scaled as a whole, voxels made cubes by their spacing, until the first side is met; the rest is filled
    crop    scaled as a whole, voxels made cubes, until the input, enlarged by resize / min(image_size), is covered;
            its centre is cut out (of a cube: the shortest side becomes `resize`)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from featprobe.errors import ConfigError
from featprobe.imaging import AUTO, Print, Raster, parse_intensity, print_of_volume
from featprobe.loading.inputs import Pixels, check_resize, normalise, resize_rule
from featprobe.records import Preprocessing
from featprobe.records.views import CORNERS

INTERPOLATIONS: Final = ("trilinear",)
MOST_VOXELS: Final = 2**29
"""Voxels of a scaled volume at most: more come of one with few slices, cut out of which the input would be a sliver."""

_VOXELS_AT_ONCE: Final = 2**24

Sides = tuple[int, int, int]


def check_volume_rule(rule: Preprocessing) -> None:
    """ConfigError for a 3-D preprocessing that can't be done."""
    check_resize(rule, INTERPOLATIONS, what="volumes")
    if rule.fit == "crop" and (rule.resize or 0) < min(rule.image_size):
        raise ConfigError(
            f"the fit 'crop' resizes to {rule.resize} for an input of {rule.label}",
            "it must be at least as large",
            "type --fit squash",
        )


def volume_inputs_of(raster: Raster, rules: Sequence[Preprocessing]) -> tuple[list[Pixels], Print]:
    """(uint8 [1, D, H, W] for each of `rules`, the volume's print): each resize is done once.

    ConfigError for an image, and where a rule makes several channels.
    """
    presented = raster.levels(AUTO)
    volumes = {AUTO.text: presented}
    resized: dict[Preprocessing, Pixels] = {}
    found = []
    for rule in rules:
        key = resize_rule(rule)
        if key not in resized:
            if rule.intensity not in volumes:
                volumes[rule.intensity] = raster.levels(parse_intensity(rule.intensity))
            resized[key] = _fitted(volumes[rule.intensity], raster.spacing or (1, 1, 1), rule)
        found.append(_viewed(resized[key], rule))
    return found, print_of_volume(raster, presented)


def preprocess_volume(levels: Pixels, spacing: Sequence[float], rule: Preprocessing) -> torch.Tensor:
    """A volume (uint8 [Z, Y, X]) as a 3-D backbone's input: float32 [1, D, H, W]. `rule` has one view."""
    # A copy: what a decoder gives may be read-only.
    return normalise(torch.tensor(volume_pixels(levels, spacing, rule)), rule)


def volume_pixels(levels: Pixels, spacing: Sequence[float], rule: Preprocessing) -> Pixels:
    """As `preprocess_volume`, before normalising: uint8 [1, D, H, W]."""
    return _viewed(_fitted(levels, spacing, rule), rule)


def sides_of(rule: Preprocessing) -> Sides:
    """(depth, height, width) of the input."""
    return rule.depth or 1, *rule.image_size


def _fitted(levels: Pixels, spacing: Sequence[float], rule: Preprocessing) -> Pixels:
    """All of the volume: at the input's sides, or as large as `rule` wants it before the cut."""
    sides = sides_of(rule)
    if rule.fit == "squash":
        return resized(levels, sides)
    ratios = [side / (count * mm) for side, count, mm in zip(sides, levels.shape, spacing, strict=True)]
    if rule.fit == "crop":
        scale = max(ratios) * (rule.resize or 0) / min(rule.image_size)
        large = _scaled(levels, spacing, scale)
        if math.prod(large) > MOST_VOXELS:
            raise ConfigError(
                f"covering {rule.label} scales it to {' x '.join(str(side) for side in large)} voxels",
                f"the limit is {MOST_VOXELS:,}",
                "type --fit pad or --fit squash",
            )
        return resized(levels, large)
    inner = _scaled(levels, spacing, min(ratios))
    inner = (min(inner[0], sides[0]), min(inner[1], sides[1]), min(inner[2], sides[2]))
    canvas = np.full(sides, rule.pad_value, dtype=np.uint8)
    canvas[_centre(sides, inner)] = resized(levels, inner)
    return canvas


def _scaled(levels: Pixels, spacing: Sequence[float], scale: float) -> Sides:
    deep, high, wide = (
        max(round(count * mm * scale), 1) for count, mm in zip(levels.shape, spacing, strict=True)
    )
    return deep, high, wide


def _centre(outer: Sequence[int], inner: Sequence[int]) -> tuple[slice, ...]:
    """Where `inner` lies in the middle of `outer`."""
    starts = [(whole - part) // 2 for whole, part in zip(outer, inner, strict=True)]
    return tuple(slice(start, start + part) for start, part in zip(starts, inner, strict=True))


def resized(levels: Pixels, sides: Sides) -> Pixels:
    """`levels` (uint8 [Z, Y, X]) at `sides`, rounded to the nearest level."""
    if levels.shape == sides:
        return levels
    deep, high, wide = sides
    # Some slices at a time: as float32, a volume takes four times its bytes.
    step = max(_VOXELS_AT_ONCE // (levels.shape[1] * levels.shape[2]), 1)
    planes = torch.cat(
        [
            _in_plane(torch.from_numpy(levels[start : start + step].astype(np.float32)), (high, wide))
            for start in range(0, len(levels), step)
        ]
    )
    turned = _in_plane(planes.permute(1, 0, 2).contiguous(), (deep, wide))
    return turned.permute(1, 0, 2).add(0.5).floor().clamp(0, 255).to(torch.uint8).contiguous().numpy()


def _in_plane(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """float32 [N, A, B] -> [N, *size]."""
    if tuple(values.shape[1:]) == size:
        return values
    return functional.interpolate(values[:, None], size=size, mode="bilinear", antialias=True)[:, 0]


def _viewed(volume: Pixels, rule: Preprocessing) -> Pixels:
    """The view as uint8 [1, D, H, W]: mirrored and cut in the plane of the slices."""
    view = rule.views[0]
    if rule.fit == "crop":
        sides = sides_of(rule)
        where = list(_centre(volume.shape, sides))
        if view in CORNERS:
            where[1] = slice(0, sides[1]) if view[-2] == "t" else slice(volume.shape[1] - sides[1], None)
            where[2] = slice(0, sides[2]) if view[-1] == "l" else slice(volume.shape[2] - sides[2], None)
        volume = volume[tuple(where)]
    if view == "hflip":
        volume = volume[:, :, ::-1]
    elif view == "vflip":
        volume = volume[:, ::-1]
    return np.ascontiguousarray(volume[None])
