"""A trained model as plain timm's own: adapters merged, the head's standardisation folded into its classifier."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from featprobe.errors import ConfigError
from featprobe.heads.adapters import merge_adapters
from featprobe.heads.inference import FittedHead

AGREEMENT: Final = 1e-3
"""Largest difference of scores, relative to their spread, at which an exported model is the trained one."""


def to_timm(
    fitted: FittedHead, architecture: str, size: tuple[int, int]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, options): `timm.create_model(architecture, **options).load_state_dict(tensors)` is the model.

    Its output are the scores that the objective makes predictions of, for images [B, 3, *size] preprocessed alike.
    Proved on noise before it is handed out. ConfigError where timm has no such model: an mlp head, features that are
    pooled in another way than timm does before its classifier, a network of another library.
    """
    if fitted.model.head.hidden is not None:
        raise _unfit("the mlp head", "timm's classifiers are linear", "--head linear")
    model = copy.deepcopy(fitted.model).cpu().eval()
    merge_adapters(model.backbone)
    trunk = model.layers.trunk.rstrip(".")
    network: Any = model.backbone.get_submodule(trunk) if trunk else model.backbone
    options = _options(architecture, fitted.objective.outputs, size)
    target = _created(architecture, options)
    classifier = _classifier(target)
    tensors = _joined(network.state_dict(), target.state_dict(), classifier, _folded(model.head))
    target.load_state_dict(tensors)
    _prove(target.eval(), model, size)
    return {name: value.contiguous().clone() for name, value in tensors.items()}, options


def _options(architecture: str, outputs: int, size: tuple[int, int]) -> dict[str, Any]:
    import timm

    config = timm.get_pretrained_cfg(architecture)
    fixed = config is not None and bool(config.fixed_input_size)
    return {"num_classes": outputs, **({"img_size": list(size)} if fixed else {})}


def _created(architecture: str, options: Mapping[str, Any]) -> Any:
    import timm

    try:
        return timm.create_model(architecture, pretrained=False, **options)
    except (RuntimeError, TypeError) as error:
        raise _unfit(architecture, str(error), "a model of timm") from error


def _classifier(target: Any) -> str:
    config = target.pretrained_cfg.get("classifier")
    if not isinstance(config, str) or not isinstance(target.get_submodule(config), nn.Linear):
        raise _unfit("this network", "it has no single linear classifier", "another backbone")
    return config


def _folded(head: Any) -> tuple[Tensor, Tensor]:
    """(weight [K, D], bias [K]) of the classifier that takes features as they come."""
    weight = head.linear.weight.detach().double() * head.scale.double()
    bias = head.linear.bias.detach().double() - weight @ head.mean.double()
    return weight.float(), bias.float()


def _joined(
    trained: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    classifier: str,
    head: tuple[Tensor, Tensor],
) -> dict[str, Tensor]:
    ours = {f"{classifier}.weight": head[0], f"{classifier}.bias": head[1]}
    tensors = {}
    for name, place in wanted.items():
        value = ours.get(name, trained.get(name))
        if value is None or value.shape != place.shape:
            shape = "nothing" if value is None else tuple(value.shape)
            raise _unfit(
                f"the tensor {name}",
                f"timm has {tuple(place.shape)}, here is {shape}",
                "pooling as timm has it",
            )
        tensors[name] = value.detach().to(place.dtype)
    return tensors


@torch.no_grad()
def _prove(target: Any, model: nn.Module, size: tuple[int, int]) -> None:
    noise = torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(0))
    ours, theirs = model(noise), target(noise)
    spread = float(ours.std()) + float(ours.abs().mean()) + 1e-6
    if float((ours - theirs).abs().max()) > AGREEMENT * spread:
        raise _unfit(
            "the pooling before the head",
            "timm pools otherwise before its classifier",
            "--pooling as the architecture has it: gap or pre_logits, cls for vision transformers",
        )


def _unfit(what: str, why: str, instead: str) -> ConfigError:
    return ConfigError(f"{what} can't be exported to timm", why, f"take {instead}")
