"""Random views of an image or a volume for fine-tuning, equal for equal generators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from featprobe.loading.inputs import Pixels, fitted, interpolation_of, normalise, pixels_of
from featprobe.loading.volumes import resized, sides_of, volume_pixels
from featprobe.records import Preprocessing


def augment(
    image: Image.Image,
    rule: Preprocessing,
    generator: torch.Generator,
    *,
    flip: bool,
    vertical_flip: bool = False,
    rotate: float = 0.0,
) -> torch.Tensor:
    """A random view of an 8-bit RGB image for fine-tuning: float32 [3, H, W]; equal for equal generator states.

    A crop of 75 to 100 % of the area with an aspect of 3/4 to 4/3 is scaled to `rule.image_size` (under "pad"
    and "squash", a crop of the padded or squashed image), mirrored with probability 0.5 where `flip`,
    then brightness and contrast are each scaled by 0.9 to 1.1. `rule.views` plays no part. Only where asked for it is
    turned upside down with probability 0.5 (`vertical_flip`) and rotated by up to `rotate` degrees either way before
    that, corners filled with `rule.pad_value`: a radiograph has an up.
    """
    view = image if rule.fit == "crop" else fitted(image, rule)
    top, left, height, width = _random_crop(view, generator)
    view = transforms.resized_crop(
        view, top, left, height, width, list(rule.image_size), interpolation_of(rule)
    )
    mirror, brightness, contrast = _uniform(generator, (0, 1), (0.9, 1.1), (0.9, 1.1))
    if flip and mirror < 0.5:
        view = transforms.hflip(view)
    if vertical_flip or rotate:
        upside_down, angle = _uniform(generator, (0, 1), (-rotate, rotate))
        if vertical_flip and upside_down < 0.5:
            view = transforms.vflip(view)
        if rotate:
            view = transforms.rotate(view, angle, InterpolationMode.BILINEAR, fill=[rule.pad_value] * 3)
    view = transforms.adjust_contrast(transforms.adjust_brightness(view, brightness), contrast)
    return normalise(torch.from_numpy(pixels_of(view)), rule)


def augment_volume(
    levels: Pixels,
    spacing: Sequence[float],
    rule: Preprocessing,
    generator: torch.Generator,
    *,
    flip: bool,
    vertical_flip: bool = False,
    rotate: float = 0.0,
) -> torch.Tensor:
    """As `augment`, of a volume (uint8 [Z, Y, X]): float32 [1, D, H, W].

    The crop is one of the padded, squashed or cut volume: each side keeps a share of its own, so that 75 to 100 % of
    the voxels are left, and is scaled back. Mirroring and turning are those of its slices: along the last axis, along
    the middle one, and within their plane.
    """
    volume = volume_pixels(levels, spacing, rule)[0]
    shares = np.array(_uniform(generator, *[(0.75, 1.0)] * 3)) ** (1 / 3)
    sides = np.maximum(np.ceil(np.array(volume.shape) * shares), 1)
    starts = np.round((np.array(volume.shape) - sides) * _uniform(generator, *[(0.0, 1.0)] * 3))
    where = tuple(slice(int(a), int(a + side)) for a, side in zip(starts, sides, strict=True))
    view = torch.tensor(resized(np.ascontiguousarray(volume[where]), sides_of(rule)))
    mirror, upside_down, angle, brightness, contrast = _uniform(
        generator, (0, 1), (0, 1), (-rotate, rotate), (0.9, 1.1), (0.9, 1.1)
    )
    view = view.flip(2) if flip and mirror < 0.5 else view
    view = view.flip(1) if vertical_flip and upside_down < 0.5 else view
    if rotate:
        view = transforms.rotate(view, angle, InterpolationMode.BILINEAR, fill=[float(rule.pad_value)])
    bright = (view.to(torch.float32) * brightness).clamp(0, 255)
    mean = bright.mean()
    contrasted = (mean + (bright - mean) * contrast).clamp(0, 255).round().to(torch.uint8)
    return normalise(contrasted[None], rule)


def _random_crop(image: Image.Image, generator: torch.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width): ten tries at a random crop that fits, then the whole image."""
    for _ in range(10):
        share, log_ratio, down, right = _uniform(
            generator, (0.75, 1), (-np.log(4 / 3), np.log(4 / 3)), (0, 1), (0, 1)
        )
        area, ratio = share * image.width * image.height, float(np.exp(log_ratio))
        height, width = max(round((area / ratio) ** 0.5), 1), max(round((area * ratio) ** 0.5), 1)
        if height <= image.height and width <= image.width:
            return round(down * (image.height - height)), round(right * (image.width - width)), height, width
    return 0, 0, image.height, image.width


def _uniform(generator: torch.Generator, *ranges: tuple[float, float]) -> list[float]:
    draws = torch.rand(len(ranges), generator=generator, dtype=torch.float64).tolist()
    return [low + draw * (high - low) for draw, (low, high) in zip(draws, ranges, strict=True)]
