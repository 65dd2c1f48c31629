"""Joins a backbone and a linear head into one module that knows which part of it may change."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from featprobe.heads.optimisation import derive_seed
from featprobe.heads.recipe import TrainingRecipe

CONSTANT_FEATURE = 1e-6
"""A feature whose deviation is below this share of its mean holds rounding noise: it is not scaled up."""


class Head(nn.Module):
    """Fixed standardisation, dropout, linear layer: [B, D] -> logits float32 [B, C], in float32 arithmetic.

    The linear layer starts from N(0, 0.01) and bias 0, as in DINOv2's linear evaluation. In mode head the
    standardisation takes mean and deviation of the training rows' features, once: it does for every
    backbone's scale what a BatchNorm layer would do, but depends on no batch and can't drift. In mode full it
    stays the identity: the features move, and a random backbone's are not what they will be in training.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, n_classes: int, *, dropout: float, seed: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator
            self.linear = nn.Linear(dim, n_classes)
        generator = torch.Generator().manual_seed(derive_seed(seed, "head"))
        nn.init.normal_(self.linear.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def standardise_by(self, features: Tensor) -> None:
        """Takes mean and deviation of `features`, float32 [N, D]."""
        exact = features.to("cpu", torch.float64)
        mean, deviation = exact.mean(dim=0), exact.std(dim=0, correction=0)
        usable = deviation > CONSTANT_FEATURE * mean.abs()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(usable, 1 / torch.where(usable, deviation, 1.0), 1.0))

    def forward(self, features: Tensor) -> Tensor:
        """Logits, float32 [B, C], of features [B, D]."""
        with torch.autocast(features.device.type, enabled=False):
            standardised = (features.float() - self.mean) * self.scale
            return cast("Tensor", self.linear(self.dropout(standardised)))


class Classifier(nn.Module):
    """A backbone [B, 3, H, W] -> [B, D] and a head; the backbone given is copied and never changed.

    In mode head the copy is frozen: no gradient, evaluation mode whatever `train` is asked for, so that
    neither weights nor BatchNorm statistics move.
    """

    def __init__(self, backbone: nn.Module, dim: int, n_classes: int, recipe: TrainingRecipe) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone).requires_grad_(recipe.mode == "full")
        self.head = Head(dim, n_classes, dropout=recipe.dropout, seed=recipe.seed)
        self.frozen = recipe.mode == "head"
        self.freeze_norm_stats = recipe.freeze_norm_stats
        self.eval()

    def train(self, mode: bool = True) -> Classifier:
        """Training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        elif self.freeze_norm_stats:
            for layer in batch_norms(self.backbone):
                layer.eval()
        return self

    def embed(self, images: Tensor) -> Tensor:
        """Features [B, D]; without a gradient where the backbone is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return cast("Tensor", self.backbone(images))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 [B, C], of images [B, 3, H, W]."""
        return cast("Tensor", self.head(self.embed(images)))

    def learned(self) -> dict[str, Tensor]:
        """What training may change, by name: the head's tensors in mode head, every tensor in mode full."""
        prefix = "head." if self.frozen else ""
        return {name: value for name, value in self.state_dict().items() if name.startswith(prefix)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `learned`; ValueError where names differ."""
        if tensors.keys() != self.learned().keys():
            raise ValueError("the checkpoint holds other tensors than the model")
        self.load_state_dict(dict(tensors), strict=False)


def batch_norms(module: nn.Module) -> Iterator[nn.Module]:
    """Every BatchNorm layer of `module`."""
    return (layer for layer in module.modules() if isinstance(layer, _BatchNorm))
