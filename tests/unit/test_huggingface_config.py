"""preprocessor_config.json and config.json mean what transformers makes of them, or are refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from featprobe import backbones
from featprobe.backbones.core.hf_config import (
    _BY_TYPE,
    KINDS,
    PROCESSORS,
    TOWERS,
    Plan,
    kept,
    native,
    needs_own_code,
    plan_of,
    read_json,
)
from featprobe.errors import BackboneError
from featprobe.loading.inputs import preprocess
from featprobe.records import Preprocessing

# Stated bound of the parity with transformers' image processors on white noise, in 8-bit levels: torchvision's resize and
# Pillow's round on their own. Measured: at most 1.0 in any pixel, 0.009 on average; DINOv3's processor does not round
# at all after resizing, so that the rounding itself is left: 0.28 on average.
WORST, MEAN, UNROUNDED = 1.01, 0.02, 0.3
STATED = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "rescale_factor": 1 / 255}
FILES: dict[str, dict[str, Any]] = {
    "ViT": {"size": {"height": 32, "width": 48}, **STATED},
    "Bit": {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, **STATED},
    "CLIP": {"size": 32, "crop_size": 32, "resample": 2},
    "Siglip": {"size": {"height": 48, "width": 48}},
    "ConvNext": {"size": {"shortest_edge": 28}, "crop_pct": 0.875},
    "Beit": {"size": {"height": 32, "width": 32}, "do_normalize": False},
    "DINOv3ViT": {"size": {"height": 32, "width": 32}},
    "DeiT": {"size": {"height": 32, "width": 32}, "crop_size": {"height": 32, "width": 32}},
}


def rule(values: dict[str, Any], kind: str = "ViT", model_type: str = "vit") -> Preprocessing:
    named = {"image_processor_type": f"{kind}ImageProcessor"} if kind else {}
    return native({**named, **values}, model_type=model_type, name="hf:a/b")


@pytest.mark.parametrize("kind", FILES)
def test_inputs_are_those_of_transformers_image_processor(kind: str) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra huggingface is not installed")
    from featprobe.backbones.core.hf_trunk import library

    resolved = rule(FILES[kind], kind)
    rng = np.random.default_rng(0)
    # Even margins around the crop: at odd ones transformers rounds the corner down, torchvision to the nearest.
    for height, width in ((60, 80), (80, 120), (200, 160)):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        with library():
            processor = getattr(transformers, f"{kind}ImageProcessor")(**FILES[kind])
            theirs = processor(image, return_tensors="pt")["pixel_values"][0]
        ours = preprocess(image, resolved)
        assert ours.shape == theirs.shape
        levels = (ours - theirs).abs() * 255 * torch.tensor(resolved.std)[:, None, None]
        assert float(levels.max()) <= WORST
        assert float(levels.mean()) <= (UNROUNDED if kind == "DINOv3ViT" else MEAN)


def test_what_the_file_leaves_out_is_what_transformers_fills_in() -> None:
    transformers = pytest.importorskip("transformers", reason="the extra huggingface is not installed")
    automatic = transformers.models.auto

    for kind, values in PROCESSORS.items():
        own = getattr(transformers, f"{kind}ImageProcessor")
        for key in ("size", "resample", "image_mean", "image_std", "crop_pct"):
            expected = values.get(key)
            found = getattr(own, key, None)
            assert (tuple(found) if isinstance(found, list) else found) == expected, (kind, key)
        assert bool(getattr(own, "do_center_crop", False)) == bool(values.get("do_center_crop"))
        assert getattr(own, "default_to_square", True) == values["square"]
    for model_type, kind in _BY_TYPE.items():
        assert (
            automatic.image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES[model_type]["torchvision"]
            == f"{kind}ImageProcessor"
        )
    for model_type in {*KINDS, *TOWERS}:
        assert model_type in automatic.configuration_auto.CONFIG_MAPPING


def test_old_and_new_spellings_say_the_same() -> None:
    phikon = {
        "do_normalize": True,
        "do_resize": True,
        "size": 224,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    found = rule(phikon, kind="")
    assert (found.image_size, found.fit, found.resize, found.interpolation) == (
        (224, 224),
        "squash",
        None,
        "bilinear",
    )
    old = native({"feature_extractor_type": "CLIPFeatureExtractor", "size": 224}, model_type="clip", name="x")
    assert (old.fit, old.resize, old.image_size, old.interpolation) == ("crop", 224, (224, 224), "bicubic")
    fast = native({"image_processor_type": "BitImageProcessorFast"}, model_type="dinov2", name="x")
    assert old == fast
    assert native({"image_processor": phikon}, model_type="vit", name="x") == found
    large = rule({"size": {"shortest_edge": 384}}, "ConvNext")
    assert (large.fit, large.image_size) == ("squash", (384, 384))


def test_factor_and_statistics_become_those_of_values_up_to_one() -> None:
    assert rule({"rescale_factor": 0.00392156862}).mean == (0.5, 0.5, 0.5)
    doubled = rule({"rescale_factor": 2 / 255, "image_mean": 1.0, "image_std": 1.0})
    assert doubled.mean == pytest.approx((0.5,) * 3)
    assert doubled.std == pytest.approx((0.5,) * 3)
    raw = rule({"do_rescale": False, "image_mean": [51] * 3, "image_std": [255] * 3})
    assert raw.mean == pytest.approx((0.2,) * 3)
    assert raw.std == pytest.approx((1.0,) * 3)
    plain = rule({"do_normalize": False})
    assert (plain.mean, plain.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("values", "kind", "why"),
    [
        ({"do_resize": False}, "ViT", "does not resize"),
        ({"do_pad": True}, "ViT", "do_pad"),
        ({"do_something_new": True}, "ViT", "do_something_new"),
        ({"rescale_offset": True}, "ViT", "rescale_offset"),
        ({"resample": 9}, "ViT", "resample 9"),
        ({"size": {"longest_edge": 224}}, "ViT", "neither height and width"),
        ({"size": {"shortest_edge": 224, "longest_edge": 900}}, "Bit", "neither height and width"),
        ({"do_center_crop": False}, "Bit", "crops nothing"),
        ({"crop_size": {"height": 256, "width": 256}}, "Bit", "pads it to"),
        ({}, "DeiT", "then crops to"),
        ({"do_center_crop": True, "crop_size": 224}, "ConvNext", "crops twice"),
        ({"image_mean": [0.5]}, "ViT", "1 channels"),
        ({}, "LayoutLMv3", "'LayoutLMv3ImageProcessor' is unknown"),
        ({"image_processor_type": "CustomProcessor"}, "", "'CustomProcessor' is unknown"),
    ],
)
def test_what_cannot_be_said_is_refused(values: dict[str, Any], kind: str, why: str) -> None:
    with pytest.raises(BackboneError, match=f"preprocessing of hf:a/b can't be taken over.*{why}"):
        rule(values, kind)


def plan(config: dict[str, Any], **values: Any) -> Plan:
    return plan_of(config, name="hf:a/b", source="a/b", **values)


def test_an_architecture_belongs_to_one_configuration() -> None:
    base = {"model_type": "vit", "hidden_size": 32}
    names = {
        plan(base).architecture,
        plan({**base, "hidden_size": 64}).architecture,
        plan({**base, "model_type": "vit_msn"}).architecture,
        plan({**base, "architectures": ["ViTForImageClassification"]}).architecture,
        plan({**base, "architectures": ["ViTForImageClassification"], "id2label": {"0": "a"}}).architecture,
        plan(base, folder=Path("x"), code="1").architecture,
        plan(base, folder=Path("x"), code="2").architecture,
    }
    assert len(names) == 7
    idle = {**base, "transformers_version": "4.0", "torch_dtype": "float16", "architectures": ["ViTModel"]}
    assert plan(idle).architecture == plan(base).architecture
    with pytest.raises(BackboneError, match="was not read"):
        kept("a/b#0000")


def test_model_types_that_are_not_read_are_told_apart() -> None:
    assert (
        plan({"model_type": "siglip", "vision_config": {"hidden_size": 8}}).model_type
        == "siglip_vision_model"
    )
    with pytest.raises(BackboneError, match=r"model type 'bert', whose features.*known: beit, clip"):
        plan({"model_type": "bert"})
    with pytest.raises(BackboneError, match="did you mean convnextv2"):
        plan({"model_type": "convnextv22"})
    strange = {"model_type": "mine", "auto_map": {"AutoModel": "m.M"}}
    assert needs_own_code(strange)
    with pytest.raises(BackboneError, match="needs code that comes with it"):
        plan(strange)
    assert not needs_own_code({"model_type": "dinov2", "auto_map": {"AutoModel": "m.M"}})
    with pytest.raises(BackboneError, match="is quantised"):
        plan({"model_type": "vit", "quantization_config": {"bits": 4}})


@pytest.mark.parametrize("text", ['{"model_type": "vi', "[1]", "\udcff"])
def test_half_a_configuration_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BackboneError, match=r"config\.json of hf:a/b"):
        read_json(file, "hf:a/b")
    file.write_text(json.dumps({"model_type": "vit"}))
    assert read_json(file, "hf:a/b") == {"model_type": "vit"}


CODE = """
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

