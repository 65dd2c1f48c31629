"""The few names of timm's models that featprobe uses, for models that come from other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class Trunk(nn.Module):
    """A model of another library behind timm's names; a family subclasses it.

    `pretrained_cfg`: "input_size" (channels, [depth,] height, width) of the weights, "fixed_input_size" (the
    model takes no other unless it has `set_input_size`), "classifier" (name or names of the layers that make
    logits). `num_features`: width of tokens or map; `num_prefix_tokens`: class and register tokens before the
    patches; `has_class_token`: whether the first of them is one; `patch_size` in pixels; `num_classes`: 0
    without a classifier. `wants_sizes`: `forward_features` also takes the images' original sizes.
    """

    num_features: int
    num_prefix_tokens: int = 0
    has_class_token: bool = False
    patch_size: int = 1
    num_classes: int = 0
    output_fmt: str = "NCHW"
    wants_sizes: bool = False

    def __init__(self, input_size: tuple[int, ...], *, fixed: bool, classifier: Sequence[str] = ()) -> None:
        super().__init__()
        self.pretrained_cfg: dict[str, Any] = {
            "input_size": input_size,
            "fixed_input_size": fixed,
            "classifier": tuple(classifier),
        }

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks in order, () where the last-n-blocks features have no meaning."""
        return ()

    def norm(self, tokens: torch.Tensor) -> torch.Tensor:
        """The final norm of tokens [B, N, D]."""
        return tokens

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Tokens [B, N, D] after the final norm, a map [B, D, ...], or a vector [B, D]."""
        raise NotImplementedError

    def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
        """What the model hands out as the image's representation (`pre_logits`), else its logits; [B, D]."""
        raise NotImplementedError
