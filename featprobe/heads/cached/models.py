"""The heads that are trained epoch by epoch, as torch modules that a fine-tuned backbone can carry as well."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from featprobe.heads.cached.recipes import EpochTraining
from featprobe.heads.optimisation import derive_seed, seeded
from featprobe.records import FloatArray


class Standardiser(nn.Module):
    """(x - mean) * scale on the last axis, fixed: what a BatchNorm layer would do, but dependent on no batch."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: FloatArray, scale: FloatArray) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("scale", torch.from_numpy(scale).float())

    def forward(self, inputs: Tensor) -> Tensor:
        """float32, the shape of `inputs` [..., D]."""
        return (inputs.float() - self.mean) * self.scale


class Linear(nn.Module):
    """[B, D] -> [B, K]."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores [B, K]."""
        return cast("Tensor", self.out(inputs))


class Mlp(nn.Module):
    """[B, D] -> hidden -> ReLU -> [B, K]."""

    def __init__(self, width: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores [B, K]."""
        return cast("Tensor", self.out(functional.relu(self.hidden(inputs))))


class Attentive(nn.Module):
    """Attentive pooling of patch tokens [B, h, w, D] (or [B, T, D]) and a linear layer: [B, K].

    One learnt query attends to keys and values, which are linear in the tokens, in heads of up to `head_width`
    channels; the heads' answers side by side go through the linear layer (AIM, El-Nouby et al. 2024, arXiv
    2401.08541; without a projection, residual or norm after it). As the query is the same for every image, its
    product with the key matrix is taken first, and the value matrix is applied to the pooled tokens: the same
    function as T keys and T values per image, at O(T * D * heads) instead of O(T * D * D).
    """

    def __init__(self, width: int, outputs: int, *, head_width: int) -> None:
        super().__init__()
        size = next(size for size in range(min(head_width, width), 0, -1) if width % size == 0)
        self.query = nn.Parameter(torch.randn(width // size, size) * 0.02)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, outputs)

    def pool(self, tokens: Tensor) -> Tensor:
        """What the query gathers, [B, D]."""
        tokens = tokens.reshape(len(tokens), -1, tokens.shape[-1])
        heads, size = self.query.shape
        keys = self.key.weight.view(heads, size, -1)
        probe = torch.einsum("hw,hwd->hd", self.query, keys) * size**-0.5
        attention = torch.softmax(tokens @ probe.T, dim=1)
        gathered = attention.transpose(1, 2) @ tokens
        return torch.einsum("bhd,hwd->bhw", gathered, self.value.weight.view(heads, size, -1)).flatten(1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores [B, K]."""
        return cast("Tensor", self.out(self.pool(tokens)))


class CachedHead(nn.Module):
    """The head of a recipe with, where the recipe asks for it, the standardisation before it."""

    def __init__(self, head: nn.Module, moments: tuple[FloatArray, FloatArray] | None) -> None:
        super().__init__()
        self.standard = None if moments is None else Standardiser(*moments)
        self.head = head

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores float32 [B, K]."""
        return cast("Tensor", self.head(inputs if self.standard is None else self.standard(inputs)))

    def tensors(self) -> dict[str, Tensor]:
        """The learnt and fixed tensors under the names that `FittedCachedHead` reads."""
        return {name.removeprefix("head."): value for name, value in self.state_dict().items()}


def build(
    recipe: EpochTraining,
    width: int,
    outputs: int,
    *,
    moments: tuple[FloatArray, FloatArray] | None,
    seed: int,
) -> CachedHead:
    """The head before training, on the CPU; its weights are a function of `seed` and the shapes alone."""
    with seeded(torch.device("cpu"), derive_seed(seed, "head")):
        if recipe.model == "attentive":
            return CachedHead(Attentive(width, outputs, head_width=recipe.head_width), moments)
        if recipe.model == "mlp":
            return CachedHead(Mlp(width, recipe.hidden, outputs), moments)
        return CachedHead(Linear(width, outputs), moments)