class StrangeConfig(PretrainedConfig):
    model_type = "strange"
    def __init__(self, hidden_size=8, patch_size=8, image_size=16, **other):
        super().__init__(**other)
        self.hidden_size, self.patch_size, self.image_size = hidden_size, patch_size, image_size

class StrangeModel(PreTrainedModel):
    config_class = StrangeConfig
    def __init__(self, config):
        super().__init__(config)
        self.patches = nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size)
        self.post_init()
    def forward(self, pixel_values):
        return BaseModelOutput(last_hidden_state=self.patches(pixel_values).flatten(2).transpose(1, 2))
"""


def test_code_of_strangers_runs_only_where_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    pytest.importorskip("transformers", reason="the extra huggingface is not installed")
    from featprobe.backbones.core.hf_trunk import library

    with library() as transformers:
        monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "strange"
    folder.mkdir()
    names = {"AutoConfig": "strange.StrangeConfig", "AutoModel": "strange.StrangeModel"}
    config = {"model_type": "strange", "hidden_size": 8, "patch_size": 8, "image_size": 16, "auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    processor = {"image_processor_type": "ViTImageProcessor", "size": 16}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    save_file(
        {"patches.weight": torch.randn(8, 3, 8, 8), "patches.bias": torch.zeros(8)},
        folder / "model.safetensors",
    )
    with pytest.raises(BackboneError, match=r"needs code that comes with it.*remote_code=True"):
        backbones.load(f"hf:{folder}")
    with pytest.raises(BackboneError, match=r"strange\.py is not in"):
        backbones.load(f"hf:{folder}", remote_code=True)
    (folder / "strange.py").write_text(CODE)
    said: list[str] = []
    backbone = backbones.load(f"hf:{folder}", remote_code=True, announce=said.append)
    assert any("runs code that came with it" in line and "strange.py" in line for line in said)
    with torch.no_grad():
        assert backbone(torch.zeros(3, 3, 16, 16), ("pre_logits",))["pre_logits"].shape == (3, 8)
    assert backbone.info.default_pooling == "pre_logits"
    assert backbones.describe(f"hf:{folder}").architecture == backbone.info.architecture
    with pytest.raises(BackboneError, match="needs code"):
        backbones.load(f"hf:{folder}")
