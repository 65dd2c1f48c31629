"""Every key style of the field gives the plain model's tensors, byte for byte, and says what it left out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featprobe import backbones
from featprobe.backbones.core.files import Checkpoint, read_checkpoint
from featprobe.backbones.core.fit import account, compare, require
from featprobe.backbones.core.nearest_architecture import nearest_architectures
from featprobe.backbones.core.survey import survey
from featprobe.backbones.core.unwrapping import choose
from featprobe.errors import BackboneError

Tensors = dict[str, torch.Tensor]
# torchvision's order of a ResNet's children, by which nn.Sequential(*children) numbers them.
CHILDREN: Final = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
HEAD: Final = {"fc.0.weight": torch.ones(8, 8), "fc.2.weight": torch.ones(2, 8)}


def network(architecture: str) -> Tensors:
    torch.manual_seed(5)
    return dict(timm.create_model(architecture, num_classes=0).state_dict())


RESNET: Final = network("resnet18")
VIT: Final = network("vit_tiny_patch16_224")


def wanted(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def other(tensors: Tensors) -> Tensors:
    return {name: tensor + 1 for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def numbered(tensors: Tensors) -> Tensors:
    return {
        f"{CHILDREN[name.split('.')[0]]}.{name.split('.', 1)[1]}": tensor for name, tensor in tensors.items()
    }


def one(name: str) -> Tensors:
    return {name: torch.ones(3)}


def moco(t: Tensors) -> Any:
    queries = under("module.encoder_q.", t | HEAD)
    return {
        "epoch": 3,
        "state_dict": queries | under("module.encoder_k.", other(t) | HEAD) | one("module.queue"),
    }


def dinov2(t: Tensors) -> Any:
    return {
        "model": under("student.backbone.", other(t))
        | under("teacher.backbone.", t | one("mask_token"))
        | one("teacher.dino_head.mlp.0.weight")
        | one("teacher.ibot_head.mlp.0.weight"),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
    }


# What wraps the network, a word of the note, and how many tensors are left out for a network of N tensors: n * N + m.
STYLES: Final[dict[str, tuple[Callable[[Tensors], Any], tuple[str, ...], int, int]]] = {
    "plain": (lambda t: t, (), 0, 0),
    "state_dict": (lambda t: {"state_dict": t, "epoch": 1}, ("'state_dict'",), 0, 0),
    "DDP and compile": (lambda t: under("_orig_mod.module.", t), ("'_orig_mod.'", "'module.'"), 0, 0),
    "MoCo": (moco, ("MoCo v1 or v2", "query encoder's prefix 'module.encoder_q.'", "key encoder"), 1, 3),
    "MoCo v3": (
        lambda t: {
            "state_dict": under("module.base_encoder.", t)
            | under("module.momentum_encoder.", other(t))
            | one("module.predictor.0.weight")
        },
        ("MoCo v3", "'module.base_encoder.'", "1 predictor"),
        1,
        1,
    ),
    "DINO": (
        lambda t: {
            "student": under("module.backbone.", other(t)) | one("module.head.last_layer.weight_v"),
            "teacher": under("module.backbone.", t) | one("module.head.mlp.0.weight"),
            "dino_loss": {"center": torch.ones(1, 3)},
        },
        ("DINO", "'teacher'", "student"),
        1,
        3,
    ),
    "DINO's student": (
        lambda t: {"student": under("module.backbone.", t) | one("module.head.last_layer.weight_v")},
        ("no better copy in it than the student",),
        0,
        1,
    ),
    "DINOv2": (dinov2, ("the teacher's prefix 'teacher.backbone.'", "student", "2 head"), 1, 4),
    "MAE": (
        lambda t: {"model": t | one("mask_token") | one("decoder_embed.weight") | one("decoder_blocks.0.norm1.bias")},
        ("MAE", "2 decoder", "1 mask token"),
        0,
        3,
    ),
    "SimCLR": (lambda t: {"state_dict": under("backbone.", t) | one("projector.0.weight")}, ("backbone",), 0, 1),
    "SimCLR of google": (lambda t: {"convnet": t, "projection_head": one("weight")}, ("SimCLR",), 0, 1),
    "SwAV": (
        lambda t: under("module.", t) | one("module.projection_head.0.weight") | one("module.prototypes.weight"),
        ("SwAV or DeepCluster", "'module.'", "1 prototypes"),
        0,
        2,
    ),
    "BYOL": (
        lambda t: under("online_encoder.", t) | under("target_encoder.", other(t)) | one("online_predictor.0.weight"),
        ("BYOL", "the online encoder", "target encoder"),
        1,
        1,
    ),
    "I-JEPA": (
        lambda t: {
            "encoder": under("module.", other(t)),
            "predictor": one("module.x"),
            "target_encoder": under("module.", t),
        },
        ("'target_encoder'",),
        1,
        1,
    ),
    "VISSL": (
        lambda t: {
            "classy_state_dict": {
                "base_model": {"model": {"trunk": under("_feature_blocks.", t), "heads": one("0.clf.0.weight")}}
            }
        },
        ("VISSL", "'classy_state_dict/base_model/model/trunk'"),
        0,
        1,
    ),
    "averaged": (lambda t: {"model": other(t), "model_ema": t}, ("'model_ema'", "another copy"), 1, 0),
    "Lightning": (
        lambda t: {"state_dict": under("model.encoder.", t) | one("criterion.weight"), "hyper_parameters": {"lr": 1}},
        ("'model.encoder.'",),
        0,
        1,
    ),
    "OpenMMLab": (
        lambda t: {"meta": {"epoch": 1}, "state_dict": under("backbone.", t) | one("neck.0.weight")},
        ("'backbone.'", "1 head"),
        0,
        1,
    ),
}  # fmt: skip


def taken(content: Any, tensors: Tensors, *, known: bool) -> tuple[str, dict[str, str]]:
    choice = choose(content, wanted(tensors) if known else None)
    assert choice is not None
    for name, tensor in tensors.items():
        assert torch.equal(choice.tensors[name], tensor), name
    return " ".join(choice.notes), choice.left_out


@pytest.mark.parametrize("tensors", [RESNET, VIT], ids=["resnet18", "vit_tiny"])
@pytest.mark.parametrize("known", [True, False], ids=["architecture known", "unknown"])
@pytest.mark.parametrize("style", STYLES)
def test_every_style_gives_the_plain_tensors_and_is_said(style: str, known: bool, tensors: Tensors) -> None:
    wrap, said, share, extra = STYLES[style]
    note, left_out = taken(wrap(dict(tensors)), tensors, known=known)
    assert all(part in note for part in said), note
    assert bool(note) == (style != "plain")
    assert ("no better copy" in note) == (style == "DINO's student")
    assert len(left_out) == share * len(tensors) + extra
    assert f"{len(left_out)} tensors outside it were left out" in note or not left_out
    assert all(left_out.values()), "a reason for each"


@pytest.mark.parametrize("without_max_pool", [False, True])
def test_numbered_children_are_torchvisions(without_max_pool: bool) -> None:
    content = under("f.", numbered(RESNET)) | one("g.0.weight")
    if without_max_pool:
        shift = {f"f.{n}.": f"f.{n - 1}." for n in range(4, 8)}
        content = {shift.get(name[:4], name[:4]) + name[4:]: tensor for name, tensor in content.items()}
    note, left_out = taken(content, RESNET, known=True)
    assert "SimCLR" in note
    assert "numbered layers" in note
    assert left_out == {"g.0.weight": "projection head"}


def test_segment_anything_is_read_under_timms_names() -> None:
    with torch.device("meta"):
        shapes = wanted(timm.create_model("samvit_base_patch16").state_dict())
    names = {name: torch.full((1,), float(place)) for place, name in enumerate(shapes)}
    content = {f"image_encoder.{name.replace('mlp.fc', 'mlp.lin')}": tensor for name, tensor in names.items()}
    choice = choose(content | one("mask_decoder.x") | one("prompt_encoder.y"), shapes)
    assert choice is not None
    assert choice.tensors == names
    assert choice.originals["blocks.0.mlp.fc1.weight"] == "image_encoder.blocks.0.mlp.lin1.weight"


def test_a_teacher_of_another_architecture_is_not_taken() -> None:
    content = {"teacher": other(VIT), "student": RESNET}
    note, left_out = taken(content, RESNET, known=True)
    assert "'student'" in note
    assert len(left_out) == len(VIT)


def test_shapes_decide_between_networks_of_the_same_names() -> None:
    narrow = {name: tensor[:1] if tensor.ndim else tensor for name, tensor in RESNET.items()}
    note, left_out = taken({"first": narrow, "second": RESNET}, RESNET, known=True)
    assert "'second'" in note
    assert set(left_out) == {f"first/{name}" for name in narrow}


def test_a_network_that_calls_its_own_layers_encoder_is_left_alone() -> None:
    own = one("class_token") | one("encoder.layers.0.weight") | one("encoder.ln.weight")
    choice = choose(dict(own))
    assert choice is not None
    assert set(choice.tensors) == set(own)


def test_what_training_leaves_behind_is_read_and_forgotten(tmp_path: Path) -> None:
    arguments = argparse.Namespace(arch="resnet18", out=Path("runs"), best=np.float32(0.5))
    content = {**moco(dict(RESNET)), "args": arguments, "best": np.float64(0.25), "step": np.int64(3)}
    for suffix in ("pth.tar", "ckpt", "torch"):
        path = tmp_path / f"moco.{suffix}"
        torch.save(content, path, _use_new_zipfile_serialization=suffix != "pth.tar")
        read = read_checkpoint(path, wanted=wanted(RESNET))
        assert all(torch.equal(read.tensors[name], tensor) for name, tensor in RESNET.items())
        assert read.notes[0].startswith(f"moco.{suffix}: MoCo v1 or v2 checkpoint: ")
        path.unlink()


def test_a_backbone_is_loaded_from_a_mocos_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "moco.pth"
    torch.save(moco(dict(RESNET)), path)
    loaded = backbones.load("resnet18", weights=str(path))
    assert all(torch.equal(loaded.model.state_dict()[name], tensor) for name, tensor in RESNET.items())
    assert any("query encoder" in note for note in loaded.notes)


WORDS: Final = st.sampled_from(
    ["model", "module", "backbone", "encoder", "net", "ssl", "online_encoder", "x1", "trunk"]
)
SMALL: Final = {
    "conv1.weight": torch.arange(24.0).reshape(2, 3, 2, 2),
    "bn1.weight": torch.arange(2.0),
    "layer1.0.conv1.weight": torch.arange(16.0).reshape(2, 2, 2, 2),
    "layer1.0.bn1.bias": torch.arange(2.0) + 7,
    "norm.weight": torch.arange(2.0) - 1,
}


@given(
    entries=st.lists(WORDS, max_size=3),
    prefix=st.lists(WORDS, max_size=3),
    beside=st.dictionaries(st.sampled_from(["head.0.w", "zzz.conv1.weight", "a", "module.queue"]), st.just(1), max_size=3),
    elsewhere=st.sampled_from(["optimizer", "student", "extra"]),
    nested=st.booleans(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_any_wrapping_is_undone_and_every_tensor_accounted_for(
    entries: list[str], prefix: list[str], beside: dict[str, int], elsewhere: str, nested: bool
) -> None:
    sheet: Any = under("".join(f"{word}." for word in prefix), SMALL)
    sheet = {name: torch.ones(5) for name in beside} | sheet
    content: Any = sheet
    for entry in reversed(entries):
        content = {entry: content, "epoch": 1}
    if nested:
        content = {**content, elsewhere: {"state": [{0: torch.ones(1)}]}}
    choice = choose(content, wanted(SMALL))
    assert choice is not None
    assert {name: choice.tensors[name].tolist() for name in SMALL} == {
        name: tensor.tolist() for name, tensor in SMALL.items()
    }
    used = set(choice.originals.values())
    assert used | {name for name in choice.left_out if "/" not in name} >= set(sheet)
    assert not used & set(choice.left_out)
    assert len(choice.tensors) + len(choice.left_out) == len(sheet) + nested


def test_a_file_that_contains_itself_ends() -> None:
    content: dict[str, Any] = {"state_dict": dict(SMALL)}
    content["self"] = content
    content["list"] = [content, {"again": content}]
    found = choose(content)
    assert found is not None
    assert found.left_out == {}, "each tensor is met once"
    assert choose({"optimizer": dict(SMALL)}) is None
    assert choose({"ema": {"shadow_params": list(SMALL.values())}}) is None


def test_the_account_names_every_tensor_once() -> None:
    facts = survey("resnet18")
    content = dict(RESNET) | one("decoder_pred.weight") | one("odd.weight") | one("head.weight")
    del content["layer4.1.conv2.weight"]
    content["layer1.0.conv1.weight"] = torch.ones(64, 64, 1, 1)
    choice = choose(under("module.", content), facts.shapes)
    assert choice is not None
    checkpoint = Checkpoint(
        choice.tensors, choice.notes, tuple(choice.left_out), choice.left_out, choice.originals
    )
    found = account(checkpoint, facts)
    assert found.used["conv1.weight"] == "module.conv1.weight"
    assert found.unused == {
        "module.decoder_pred.weight": "decoder",
        "module.head.weight": "head",
        "module.layer1.0.conv1.weight": "another shape",
        "module.odd.weight": "of unknown use",
    }
    assert "gap" in found.missing["layer4.1.conv2.weight"]
    assert found.missing["fc.weight"] == ("logits",)
    assert found.reshaped == {"layer1.0.conv1.weight": ((64, 64, 1, 1), (64, 64, 3, 3))}
    assert len(found.used) + len(found.missing) + len(found.reshaped) == len(facts.shapes)
    text = "\n".join(found.lines())
    assert "unused: 4" in text
    assert "layer1.0.conv1.weight: 64x64x1x1 for 64x64x3x3" in text


def test_an_error_names_what_fits_what_does_not_and_the_nearest_architecture() -> None:
    facts = survey("vit_small_patch16_224")
    given_shapes = wanted(VIT)
    with pytest.raises(BackboneError) as raised:
        require(
            compare(given_shapes, facts), facts, given_shapes, poolings=["cls"], source="the file a.pth",
            name="vit_small_patch16_224", file="a.pth",
        )  # fmt: skip
    text = str(raised.value)
    assert "0 of the 150 tensors that cls needs fit" in text
    assert "150 have another shape (blocks.0.attn.proj.bias 192 for 384" in text
    assert "they look most like vit_tiny_patch16_224 (150 of 152 tensors)" in text
    assert "type --backbone vit_tiny_patch16_224 --weights vit_tiny_patch16_224=a.pth" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "resnet34", "resnet101", "densenet121", "vgg16", "vit_base_patch16_384", "convnext_tiny",
     "swin_tiny_patch4_window7_224", "efficientnet_b0"],
)  # fmt: skip
def test_the_nearest_architecture_is_the_one_it_was(architecture: str) -> None:
    with torch.device("meta"):
        shapes = wanted(timm.create_model(architecture, num_classes=3).state_dict())
    nearest = nearest_architectures(shapes)
    assert nearest[0].name == architecture
    assert 0.8 < nearest[0].share <= 1
    assert nearest_architectures({"some.weight": (3, 4)}) == []
