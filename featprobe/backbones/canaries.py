"""What any backbone must beat: statistics of an image that hold no anatomy, so that a shortcut shows itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from featprobe.backbones.core.create import creator
from featprobe.backbones.core.family import Curated
from featprobe.backbones.core.info import PRETRAINED, RANDOM, BackboneInfo, LoadRequest
from featprobe.backbones.core.rules import with_common
from featprobe.errors import BackboneError
from featprobe.records import Preprocessing
from featprobe.registry import BACKBONES

if TYPE_CHECKING:
    from featprobe.backbones.core.model import Backbone

IMAGE_STATS: Final = "image_stats"
_SIDE: Final = 128
_BINS: Final = 16


class Canaries(Curated):
    """`image_stats`: height, width, and mean, deviation and histogram of each channel."""

    numerics = 1

    def names(self) -> tuple[str, ...]:
        """The one baseline; random weights and shuffled labels are canaries of every backbone, not names."""
        return (IMAGE_STATS,)

    def info(self, name: str) -> BackboneInfo:
        """See `Curated.info`."""
        whole = Preprocessing(
            image_size=(_SIDE, _SIDE),
            fit="squash",
            resize=None,
            interpolation="bilinear",
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        )
        return BackboneInfo(
            name=name,
            family="canaries",
            architecture=f"canary:{name}",
            licence="Apache-2.0 (part of featprobe)",
            citation="a baseline of this program, not a published model",
            weights_source="has no weights",
            needs_weights=False,
            poolings=("pre_logits",),
            default_pooling="pre_logits",
            rules=with_common({"native": whole}),
            notes=(
                (
                    f"{_DIM} numbers: logarithm of height and width before preprocessing, and of the channels "
                    f"mean, standard deviation and a histogram of {_BINS} bins"
                ),
            ),
        )

    def build(self, name: str, request: LoadRequest) -> Backbone:
        """The baseline, which has no weights; BackboneError where a file of them is given."""
        from featprobe.backbones.core.assemble import Blueprint, assemble

        if request.weights not in {PRETRAINED, RANDOM}:
            raise BackboneError(
                f"{name} can't be given the weights {request.weights}",
                "it computes statistics of the image and has no weights",
                "leave it out of --weights: a file is meant for one backbone as NAME=FILE",
            )
        return assemble(Blueprint(info=self.describe(name), numerics=self.numerics, weightless=True), request)


_DIM: Final = 2 + 3 * (2 + _BINS)


@creator("canary")
def _statistics(_: str) -> Any:
    import torch

    from featprobe.backbones.core.trunk import Trunk

    class Statistics(Trunk):
        """[B, 3, H, W] of values in [0, 1] -> [B, 2 + 3 * (2 + bins)]."""

        num_features = _DIM
        wants_sizes = True

        def forward_features(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
            levels = images.float().clamp(0, 1).flatten(2)
            shape = torch.tensor(images.shape[2:], device=images.device).expand(len(images), 2)
            shape = shape if sizes is None else sizes.to(images.device)
            bins = (levels * _BINS).long().clamp(max=_BINS - 1)
            counts = torch.zeros(*levels.shape[:2], _BINS, device=images.device)
            shares = counts.scatter_add(2, bins, torch.ones_like(levels)) / levels.shape[2]
            parts = (levels.mean(dim=-1), levels.std(dim=-1, correction=0), shares.flatten(1))
            return torch.cat([shape.float().log(), *parts], dim=1)

        def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
            del pre_logits
            return features

    return Statistics((3, _SIDE, _SIDE), fixed=False)


BACKBONES.register("canaries")(Canaries())
