"""Volumes as a training's images: the same input as in extraction, random views of a stated kind, one kind per shelf."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from featprobe.errors import ConfigError
from featprobe.imaging import Raster, encode_raster, print_of_raster
from featprobe.imaging.raster import decode_raster
from featprobe.loading import augment_volume, batches, preprocess_volume
from featprobe.records import Preprocessing, Samples
from featprobe.stages.images import ImageShelf, Moves

SPACING = (2.0, 1.0, 1.0)
RULES = {
    "squash": Preprocessing((10, 12), "squash", None, "trilinear", (0.5,), (0.25,), depth=8),
    "pad": Preprocessing((10, 12), "pad", None, "trilinear", (0.5,), (0.25,), depth=8),
    "crop": Preprocessing((8, 8), "crop", 10, "trilinear", (0.5,), (0.25,), depth=8),
}


class Held:
    """A data set in memory: volumes, or, where `flat`, images."""

    def __init__(self, *, flat: bool = False) -> None:
        rng = np.random.default_rng(0)
        sides = (20, 18) if flat else (9, 14, 16)
        values = [rng.integers(0, 255, sides).astype(np.uint8) for _ in range(3)]
        self.rasters = [Raster(one, "array", spacing=None if flat else SPACING) for one in values]
        self.samples = Samples.build(path=["a", "b", "c"], label=[0, 1, 0], label_names=("x", "y"))

    def read(self, row: int) -> bytes:
        return encode_raster(self.rasters[row])

    def decode(self, data: bytes) -> Raster:
        return decode_raster(data)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("fit", list(RULES))
def test_a_volume_on_the_shelf_is_the_input_of_extraction(fit: str) -> None:
    held, rule = Held(), RULES[fit]
    shelf = ImageShelf(held, volumes=True, memory=9 * 14 * 16)  # one is kept, the others are read again
    (batch,) = batches(held, np.arange(3), [rule], batch_size=3, workers=0)
    made = torch.stack([shelf.tensor(row, rule, None, Moves()) for row in range(3)])
    assert torch.equal(made, batch.images[0])
    assert made.shape == (3, 1, 8, *rule.image_size)
    printed = shelf.printed(held.samples)
    assert printed.pixel_sha256.tolist() == batch.pixel_sha256.tolist()
    assert printed.pixel_sha256[0] == print_of_raster(held.rasters[0]).pixel_sha256


def test_one_shelf_holds_one_kind() -> None:
    with pytest.raises(ConfigError, match="is no image"):
        ImageShelf(Held())
    with pytest.raises(ConfigError, match="is no volume"):
        ImageShelf(Held(flat=True), volumes=True)


@pytest.mark.parametrize("fit", list(RULES))
def test_random_views_are_equal_for_equal_generators_and_differ_otherwise(fit: str) -> None:
    levels, rule = Held().rasters[0].values, RULES[fit]
    moves: dict[str, Any] = {"flip": True, "vertical_flip": True, "rotate": 15.0}
    views = [augment_volume(levels, SPACING, rule, generator(seed), **moves) for seed in (1, 1, 2)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert views[0].shape == (1, 8, *rule.image_size)
    assert views[0].dtype == torch.float32


def test_a_view_is_a_crop_of_most_of_the_volume_a_little_brighter_or_darker() -> None:
    ramp = np.broadcast_to(np.linspace(40, 200, 32).astype(np.uint8)[:, None, None], (32, 32, 32))
    rule = Preprocessing((32, 32), "squash", None, "trilinear", (0.0,), (1.0,), depth=32)
    plain = preprocess_volume(ramp, (1.0, 1.0, 1.0), rule)
    spans, means = [], []
    for seed in range(40):
        view = augment_volume(ramp, (1.0, 1.0, 1.0), rule, generator(seed), flip=False)
        along = view[0].mean(dim=(1, 2))
        assert float(view.std(dim=(2, 3)).max()) < 0.02, "a slice stays one grey level: nothing is turned"
        assert (along.diff() > -0.01).all(), "the first axis is never mirrored"
        spans.append(float(along[-1] - along[0]) / float(plain[0, -1, 0, 0] - plain[0, 0, 0, 0]))
        means.append(float(view.mean() / plain.mean()))
    # The shortest side keeps 0.75 ** (1 / 3) of its length; contrast and brightness scale by 0.9 to 1.1 each.
    assert 0.75 ** (1 / 3) * 0.9 * 0.9 - 0.05 < min(spans) < max(spans) < 1.1 * 1.1 + 0.01
    assert 0.8 < min(means) < 0.97
    assert 1.03 < max(means) < 1.2


def test_flips_and_turns_are_those_of_the_slices_and_only_where_asked_for() -> None:
    levels = np.zeros((8, 32, 32), dtype=np.uint8)
    levels[:, 2:8, 2:8] = 200
    rule = Preprocessing((32, 32), "squash", None, "trilinear", (0.0,), (1.0,), depth=8)

    def corners(**moves: Any) -> set[tuple[bool, bool]]:
        found = set()
        for seed in range(24):
            view = augment_volume(levels, (1.0, 1.0, 1.0), rule, generator(seed), **{"flip": False, **moves})
            flat = view[0].mean(dim=0)
            y, x = np.unravel_index(int(flat.argmax()), flat.shape)
            found.add((bool(y > 16), bool(x > 16)))
        return found

    assert corners() == {(False, False)}
    assert corners(flip=True) == {(False, False), (False, True)}
    assert corners(vertical_flip=True) == {(False, False), (True, False)}
