"""Low-rank adapters (LoRA) by peft: put beside frozen weights, trained, and merged into them for export."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

from featprobe.errors import ConfigError, MissingExtraError
from featprobe.heads.blocks import Layers
from featprobe.heads.optimisation import derive_seed, seeded

ADAPTER: Final = "featprobe"


def add_adapters(backbone: nn.Module, layers: Layers, *, rank: int, seed: int) -> tuple[str, ...]:
    """Put adapters of `rank` into `backbone`, in place; returns the names of the layers that got one.

    Every linear layer of the blocks gets one, as in QLoRA (Dettmers et al. 2023, section 4); of a network without
    linear layers on the path every convolution without groups. Scale 2 (alpha = 2 rank), no dropout; the
    product starts at 0, so that training starts from the backbone as it is (Hu et al. 2021, arXiv
    2106.09685). ConfigError where peft is not installed or no layer suits.
    """
    inject, configuration = _peft()
    targets = _targets(backbone, layers)
    if not targets:
        raise ConfigError(
            "--mode lora finds no layer to adapt",
            "it adapts linear layers, or flat convolutions without groups, behind the stem",
            "type --mode last:1 or full",
        )
    config = configuration(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=list(targets))
    with seeded(torch.device("cpu"), derive_seed(seed, "adapters")):
        inject(config, backbone, adapter_name=ADAPTER)
    return targets


def merge_adapters(module: nn.Module) -> None:
    """Add every adapter's product to its layer's weight and leave the plain layer behind, in place."""
    for name, layer in list(module.named_modules()):
        if callable(getattr(layer, "merge", None)) and callable(getattr(layer, "get_base_layer", None)):
            whole: Any = layer
            whole.merge(safe_merge=True)
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, whole.get_base_layer())


def _targets(backbone: nn.Module, layers: Layers) -> tuple[str, ...]:
    found: dict[type[nn.Module], list[str]] = {nn.Linear: [], nn.Conv2d: []}
    for name, layer in backbone.named_modules():
        weight = f"{name}.weight"
        first = layers.number.get(weight, 0) == min(layers.number.values(), default=0)
        if weight not in layers.path or first or _inside_attention(backbone, name):
            continue
        # peft's product beside a dilated convolution would have other sides.
        plain = getattr(layer, "groups", 1) == 1 and set(getattr(layer, "dilation", ())) <= {1}
        if type(layer) in found and plain:
            found[type(layer)].append(name)
    return tuple(found[nn.Linear] or found[nn.Conv2d])


def _inside_attention(backbone: nn.Module, name: str) -> bool:
    """Torch's own attention reads its layers' weights without calling them, so that an adapter would do nothing."""
    parent = backbone.get_submodule(name.rpartition(".")[0])
    return isinstance(parent, nn.MultiheadAttention)


def _peft() -> tuple[Any, Any]:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtraError("--mode lora", "peft", "lora") from error
    return inject_adapter_in_model, LoraConfig
