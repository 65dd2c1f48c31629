"""Makes of a backbone of images one of cases: a case's images pass together and their embeddings are pooled, as in probing."""

from __future__ import annotations

from typing import Final, cast

import torch
from torch import Tensor, nn

MISSING: Final = float("-inf")
"""Stands in every feature of a modality of which a case has no image, until a head puts its own mean there."""

AT_ONCE: Final = 64
"""Images that pass at a time where no gradient is wanted."""


class Bagged(nn.Module):
    """Bags [B, K, S, ...] of a backbone's images -> embeddings float32 [B, K x D] of cases.

    A bag holds up to S images of each of K modalities (K = 1 where they are not told apart); a slot without an image
    is NaN throughout. Each modality's embeddings are pooled by "mean" or "max" (`featprobe.cases.pool` does the same to
    cached ones), and stand side by side. That of a modality without any image is MISSING.
    """

    gaps = True

    def __init__(self, backbone: nn.Module, dim: int, how: str) -> None:
        super().__init__()
        if how not in {"mean", "max"}:
            raise ValueError(f"unknown pooling {how!r}")
        self.backbone, self.dim, self.how = backbone, dim, how

    @property
    def unread(self) -> frozenset[str]:
        """Names of the parameters of this module that its embedding does not depend on."""
        return frozenset(f"backbone.{name}" for name in getattr(self.backbone, "unread", ()))

    def forward(self, bags: Tensor) -> Tensor:
        """float32 [B, K x D]."""
        cases, blocks, slots = bags.shape[:3]
        flat = bags.flatten(0, 2)
        there = ~torch.isnan(flat.flatten(1)[:, 0])
        found = self._embedded(flat[there])
        # Slots without an image must not touch the pooled value, nor its gradient.
        spread = found.new_zeros(len(flat), self.dim)
        spread[there] = found
        spread, held = spread.view(cases * blocks, slots, -1), there.view(cases * blocks, slots, 1)
        count = held.sum(dim=1)
        if self.how == "mean":
            pooled = spread.sum(dim=1) / count.clamp(min=1)
        else:
            pooled = torch.where(held, spread, torch.finfo(spread.dtype).min).amax(dim=1)
        return torch.where(count > 0, pooled, MISSING).view(cases, -1)

    def _embedded(self, images: Tensor) -> Tensor:
        """float32 [N, D]."""
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in self.backbone.parameters())
        if learns and not len(images):
            # Processes that share a batch wait for one another's layers and gradients: an empty share passes a black
            # image, of which nothing is kept.
            return cast("Tensor", self.backbone(images.new_zeros(1, *images.shape[1:])))[:0].float()
        if not len(images):
            return images.new_zeros(0, self.dim)
        if learns:
            return cast("Tensor", self.backbone(images)).float()
        return torch.cat([self.backbone(part).float() for part in torch.split(images, AT_ONCE)])


def without_gaps(features: Tensor, by: Tensor) -> Tensor:
    """`features` [N, D] whose MISSING are the column's mean over the rows `by` [M, D]; 0 where none of them has any.

    The rule of `featprobe.cases.fill_missing`.
    """
    known = by != MISSING
    mean = torch.where(known, by, 0).sum(dim=0) / known.sum(dim=0).clamp(min=1)
    return torch.where(features == MISSING, mean, features)
