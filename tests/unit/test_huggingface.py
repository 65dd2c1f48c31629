"""Encoders of transformers give what transformers gives, from folders and caches laid out as the hub's."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from featprobe import backbones
from featprobe.backbones import Backbone
from featprobe.backbones.core import bundle
from featprobe.backbones.core.assemble import _NoDraws
from featprobe.backbones.core.create import create
from featprobe.backbones.core.hf_trunk import library
from featprobe.backbones.core.places import locate_all
from featprobe.backbones.core.survey import survey
from featprobe.errors import BackboneError, MissingExtraError
from featprobe.registry import BACKBONES

pytest.importorskip("transformers", reason="the extra huggingface is not installed")

# Bound of the parity with transformers, relative to the longest vector; both run the same modules.
PARITY = 1e-6
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
VIEW: dict[str, Any] = {**TINY, "image_size": 32, "patch_size": 16}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
TEXT: dict[str, Any] = {**TINY, "vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1}
DINOV2: dict[str, Any] = {
    **{key: value for key, value in VIEW.items() if key != "intermediate_size"},
    "image_size": 42,
    "patch_size": 14,
}
# Class that is saved -> (class of its configuration, its arguments).
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Dinov2Model": ("Dinov2Config", DINOV2),
    "Dinov2ForImageClassification": ("Dinov2Config", {**DINOV2, "num_labels": 5}),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", {**DINOV2, "num_register_tokens": 4}),
    "ViTModel": ("ViTConfig", VIEW),
    "ViTForImageClassification": ("ViTConfig", {**VIEW, "num_labels": 5}),
    "ViTMSNModel": ("ViTMSNConfig", VIEW),
    "DeiTModel": ("DeiTConfig", VIEW),
    "IJepaModel": ("IJepaConfig", VIEW),
    "BeitModel": ("BeitConfig", {**VIEW, "use_mean_pooling": False}),
    "SiglipVisionModel": ("SiglipVisionConfig", VIEW),
    "CLIPVisionModel": ("CLIPVisionConfig", VIEW),
    "DINOv3ViTModel": ("DINOv3ViTConfig", {**VIEW, "num_register_tokens": 4}),
    "SwinModel": (
        "SwinConfig",
        {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "image_size": 32},
    ),
    "ConvNextModel": ("ConvNextConfig", STAGES),
    "ConvNextV2ForImageClassification": ("ConvNextV2Config", {**STAGES, "num_labels": 5}),
    "ResNetForImageClassification": ("ResNetConfig", {**STAGES, "embedding_size": 8, "num_labels": 5}),
    "RegNetModel": ("RegNetConfig", {**STAGES, "embedding_size": 8, "groups_width": 8}),
}
PROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}


def saved(folder: Path, model: str, config: str, **values: Any) -> Any:
    """A model with seeded weights, saved in `folder` as a repository's files; the model."""
    with library() as transformers:
        torch.manual_seed(5)
        net = getattr(transformers, model)(getattr(transformers, config)(**values)).eval()
        for name, parameter in net.named_parameters():
            # transformers starts layer scales, biases and class tokens at values that hide mistakes.
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter) * 0.05) if "relative" not in name else None
        net.save_pretrained(folder)
    side = values.get("image_size", 64)
    size = {"height": side, "width": side}
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "size": size}))
    return net


def images_of(backbone: Backbone, size: int | None = None) -> torch.Tensor:
    sides = (size, size) if size else backbone.preprocessing().image_size
    return torch.randn(3, 3, *sides, generator=torch.Generator().manual_seed(1))


def embed(backbone: Backbone, images: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found: dict[str, torch.Tensor] = backbone(images, backbone.poolings)
    return found


def near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).norm(dim=-1).max() <= PARITY * theirs.norm(dim=-1).max())


def theirs(net: Any, images: torch.Tensor, **options: Any) -> Any:
    with library(), torch.no_grad():
        base = getattr(net, net.base_model_prefix) if "For" in type(net).__name__ else net
        return base(pixel_values=images, **options)


