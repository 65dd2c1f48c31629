"""What a Hugging Face repository says of its vision encoder: what to build, and its preprocessing as numbers.

Read from config.json and preprocessor_config.json alone; importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from featprobe.backbones.core.rules import HALF, IMAGENET_MEAN, IMAGENET_STD
from featprobe.errors import BackboneError, nearest
from featprobe.records import Preprocessing
from featprobe.records.values import canonical_json, sha256_json

PREFIX: Final = "hf"

Json = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How one of transformers' model types is read.

    `tokens`: [B, N, D] come out, else a map. `extra`: class and distillation tokens before the patches, to which
    the configuration's register tokens come. `pooled`: what the model hands out as the image's representation:
    "cls", "mean", or the name of its pooling layer. `logits`: what its classifier reads, "" where it has none that
    is read here. `late_norm`: its last hidden state is before the final norm. `sizes`: other image sizes are taken
    "asked" (positions are interpolated where it is asked for), "always", "rotary", "any" (a network without
    positions) or not at all (""). `built_as`: the type whose network it is without what only training needs.
    """

    tokens: bool = True
    extra: int = 1
    pooled: str = "cls"
    logits: str = ""
    late_norm: bool = False
    sizes: str = "asked"
    built_as: str = ""


_MAP: Final = Kind(tokens=False, extra=0, pooled="mean", logits="pooled", sizes="any")
_NORMED_MAP: Final = dataclasses.replace(_MAP, pooled="layernorm")
_DINOV2: Final = Kind(logits="cls+mean", sizes="always")
KINDS: Final = {
    "beit": Kind(pooled="pooler", logits="pooled", sizes=""),
    "clip_vision_model": Kind(late_norm=True),
    "convnext": _NORMED_MAP,
    "convnextv2": _NORMED_MAP,
    "deit": Kind(extra=2, pooled="pooler", logits="cls"),
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
    "dinov3_vit": Kind(sizes="rotary"),
    "ijepa": Kind(extra=0, pooled="mean"),
    "regnet": _MAP,
    "resnet": _MAP,
    "siglip_vision_model": Kind(extra=0, pooled="head", logits="mean"),
    "swin": dataclasses.replace(_MAP, sizes=""),
    "vit": Kind(pooled="pooler", logits="cls"),
    # Its own class shuffles the patches and hides three of four, which is meant for training alone.
    "vit_mae": Kind(built_as="vit"),
    "vit_msn": Kind(logits="cls"),
}
# Models of image and text: the type of their image tower.
TOWERS: Final = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}

