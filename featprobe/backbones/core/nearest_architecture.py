"""Which architecture a checkpoint is probably of, so that an error about weights can name the right one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import torch

from featprobe.backbones.core.create import create
from featprobe.registry import BACKBONES

Shapes = Mapping[str, tuple[int, ...]]

# Building an architecture without memory takes up to a second, so only those are built whose telling tensors
# are in the file, the most telling first.
_BUILT: Final = 4
_LEAST: Final = 0.5

# Width, blocks, patch, positions.
_VITS: Final = {
    "vit_tiny_patch16_224": (192, 12, 16, 197),
    "vit_small_patch16_224": (384, 12, 16, 197),
    "vit_small_patch32_224": (384, 12, 32, 50),
    "vit_base_patch16_224": (768, 12, 16, 197),
    "vit_base_patch32_224": (768, 12, 32, 50),
    "vit_base_patch16_384": (768, 12, 16, 577),
    "vit_base_patch8_224": (768, 12, 8, 785),
    "vit_large_patch16_224": (1024, 24, 16, 197),
    "vit_large_patch16_384": (1024, 24, 16, 577),
    "vit_large_patch14_224": (1024, 24, 14, 257),
    "vit_huge_patch14_224": (1280, 32, 14, 257),
}
# Last block of the third stage, its convolutions, the shape of the last one. The deepest stands first: it holds
# all that tells the others.
_RESNETS: Final = {
    "resnet152": (35, 3, (1024, 256, 1, 1)),
    "resnet101": (22, 3, (1024, 256, 1, 1)),
    "resnet50": (5, 3, (1024, 256, 1, 1)),
    "resnet34": (5, 2, (256, 256, 3, 3)),
    "resnet18": (1, 2, (256, 256, 3, 3)),
    "wide_resnet50_2": (5, 3, (1024, 512, 1, 1)),
    "resnext50_32x4d": (5, 3, (1024, 512, 1, 1)),
}
_OTHERS: Final[dict[str, dict[str, tuple[int, ...]]]] = {
    "densenet121": {
        "features.norm5.weight": (1024,),
        "features.denseblock4.denselayer16.norm1.weight": (992,),
    },
    "densenet169": {
        "features.norm5.weight": (1664,),
        "features.denseblock4.denselayer32.norm1.weight": (1632,),
    },
    "densenet201": {
        "features.norm5.weight": (1920,),
        "features.denseblock4.denselayer32.norm1.weight": (1888,),
    },
    "vgg11": {"features.18.weight": (512, 512, 3, 3), "features.3.weight": (128, 64, 3, 3)},
    "vgg16": {"features.28.weight": (512, 512, 3, 3), "features.5.weight": (128, 64, 3, 3)},
    "vgg16_bn": {"features.40.weight": (512, 512, 3, 3), "features.7.weight": (128, 64, 3, 3)},
    "vgg19": {"features.34.weight": (512, 512, 3, 3), "features.5.weight": (128, 64, 3, 3)},
    "efficientnet_b0": {"conv_stem.weight": (32, 3, 3, 3), "blocks.6.0.conv_pwl.weight": (320, 1152, 1, 1)},
    "efficientnet_b1": {"conv_stem.weight": (32, 3, 3, 3), "blocks.6.1.conv_pwl.weight": (320, 1920, 1, 1)},
    "efficientnet_b3": {"conv_stem.weight": (40, 3, 3, 3), "blocks.6.1.conv_pwl.weight": (384, 2304, 1, 1)},
    "mobilenetv3_large_100": {
        "conv_stem.weight": (16, 3, 3, 3),
        "blocks.6.0.conv.weight": (960, 160, 1, 1),
    },
    "convnext_tiny": {
        "stem.0.weight": (96, 3, 4, 4),
        "stages.2.blocks.8.conv_dw.weight": (384, 1, 7, 7),
    },
    "convnext_small": {
        "stem.0.weight": (96, 3, 4, 4),
        "stages.2.blocks.26.conv_dw.weight": (384, 1, 7, 7),
    },
    "convnext_base": {
        "stem.0.weight": (128, 3, 4, 4),
        "stages.2.blocks.26.conv_dw.weight": (512, 1, 7, 7),
    },
    "convnext_large": {
        "stem.0.weight": (192, 3, 4, 4),
        "stages.2.blocks.26.conv_dw.weight": (768, 1, 7, 7),
    },
    "swin_tiny_patch4_window7_224": {
        "patch_embed.proj.weight": (96, 3, 4, 4),
        "layers.2.blocks.5.attn.qkv.weight": (1152, 384),
    },
    "swin_small_patch4_window7_224": {
        "patch_embed.proj.weight": (96, 3, 4, 4),
        "layers.2.blocks.17.attn.qkv.weight": (1152, 384),
    },
    "swin_base_patch4_window7_224": {
        "patch_embed.proj.weight": (128, 3, 4, 4),
        "layers.2.blocks.17.attn.qkv.weight": (1536, 512),
    },
    "vit_base_patch16_clip_224": {
        "norm_pre.weight": (768,),
        "patch_embed.proj.weight": (768, 3, 16, 16),
        "pos_embed": (1, 197, 768),
    },
    "vit_large_patch14_clip_224": {
        "norm_pre.weight": (1024,),
        "patch_embed.proj.weight": (1024, 3, 14, 14),
        "pos_embed": (1, 257, 1024),
    },
    "beit_base_patch16_224": {"blocks.11.gamma_1": (768,), "blocks.11.attn.q_bias": (768,)},
    "beit_large_patch16_224": {"blocks.23.gamma_1": (1024,), "blocks.23.attn.q_bias": (1024,)},
    "samvit_base_patch16": {
        "blocks.11.attn.rel_pos_h": (127, 64),
        "neck.0.weight": (256, 768, 1, 1),
        "pos_embed": (1, 64, 64, 768),
    },
}


@dataclass(frozen=True, slots=True)
class Near:
    """An architecture beside a checkpoint: `fitting` of the architecture's `total` tensors are in it; `file` it has."""

    name: str
    fitting: int
    total: int
    file: int

    @property
    def share(self) -> float:
        """Share of the architecture's tensors that the checkpoint fits, 0 to 1."""
        return self.fitting / self.total

    @property
    def likeness(self) -> float:
        """Tensors that both have, of those that either has: a deeper network has all tensors of a shallower one."""
        return self.fitting / (self.total + self.file - self.fitting)


