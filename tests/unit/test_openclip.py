"""Image towers of open_clip: what they compute is what `encode_image` returns, and what is said of them is true."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from featprobe import backbones
from featprobe.backbones.core.create import create
from featprobe.backbones.core.features import Layout, embed, layout_of
from featprobe.backbones.core.survey import survey
from featprobe.backbones.openclip import image_tower
from featprobe.backbones.openclip_towers import _BIOMEDCLIP_CONFIG
from featprobe.errors import BackboneError, MissingExtraError
from featprobe.registry import BACKBONES

open_clip = pytest.importorskip("open_clip", reason="the extra openclip is not installed")

BOUND = 1e-6
TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
TINY = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
# Small relatives of each kind of tower, and the vision configurations of SigLIP and BiomedCLIP themselves.
CONFIGS: dict[str, dict[str, Any]] = {
    "fp-clip": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": TINY},
    "fp-clipa": {
        "embed_dim": 24,
        "vision_cfg": {**TINY, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
    },
    "fp-coca": {
        "embed_dim": 24,
        "vision_cfg": {**TINY, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "multimodal_cfg": {"context_length": 7, "vocab_size": 16, "width": 24, "heads": 2, "layers": 1},
    },
    "fp-resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    },
    "fp-convnext": {
        "embed_dim": 24,
        "vision_cfg": {
            "timm_model_name": "convnext_atto",
            "timm_pool": "",
            "timm_proj": "mlp",
            "image_size": 64,
        },
    },
    "fp-pe": {
        "embed_dim": 24,
        "vision_cfg": {
            "timm_model_name": "vit_pe_core_tiny_patch16_384",
            "timm_pool": "map",
            "timm_proj": None,
            "image_size": 384,
        },
    },
    "fp-siglip": {
        "embed_dim": 768,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_siglip_224",
            "timm_pool": "map",
            "timm_proj": "none",
            "image_size": 224,
        },
    },
    "fp-biomedclip": _BIOMEDCLIP_CONFIG,
}
ENTRIES = [name for name in BACKBONES.get("openclip").names() if name != "biomedclip"]
SMALL_PAIR = "openclip:PE-Core-T-16-384/meta"


@pytest.fixture(scope="module", autouse=True)
def _configs(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        custom = name not in {"fp-clip", "fp-clipa", "fp-resnet"}
        whole = {**config, "text_cfg": TEXT, **({"custom_text": True} if custom else {})}
        (folder / f"{name}.json").write_text(json.dumps(whole), encoding="utf-8")
    open_clip.add_model_config(folder)


def pair_of_models(name: str, architecture: str = "") -> tuple[Any, Any]:
    """open_clip's whole model, and the tower with its weights."""
    torch.manual_seed(5)
    whole = open_clip.create_model(name, pretrained=None).eval()
    tower = create(f"openclip:{architecture or name}")
    state = {key: value for key, value in whole.state_dict().items() if key.startswith("visual.")}
    tower.load_state_dict(state, strict=True)
    return whole, tower


def images_for(tower: Any, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *tower.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(1))


def pooled(tower: Any, images: torch.Tensor, *keys: str) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        layout: Layout = layout_of(tower, tower.forward_features(images))
        return embed(tower, layout, images, keys)


def assert_equal(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).norm() <= BOUND * wanted.norm()
    assert wanted.norm() > 0


@pytest.mark.parametrize("name", [*CONFIGS, "ViT-B-32-quickgelu"])
def test_pre_logits_are_what_encode_image_returns(name: str) -> None:
    architecture = "biomedclip" if name == "fp-biomedclip" else name
    whole, tower = pair_of_models(name, architecture)
    images = images_for(tower)
    with torch.inference_mode():
        wanted = whole.encode_image(images, normalize=False)
    assert_equal(pooled(tower, images, "pre_logits")["pre_logits"], wanted)


@pytest.mark.parametrize("name", ["fp-clip", "fp-pe", "ViT-B-32-quickgelu"])
def test_tokens_are_open_clips_after_the_final_norm(name: str) -> None:
    whole, tower = pair_of_models(name)
    images = images_for(tower)
    with torch.inference_mode():
        layers = whole.visual.forward_intermediates(
            images,
            indices=2,
            normalize_intermediates=True,
            intermediates_only=True,
            output_extra_tokens=True,
            output_fmt="NLC",
        )
    tokens, prefixes = layers["image_intermediates"], layers["image_intermediates_prefix"]
    found = pooled(tower, images, "cls", "mean", "cls+mean", "patches", "last2/cls", "last2/cls+mean")
    both = torch.cat([prefix[:, 0] for prefix in prefixes], dim=1)
    mean = tokens[-1].mean(dim=1)
    assert_equal(found["cls"], prefixes[-1][:, 0])
    assert_equal(found["mean"], mean)
    assert_equal(found["cls+mean"], torch.cat([prefixes[-1][:, 0], mean], dim=1))
    assert_equal(found["patches"].flatten(1, 2), tokens[-1])
    assert_equal(found["last2/cls"], both)
    assert_equal(found["last2/cls+mean"], torch.cat([both, mean], dim=1))