# What a configuration holds and no weight or feature depends on.
_IDLE: Final = frozenset(
    {
        *("architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path", "auto_map"),
        *(
            "id2label",
            "label2id",
            "num_labels",
            "problem_type",
            "return_dict",
            "use_return_dict",
            "torchscript",
        ),
        *("output_attentions", "output_hidden_states", "_attn_implementation", "attn_implementation"),
        *("_commit_hash", "model_type"),
    }
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An encoder to be built.

    `source` names it; `config`: its canonical JSON; `labels`: classes of its classifier, 0 without one. `folder`,
    `code`: where code of its own lies and the SHA-256 of it, None and "" without.
    """

    source: str
    model_type: str
    config: str
    labels: int = 0
    folder: Path | None = None
    code: str = ""

    @property
    def architecture(self) -> str:
        """Its name for `create`, which no other configuration shares."""
        digest = sha256_json([self.model_type, self.config, self.labels, self.code])
        return f"{PREFIX}:{self.source}#{digest[:16]}"

    @property
    def kind(self) -> Kind | None:
        """How it is read, None where that is for its own code to say."""
        return KINDS.get(self.model_type) if self.folder is None else None


_PLANS: Final[dict[str, Plan]] = {}


def keep(plan: Plan) -> Plan:
    """Remember `plan` in this process under its architecture, so that it can be built by name."""
    _PLANS[plan.architecture.removeprefix(f"{PREFIX}:")] = plan
    return plan


def kept(rest: str) -> Plan:
    """The plan of the architecture hf:`rest`; BackboneError where its configuration was not read in this process."""
    if rest not in _PLANS:
        raise BackboneError(
            f"the configuration of the architecture hf:{rest} was not read",
            "it is read when its backbone is described or loaded",
            f"load hf:{rest.partition('#')[0]} first",
        )
    return _PLANS[rest]


def read_json(path: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file; BackboneError where it is none, such as half a download."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"{path.name} of {name} can't be read",
            f"{path}: {error}",
            "copy or download the file again",
        ) from error
    if not isinstance(content, dict):
        raise BackboneError(
            f"{path.name} of {name} is no JSON object", str(path), "copy or download it again"
        )
    return content


def plan_of(config: Json, *, name: str, source: str, folder: Path | None = None, code: str = "") -> Plan:
    """What config.json says is to be built: of a model of image and text the image tower alone.

    `folder`, `code`: of the repository's own code, where it may run and is there. BackboneError for a model type
    that featprobe can't read, and for quantised weights.
    """
    declared = str(config.get("model_type", ""))
    if config.get("quantization_config"):
        raise BackboneError(
            f"{name} is quantised",
            "its config.json has a quantization_config, and features are compared in float32",
            "name the repository that it was made of",
        )
    inner: Json = config
    if declared in TOWERS:
        inner = config.get("vision_config") or {}
        declared = TOWERS[declared]
    if folder is None and declared not in KINDS:
        raise _unreadable(name, declared, config)
    plain = {key: value for key, value in inner.items() if key not in _IDLE}
    return Plan(
        source=source,
        model_type=declared,
        config=canonical_json(plain),
        labels=_labels(config, KINDS.get(declared)),
        folder=folder,
        code=code,
    )


def needs_own_code(config: Json) -> bool:
    """Whether the model type is unknown here and the repository brings code for it (`auto_map`)."""
    declared = str(config.get("model_type", ""))
    return bool(config.get("auto_map")) and TOWERS.get(declared, declared) not in KINDS


def _unreadable(name: str, declared: str, config: Json) -> BackboneError:
    known = f"known: {', '.join(sorted({*KINDS, *TOWERS}))}"
    if config.get("auto_map"):
        return BackboneError(
            f"{name} needs code that comes with it: its model type {declared!r} is unknown here",
            f"running it would run a stranger's program; {known}",
            "where you trust its authors, read the code and allow it with remote_code=True",
        )
    hint = nearest(declared, KINDS)
    return BackboneError(
        f"{name} has the model type {declared!r}, whose features featprobe can't read",
        f"{hint}; {known}" if hint else known,
        "see featprobe backbones ls for the same network from timm or open_clip",
    )


def _labels(config: Json, kind: Kind | None) -> int:
    named = config.get("architectures") or [""]
    if kind is None or not kind.logits or not str(named[0]).endswith("ForImageClassification"):
        return 0
    names = config.get("id2label")
    return len(names) if names else int(config.get("num_labels", 2))


# --- preprocessing -------------------------------------------------------------------------------------------------

_INTERPOLATIONS: Final = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's number
_CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
_SQUARE: Final = {"height": 224, "width": 224}
_CROPPED: Final = {
    "size": {"shortest_edge": 224},
    "crop_size": _SQUARE,
    "do_center_crop": True,
    "resample": 3,
    "image_mean": _CLIP_MEAN,
    "image_std": _CLIP_STD,
    "square": False,
}
_HALF: Final = {"image_mean": HALF, "image_std": HALF, "size": _SQUARE, "square": True}

PROCESSORS: Final[dict[str, Json]] = {
    "Beit": {**_HALF, "resample": 3, "crop_size": _SQUARE},
    "Bit": _CROPPED,
    "CLIP": _CROPPED,
    "ConvNext": {
        **_HALF,
        "resample": 3,
        "size": {"shortest_edge": 384},
        "square": False,
        "crop_pct": 224 / 256,
        "cuts": True,
    },
    "DeiT": {
        **_HALF,
        "resample": 3,
        "size": {"height": 256, "width": 256},
        "crop_size": _SQUARE,
        "do_center_crop": True,
    },
    "DINOv3ViT": {**_HALF, "resample": 2, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
    "Siglip": {**_HALF, "resample": 3, "square": False},
    "ViT": {**_HALF, "resample": 2},
}
"""Image processors of transformers and what they do where the file is silent; `square`: a size of one number is both
sides, else the shorter one; `cuts`: the resize itself enlarges by 1 / crop_pct and crops."""

_BY_TYPE: Final = {
    **dict.fromkeys(("vit", "vit_mae", "vit_msn", "ijepa", "swin"), "ViT"),
    **dict.fromkeys(("convnext", "convnextv2", "resnet", "regnet"), "ConvNext"),
    "dinov2": "Bit",
    "deit": "DeiT",
    "beit": "Beit",
    "dinov3_vit": "DINOv3ViT",
    "siglip": "Siglip",
    "clip": "CLIP",
}
"""Model type -> the image processor that transformers takes where the file names none."""

_ENDINGS: Final = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")
_STEPS: Final = frozenset(
    # Labels of segmentation maps are nothing that an image goes through.
    {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_reduce_labels"}
)
_LARGE: Final = 384  # from this side on, ConvNeXt's processor squashes instead of cropping


def native(content: Json, *, model_type: str, name: str) -> Preprocessing:
    """preprocessor_config.json (or processor_config.json) as numbers; `model_type`: of config.json.

    BackboneError for what a `Preprocessing` can't say; nothing is guessed.
    """
    given: Json = content.get("image_processor") or content
    stated = _filled(given, model_type, name)
    steps = {key for key, value in stated.items() if key.startswith("do_") and value}
    foreign = sorted(steps - _STEPS) or [key for key in ("rescale_offset",) if stated.get(key)]
    if foreign:
        raise _refused(name, f"{foreign[0]} is asked for")
    if not stated.get("do_resize", True):
        raise _refused(name, "it does not resize (do_resize is false), so its inputs have no one size")
    mean, std = _statistics(stated, name)
    code = stated["resample"]
    if not isinstance(code, int) or not 0 <= code < len(_INTERPOLATIONS):
        raise _refused(name, f"its resample {code!r} is none of Pillow's")
    image_size, resize = _geometry(stated, name)
    return Preprocessing(
        image_size=image_size,
        fit="squash" if resize is None else "crop",
        resize=resize,
        interpolation=_INTERPOLATIONS[code],
        mean=mean,
        std=std,
    )


def _filled(given: Json, model_type: str, name: str) -> dict[str, Any]:
    named = str(given.get("image_processor_type") or given.get("feature_extractor_type") or "")
    short = next((named.removesuffix(end) for end in _ENDINGS if named.endswith(end)), named)
    kind = short or _BY_TYPE.get(model_type, "")
    if kind not in PROCESSORS:
        known = f"known: {', '.join(sorted(PROCESSORS))}"
        raise _refused(name, f"its image processor {named or 'has no name'!r} is unknown ({known})")
    return {**PROCESSORS[kind], **{key: value for key, value in given.items() if value is not None}}


def _geometry(stated: Json, name: str) -> tuple[tuple[int, int], int | None]:
    """((height, width) of the input, the shorter side before the crop or None where both sides are scaled)."""
    size = _sides(stated["size"], square=bool(stated["square"]))
    crop = _sides(stated.get("crop_size"), square=True) if stated.get("do_center_crop") else None
    if stated.get("do_center_crop") and (crop is None or isinstance(crop, int)):
        raise _refused(name, f"its crop_size {stated.get('crop_size')!r} is no height and width")
    if size is None:
        raise _refused(name, f"its size {stated['size']!r} is neither height and width nor a shorter side")
    if isinstance(size, tuple):
        if crop not in {None, size}:
            raise _refused(name, f"it scales both sides to {size} and then crops to {crop}")
        return size, None
    if stated.get("cuts"):
        if crop is not None:
            raise _refused(name, "it crops twice")
        return ((size, size), None) if size >= _LARGE else ((size, size), int(size / stated["crop_pct"]))
    if not isinstance(crop, tuple):
        raise _refused(
            name, f"it scales the shorter side to {size} and crops nothing, so its inputs have no one size"
        )
    if size < max(crop):
        raise _refused(name, f"it scales the shorter side to {size} and pads it to {crop} with black")
    return crop, size


def _sides(size: Any, *, square: bool) -> tuple[int, int] | int | None:
    """(height, width), or the shorter side; None for what is neither."""
    if isinstance(size, int):
        return (size, size) if square else size
    if isinstance(size, Mapping):
        named = {key: value for key, value in size.items() if value is not None}
        if set(named) == {"height", "width"}:
            return int(named["height"]), int(named["width"])
        if set(named) == {"shortest_edge"}:
            return int(named["shortest_edge"])
    return None


def _statistics(stated: Json, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of values in [0, 1], whatever factor the processor brings 8-bit values to."""
    factor = 1.0 if not stated.get("do_rescale", True) else float(stated.get("rescale_factor", 1 / 255))
    unit = 255 * factor
    if abs(unit - 1) < 1e-6:  # 0.00392156862 and the like mean 1/255
        unit = 1.0
    if not stated.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1 / unit,) * 3
    values = []
    for key in ("image_mean", "image_std"):
        value = stated[key]
        numbers = (float(value),) * 3 if isinstance(value, (int, float)) else tuple(map(float, value))
        if len(numbers) != len(HALF):
            raise _refused(name, f"its {key} has {len(numbers)} channels, and featprobe feeds RGB")
        values.append(tuple(number / unit for number in numbers))
    return values[0], values[1]


def _refused(name: str, why: str) -> BackboneError:
    return BackboneError(
        f"the preprocessing of {name} can't be taken over",
        why,
        "open an issue with its preprocessor_config.json, or take the same network from timm",
    )
