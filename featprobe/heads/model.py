"""Joins a backbone and a head into one module that knows which part of it may change."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from featprobe.heads.bags import MISSING, without_gaps
from featprobe.heads.blocks import layers_of
from featprobe.heads.freezing import moving_norms, set_live, trained_names, unfrozen
from featprobe.heads.modes import parse_mode
from featprobe.heads.optimisation import derive_seed, seeded
from featprobe.heads.recipe import TrainingRecipe
from featprobe.heads.sources import HeadStart

CONSTANT_FEATURE = 1e-6
"""A feature whose deviation is below this share of its mean holds rounding noise: it is not scaled up."""


class Head(nn.Module):
    """Fixed standardisation, dropout, layers: [B, D] -> scores float32 [B, K], in float32 arithmetic.

    With `hidden` units a layer and ReLU stand before the last one. It starts from N(0, 0.01) and bias 0, as in
    DINOv2's linear evaluation, or ("torch") as torch's layers do. The standardisation takes mean and deviation of
    the training rows' features, once: it does for every backbone's scale what a BatchNorm layer would do, but
    depends on no batch and can't drift. Where the mode has none (`Mode.standardises`) it stays the identity.
    `gaps`: features may be MISSING, of cases that lack a modality; they then add nothing to the scores.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, dim: int, outputs: int, *, dropout: float, seed: int, hidden: int = 0, start: str = "small"
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        with seeded(torch.device("cpu"), derive_seed(seed, "head", 1)):
            self.hidden = nn.Linear(dim, hidden) if hidden else None
            self.linear = nn.Linear(hidden or dim, outputs)
        if start == "small":
            generator = torch.Generator().manual_seed(derive_seed(seed, "head"))
            nn.init.normal_(self.linear.weight, std=0.01, generator=generator)
            nn.init.zeros_(self.linear.bias)
        self.gaps = False
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def standardise_by(self, features: Tensor) -> None:
        """Takes mean and deviation of `features`, float32 [N, D]."""
        exact = features.to("cpu", torch.float64)
        exact = without_gaps(exact, exact) if self.gaps else exact
        mean, deviation = exact.mean(dim=0), exact.std(dim=0, correction=0)
        usable = deviation > CONSTANT_FEATURE * mean.abs()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(usable, 1 / torch.where(usable, deviation, 1.0), 1.0))

    @torch.no_grad()
    def start_from(self, start: HeadStart) -> None:
        """Takes over a fitted linear probe."""
        self.mean.copy_(torch.from_numpy(start.centre))
        self.scale.copy_(1 / torch.from_numpy(start.deviation))
        self.linear.weight.copy_(torch.from_numpy(start.weight))
        self.linear.bias.copy_(torch.from_numpy(start.bias))

    def standardised(self, features: Tensor) -> Tensor:
        """What the layers see of features [B, D], in their dtype."""
        mean, scale = self.mean.to(features), self.scale.to(features)
        known = torch.where(features == MISSING, mean, features) if self.gaps else features
        return (known - mean) * scale

    def forward(self, features: Tensor) -> Tensor:
        """Scores, float32 [B, K], of features [B, D]."""
        with torch.autocast(features.device.type, enabled=False):
            inputs = self.dropout(self.standardised(features.float()))
            if self.hidden is not None:
                inputs = functional.relu(self.hidden(inputs))
            return cast("Tensor", self.linear(inputs))


