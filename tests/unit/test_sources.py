"""What the words of the command line ask of backbones: weights, poolings, canaries, views."""

from __future__ import annotations

import pytest

from featprobe import backbones
from featprobe.config import ExtractConfig
from featprobe.errors import ConfigError
from featprobe.registry import BACKBONES
from featprobe.stages.rules import described, with_views
from featprobe.stages.sources import BackboneRun, backbone_runs, poolings_of, with_canaries


def test_every_backbone_brings_one_random_twin_and_all_one_baseline() -> None:
    config = ExtractConfig(backbone=("resnet18", "vgg16"), weights=("resnet18=random", "vgg16=pretrained"))
    runs = with_canaries(config, backbone_runs(config))
    assert [(run.backbone, run.weights, run.canary) for run in runs] == [
        ("resnet18", "random", False),
        ("vgg16", "pretrained", False),
        ("vgg16", "random", True),
        ("image_stats", "pretrained", True),
    ]


def test_a_baseline_that_was_named_is_no_canary() -> None:
    config = ExtractConfig(backbone=("image_stats",))
    assert with_canaries(config, backbone_runs(config)) == [BackboneRun("image_stats", "pretrained")]


def test_a_pooling_of_its_own_wins_over_the_plain_ones() -> None:
    config = ExtractConfig(backbone=("resnet18", "vgg16"), pooling=("gap", "vgg16=logits", "vgg16=gem"))
    assert poolings_of(config, "resnet18") == ("gap",)
    assert poolings_of(config, "vgg16") == ("logits", "gem")


@pytest.mark.parametrize(
    ("value", "words"), [("vg16=gap", "did you mean vgg16"), ("gpa", "did you mean gap")]
)
def test_a_wrong_pooling_is_named(value: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        poolings_of(ExtractConfig(backbone=("vgg16",), pooling=(value,)), "vgg16")


def test_views_are_scaled_to_whole_patches_and_named_once() -> None:
    rule = backbones.preprocessing("dinov2_vits14")
    seen = with_views(rule, ("hflip", "scale:0.75", "five-crops", "hflip"), patch=14)
    corners = ("crop:tl", "crop:tr", "crop:bl", "crop:br")
    assert seen.views == ("plain", "hflip", "size:168", *corners)
    assert seen.one("size:168").resize == 192
    assert "plain+hflip+size:168" in described(seen)


def test_a_scale_that_rounds_to_the_plain_size_is_refused() -> None:
    rule = backbones.preprocessing("vit_tiny_patch16_224", image_size=32)
    with pytest.raises(ConfigError, match="no view of its own"):
        with_views(rule, ("scale:1.25",), patch=16)
    assert with_views(rule, ("scale:1.5",), patch=16).views == ("plain", "size:48")


def test_authors_is_native_where_nothing_else_is_published() -> None:
    native = backbones.preprocessing("resnet50", "native")
    assert backbones.preprocessing("resnet50", "authors") == native
    assert backbones.preprocessing("dinov2_vits14", "authors") != backbones.preprocessing(
        "dinov2_vits14", "native"
    )


def test_no_name_is_registered_twice() -> None:
    names = [name for _, family in BACKBONES.items() for name in family.names()]
    assert len(names) == len(set(names))
    prefixes = [family.prefix for _, family in BACKBONES.items() if getattr(family, "prefix", "")]
    assert len(prefixes) == len(set(prefixes))
