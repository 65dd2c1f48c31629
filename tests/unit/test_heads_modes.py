"""Shows what every mode trains and what it leaves bit for bit as it was, on a transformer and on convolutions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from featprobe.backbones.core.model import Pooled
from featprobe.errors import ConfigError, MissingExtraError
from featprobe.heads import HeadStart, TrainingRecipe, parse_mode
from featprobe.heads.blocks import layers_of
from featprobe.heads.freezing import trained_names
from featprobe.heads.inference import FittedHead, predict
from featprobe.heads.model import Classifier
from featprobe.heads.optimisation import build_optimizer
from featprobe.heads.training import train_fold
from featprobe.records import IntArray

CPU = torch.device("cpu")
SIDE = 32


class Images:
    """Small noise images of two classes of unequal brightness."""

    def __init__(self, count: int = 24, seed: int = 0, side: int = SIDE) -> None:
        self.labels: IntArray = np.arange(count, dtype=np.int64) % 2
        values = np.random.default_rng(seed).normal(size=(count, 3, side, side))
        values += 0.5 * self.labels[:, None, None, None]
        self.images = torch.from_numpy(values.astype(np.float32))

    def batches(self, order, batch_size, *, augment_seed):
        del augment_seed
        for start in range(0, len(order), batch_size):
            yield self.images[torch.from_numpy(order[start : start + batch_size])]


class Embedded(nn.Module):
    """A timm model as [B, 3, H, W] -> [B, D]; its classifier is off the path."""

    def __init__(self, name: str, **options: object) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(3)
            self.net = timm.create_model(name, num_classes=5, **options)
        head = self.net.get_classifier()
        off = {id(parameter) for parameter in head.parameters()}
        self.unread = frozenset(name for name, value in self.named_parameters() if id(value) in off)
        self.dim = self.net.num_features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.net.forward_head(self.net.forward_features(images), pre_logits=True)
        return features


def vit() -> Embedded:
    return Embedded("test_vit", img_size=SIDE)


def cnn() -> Embedded:
    return Embedded("test_efficientnet")


def fit(folder: Path, backbone: Embedded, mode: str, **settings: object) -> FittedHead:
    recipe = TrainingRecipe(
        mode=mode, **{"epochs": 1, "batch_size": 12, "lr": 1e-2, "augment": False, **settings}
    )
    return train_fold(
        backbone,
        backbone.dim,
        2,
        train=Images(),
        val=Images(8, seed=1),
        recipe=recipe,
        device="cpu",
        checkpoint_dir=folder,
        resume_key="key",
        start=lambda rows, _: HeadStart(
            rows.mean(axis=0), rows.std(axis=0), np.ones((2, rows.shape[1])), np.zeros(2)
        ),
    )


def changed(fitted: FittedHead, backbone: nn.Module) -> set[str]:
    """Names of the backbone's tensors that are not what they were; adapters have no name there."""
    after = {
        name.replace(".base_layer", ""): value for name, value in fitted.model.backbone.state_dict().items()
    }
    return {name for name, value in backbone.state_dict().items() if not torch.equal(value, after[name])}


def test_blocks_of_every_family_are_found_in_one_place() -> None:
    found = layers_of(vit())
    assert found.blocks == (1, 2, 3, 4, 5, 6)
    assert found.tail == 7
    assert set(found.last(1)) == {
        name for name in found.path if name.startswith(("net.blocks.5.", "net.norm."))
    }
    dense = layers_of(Embedded("densenet121"))
    assert len(dense.blocks) == 58
    assert "net.features.norm5.weight" in dense.last(1)
    assert not any("denselayer15" in name for name in dense.last(1))
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    assert layers_of(plain).last(1) == {"3.weight", "3.bias"}
    with pytest.raises(
        ConfigError, match=r"asks for more blocks than the backbone has; it has 6; type --mode last:6"
    ):
        found.last(7)


@pytest.mark.parametrize(
    ("mode", "trained"),
    [
        ("last:2", lambda name: name.startswith(("net.blocks.4.", "net.blocks.5.", "net.norm."))),
        ("bitfit", lambda name: name.endswith(".bias") and not name.startswith("net.head.")),
        ("norm", lambda name: "norm" in name),
        ("lora:2", lambda _: False),
        ("full", lambda name: not name.startswith("net.head.")),
        ("lp-ft", lambda name: not name.startswith("net.head.")),
    ],
)
def test_a_mode_changes_what_it_says_and_nothing_else(tmp_path: Path, mode: str, trained) -> None:
    backbone = vit()
    fitted = fit(tmp_path, backbone, mode)
    expected = {name for name in backbone.state_dict() if trained(name)}
    assert changed(fitted, backbone) == expected
    own = sum(value.numel() for name, value in backbone.named_parameters() if name in expected)
    adapters = sum(value.numel() for name, value in fitted.model.named_parameters() if "lora_" in name)
    assert (adapters > 0) == mode.startswith("lora")
    assert fitted.model.trained_parameters() == own + adapters + 2 * backbone.dim + 2


def test_gradual_unfreezing_goes_from_the_head_to_the_stem() -> None:
    recipe = TrainingRecipe(mode="gradual", epochs=10)
    model = Classifier(vit(), 64, 2, recipe)
    counts = []
    for epoch in range(10):
        model.begin_epoch(epoch)
        live = {name for name, value in model.backbone.named_parameters() if value.requires_grad}
        counts.append(len({model.layers.number[name] for name in live}))
        assert model.head.linear.weight.requires_grad
        lowest = min((model.layers.number[name] for name in live), default=99)
        assert all(name in live for name in model.layers.path if model.layers.number[name] >= lowest)
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[5:] == [7] * 5, "stem and six blocks from half of the epochs on"


