"""Weights: read without running code, proven to fit, named by a hash."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from featprobe import backbones
from featprobe.backbones import Backbone
from featprobe.backbones.core.fit import tensors_sha256
from featprobe.errors import BackboneError

NAME = "resnet18"


@pytest.fixture(scope="module")
def source() -> Backbone:
    return backbones.load(NAME, weights="random", seed=7)


@pytest.fixture
def tensors(source: Backbone) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in source.model.state_dict().items()}


def load(path: Path, **arguments: Any) -> Backbone:
    return backbones.load(NAME, weights=str(path), **arguments)


def refused(path: Path, **arguments: Any) -> str:
    with pytest.raises(BackboneError) as raised:
        load(path, **arguments)
    text = str(raised.value)
    assert "\n" not in text
    assert text.count("; ") >= 2, "what was wrong; what is known; what to type"
    return text


def test_a_file_gives_the_weights_it_holds(
    source: Backbone, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "mine.v2.safetensors")
    torch.save(tensors, tmp_path / "mine.pth")
    for file, label in (("mine.v2.safetensors", "mine.v2"), ("mine.pth", "mine")):
        read = load(tmp_path / file)
        assert (read.weights_sha256, read.weights_label) == (source.weights_sha256, label)
        assert all(torch.equal(read.model.state_dict()[name], tensor) for name, tensor in tensors.items())
        assert (read.missing, read.unexpected) == ((), ())
    torch.save(tensors, tmp_path / "random.pt")
    assert load(tmp_path / "random.pt").weights_label == "random.pt"


def test_another_seed_gives_other_weights(source: Backbone) -> None:
    assert backbones.load(NAME, weights="random", seed=8).weights_sha256 != source.weights_sha256


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda t: {"state_dict": t, "epoch": 3}, ("'state_dict'",)),
        (lambda t: {"model": {f"module.{n}": v for n, v in t.items()}}, ("'model'", "'module.'")),
        (
            lambda t: {
                "student": {},
                "teacher": {
                    **{f"backbone.{n}": v for n, v in t.items()},
                    "dino_head.last.weight": torch.zeros(2),
                },
            },
            ("'teacher'", "'backbone.'", "1 tensors outside it"),
        ),
        (lambda t: {f"_orig_mod.module.{n}": v for n, v in t.items()}, ("'_orig_mod.'", "'module.'")),
    ],
)
def test_training_checkpoints_are_unwrapped_and_it_is_said(
    wrap: Any, said: tuple[str, ...], source: Backbone, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(wrap(tensors), tmp_path / "checkpoint.pth")
    read = load(tmp_path / "checkpoint.pth")
    assert read.weights_sha256 == source.weights_sha256
    assert all(part in " ".join(read.notes) for part in said)


def test_half_precision_becomes_float32(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    halves = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    save_file(halves, tmp_path / "half.safetensors")
    read = load(tmp_path / "half.safetensors")
    state = read.model.state_dict()
    assert state["conv1.weight"].dtype == torch.float32
    assert torch.equal(state["conv1.weight"], halves["conv1.weight"].float())
    assert "float16" in " ".join(read.notes)
    save_file({name: t.float() for name, t in halves.items()}, tmp_path / "full.safetensors")
    assert load(tmp_path / "full.safetensors").weights_sha256 == read.weights_sha256


def test_a_classifier_of_any_size_is_left_out_and_listed(
    tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    trunk = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    save_file(trunk, tmp_path / "trunk.safetensors")
    save_file(
        {**trunk, "fc.weight": torch.zeros(3, 512), "fc.bias": torch.zeros(3)}, tmp_path / "tuned.safetensors"
    )
    read = load(tmp_path / "tuned.safetensors")
    assert read.unexpected == ("fc.bias", "fc.weight")
    assert read.weights_sha256 == load(tmp_path / "trunk.safetensors").weights_sha256


def test_a_missing_counter_is_no_missing_weight(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(
        {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")},
        tmp_path / "bare.safetensors",
    )
    assert load(tmp_path / "bare.safetensors").missing == ()


@pytest.mark.parametrize("name", ["layer4.1.bn2.running_var", "conv1.weight", "layer1.0.bn1.bias"])
def test_one_missing_tensor_on_the_path_is_refused(
    name: str, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    del tensors[name]
    save_file(tensors, tmp_path / "holed.safetensors")
    text = refused(tmp_path / "holed.safetensors")
    assert f"99 of the 100 tensors that gap needs fit, 1 is missing ({name})" in text


def test_another_shape_or_architecture_is_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    tensors["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    save_file(tensors, tmp_path / "bent.safetensors")
    assert "layer1.0.conv1.weight 64x64x1x1 for 64x64x3x3" in refused(tmp_path / "bent.safetensors")

    deeper = {f"layer4.2.conv{i}.weight": torch.zeros(1) for i in range(5)}
    save_file(
        {**tensors, "layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3), **deeper},
        tmp_path / "deep.safetensors",
    )
    assert "5 belong to another architecture" in refused(tmp_path / "deep.safetensors")


def test_the_architecture_that_a_file_fits_is_named(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "r18.safetensors")
    with pytest.raises(BackboneError) as raised:
        backbones.load("resnet50", weights=str(tmp_path / "r18.safetensors"))
    assert f"type --backbone resnet18 --weights resnet18={tmp_path / 'r18.safetensors'}" in str(raised.value)


def test_patches_of_another_size_are_not_resampled_in_silence(tmp_path: Path) -> None:
    narrow = backbones.load("vit_tiny_patch16_224", weights="random")
    state = dict(narrow.model.state_dict())
    state["patch_embed.proj.weight"] = torch.zeros(192, 3, 32, 32)
    state["pos_embed"] = torch.zeros(1, 1 + 49, 192)
    save_file(state, tmp_path / "patch32.safetensors")
    with pytest.raises(BackboneError, match="2 have another shape"):
        backbones.load("vit_tiny_patch16_224", weights=str(tmp_path / "patch32.safetensors"))


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("it-ran"),))


def test_a_file_that_needs_code_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": torch.zeros(1), "extra": Harmful()}, tmp_path / "evil.pth")
    assert "refused" in refused(tmp_path / "evil.pth")
    (tmp_path / "old.bin").write_bytes(pickle.dumps(Harmful()))
    refused(tmp_path / "old.bin")
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_said_to_be_one(
    suffix: str, share: float, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"cut{suffix}"
    few = {name: tensors[name] for name in list(tensors)[:10]}
    if suffix == ".pth":
        torch.save(few, path)
    else:
        save_file(few, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "truncated" in refused(path)


def test_other_files_that_are_no_weights(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere.pth")
    assert "did you mean pretrained" in refused(Path("pretraind"))
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "weights.onnx").write_bytes(b"")
    assert "suffix '.onnx'" in refused(tmp_path / "weights.onnx")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    assert "no named tensors" in refused(tmp_path / "empty.pth")
    torch.save(torch.zeros(3), tmp_path / "one.pth")
    assert "no named tensors" in refused(tmp_path / "one.pth")
    tensors["conv1.weight"][0, 0, 0, 0] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    assert "not finite" in refused(tmp_path / "nan.safetensors")


def test_the_hash_covers_name_dtype_shape_and_bytes_and_no_order() -> None:
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}
    digest = tensors_sha256(base)
    assert digest == tensors_sha256(dict(reversed(base.items())))
    assert digest == tensors_sha256(
        {**base, "a": torch.arange(6.0).reshape(3, 2).T.contiguous().T.reshape(2, 3)}
    )
    flipped = base["a"].clone()
    flipped[0, 0] = 1e-38
    for change in (
        {"a": base["a"].reshape(3, 2)},
        {"a": base["a"].double()},
        {"a": flipped},
        {"b": torch.tensor(3, dtype=torch.int32)},
        {"c": torch.tensor(3)},
    ):
        assert tensors_sha256({**base, **change}) != digest
    columns = torch.arange(6.0).reshape(3, 2).T
    assert tensors_sha256({"a": columns}) == tensors_sha256({"a": columns.contiguous()})