class Classifier(nn.Module):
    """A backbone [B, 3, H, W] -> [B, D] and a head; the backbone given is copied and never changed.

    What the mode does not train has no gradient and stays in evaluation mode whatever `train` is asked for, so
    that neither weights nor BatchNorm statistics move. `frozen`: nothing of the backbone is trained. `adapted`:
    names of the layers with an adapter.
    """

    def __init__(self, backbone: nn.Module, dim: int, outputs: int, recipe: TrainingRecipe) -> None:
        super().__init__()
        self.mode = parse_mode(recipe.mode)
        self.backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.layers = layers_of(self.backbone)
        self.names = trained_names(self.mode, self.backbone, self.layers)
        self.adapted: tuple[str, ...] = ()
        own = {name for name, _ in self.backbone.named_parameters()}
        if self.mode.kind == "lora":
            from featprobe.heads.adapters import add_adapters

            self.adapted = add_adapters(self.backbone, self.layers, rank=self.mode.number, seed=recipe.seed)
        self.added = self._added(own)
        self.head = Head(
            dim,
            outputs,
            dropout=recipe.dropout,
            seed=recipe.seed,
            hidden=recipe.hidden,
            start=recipe.head_start,
        )
        self.head.gaps = bool(getattr(backbone, "gaps", False))
        self.frozen = not self.names and not self.added
        self.still_norms = recipe.freeze_norm_stats or self.mode.standardises
        self._factors = recipe.layer_decay, recipe.head_factor
        self.epochs = recipe.max_epochs
        self.begin_epoch(0)
        self.eval()

    def _added(self, own: set[str]) -> frozenset[str]:
        """The adapters' parameters; a wrapped layer's own weight has a new name, and stays frozen."""
        if not self.adapted:
            return frozenset()
        return frozenset(
            name
            for name, parameter in self.backbone.named_parameters()
            if name not in own and parameter.requires_grad
        )

    def begin_epoch(self, epoch: int) -> None:
        """Give a gradient to what is trained in `epoch` (from 0), and to nothing else."""
        live = unfrozen(self.mode, self.names, self.layers, epoch=epoch, epochs=self.epochs) | self.added
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name in live)

    def train(self, mode: bool = True) -> Classifier:
        """Training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        set_live(self.backbone, training=mode, still_norms=self.still_norms)
        return self

    @property
    def moving(self) -> list[nn.Module]:
        """BatchNorm layers whose statistics training may move."""
        if self.still_norms or self.frozen:
            return []
        return [layer for _, layer in moving_norms(self.backbone, self.names)]

    def tunable(self) -> Iterator[tuple[float, nn.Parameter, bool]]:
        """(share of the peak rate, parameter, whether it is never decayed) of all that the mode ever trains."""
        layer_decay, head_factor = self._factors
        exempt = self._exempt()
        for name, parameter in self.backbone.named_parameters():
            if name in self.names or name in self.added:
                number = self.layers.number.get(name, self._number_of(name))
                yield layer_decay ** (self.layers.top - number), parameter, name in exempt
        for parameter in self.head.parameters():
            # A head by itself is what the rate is meant for.
            yield 1.0 if self.frozen else head_factor, parameter, False

    def _number_of(self, name: str) -> int:
        """The layer of an adapter: that of the weight which it stands beside."""
        for layer in self.adapted:
            if name.startswith(f"{layer}."):
                return self.layers.number[f"{layer}.weight"]
        return self.layers.top

    def _exempt(self) -> frozenset[str]:
        listed: Any = getattr(self._network(), "no_weight_decay", tuple)()
        return frozenset(self.layers.trunk + name for name in listed)

    def _network(self) -> Any:
        trunk = self.layers.trunk.rstrip(".")
        return self.backbone.get_submodule(trunk) if trunk else self.backbone

    def embed(self, images: Tensor) -> Tensor:
        """Features [B, D]; without a gradient where the backbone is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return cast("Tensor", self.backbone(images))

    def forward(self, images: Tensor) -> Tensor:
        """Scores, float32 [B, K], of images [B, 3, H, W]."""
        return cast("Tensor", self.head(self.embed(images)))

    def trained_parameters(self) -> int:
        """How many numbers the mode trains, the head's included."""
        return sum(parameter.numel() for _, parameter, _ in self.tunable())

    def learned(self) -> dict[str, Tensor]:
        """What training may change, by name.

        The head's tensors, with a frozen backbone those alone; every tensor where in the end every weight is
        trained; else what is trained, and the statistics that move with it.
        """
        state = self.state_dict()
        if self.mode.whole:
            return state
        kept = {f"backbone.{name}" for name in self.names | self.added}
        if not (self.still_norms or self.frozen):
            for name, layer in moving_norms(self.backbone, self.names):
                kept |= {f"backbone.{name}.{key}" for key, _ in layer.named_buffers(recurse=False)}
        return {name: value for name, value in state.items() if name.startswith("head.") or name in kept}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `learned`; ValueError where names differ."""
        if tensors.keys() != self.learned().keys():
            raise ValueError("the checkpoint holds other tensors than the model")
        self.load_state_dict(dict(tensors), strict=False)
