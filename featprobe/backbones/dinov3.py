"""DINOv3 under the names of its authors' hub and as their code runs it, rotary positions and class token included.

Simeoni et al., DINOv3, 2025 (arXiv 2508.10104). The weights are under their own licence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

from featprobe.backbones.core.create import creator
from featprobe.backbones.core.family import Curated
from featprobe.backbones.core.info import BackboneInfo, LoadRequest, Place, WeightsFile
from featprobe.backbones.core.rules import crop, with_common
from featprobe.registry import BACKBONES

if TYPE_CHECKING:
    import torch

    from featprobe.backbones.core.model import Backbone

TERMS: Final = (
    "these weights are under Meta's DINOv3 License, which whoever uses or passes them on accepts: read it at "
    "https://ai.meta.com/resources/models-and-libraries/dinov3-license/ (it forbids military and weapons uses, "
    "wants DINOv3 acknowledged in publications, and a copy of itself beside every copy of the weights); the "
    "authors' own files are gated, at https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"
)

# Name -> timm's architecture, width of an attention head, width of a token. The authors' ViTs have biases of queries and
# values, which timm keeps in the architectures called qkvb; the largest has none.
_VITS: Final = {
    "dinov3_vits16": ("vit_small_patch16_dinov3_qkvb", 64, 384),
    "dinov3_vits16plus": ("vit_small_plus_patch16_dinov3_qkvb", 64, 384),
    "dinov3_vitb16": ("vit_base_patch16_dinov3_qkvb", 64, 768),
    "dinov3_vitl16": ("vit_large_patch16_dinov3_qkvb", 64, 1024),
    "dinov3_vith16plus": ("vit_huge_plus_patch16_dinov3_qkvb", 64, 1280),
    "dinov3_vit7b16": ("vit_7b_patch16_dinov3", 128, 4096),
}
_CONVNEXTS: Final = {
    f"dinov3_convnext_{size}": f"convnext_{size}" for size in ("tiny", "small", "base", "large")
}
_FILES: Final = ("model.safetensors", "pytorch_model.bin")
_BIASES: Final = "_qkvb"
_DATA: Final = "lvd1689m"
_BASE: Final = 100.0
_PERIODS: Final = "rope.periods"

Tensors = dict[str, "torch.Tensor"]

# The authors' names and what timm calls the same tensors.
_VIT_NAMES: Final = (
    (r"^storage_tokens$", "reg_token"),
    (r"^rope_embed\.periods$", _PERIODS),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
_CONVNEXT_NAMES: Final = (
    (r"^norm\.", "head.norm."),
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.([1-3])\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"^", "trunk."),
)


class DinoV3(Curated):
    """`dinov3_vit*16*` and `dinov3_convnext_*`, on timm's architectures."""

    numerics = 2

    def names(self) -> tuple[str, ...]:
        """The names of the authors' hub whose architectures timm has."""
        return (*_VITS, *_CONVNEXTS)

    @property
    def signatures(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Name -> tensors of the authors' files that tell it apart; S+ goes before S, whose storage tokens it shares."""
        tells: dict[str, dict[str, tuple[int, ...]]] = {
            "dinov3_vits16plus": {"blocks.0.mlp.w1.weight": (1536, 384)}
        }
        return tells | {
            name: {"storage_tokens": (1, 4, width)}
            for name, (_, _, width) in _VITS.items()
            if name not in tells
        }

    def info(self, name: str) -> BackboneInfo:
        """See `Curated.info`."""
        vit = name in _VITS
        own = _timm_name(name)
        # Both of timm's conversions give the same features: the published biases are all zero.
        repositories = dict.fromkeys((own, own.replace(_BIASES, "")))
        places = tuple(Place(kind="hub", where=f"timm/{stored}", files=_FILES) for stored in repositories)
        return BackboneInfo(
            name=name,
            family="dinov3",
            architecture=f"dinov3:{own}",
            licence="DINOv3 License (Meta; its terms must be accepted)",
            citation="Simeoni et al., DINOv3, 2025 (arXiv 2508.10104)",
            weights_source=f"hub: timm/{own} (LVD-1689M, by Meta AI)",
            poolings=("cls", "mean", "cls+mean", "patches"),
            default_pooling="cls",
            rules=with_common(
                {"native": crop(256, 256) if vit else crop(224, 224), "authors": crop(256, 224)}
            ),
            default_rule="authors",
            notes=(() if vit else ("cls is the average over all places, after the final norm",)),
            files=(WeightsFile(places=places),),
            terms=TERMS,
        )

    def build(self, name: str, request: LoadRequest) -> Backbone:
        """The backbone with its weights; takes timm's files and the authors' own `.pth`."""
        from featprobe.backbones.core.assemble import Blueprint, assemble

        rename = partial(_vit_tensors, name=name) if name in _VITS else _convnext_tensors
        return assemble(Blueprint(info=self.describe(name), numerics=self.numerics, rename=rename), request)


def _timm_name(name: str) -> str:
    return f"{_VITS[name][0]}.{_DATA}" if name in _VITS else f"{_CONVNEXTS[name]}.dinov3_{_DATA}"


def periods(head: int) -> torch.Tensor:
    """Periods of the rotary positions of a head of `head` channels, float32 [head / 4].

    100^(i / (head / 4)) for i = 0, 1, ..., rounded to bfloat16: the published weights hold them so, and timm,
    which computes them anew in float32, gives slightly other features.
    """
    import torch

    exponents = 2 * torch.arange(head // 4, dtype=torch.float32) / (head // 2)
    return (_BASE**exponents).bfloat16().float()


def _vit_tensors(tensors: Tensors, *, name: str) -> Tensors:
    """The authors' or timm's `tensors` under the names of the model that `_create` builds."""
    import torch

    architecture, head, _ = _VITS[name]
    left_out = re.compile(r"mask_token|local_cls_norm\..*|.*\.bias_mask")
    renamed: Tensors = {}
    for key, tensor in tensors.items():
        if left_out.fullmatch(key):
            continue
        if key.endswith("attn.qkv.bias"):
            renamed |= _biases(key, tensor, tensors.get(f"{key}_mask"))
        else:
            renamed[_renamed(key, _VIT_NAMES)] = tensor
    renamed.setdefault(_PERIODS, periods(head))
    if architecture.endswith(_BIASES):
        for key in [key for key in renamed if key.endswith("attn.qkv.weight")]:
            layer = key.removesuffix("qkv.weight")
            for part in ("q_bias", "v_bias"):
                renamed.setdefault(f"{layer}{part}", torch.zeros(renamed[key].shape[1]))
    return renamed


def _biases(key: str, bias: torch.Tensor, mask: torch.Tensor | None) -> Tensors:
    """The biases of queries and values; that of keys is kept, to be found unexpected, where it is not masked."""
    layer = key.removesuffix("qkv.bias")
    queries, keys, values = (bias if mask is None else bias * mask).chunk(3)
    biases = {f"{layer}q_bias": queries.clone(), f"{layer}v_bias": values.clone()}
    return biases | ({f"{layer}k_bias": keys.clone()} if bool(keys.any()) else {})


def _convnext_tensors(tensors: Tensors) -> Tensors:
    # The authors' list of norms names the last one again.
    own = {
        key.removeprefix("trunk."): tensor for key, tensor in tensors.items() if not key.startswith("norms.")
    }
    authors = any(key.startswith("downsample_layers.") for key in own)
    return {_renamed(key, _CONVNEXT_NAMES if authors else _CONVNEXT_NAMES[-1:]): own[key] for key in own}


def _renamed(key: str, names: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in names:
        key = re.sub(pattern, replacement, key)
    return key


@creator("dinov3")
def _create(architecture: str) -> Any:
    """An architecture of timm with the authors' rotary periods in its state, or their ConvNeXt."""
    import timm

    model: Any = timm.create_model(architecture, pretrained=False, num_classes=0)
    if architecture.startswith("convnext"):
        return _convnext()(model)
    rounded = periods(4 * model.rope.periods.numel()).to(model.rope.periods.device)
    model.rope.register_buffer("periods", rounded, persistent=True)
    return model


@lru_cache(maxsize=1)
def _convnext() -> Any:
    import torch

    from featprobe.backbones.core.trunk import Trunk

    class ConvNeXt(Trunk):
        """The authors' view of a ConvNeXt: a class token, which is the average over all places, and the places."""

        num_prefix_tokens = 1
        has_class_token = True
        patch_size = 32

        def __init__(self, trunk: Any) -> None:
            super().__init__((3, 224, 224), fixed=False)
            self.trunk = trunk
            self.num_features = trunk.num_features

        def norm(self, tokens: torch.Tensor) -> torch.Tensor:
            """The final norm of tokens [B, N, D]."""
            norm = self.trunk.head.norm
            return torch.nn.functional.layer_norm(tokens, tokens.shape[-1:], norm.weight, norm.bias, norm.eps)

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            """[B, 1 + h * w, D] after the final norm."""
            cells = self.trunk.forward_features(images).flatten(2).transpose(1, 2)
            return self.norm(torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1))

        def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
            """The class token, [B, D]."""
            assert pre_logits
            return features[:, 0]

    return ConvNeXt


BACKBONES.register("dinov3")(DinoV3())