def nearest_architectures(shapes: Shapes) -> list[Near]:
    """The backbones that `shapes` (tensor -> shape) of a checkpoint fit at least half, the likest first."""
    plain = {name: tuple(shape) for name, shape in shapes.items()}
    told = sorted(
        ((-_told(plain, tells), place, name) for place, (name, tells) in enumerate(_tells())),
        key=lambda candidate: candidate[:2],
    )
    found: dict[str, Near] = {}
    for told_share, _, name in told:
        if told_share == 0 or len(found) == _BUILT:
            break
        if name not in found:
            found[name] = _near(name, plain)
    near = [candidate for candidate in found.values() if candidate.share >= _LEAST]
    return sorted(near, key=lambda candidate: -candidate.likeness)


def _told(shapes: Shapes, tells: Shapes) -> float:
    return sum(shapes.get(name) == shape for name, shape in tells.items()) / len(tells)


def _near(name: str, shapes: Shapes) -> Near:
    ours = _shapes(_architectures().get(name, name))
    return Near(
        name, sum(ours.get(tensor) == shape for tensor, shape in shapes.items()), len(ours), len(shapes)
    )


@lru_cache(maxsize=64)
def _shapes(architecture: str) -> Shapes:
    with torch.device("meta"):
        model = create(architecture)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@cache
def _architectures() -> dict[str, str]:
    """Registered name -> architecture, of those that timm builds."""
    described = {
        name: family.describe(name).architecture
        for _, family in BACKBONES.items()
        for name in getattr(family, "signatures", {})
    }
    return {name: architecture for name, architecture in described.items() if ":" not in architecture}


@cache
def _tells() -> tuple[tuple[str, Shapes], ...]:
    """(name, telling tensors): the registered backbones first, so that their names win over timm's."""
    registered = [
        (name, {tensor: shape})
        for _, family in BACKBONES.items()
        for name, tells in getattr(family, "signatures", {}).items()
        if name in _architectures()
        for tensor, shape in tells.items()
    ]
    return (*registered, *_common())


def _common() -> Iterator[tuple[str, Shapes]]:
    for name, (width, depth, patch, positions) in _VITS.items():
        yield (
            name,
            {
                "patch_embed.proj.weight": (width, 3, patch, patch),
                "pos_embed": (1, positions, width),
                f"blocks.{depth - 1}.attn.qkv.weight": (3 * width, width),
            },
        )
    for name, (block, convolutions, shape) in _RESNETS.items():
        yield (
            name,
            {"conv1.weight": (64, 3, 7, 7), f"layer3.{block}.conv{convolutions}.weight": shape},
        )
    yield from _OTHERS.items()
