"""Names, rules and poolings: what a user types and what it resolves to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from featprobe import backbones
from featprobe.errors import BackboneError


def test_asking_for_registered_names_loads_no_torch() -> None:
    code = (
        "import sys; from featprobe import backbones; backbones.list_backbones();"
        "backbones.resolve('dinov2_vits14'); backbones.default_rule('efficientnet_lite0');"
        "print(sorted({'torch', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_registered_name_wins_and_timm_colon_is_timms() -> None:
    assert backbones.resolve("efficientnet_lite0") == ("imagenet", "efficientnet_lite0")
    assert backbones.resolve("timm:efficientnet_lite0") == ("timm", "efficientnet_lite0")
    assert backbones.describe("efficientnet_lite0").architecture == "tf_efficientnet_lite0"
    theirs = backbones.describe("timm:efficientnet_lite0")
    assert (theirs.name, theirs.architecture) == ("timm:efficientnet_lite0", "efficientnet_lite0")
    assert backbones.describe("timm:resnet34").name == backbones.describe("resnet34").name == "resnet34"
    assert backbones.resolve("resnet50.a1_in1k") == ("timm", "resnet50.a1_in1k")


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("dinov2_vits41", "dinov2_vits14"),
        ("timm:resnet51q2", "resnet51q"),
        ("resnet18.a1_in1", "resnet18.a1_in1k"),
    ],
)
def test_an_unknown_name_is_told_its_nearest(typed: str, near: str) -> None:
    with pytest.raises(BackboneError, match="unknown backbone") as raised:
        backbones.resolve(typed)
    assert near in str(raised.value)


def test_timm_names_match_a_pattern() -> None:
    names = backbones.timm_names("resnet18*")
    assert {"resnet18", "resnet18.a1_in1k"} <= set(names)
    assert all(name.startswith("resnet18") for name in names)


def test_deep_description_counts_parameters_and_dims() -> None:
    info = backbones.describe("vgg16", deep=True)
    convolutions = 14_714_688
    assert info.parameters == convolutions + (25088 + 1) * 4096 + (4096 + 1) * 4096
    dims = {"gap": 512, "mean": 512, "gem": 512, "pre_logits": 4096, "patches": 512, "logits": 1000}
    assert info.dims == dims
    assert info.gflops == pytest.approx(2 * 15.347, abs=0.01), (
        "15.3 billion multiply-adds before the classifier"
    )
    assert backbones.describe("vgg16").parameters is None


def test_the_rules_of_dinov2() -> None:
    assert backbones.default_rule("dinov2_vitb14_reg") == "authors"
    authors, native = (backbones.preprocessing("dinov2_vits14", rule) for rule in (None, "native"))
    assert (authors.resize, authors.image_size, authors.interpolation) == (256, (224, 224), "bicubic")
    assert (native.resize, native.image_size) == (518, (518, 518))
    assert backbones.preprocessing("dinov2_vits14", image_size=98).resize == round(98 * 256 / 224) == 112


def test_the_common_rule_keeps_the_weights_own_mean_and_std() -> None:
    ours, theirs = (backbones.preprocessing(name, "common") for name in ("efficientnet_lite0", "resnet18"))
    assert (ours.resize, ours.image_size) == (theirs.resize, theirs.image_size) == (256, (224, 224))
    assert (ours.mean, ours.std) == ((0.5,) * 3, (0.5,) * 3)
    assert theirs.mean == (0.485, 0.456, 0.406)


def test_size_and_fit_are_put_on_top() -> None:
    rule = backbones.preprocessing("efficientnet_lite0", image_size=96)
    assert (rule.image_size, rule.resize, rule.fit) == ((96, 96), 110, "crop")
    for fit in ("pad", "squash"):
        rule = backbones.preprocessing("efficientnet_lite0", image_size=96, fit=fit)
        assert (rule.image_size, rule.resize, rule.fit) == ((96, 96), None, fit)
    squashed = backbones.describe("convnext_tiny.fb_in22k_ft_in1k_384").rules["native"]
    assert (squashed.fit, squashed.resize) == ("squash", None)
    assert backbones.preprocessing("convnext_tiny.fb_in22k_ft_in1k_384", fit="crop").resize == 384


@pytest.mark.parametrize(
    ("name", "arguments", "parts"),
    [
        ("dinov2_vits14", {"image_size": 100}, ("14 pixels", "98", "112")),
        ("dinov2_vits14", {"image_size": 5}, ("14", "28")),
        ("cait_xxs24_224", {"image_size": 96}, ("224 x 224 pixels alone",)),
        ("efficientnet_lite0", {"image_size": 0}, ("positive",)),
        ("densenet121", {"image_size": 16}, ("can't take images of 16 x 16",)),
        ("efficientnet_lite0", {"rule": "author"}, ("native, common", "common, native")),
        ("efficientnet_lite0", {"fit": "crp"}, ("did you mean crop",)),
    ],
)
def test_what_can_not_be_is_refused(name: str, arguments: dict[str, object], parts: tuple[str, ...]) -> None:
    with pytest.raises(BackboneError) as raised:
        backbones.preprocessing(name, **arguments)  # type: ignore[arg-type]
    assert any(part in str(raised.value) for part in parts)


def test_poolings_are_what_they_say() -> None:
    vit = backbones.load("vit_tiny_patch16_224", weights="random", image_size=32)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tokens = vit.model.forward_features(images)
    given = vit(images, ["cls", "mean", "cls+mean"])
    assert tokens.shape[1] == 1 + 4
    assert torch.equal(given["cls"], tokens[:, 0])
    assert torch.allclose(given["mean"], tokens[:, 1:].sum(dim=1) / 4, atol=1e-6)
    assert torch.equal(given["cls+mean"], torch.cat([given["cls"], given["mean"]], dim=1))
    assert torch.allclose(given["cls"].mean(dim=1), torch.zeros(2), atol=1e-6), "the final norm is missing"


def test_registers_are_no_patches() -> None:
    vit = backbones.load("dinov2_vits14_reg", weights="random", image_size=28)
    images = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    tokens = vit.model.forward_features(images)
    assert tokens.shape[1] == 1 + 4 + 4
    assert torch.allclose(vit(images, ["mean"])["mean"], tokens[:, 5:].sum(dim=1) / 4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "axes"), [("swin_tiny_patch4_window7_224", (1, 2)), ("convnext_atto", (2, 3))]
)
def test_maps_are_averaged_over_their_own_axes(name: str, axes: tuple[int, int]) -> None:
    network = backbones.load(name, weights="random", image_size=64)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    features = network.model.forward_features(images)
    given = network(images, ["gap", "mean"])
    assert torch.allclose(given["gap"], features.sum(dim=axes) / 4, atol=1e-5)
    assert torch.equal(given["gap"], given["mean"])
    assert given["gap"].shape == (2, network.model.num_features)
    assert network.canonical("mean") == "gap"


def test_a_model_that_normalises_after_the_mean_is_pooled_in_its_own_order() -> None:
    network = backbones.load("eva02_tiny_patch14_224", weights="random", image_size=28)
    assert network.info.poolings == ("mean", "pre_logits", "patches")
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    given = network(images, network.info.poolings)
    assert torch.allclose(given["mean"], given["pre_logits"], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "pooling", "has"),
    [("dinov2_vits14", "gap", "cls, mean, cls+mean"), ("resnet18", "cls", "gap, mean, gem, pre_logits")],
)
def test_an_unknown_pooling_is_told_what_there_is(name: str, pooling: str, has: str) -> None:
    with pytest.raises(BackboneError, match=f"no pooling '{pooling}'") as raised:
        backbones.load(name, weights="random", poolings=[pooling])
    assert has in str(raised.value)


def test_the_input_is_averaged_in_float32_under_autocast() -> None:
    network = backbones.load("resnet18", weights="random", image_size=64)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        values = network(images, ["gap", "pre_logits"])
    assert {tensor.dtype for tensor in values.values()} == {torch.float32}
    assert not torch.equal(values["gap"], values["gap"].bfloat16().float()), (
        "the mean was rounded to bfloat16"
    )


def test_pooled_is_one_pooling_of_the_backbone() -> None:
    network = backbones.load("resnet18", weights="random", image_size=64)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    pooled = backbones.Pooled(network, "gap")
    assert pooled.dim == 512
    assert torch.equal(pooled(images), network(images, ["gap"])["gap"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("DINOV2_VITS14", "did you mean dinov2_vits14?"),
        ("ResNet50", "did you mean resnet50?"),
        ("timm:", "'timm:' names no backbone; it is the prefix of a family: timm:NAME"),
        ("hf", "'hf' names no backbone; it is the prefix of a family: hf:NAME"),
        ("../../etc/passwd", "is a path, no name of a backbone"),
    ],
)
def test_a_name_that_is_none_is_told_what_it_is(name: str, said: str) -> None:
    with pytest.raises(BackboneError) as raised:
        backbones.describe(name)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        (
            "resnet18",
            "cls",
            "resnet18 has no pooling 'cls'; it has gap, mean, gem, pre_logits, patches, logits",
        ),
        ("resnet18", "cls", "--pooling resnet18=gap beside other backbones"),
        ("resnet18", "last4/gap", "resnet18: there is no layer 'last4'; it has no transformer blocks"),
        ("resnet18", "last4/gap", "type --layer layer4, in a call of its own where other backbones"),
        ("vit_tiny_patch16_224", "last4/logits", "the layer 'last4' has no pooling 'logits'"),
        ("vit_tiny_patch16_224", "last0/cls", "there is no layer 'last0'; lastN is the last N blocks"),
    ],
)
def test_a_key_that_a_backbone_lacks_names_the_backbone(name: str, key: str, said: str) -> None:
    with pytest.raises(BackboneError) as raised:
        backbones.load(name, weights="random").canonical(key)
    assert said in str(raised.value)
    assert str(raised.value).startswith(name)


def test_image_statistics_take_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(
        BackboneError, match=r"image_stats can't be given the weights .*mine\.pth; it computes"
    ):
        backbones.load("image_stats", weights=str(tmp_path / "mine.pth"))