@pytest.mark.parametrize("model", MODELS)
def test_features_are_transformers_own(tmp_path: Path, model: str) -> None:
    config, values = MODELS[model]
    net = saved(tmp_path, model, config, **values)
    backbone = backbones.load(f"hf:{tmp_path}")
    assert backbone.weights_label == "pretrained"
    images = images_of(backbone)
    ours, output = embed(backbone, images), theirs(net, images)
    last, pooled = output.last_hidden_state, getattr(output, "pooler_output", None)
    if model == "CLIPVisionModel":
        last = net.post_layernorm(last)
    if model == "SwinModel":
        last = last.transpose(1, 2).unflatten(2, (4, 4))
    if last.ndim == 4:
        assert near(ours["gap"], last.mean(dim=(2, 3)))
    else:
        prefix = last.shape[1] - (images.shape[2] // backbone.model.patch_size) ** 2
        assert near(ours["mean"], last[:, prefix:].mean(dim=1))
        assert ("cls" in ours) == (prefix > 0)
        assert not prefix or near(ours["cls"], last[:, 0])
    if pooled is not None and "pre_logits" in ours:
        assert near(ours["pre_logits"], pooled.flatten(1))
    assert ("logits" in ours) == ("Classification" in model)
    if "logits" in ours:
        with library(), torch.no_grad():
            assert near(ours["logits"], net(pixel_values=images).logits)
    assert backbone.missing == ()


@pytest.mark.parametrize(
    ("model", "config", "tower"),
    [("SiglipModel", "SiglipConfig", SIGLIP := "vision_model"), ("CLIPModel", "CLIPConfig", SIGLIP)],
)
def test_of_a_model_of_image_and_text_the_image_tower_is_taken(
    tmp_path: Path, model: str, config: str, tower: str
) -> None:
    net = saved(tmp_path, model, config, vision_config=VIEW, text_config=TEXT, projection_dim=8)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    backbone = backbones.load(f"hf:{tmp_path}")
    images = images_of(backbone)
    output = theirs(getattr(net, tower), images)
    assert near(embed(backbone, images)["pre_logits"], output.pooler_output)
    assert any("left out" in note and "text" in note for note in backbone.notes)
    assert backbone.info.default_pooling == ("cls" if model == "CLIPModel" else "pre_logits")


def test_a_masked_autoencoder_sees_the_whole_image(tmp_path: Path) -> None:
    decoder = {
        f"decoder_{key}": value for key, value in {**TINY, "hidden_size": 16, "num_hidden_layers": 1}.items()
    }
    net = saved(tmp_path, "ViTMAEForPreTraining", "ViTMAEConfig", **VIEW, **decoder, mask_ratio=0.0)
    backbone = backbones.load(f"hf:{tmp_path}")
    images = images_of(backbone)
    order = torch.linspace(0, 1, 4).expand(
        3, 4
    )  # its own class shuffles the patches; ascending noise does not
    output = theirs(net, images, noise=order)
    assert near(embed(backbone, images)["cls"], output.last_hidden_state[:, 0])
    assert near(embed(backbone, images)["pre_logits"], output.last_hidden_state[:, 0])


@pytest.mark.parametrize(
    "model", ["Dinov2Model", "ViTModel", "SiglipVisionModel", "DINOv3ViTModel", "DeiTModel"]
)
def test_other_image_sizes_are_transformers_own(tmp_path: Path, model: str) -> None:
    config, values = MODELS[model]
    net = saved(tmp_path, model, config, **values)
    backbone = backbones.load(f"hf:{tmp_path}")
    patch = int(values["patch_size"])
    images = images_of(backbone, 4 * patch)
    asked = {} if model in {"Dinov2Model", "DINOv3ViTModel"} else {"interpolate_pos_encoding": True}
    output = theirs(net, images, **asked)
    first = embed(backbone, images_of(backbone))
    assert near(embed(backbone, images)["mean"], output.last_hidden_state[:, -16:].mean(dim=1))
    backbone.set_image_size(backbone.preprocessing().image_size)
    assert all(torch.equal(first[key], value) for key, value in embed(backbone, images_of(backbone)).items())
    with pytest.raises(BackboneError, match=f"patches are {patch} pixels"):
        backbone.preprocessing(image_size=4 * patch + 1)


def test_beit_normalises_after_averaging(tmp_path: Path) -> None:
    net = saved(tmp_path, "BeitModel", "BeitConfig", **VIEW, use_relative_position_bias=True)
    backbone = backbones.load(f"hf:{tmp_path}")
    images = images_of(backbone)
    ours, output = embed(backbone, images), theirs(net, images)
    assert "cls" not in ours
    assert near(ours["mean"], output.pooler_output)
    assert near(ours["pre_logits"], output.pooler_output)


def test_a_fixed_network_takes_its_own_size_alone(tmp_path: Path) -> None:
    saved(tmp_path, "BeitModel", "BeitConfig", **MODELS["BeitModel"][1])
    with pytest.raises(BackboneError, match="32 x 32 pixels alone"):
        backbones.load(f"hf:{tmp_path}", image_size=48)


def test_the_last_blocks_are_normed(tmp_path: Path) -> None:
    net = saved(tmp_path, "Dinov2Model", "Dinov2Config", **DINOV2)
    backbone = backbones.load(f"hf:{tmp_path}")
    images = images_of(backbone)
    hidden = theirs(net, images, output_hidden_states=True).hidden_states[-2:]
    with torch.no_grad():
        found = backbone(images, ("last2/cls", "encoder.layer.0/mean"))
        expected = torch.cat([net.layernorm(state)[:, 0] for state in hidden], dim=1)
    assert near(found["last2/cls"], expected)
    assert near(found["encoder.layer.0/mean"], hidden[0][:, 1:].mean(dim=1))


def test_a_pooler_that_the_weights_lack_costs_pre_logits_alone(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    saved(tmp_path, "ViTModel", "ViTConfig", **VIEW)
    file = tmp_path / "model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "pooler" not in name}, file)
    backbone = backbones.load(f"hf:{tmp_path}")
    assert backbone.poolings == ("cls", "mean", "cls+mean", "patches")
    with pytest.raises(BackboneError, match="2 are missing"):
        backbones.load(f"hf:{tmp_path}", poolings=("pre_logits",))


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, "ViTModel", "ViTConfig", **{**VIEW, "image_size": 48})
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "image_size": 32}))
    with pytest.raises(BackboneError, match=r"position_embeddings 1x10x32 for 1x5x32"):
        backbones.load(f"hf:{tmp_path}")


