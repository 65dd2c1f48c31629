"""LVM-Med: ResNet-50 and ViT-B trained on 1.3 million medical images, whose weights are given as files.

Nguyen et al., LVM-Med: Learning Large-Scale Self-Supervised Vision Models for Medical Imaging via Second-order Graph
Matching, NeurIPS 2023 (arXiv 2306.11925). The facts below are those of the authors' repository, duyhominhnguyen/LVM-Med.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

from featprobe.backbones.core.create import creator
from featprobe.backbones.core.family import Curated
from featprobe.backbones.core.info import MAP_POOLINGS, BackboneInfo, LoadRequest
from featprobe.backbones.core.rules import IMAGENET_MEAN, IMAGENET_STD, with_common
from featprobe.errors import BackboneError
from featprobe.records import Preprocessing
from featprobe.registry import BACKBONES

if TYPE_CHECKING:
    import torch

    from featprobe.backbones.core.assemble import Tensors
    from featprobe.backbones.core.model import Backbone

_WHERE: Final = "by file only: the authors link {file} (Google Drive) from github.com/duyhominhnguyen/LVM-Med"
# Their brain tumour classification: the image squashed to 224 x 224 by torchvision, ImageNet's statistics.
_AUTHORS: Final = Preprocessing(
    image_size=(224, 224),
    fit="squash",
    resize=None,
    interpolation="bilinear",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
_ENTRIES: Final = {
    "lvmmed_resnet50": ("resnet50.tv_in1k", "lvmmed_resnet.torch", ()),
    "lvmmed_vitb": (
        "lvmmed:vitb",
        "lvmmed_vit.pth",
        (
            "the image encoder of Segment Anything (ViT-B/16) without absolute positions",
            "gap is the authors' feature, before the neck; pre_logits is the mean of the neck's output",
        ),
    ),
}


class LvmMed(Curated):
    """`lvmmed_resnet50` and `lvmmed_vitb`, with `--weights NAME=FILE`."""

    numerics = 1

    def names(self) -> tuple[str, ...]:
        """The two networks that the authors published."""
        return tuple(_ENTRIES)

    def info(self, name: str) -> BackboneInfo:
        """See `Curated.info`."""
        architecture, file, notes = _ENTRIES[name]
        return BackboneInfo(
            name=name,
            family="lvmmed",
            architecture=architecture,
            licence="CC BY-NC-ND 2.0 by the README (CC BY-NC-SA 4.0 by its licence file): no commercial use",
            citation="Nguyen et al., LVM-Med, NeurIPS 2023 (arXiv 2306.11925)",
            weights_source=_WHERE.format(file=file),
            poolings=MAP_POOLINGS,
            default_pooling="gap",
            rules=with_common({"native": _AUTHORS, "authors": _AUTHORS}),
            default_rule="authors",
            notes=notes,
        )

    def build(self, name: str, request: LoadRequest) -> Backbone:
        """The backbone with its weights; takes the authors' files as they are."""
        from featprobe.backbones.core.assemble import Blueprint, assemble

        rename = without_positions if name == "lvmmed_vitb" else None
        return assemble(Blueprint(info=self.describe(name), numerics=self.numerics, rename=rename), request)


def without_positions(tensors: Tensors) -> Tensors:
    """`tensors` as they are; BackboneError where they hold absolute positions, which LVM-Med was trained without."""
    if "pos_embed" in tensors:
        raise BackboneError(
            "these weights are no weights of lvmmed_vitb: they hold absolute positions (pos_embed)",
            "LVM-Med's encoder was trained without; the original Segment Anything has them",
            "type --backbone samvit_base_patch16 --weights samvit_base_patch16=FILE",
        )
    return tensors


@creator("lvmmed")
def _create(_: str) -> Any:
    import torch

    return _encoder()(
        embed_dim=768,
        depth=12,
        num_heads=12,
        global_attn_indexes=(2, 5, 8, 11),
        window_size=14,
        # Relative positions are stored for 1024 pixels and interpolated to the image in every pass.
        img_size=1024,
        use_rel_pos=True,
        use_abs_pos=False,
        num_classes=0,
        # Segment Anything divides by sqrt(variance + 1e-6) in every norm; timm's version of it has torch's 1e-5.
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    )


@lru_cache(maxsize=1)
def _encoder() -> Any:
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    class Encoder(VisionTransformerSAM):
        """The image encoder as the authors classify with it: the average of the last block, the neck left aside."""

        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.num_features = self.embed_dim
            self.pretrained_cfg = {"input_size": (3, 224, 224), "fixed_input_size": True, "classifier": ()}

        def set_input_size(self, img_size: tuple[int, int]) -> None:
            """Nothing to adapt: see `img_size` above."""

        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            """[B, 768, H / 16, W / 16] of images [B, 3, H, W]."""
            features: torch.Tensor = self.blocks(self.patch_embed(x)).permute(0, 3, 1, 2)
            return features

        def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:  # noqa: ARG002
            """[B, 256]: the average of what Segment Anything's mask decoder is given."""
            pooled: torch.Tensor = self.neck(x).mean(dim=(2, 3))
            return pooled

    return Encoder


BACKBONES.register("lvmmed")(LvmMed())
