"""DINOv3 under the names of its authors' hub, so that a study can be written in the words of the paper.

Simeoni et al., DINOv3, 2025 (arXiv 2508.10104). The weights are under their own licence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from featprobe.backbones.core.info import MAP_POOLINGS, BackboneInfo, LoadRequest
from featprobe.backbones.core.rules import crop, with_common
from featprobe.registry import BACKBONES

if TYPE_CHECKING:
    from featprobe.backbones.core.model import Backbone

_VITS: Final = {
    "dinov3_vits16": ("vit_small_patch16_dinov3", 384),
    "dinov3_vits16plus": ("vit_small_plus_patch16_dinov3", 384),
    "dinov3_vitb16": ("vit_base_patch16_dinov3", 768),
    "dinov3_vitl16": ("vit_large_patch16_dinov3", 1024),
    "dinov3_vith16plus": ("vit_huge_plus_patch16_dinov3", 1280),
    "dinov3_vit7b16": ("vit_7b_patch16_dinov3", 4096),
}
_CONVNEXTS: Final = {
    f"dinov3_convnext_{size}": f"convnext_{size}.dinov3_lvd1689m"
    for size in ("tiny", "small", "base", "large")
}


class DinoV3:
    """`dinov3_vit*16*` and `dinov3_convnext_*`, on timm's architectures."""

    numerics = 1

    def names(self) -> tuple[str, ...]:
        """The names of the authors' hub whose architectures timm has."""
        return (*_VITS, *_CONVNEXTS)

    def accepts(self, name: str) -> bool:
        """Whether `name` is one of them."""
        return name in self.names()

    def candidates(self) -> Iterable[str]:
        """Every name that an error may suggest."""
        return self.names()

    def describe(self, name: str, *, deep: bool = False) -> BackboneInfo:
        """What is known about `name`; `deep` adds parameters and dims."""
        vit = name in _VITS
        architecture = f"{_VITS[name][0]}.lvd1689m" if vit else _CONVNEXTS[name]
        native = crop(256, 256) if vit else crop(224, 224)
        info = BackboneInfo(
            name=name,
            family="dinov3",
            architecture=architecture,
            licence="DINOv3 License (Meta; its terms must be accepted)",
            citation="Simeoni et al., DINOv3, 2025 (arXiv 2508.10104)",
            weights_source=f"hub: timm/{architecture} (LVD-1689M, by Meta AI)",
            poolings=("cls", "mean", "cls+mean") if vit else MAP_POOLINGS,
            default_pooling="cls" if vit else "gap",
            rules=with_common({"native": native, "authors": crop(256, 224)}),
            default_rule="authors",
        )
        if not deep:
            return info
        from featprobe.backbones.core.assemble import deepened

        return dataclasses.replace(info, **deepened(info))

    def build(self, name: str, request: LoadRequest) -> Backbone:
        """The backbone with its weights."""
        from featprobe.backbones.core.assemble import Blueprint, assemble

        return assemble(Blueprint(info=self.describe(name), numerics=self.numerics), request)


BACKBONES.register("dinov3")(DinoV3())