def test_a_tower_that_normalises_after_averaging_offers_no_class_token() -> None:
    whole, tower = pair_of_models("fp-clipa")
    images = images_for(tower)
    assert survey("openclip:fp-clipa").poolings == ("mean", "pre_logits", "patches")
    found = pooled(tower, images, "mean", "pre_logits")
    with torch.inference_mode():
        assert_equal(found["mean"] @ whole.visual.proj, found["pre_logits"])


def test_maps_and_whole_vectors() -> None:
    whole, tower = pair_of_models("fp-resnet")
    images = images_for(tower)
    with torch.inference_mode():
        layers = whole.visual.forward_intermediates(images, indices=1, intermediates_only=True)
    assert_equal(pooled(tower, images, "gap")["gap"], layers["image_intermediates"][-1].mean(dim=(2, 3)))
    assert survey("openclip:fp-resnet").layers == tuple(f"visual.layer{number}" for number in range(1, 5))
    assert not survey("openclip:fp-resnet").resizable
    assert survey("openclip:fp-coca").poolings == ("pre_logits",)
    assert survey("openclip:fp-convnext").layers[0] == "visual.trunk.stages.0"


@pytest.mark.parametrize("side", [16, 56])
def test_positions_are_resampled_as_open_clip_does(side: int) -> None:
    whole, tower = pair_of_models("fp-clip")
    sized = open_clip.create_model("fp-clip", pretrained=None, force_image_size=side).eval()
    state = whole.state_dict()
    open_clip.model.resize_pos_embed(state, sized)
    sized.load_state_dict(state)
    tower.set_input_size(img_size=(side, side))
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        wanted = sized.encode_image(images, normalize=False)
    assert_equal(pooled(tower, images, "pre_logits")["pre_logits"], wanted)


def test_sizes_leave_no_trace() -> None:
    backbone = backbones.load(SMALL_PAIR, weights="random", image_size=64)
    images = torch.randn(1, 3, 64, 64)
    first = backbone(images, ("cls",))["cls"]
    backbone.set_image_size((96, 96))
    assert torch.equal(backbone(images, ("cls",))["cls"], first)


