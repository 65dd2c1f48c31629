"""Decides which parameters of a backbone a mode trains, epoch by epoch, and keeps all else still."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from featprobe.errors import ConfigError
from featprobe.heads.blocks import Layers
from featprobe.heads.modes import Mode

UNFROZEN_BY: Final = 0.5
"""The share of the epochs after which gradual unfreezing has reached the stem."""

_NORMS: Final = ("LayerNorm", "BatchNorm", "GroupNorm", "InstanceNorm", "RMSNorm", "RmsNorm")


def trained_names(mode: Mode, backbone: nn.Module, layers: Layers) -> frozenset[str]:
    """Names of the backbone's own parameters that `mode` trains at any time; adapters are not among them.

    "bitfit": Ben Zaken et al. 2022 (arXiv 2106.10199). "huang-frozen": GuanghuiFU/medical_dino_eval at
    f2b17be freezes `.features` of VGG16 and DenseNet121 and every parameter of other networks. ConfigError
    where the backbone has nothing of the kind.
    """
    if mode.kind in {"head", "lora"}:
        return frozenset()
    if mode.whole:
        return layers.path
    if mode.kind == "last":
        return layers.last(mode.number)
    if mode.kind == "huang-frozen":
        inside = f"{layers.trunk}features."
        has = any(name.startswith(inside) for name in layers.number)
        return frozenset(name for name in layers.path if has and not name.startswith(inside))
    names = _biases(layers) if mode.kind == "bitfit" else _norms(backbone, layers)
    if not names:
        what = "biases" if mode.kind == "bitfit" else "normalisation layers"
        raise ConfigError(
            f"--mode {mode} finds nothing to train",
            f"the backbone has no {what}",
            "type --mode last:1, lora or full",
        )
    return names


def unfrozen(mode: Mode, names: frozenset[str], layers: Layers, *, epoch: int, epochs: int) -> frozenset[str]:
    """Those of `names` that are trained in `epoch` (from 0) of `epochs`: all, but in gradual unfreezing.

    There the first epoch trains the head alone; then blocks join from the last one on, in equal steps (Howard
    and Ruder 2018, section 3.3, arXiv 1801.06146, where one joins each epoch), the stem at half the epochs.
    """
    if mode.kind != "gradual":
        return names
    present = sorted({layers.number[name] for name in names}, reverse=True)
    share = min(1.0, epoch / max(1.0, UNFROZEN_BY * epochs))
    joined = set(present[: math.ceil(share * len(present))])
    return frozenset(name for name in names if layers.number[name] in joined)


def set_live(module: nn.Module, *, training: bool, still_norms: bool) -> None:
    """Training mode where something is trained, evaluation mode elsewhere.

    A layer without parameters, such as dropout, is as the module around it. A BatchNorm layer none of whose
    own parameters is trained keeps its statistics, and so do all with `still_norms`.
    """
    _set_live(module, training and any(p.requires_grad for p in module.parameters()))
    for layer in batch_norms(module):
        own = list(layer.parameters(recurse=False))
        if still_norms or (own and not any(p.requires_grad for p in own)):
            layer.training = False


def _set_live(module: nn.Module, live: bool) -> None:
    parameters = list(module.parameters())
    live = live and (not parameters or any(p.requires_grad for p in parameters))
    module.training = live
    for child in module.children():
        _set_live(child, live)


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Every BatchNorm layer of `module`."""
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]


def moving_norms(module: nn.Module, names: Collection[str]) -> list[tuple[str, nn.Module]]:
    """(name, layer) of the BatchNorm layers whose statistics move when the parameters `names` are trained."""
    found: list[tuple[str, nn.Module]] = []
    for name, layer in module.named_modules():
        if not isinstance(layer, _BatchNorm):
            continue
        own = [f"{name}.{key}".lstrip(".") for key, _ in layer.named_parameters(recurse=False)]
        if any(one in names for one in own) or (not own and names):
            found.append((name, layer))
    return found


def _biases(layers: Layers) -> frozenset[str]:
    return frozenset(name for name in layers.path if name.rpartition(".")[2] == "bias")


def _norms(backbone: nn.Module, layers: Layers) -> frozenset[str]:
    found = set()
    for name, layer in backbone.named_modules():
        if any(word in kind.__name__ for kind in type(layer).__mro__ for word in _NORMS):
            found |= {f"{name}.{key}".lstrip(".") for key, _ in layer.named_parameters(recurse=False)}
    return frozenset(found) & layers.path
