"""Views of an image: torchvision's own flips and crops, one decode and one resize for all of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as transforms

from featprobe.datasets.base import FileDataset
from featprobe.datasets.stacks import SliceRule
from featprobe.errors import ConfigError
from featprobe.loading import Batch, batches, preprocess
from featprobe.records import Preprocessing, Recipe, Samples
from featprobe.records.views import parse_view

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP = Preprocessing((24, 24), "crop", 28, "bicubic", MEAN, STD)
WIDE = Preprocessing((20, 30), "crop", 36, "bilinear", MEAN, STD)
SQUASH = Preprocessing((16, 20), "squash", None, "bilinear", MEAN, STD)
PAD = Preprocessing((32, 32), "pad", None, "bicubic", MEAN, STD, pad_value=7)
VIEWS = ("plain", "hflip", "vflip", "crop:tl", "crop:tr", "crop:bl", "crop:br", "size:48", "size:17")


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def three(tmp_path: Path) -> FileDataset:
    """Three readable images of several sizes, and one that is not (row 1)."""
    names = ["a.png", "b.png", "c.png", "d.png"]
    for row, name in enumerate(names):
        picture(40 + row, 55 - 6 * row, row).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"")
    samples = Samples.build(path=names, label=[0, 1, 0, 1], label_names=("a", "b"))
    whole = np.full(len(names), -1, dtype=np.int64)
    return FileDataset("three", "manifest", samples, (), tmp_path, samples.path, whole, SliceRule())


def loaded(dataset: Any, rules: list[Preprocessing], workers: int = 0) -> Batch:
    (batch,) = batches(dataset, np.arange(4), rules, batch_size=4, workers=workers)
    return batch


@pytest.mark.parametrize("rule", [CROP, WIDE, SQUASH, PAD], ids=["crop", "wide", "squash", "pad"])
@pytest.mark.parametrize(("height", "width"), [(50, 91), (91, 50), (33, 33)])
def test_flips_are_torchvisions_of_the_plain_input(rule: Preprocessing, height: int, width: int) -> None:
    image = picture(height, width)
    plain = preprocess(image, rule)
    assert torch.equal(preprocess(image, rule.one("hflip")), transforms.hflip(plain))
    assert torch.equal(preprocess(image, rule.one("vflip")), transforms.vflip(plain))
    assert torch.equal(preprocess(image, rule.one("plain")), plain)
    assert not torch.equal(plain, transforms.hflip(plain))


@pytest.mark.parametrize("rule", [CROP, WIDE], ids=["square", "wide"])
@pytest.mark.parametrize(("height", "width"), [(50, 91), (91, 50), (33, 33), (28, 29)])
def test_corners_and_centre_are_torchvisions_five_crops(rule: Preprocessing, height: int, width: int) -> None:
    image = picture(height, width)
    zero = dataclasses.replace(rule, mean=(0.0,) * 3, std=(1.0,) * 3)
    mode = transforms.InterpolationMode(rule.interpolation)
    theirs = transforms.five_crop(transforms.resize(image, [rule.resize], mode), list(rule.image_size))
    for view, crop in zip(("crop:tl", "crop:tr", "crop:bl", "crop:br", "plain"), theirs, strict=True):
        assert torch.equal(preprocess(image, zero.one(view)), transforms.to_tensor(crop)), view


def test_another_size_is_the_rule_in_proportion() -> None:
    scaled = CROP.one("size:48")
    assert (scaled.image_size, scaled.resize, scaled.views) == ((48, 48), 56, ("size:48",))
    assert CROP.one("size:17").resize == round(17 * 28 / 24)
    assert WIDE.one("size:40").image_size == (40, 60)
    assert (PAD.one("size:64").resize, PAD.one("size:64").image_size) == (None, (64, 64))
    cube = Preprocessing((96, 96), "squash", None, "trilinear", (0.5,), (0.5,), depth=48)
    assert (cube.one("size:64").image_size, cube.one("size:64").depth) == ((64, 64), 32)
    image = picture(70, 51)
    plain = Preprocessing((48, 48), "crop", 56, "bicubic", MEAN, STD)
    assert torch.equal(preprocess(image, scaled), preprocess(image, plain))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_views_holds_what_one_at_a_time_gives(three: FileDataset, workers: int) -> None:
    rules = [CROP.one(view) for view in VIEWS] + [SQUASH, PAD.one("vflip"), CROP.one("hflip")]
    batch = loaded(three, rules, workers)
    assert batch.rows.tolist() == [0, 2, 3]
    assert [row for row, _ in batch.quarantined] == [1]
    assert batch.size.dtype == np.int64
    assert batch.size.tolist() == [[40, 55], [42, 43], [43, 37]]
    for rule, images in zip(rules, batch.images, strict=True):
        assert images.dtype == torch.float32
        for position, row in enumerate(batch.rows):
            image = Image.open(three.root / str(three.samples.path[row]))
            assert torch.equal(images[position], preprocess(image, rule)), rule.label
    assert batch.images[1] is batch.images[-1]


def test_a_batch_without_a_readable_image_has_no_sizes(three: FileDataset) -> None:
    (batch,) = batches(three, np.array([1]), [CROP], batch_size=1, workers=0)
    assert batch.size.shape == (0, 2)


def test_one_decode_and_one_resize_serve_all_views(
    three: FileDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    resized: list[int] = []
    decode, resize = FileDataset.decode, transforms.resize

    def count_decode(self: FileDataset, data: bytes) -> Any:
        decoded.append(data)
        return decode(self, data)

    def count_resize(image: Image.Image, *others: Any) -> Any:
        resized.append(image.width)
        return resize(image, *others)

    monkeypatch.setattr(FileDataset, "decode", count_decode)
    monkeypatch.setattr(transforms, "resize", count_resize)
    same = [CROP.one(view) for view in VIEWS[:7]]
    other_numbers = [dataclasses.replace(rule, mean=(0.5,) * 3, std=(0.5,) * 3) for rule in same]
    other_cut = dataclasses.replace(CROP, image_size=(20, 24))
    batch = loaded(three, [*same, *other_numbers, other_cut])
    assert len(decoded) == 4  # the unreadable one, too
    assert len(resized) == 3
    assert len(batch.images) == 15
    decoded.clear()
    resized.clear()
    loaded(three, [*same, CROP.one("size:48"), CROP.one("size:17"), SQUASH, SQUASH.one("hflip"), PAD])
    assert (len(decoded), len(resized)) == (4, 15)


@pytest.mark.parametrize("rule", [SQUASH, PAD, dataclasses.replace(CROP, resize=24)])
def test_corners_need_a_larger_image(rule: Preprocessing) -> None:
    with pytest.raises(ConfigError, match=r"^the view crop:tl needs .*; here .*; type .*--fit crop"):
        rule.one("crop:tl")
    with pytest.raises(ConfigError, match="the view crop:br needs"):
        preprocess(picture(30, 30), dataclasses.replace(rule, views=("crop:br",)))


def test_loading_takes_one_view_at_a_time_in_its_own_numbers(three: FileDataset) -> None:
    with pytest.raises(ConfigError, match="2 views"):
        loaded(three, [dataclasses.replace(CROP, views=("plain", "hflip"))])
    with pytest.raises(ConfigError, match="0 views"):
        loaded(three, [dataclasses.replace(CROP, views=())])
    with pytest.raises(ConfigError, match="its sizes are not the view's"):
        loaded(three, [dataclasses.replace(CROP, views=("size:48",))])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hflop", r"did you mean hflip.*known: plain, hflip, .*size:PIXELS"),
        ("crop", "known: plain"),
        ("crop:center", "known: plain"),
        ("size", "whole number of pixels"),
        ("size:0", "whole number of pixels"),
        ("size:12.5", "whole number of pixels"),
        ("", "known: plain"),
    ],
)
def test_what_is_no_view_is_refused_with_the_known_ones(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_view(text)


def test_a_view_has_one_spelling() -> None:
    assert parse_view(" HFlip ") == ("hflip", 0)
    assert parse_view("SIZE:0448") == ("size:448", 448)
    assert CROP.one(" Size:048 ").views == ("size:48",)


RULES = st.builds(
    Preprocessing,
    image_size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    fit=st.just("crop"),
    resize=st.integers(65, 90),
    interpolation=st.just("bicubic"),
    mean=st.just(MEAN),
    std=st.just(STD),
    views=st.lists(st.sampled_from(VIEWS), min_size=1, max_size=4, unique=True).map(tuple),
    depth=st.none() | st.integers(1, 64),
)


@given(RULES)
def test_rules_with_views_survive_the_recipe(rule: Preprocessing) -> None:
    recipe = Recipe("0", "vit", "vit", "0", rule)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Preprocessing.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    for view in rule.views:
        one = rule.one(view)
        assert one.views == (view,)
        assert one.one(view) == one


def test_recipes_from_before_views_keep_their_fingerprint() -> None:
    recipe = Recipe("0", "vit", "vit", "0", CROP)
    assert not {"views", "depth"} & set(recipe.to_dict()["preprocessing"])
    assert Recipe.from_json(recipe.to_json()).preprocessing == CROP
    assert recipe.fingerprint == "034350f5444c74fa92a78f4b685052323ab1da099c4e74ca16aa66c3056fcc2e"
    mirrored = dataclasses.replace(recipe, preprocessing=CROP.one("hflip"))
    assert mirrored.fingerprint != recipe.fingerprint


def test_labels_name_views_and_depth() -> None:
    assert CROP.label == "resize28-crop24-bicubic"
    assert dataclasses.replace(CROP, views=("hflip", "plain")).label == "resize28-crop24-bicubic-hflip+plain"
    cube = Preprocessing((96, 96), "squash", None, "trilinear", (0.5,), (0.5,), depth=96)
    assert cube.label == "squash96x96x96-trilinear"