def test_the_activation_is_that_of_the_weights() -> None:
    assert backbones.describe("clip_vitb32").architecture == "openclip:ViT-B-32-quickgelu"
    for pair, built in (
        ("ViT-B-32/openai", "ViT-B-32-quickgelu"),
        ("ViT-B-32-quickgelu/openai", "ViT-B-32-quickgelu"),
        ("ViT-B-32/laion2b_s34b_b79k", "ViT-B-32"),
        ("roberta-ViT-B-32/laion2b_s12b_b32k", "roberta-ViT-B-32"),
    ):
        assert backbones.describe(f"openclip:{pair}").architecture == f"openclip:{built}"
    with torch.device("meta"):
        quick, plain = create("openclip:ViT-B-32-quickgelu"), create("openclip:ViT-B-32")
    assert type(quick.blocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert type(plain.blocks[0].mlp.gelu).__name__ == "GELU"


def test_every_tag_is_built_with_an_architecture_that_exists() -> None:
    for arch, tag in open_clip.list_pretrained():
        config = open_clip.pretrained.get_pretrained_cfg(arch, tag)
        built = arch if arch.endswith("-quickgelu") or not config.get("quick_gelu") else f"{arch}-quickgelu"
        found = open_clip.get_model_config(built)
        assert found is not None, built
        assert found.get("quick_gelu", False) or not config.get("quick_gelu"), built


@pytest.mark.parametrize("name", ENTRIES)
def test_a_registered_name_says_what_open_clips_list_says(name: str) -> None:
    family = BACKBONES.get("openclip")
    entry = backbones.describe(name)
    pair = {"clip": "openai", "sigl": "webli"}[name[:4]]
    arch = entry.architecture.removeprefix("openclip:").removesuffix("-quickgelu")
    listed = family.describe(f"{arch}/{pair}")
    for field in ("architecture", "licence", "citation", "weights_source", "default_pooling", "files"):
        assert getattr(entry, field) == getattr(listed, field), field
    assert set(entry.poolings) == set(listed.poolings)
    assert entry.rules["native"] == listed.rules["native"]
    facts = survey(entry.architecture)
    tells = family.signatures[name]
    assert all(facts.shapes[tensor] == shape for tensor, shape in tells.items())


def test_biomedclip_is_what_its_repository_says() -> None:
    info = backbones.describe("biomedclip", deep=True)
    assert info.files[0].places[0].where == "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
    assert info.dims["pre_logits"] == 512
    assert info.dims["cls"] == 768
    assert info.rules["native"].label == "resize224-crop224-bicubic"
    assert info.rules["native"].mean == open_clip.OPENAI_DATASET_MEAN
    assert survey(info.architecture).shapes["visual.head.proj.weight"] == (512, 768)


def test_where_the_weights_are_had() -> None:
    def places(pair: str) -> list[tuple[str, ...]]:
        found = backbones.describe(f"openclip:{pair}").files[0].places
        return [(place.kind, place.where, *place.files, place.sha256) for place in found]

    hub = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    # OpenAI's own file is a program.
    assert places("ViT-B-32/openai") == [("hub", "timm/vit_base_patch32_clip_224.openai", *hub, "")]
    address = "https://github.com/mlfoundations/open_clip/releases/download/v0.2-weights/"
    assert places("RN50/yfcc15m")[1] == ("url", f"{address}rn50-quickgelu-yfcc15m-455df137.pt", "455df137")
    named = ("pytorch_model.safetensors", "pytorch_model.bin")
    assert places("ViTamin-S/datacomp1b") == [("hub", "jienengchen/ViTamin-S", *named, "")]
    assert backbones.describe("openclip:RN50/yfcc15m").files[0].places[1].folder == "clip"


@pytest.fixture(scope="module")
def small() -> Any:
    return backbones.load(SMALL_PAIR, weights="random", seed=4, image_size=64)


def file_of(kind: str, small: Any, folder: Path) -> Path:
    small.set_image_size((384, 384))
    state = {name: value.clone() for name, value in small.model.state_dict().items()}
    text = {f"text.transformer.resblocks.{n}.ln_1.weight": torch.zeros(3) for n in range(12)}
    whole = {**text, **state, "logit_scale": torch.zeros(())}
    content: Any = {
        "whole": whole,
        "tower": {name.removeprefix("visual."): value for name, value in state.items()},
        "training": {
            "epoch": 3,
            "name": "run",
            "state_dict": {f"module.{name}": value for name, value in whole.items()},
        },
    }[kind]
    torch.save(content, folder / "weights.pt")
    return folder / "weights.pt"


@pytest.mark.parametrize("kind", ["whole", "tower", "training"])
def test_files_of_whole_models_and_of_towers_fit(kind: str, small: Any, tmp_path: Path) -> None:
    loaded = backbones.load(SMALL_PAIR, weights=str(file_of(kind, small, tmp_path)), image_size=64)
    images = torch.randn(2, 3, 64, 64)
    assert loaded.missing == ()
    assert loaded.unexpected == ()
    for pooling in ("cls", "pre_logits"):
        assert torch.equal(loaded(images, (pooling,))[pooling], small(images, (pooling,))[pooling])
    assert any("text tower" in note for note in loaded.notes)


def test_another_networks_file_is_refused_under_its_own_names(tmp_path: Path) -> None:
    foreign = {f"layer{n}.0.conv1.weight": torch.zeros(4, 4) for n in range(1, 8)}
    torch.save(foreign, tmp_path / "foreign.pt")
    with pytest.raises(BackboneError, match=r"another architecture \(layer1"):
        backbones.load(SMALL_PAIR, weights=str(tmp_path / "foreign.pt"))
    assert image_tower(foreign, wanted=["visual.conv1.weight"]) == foreign


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    survey.cache_clear()
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for name in BACKBONES.get("openclip").names():
        assert backbones.describe(name).family == "openclip"
    asked: tuple[Any, ...] = (
        lambda: backbones.describe("clip_vitb32", deep=True),
        lambda: backbones.describe("openclip:ViT-B-32/openai"),
        lambda: backbones.load("biomedclip", weights="random"),
    )
    for ask in asked:
        with pytest.raises(MissingExtraError, match=r"open_clip_torch.*featprobe\[openclip\]"):
            ask()
    assert not BACKBONES.get("openclip").accepts("someone/else")


def test_unknown_names_are_told_the_nearest() -> None:
    with pytest.raises(BackboneError, match="openclip:ViT-B-32/openai"):
        backbones.resolve("openclip:ViT-B-32/openia")
    with pytest.raises(BackboneError, match="no architecture 'ViT-B-99'"):
        create("openclip:ViT-B-99")


def test_listing_backbones_loads_neither_open_clip_nor_torch() -> None:
    code = (
        "import sys; from featprobe import backbones; backbones.list_backbones();"
        "print(sorted({'torch', 'open_clip', 'torchxrayvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