def test_random_weights_come_from_the_seed_and_loading_draws_nothing(tmp_path: Path) -> None:
    saved(tmp_path, "ViTModel", "ViTConfig", **VIEW)
    ask: Callable[..., Backbone] = lambda **options: backbones.load(f"hf:{tmp_path}", **options)  # noqa: E731
    torch.manual_seed(1)
    untouched = torch.rand(1)
    torch.manual_seed(1)
    first, again, other = (ask(weights="random", seed=seed) for seed in (3, 3, 4))
    file = ask(weights=str(tmp_path / "model.safetensors"))
    assert torch.equal(torch.rand(1), untouched)
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert file.weights_sha256 == ask().weights_sha256
    assert file.weights_label == "model"


def test_drawing_that_is_left_out_ends_whatever_the_memory_holds() -> None:
    memory = torch.full((8,), 1e9)
    with _NoDraws():
        torch.nn.init.trunc_normal_(memory.normal_(), std=0.02)
    assert torch.equal(memory, torch.zeros(8))


# --- the hub's cache -----------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("FEATPROBE_OFFLINE", "1")
    return tmp_path / "hub"


def in_cache(cache: Path, name: str, commit: str = "c" * 40, **values: Any) -> Path:
    """A repository in the cache; its snapshot."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs").mkdir(exist_ok=True)
    saved(snapshot, "ViTModel", "ViTConfig", **{**VIEW, **values})
    return snapshot


def test_the_hubs_cache_is_found(cache: Path) -> None:
    name = "featprobe-tests/cached"
    in_cache(cache, name)
    info = backbones.describe(f"hf:{name}", deep=True)
    assert (info.name, info.family) == (f"hf:{name}", "huggingface")
    assert info.architecture.startswith(f"hf:{name}#")
    assert info.dims["cls"] == 32
    assert info.poolings[0] == "cls"
    assert [file.part for file in info.files] == ["", "config", "preprocessor"]
    assert backbones.load(f"hf:{name}").name == f"hf:{name}"


def test_a_weights_folder_serves_configuration_and_weights(cache: Path, tmp_path: Path) -> None:
    name = "featprobe-tests/bundled"
    in_cache(cache, name)
    info, kept = backbones.describe(f"hf:{name}"), tmp_path / "kept"
    bundle.add(info, locate_all(info, offline=True, announce=print), kept)
    before = backbones.load(f"hf:{name}").weights_sha256
    shutil.rmtree(cache)
    with pytest.raises(BackboneError, match="not on this machine"):
        backbones.load(f"hf:{name}")
    assert backbones.load(f"hf:{name}", weights_dir=kept).weights_sha256 == before


def test_two_revisions_are_two_architectures(cache: Path) -> None:
    name, commits = "featprobe-tests/revisions", ("a" * 40, "b" * 40)
    for commit, patch in zip(commits, (16, 8), strict=True):
        in_cache(cache, name, commit, patch_size=patch)
    infos = [backbones.describe(f"hf:{name}@{commit}") for commit in commits]
    assert infos[0].architecture != infos[1].architecture
    patches = [survey(info.architecture).patch for info in infos]
    assert patches == [16, 8]
    assert [file.places[0].revision for file in infos[0].files] == [commits[0]] * 3


def test_a_changed_configuration_changes_the_architecture(tmp_path: Path) -> None:
    saved(tmp_path, "ViTModel", "ViTConfig", **VIEW)
    before = backbones.describe(f"hf:{tmp_path}").architecture
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_act": "relu"}))
    assert backbones.describe(f"hf:{tmp_path}").architecture != before


def test_what_is_missing_offline_is_told_with_the_next_command(cache: Path) -> None:
    with pytest.raises(
        BackboneError, match=r"config\.json of hf:featprobe-tests/none .*backbones fetch hf:feat"
    ):
        backbones.load("hf:featprobe-tests/none")
    snapshot = in_cache(cache, "featprobe-tests/half")
    (snapshot / "model.safetensors").unlink()
    blobs = snapshot.parents[1] / "blobs"
    (snapshot / "model.safetensors").symlink_to(blobs / ("d" * 64))
    (blobs / f"{'d' * 64}.incomplete").write_bytes(b"half")
    with pytest.raises(BackboneError, match="links to a file that is not there"):
        backbones.load("hf:featprobe-tests/half")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match="is half a download"):
        backbones.load("hf:featprobe-tests/half")


def test_a_gated_repository_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import GatedRepoError

    class Answer:
        headers: ClassVar[dict[str, str]] = {}
        request = None

    def gated(*_: Any, **__: Any) -> None:
        raise GatedRepoError("gated", response=Answer())  # type: ignore[arg-type]

    del cache
    monkeypatch.delenv("FEATPROBE_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", gated)
    said: list[str] = []
    for name in ("hf:featprobe-tests/gated", "medsiglip"):
        with pytest.raises(BackboneError, match="gated"):
            backbones.load(name, announce=said.append)
    assert any("Health AI Developer Foundations" in line for line in said)


def test_folders_that_are_no_repository_are_told(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"lacks config\.json.*it holds nothing"):
        backbones.load(f"hf:{tmp_path}")
    with pytest.raises(BackboneError, match="is no folder"):
        backbones.load(f"hf:{tmp_path}/none")
    saved(tmp_path, "ViTModel", "ViTConfig", **VIEW)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.safetensors.index.json")
    with pytest.raises(BackboneError, match="is no index of weights in several files"):
        backbones.load(f"hf:{tmp_path}")


# --- registered names and the extra -------------------------------------------------------------------------------


def test_registered_names_are_known_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in BACKBONES.get("huggingface").names():
        info = backbones.describe(name)
        assert info.architecture.startswith(f"hf:{name}#")
        with pytest.raises(MissingExtraError, match=r"pip install 'featprobe\[huggingface\]'"):
            create(info.architecture)


@pytest.mark.parametrize(
    ("name", "parameters", "size"),
    [("rad_dino", 86_580_480, 518), ("phikon", 86_389_248, 224), ("medsiglip", 428_565_440, 448)],
)
def test_registered_names_are_what_they_say(name: str, parameters: int, size: int) -> None:
    info = backbones.describe(name)
    facts = survey(info.architecture)
    assert set(info.poolings) == set(facts.poolings)
    assert facts.image_size == info.rules["native"].image_size == (size, size)
    assert sum(torch.Size(shape).numel() for shape in facts.shapes.values()) == parameters
    assert bool(info.terms) == (name != "rad_dino")
