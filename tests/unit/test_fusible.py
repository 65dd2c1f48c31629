"""What belongs together is found from names alone: no canary slips in, nothing is guessed where it is not clear."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from featprobe.config import ProbeConfig
from featprobe.errors import ConfigError
from featprobe.stages.fusible import groups


def table(backbone, pooling="gap", weights="pretrained", rule="crop224"):
    recipe = SimpleNamespace(backbone=backbone, preprocessing=SimpleNamespace(label=rule))
    return SimpleNamespace(
        recipe=recipe,
        weights_label=weights,
        pooling=pooling,
        dense=pooling == "patches",
        fingerprint=f"{backbone}-{weights}-{rule}",
    )


def found(tables, over="backbone", **flags):
    material = SimpleNamespace(name="set", tables=tuple(tables))
    return [
        [(part, own.pooling) for part, own in zip(group.parts, group.tables, strict=True)]
        for group in groups(ProbeConfig(**flags), material, over)
    ]


def test_canaries_are_left_out_unless_named():
    tables = [
        table("vit", "cls"),
        table("vit", "cls", weights="random"),
        table("image_stats", weights="none"),
        table("cnn"),
        table("only_random", weights="random"),
        table("vit", "patches"),
    ]
    assert found(tables) == [[("cnn", "gap"), ("only_random", "gap"), ("vit", "cls")]]
    named = found(tables, backbone=("vit", "cnn", "only_random", "image_stats"))
    assert [part for part, _ in named[0]] == ["cnn", "image_stats", "only_random", "vit"]


def test_backbones_meet_at_the_same_pooling_or_with_their_only_one():
    tables = [table("a", "cls"), table("a", "mean"), table("b", "cls"), table("b", "mean"), table("cnn")]
    assert found(tables) == [
        [("a", "cls"), ("b", "cls"), ("cnn", "gap")],
        [("a", "mean"), ("b", "mean"), ("cnn", "gap")],
    ]
    with pytest.raises(ConfigError, match=r"not clear.*a: cls, mean; cnn: gap, pre_logits; name one each"):
        found([table("a", "cls"), table("a", "mean"), table("cnn"), table("cnn", "pre_logits")])


def test_the_order_is_that_of_names_and_numbers_whatever_the_cache_says():
    tables = [table("vit", f"{layer}/cls") for layer in (11, 9, 2)] + [table("vit", "cls")]
    expected = [[("2", "2/cls"), ("9", "9/cls"), ("11", "11/cls"), ("last", "cls")]]
    assert found(tables, "layer") == expected
    assert found(tables[::-1], "layer") == expected


def test_poolings_and_views_meet_in_one_layer_and_sums_of_parts_stay_out():
    keys = ("cls", "mean", "cls+mean", "9/cls", "9/mean", "@plain/cls", "@hflip/cls", "9@plain/cls")
    tables = [table("vit", key) for key in keys]
    assert found(tables, "pooling") == [
        [("cls", "9/cls"), ("mean", "9/mean")],
        [("cls", "cls"), ("mean", "mean")],
    ]
    assert found(tables, "view") == [[("hflip", "@hflip/cls"), ("plain", "@plain/cls")]]
    assert found([table("vit", "cls"), table("vit", "cls+mean")], "pooling") == [
        [("cls", "cls"), ("cls+mean", "cls+mean")]
    ]


def test_one_backbone_under_two_rules_is_told_apart_by_name():
    tables = [table("cnn", rule="crop224"), table("cnn", rule="crop448"), table("cnn", weights="mine.pth")]
    assert found(tables) == [
        [
            ("cnn mine.pth crop224", "gap"),
            ("cnn pretrained crop224", "gap"),
            ("cnn pretrained crop448", "gap"),
        ]
    ]


@pytest.mark.parametrize(
    ("over", "remedy"), [("backbone", "--backbone"), ("pooling", "--pooling"), ("view", "--tta-keep")]
)
def test_nothing_to_fuse_says_what_there_is(over, remedy):
    with pytest.raises(ConfigError, match=rf"no two {over}s to fuse; there is cnn.*{remedy}"):
        found([table("cnn"), table("image_stats", weights="none")], over)