@pytest.mark.parametrize("mode", ["head", "bitfit", "lora:2", "last:1", "full"])
def test_frozen_layers_keep_their_running_statistics(tmp_path: Path, mode: str) -> None:
    backbone = cnn()
    fitted = fit(tmp_path, backbone, mode, augment=mode != "full")
    after = changed(fitted, backbone)
    statistics = {name for name in backbone.state_dict() if "running_" in name}
    assert after & statistics == (statistics if mode == "full" else set())
    assert ("net.bn2.weight" in after) == (mode in {"last:1", "full"}), "the last block's gains are trained"
    fitted.model.train()
    norms = [layer for layer in fitted.model.backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(layer.training == (mode == "full") for layer in norms)


def test_layerwise_rates_are_those_of_timm() -> None:
    for backbone in (vit(), cnn()):
        recipe = TrainingRecipe(lr=1e-3, layer_decay=0.6, weight_decay=0.1)
        model = Classifier(backbone, backbone.dim, 2, recipe)
        ours = {
            id(parameter): (group["peak_lr"], group["weight_decay"])
            for group in build_optimizer(model, recipe, CPU).param_groups
            for parameter in group["params"]
        }
        network = model.backbone.net
        skipped = getattr(network, "no_weight_decay", set)()
        theirs = param_groups_layer_decay(network, 0.1, skipped, layer_decay=0.6)
        top = max(group["lr_scale"] for group in theirs for p in group["params"] if id(p) in ours)
        for group in theirs:
            for parameter in group["params"]:
                if id(parameter) in ours:  # the classifier is off the path: our head stands in its place
                    rate, decay = ours[id(parameter)]
                    assert rate == pytest.approx(1e-3 * group["lr_scale"] / top)
                    assert decay == group["weight_decay"]


def test_huang_frozen_is_what_the_study_calls_frozen() -> None:
    names = {}
    with torch.device("meta"):  # names alone: VGG16 has half a gigabyte of numbers
        for name in ("vgg16", "densenet121", "resnet50", "test_vit"):
            backbone = Embedded(name)
            if name == "vgg16":  # FC6 and FC7 come before its features' pooling, the last layer is our head
                backbone.unread = frozenset({"net.head.fc.weight", "net.head.fc.bias"})
            names[name] = trained_names(parse_mode("huang-frozen"), backbone, layers_of(backbone))
    assert names["vgg16"] == {f"net.pre_logits.fc{k}.{what}" for k in (1, 2) for what in ("weight", "bias")}
    assert not names["densenet121"], "its classifier is the head itself, which is trained"
    assert not names["resnet50"]
    assert not names["test_vit"]


def test_lp_ft_begins_from_the_probe_it_is_given(tmp_path: Path) -> None:
    backbone, train, val = vit(), Images(), Images(8, seed=1)
    start = HeadStart(np.full(64, 0.5), np.full(64, 2.0), np.full((2, 64), 0.25), np.array([1.0, -1.0]))
    fitted = train_fold(
        backbone, backbone.dim, 2, train=train, val=val, device="cpu", checkpoint_dir=tmp_path, resume_key="key",
        recipe=TrainingRecipe(mode="lp-ft", epochs=1, lr=1e-12, weight_decay=0.0, augment=False),
        start=lambda *_: start,
    )  # fmt: skip
    head = fitted.model.head
    assert torch.allclose(head.linear.weight, torch.full((2, 64), 0.25), atol=1e-6)
    assert head.mean.tolist() == [0.5] * 64
    assert head.scale.tolist() == [0.5] * 64
    assert head.linear.bias.tolist() == pytest.approx([1.0, -1.0])
    with pytest.raises(ConfigError, match="begins from a fitted linear probe"):
        fit(tmp_path / "mlp", backbone, "lp-ft", head="mlp:8")


def test_an_mlp_head_has_a_hidden_layer_and_its_own_start(tmp_path: Path) -> None:
    fitted = fit(tmp_path, vit(), "head", head="mlp:16", head_start="torch")
    shapes = {name: tuple(value.shape) for name, value in fitted.model.head.named_parameters()}
    assert shapes == {
        "hidden.weight": (16, 64), "hidden.bias": (16,), "linear.weight": (2, 16), "linear.bias": (2,),
    }  # fmt: skip
    assert fitted.model.trained_parameters() == 16 * 64 + 16 + 2 * 16 + 2
    assert predict(fitted, Images(4), device="cpu").shape == (4, 2)


def test_a_backbone_without_norm_layers_refuses_mode_norm() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 4))
    with pytest.raises(
        ConfigError, match="--mode norm finds nothing to train; the backbone has no normalisation"
    ):
        Classifier(plain, 4, 2, TrainingRecipe(mode="norm"))


def test_a_pooled_backbone_names_what_it_does_not_read() -> None:
    from featprobe import backbones

    backbone = backbones.load("timm:test_resnet", weights="random")
    assert set(Pooled(backbone, "gap").unread) == {
        "backbone.model.fc.weight",
        "backbone.model.fc.bias",
    }
    assert not Pooled(backbone, "logits").unread
    found = layers_of(Pooled(backbone, "gap"))
    assert found.trunk == "backbone.model."
    assert len(found.blocks) == 4


def test_without_peft_mode_lora_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"--mode lora needs the package peft.*featprobe\[lora\]"):
        Classifier(vit(), 64, 2, TrainingRecipe(mode="lora"))
