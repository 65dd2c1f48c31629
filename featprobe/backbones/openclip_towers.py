"""The image towers that open_clip builds, behind the names that featprobe uses; apart from the list of names in `openclip`.

State dicts keep open_clip's own names (`visual.*`), so that its checkpoints fit as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from featprobe.backbones.core.create import creator
from featprobe.errors import BackboneError, MissingExtraError, nearest

if TYPE_CHECKING:
    import torch

    from featprobe.backbones.core.trunk import Trunk

PREFIX: Final = "openclip"
BIOMEDCLIP: Final = "biomedclip"

# The repository's open_clip_config.json, which open_clip itself would have to download.
_BIOMEDCLIP_CONFIG: Final = {
    "embed_dim": 512,
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    },
}


def open_clip_library() -> Any:
    """The package; MissingExtraError where it is not installed."""
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtraError("an image tower of CLIP or SigLIP", "open_clip_torch", "openclip") from error
    return open_clip


@creator(PREFIX)
def build_tower(name: str) -> Trunk:
    """The image tower of open_clip's architecture `name`. MissingExtraError without open_clip."""
    library = open_clip_library()
    config = _BIOMEDCLIP_CONFIG if name == BIOMEDCLIP else library.get_model_config(name)
    if config is None:
        raise BackboneError(
            f"open_clip has no architecture {name!r}",
            nearest(name, library.list_models()) or f"it has {len(library.list_models())} others",
            "see featprobe backbones ls",
        )
    visual = library.model._build_vision_tower(  # noqa: SLF001 - open_clip's own models call it, and no more is needed
        config["embed_dim"], config["vision_cfg"], quick_gelu=bool(config.get("quick_gelu"))
    )
    if hasattr(visual, "trunk"):
        return _timm_tower(visual)
    if hasattr(visual, "attnpool"):
        return _resnet_tower(visual)
    return _whole_tower(visual) if visual.attn_pool is not None else _transformer_tower(visual)


def _projected(pre_logits: bool, embedding: torch.Tensor) -> torch.Tensor:
    if not pre_logits:
        raise NotImplementedError("there is no classifier")
    return embedding


def _transformer_tower(visual: Any) -> Trunk:
    """open_clip's own vision transformer."""
    from torch import nn

    from featprobe.backbones.core.trunk import Trunk
    from featprobe.backbones.dinov2 import resample_positions

    class Transformer(Trunk):
        """[B, 3, H, W] -> tokens [B, 1 + N, D], the class token first."""

        num_prefix_tokens = 1
        has_class_token = True

        def __init__(self) -> None:
            super().__init__((3, *visual.image_size), fixed=True)
            self.visual = visual
            self.num_features = int(visual.positional_embedding.shape[1])
            self.patch_size = int(visual.patch_size[0])

        @property
        def fc_norm(self) -> Any:
            """The norm of a tower that was trained to normalise after averaging (CLIPA)."""
            return self.visual.ln_post if self.visual.final_ln_after_pool else None

        @property
        def blocks(self) -> Any:
            return self.visual.transformer.resblocks

        def norm(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens if self.visual.final_ln_after_pool else self.visual.ln_post(tokens)

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            tokens = self.visual._embeds(images)  # noqa: SLF001 - the first half of its forward
            return self.norm(self.visual.transformer(tokens))

        def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
            pooled = features[:, 0] if self.visual.pool_type == "tok" else features[:, 1:].mean(dim=1)
            pooled = self.visual.ln_post(pooled) if self.visual.final_ln_after_pool else pooled
            return _projected(pre_logits, pooled @ self.visual.proj)

        def set_input_size(self, img_size: tuple[int, int]) -> None:
            """Positions for another size, as open_clip's `resize_pos_embed`: bicubic, antialiased."""
            grid = (img_size[0] // self.patch_size, img_size[1] // self.patch_size)
            stored = self.visual.positional_embedding
            positions = resample_positions(stored.detach()[None], grid, prefix=1, antialias=True, offset=0.0)
            self.visual.positional_embedding = nn.Parameter(
                positions[0].contiguous(), requires_grad=stored.requires_grad
            )
            self.visual.image_size, self.visual.grid_size = tuple(img_size), grid

    return Transformer()


def _whole_tower(visual: Any) -> Trunk:
    """CoCa's transformer, whose attention pooling leaves no patch tokens: the joint embedding alone."""
    from featprobe.backbones.core.trunk import Trunk

    class Whole(Trunk):
        """[B, 3, H, W] -> [B, D]."""

        def __init__(self) -> None:
            super().__init__((3, *visual.image_size), fixed=True)
            self.visual = visual
            self.num_features = int(visual.output_dim)

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            found = self.visual(images)
            embedding: torch.Tensor = found[0] if isinstance(found, tuple) else found
            return embedding

        def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
            return _projected(pre_logits, features)

    return Whole()


def _resnet_tower(visual: Any) -> Trunk:
    """OpenAI's modified ResNet, whose attention pooling knows one image size."""
    from featprobe.backbones.core.trunk import Trunk

    class ResNet(Trunk):
        """[B, 3, H, W] -> map [B, D, H/32, W/32]."""

        feature_info = tuple({"module": f"visual.layer{number}"} for number in range(1, 5))

        def __init__(self) -> None:
            super().__init__((3, visual.image_size, visual.image_size), fixed=True)
            self.visual = visual
            self.num_features = int(visual.attnpool.c_proj.in_features)

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            values = self.visual.stem(images)
            for number in range(1, 5):
                values = getattr(self.visual, f"layer{number}")(values)
            features: torch.Tensor = values
            return features

        def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
            return _projected(pre_logits, self.visual.attnpool(features))

    return ResNet()


def _timm_tower(visual: Any) -> Trunk:
    """A model of timm behind open_clip's pooling and projection."""
    from featprobe.backbones.core.trunk import Trunk

    trunk = visual.trunk
    patches: Any = getattr(trunk, "patch_embed", None)
    # A trunk with positions has the size of its own name, whatever open_clip's configuration says beside it.
    size = getattr(patches, "img_size", None) or visual.image_size

    class TimmTower(Trunk):
        """[B, 3, H, W] -> tokens [B, N, D] or map [B, D, h, w]."""

        feature_info = tuple(
            {"module": f"visual.trunk.{stage['module']}"} for stage in getattr(trunk, "feature_info", ())
        )

        def __init__(self) -> None:
            super().__init__((3, *size), fixed=bool(trunk.pretrained_cfg.get("fixed_input_size")))
            self.visual = visual
            self.num_features = int(trunk.num_features)
            self.num_prefix_tokens = int(getattr(trunk, "num_prefix_tokens", 0))
            self.has_class_token = getattr(trunk, "cls_token", None) is not None
            self.output_fmt = str(getattr(trunk, "output_fmt", "NCHW"))
            self.patch_size = int(patches.feat_ratio()) if hasattr(patches, "feat_ratio") else 1
            if hasattr(trunk, "set_input_size"):
                self.set_input_size = trunk.set_input_size

        @property
        def fc_norm(self) -> Any:
            return getattr(self.visual.trunk, "fc_norm", None)

        @property
        def blocks(self) -> Any:
            return getattr(self.visual.trunk, "blocks", ())

        def norm(self, tokens: torch.Tensor) -> torch.Tensor:
            normed: torch.Tensor = self.visual.trunk.norm(tokens)
            return normed

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.visual.trunk.forward_features(images)
            return features

        def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
            return _projected(pre_logits, self.visual.head(self.visual.trunk.forward_head(features)))

    return TimmTower()
