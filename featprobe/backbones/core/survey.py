"""What an architecture is made of, found by a dry run without memory: poolings, dims, and which tensors each reads.

The dry run is on PyTorch's meta device: shapes are computed, no number is. Which weights a pooling reads is
observed, not guessed from names, so that a missing tensor is accepted exactly where it can't matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import timm
import torch
from torch.overrides import TorchFunctionMode

from featprobe.backbones.core.info import MAP_POOLINGS, TOKEN_POOLINGS
from featprobe.errors import BackboneError

# Getters that hand out the values of a tensor; all others (shape, dtype, ...) only look at it.
_READING_GETTERS: Final = frozenset({"T", "mT", "H", "mH", "data", "real", "imag"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a model's `forward_features` is to be pooled.

    `kind`: "tokens" [B, N, D], "nchw" [B, D, H, W], "nhwc" [B, H, W, D] or "other". `prefix`: class,
    register and distillation tokens before the patch tokens. `norm_after_mean`: the model was trained to
    normalise after averaging (timm's `fc_norm`), and has no normalised class token.
    """

    kind: str
    prefix: int
    has_cls: bool
    norm_after_mean: bool

    @property
    def poolings(self) -> tuple[str, ...]:
        """The poolings that this layout can give."""
        if self.kind == "tokens":
            return TOKEN_POOLINGS if self.has_cls and not self.norm_after_mean else ("mean", "pre_logits")
        return MAP_POOLINGS if self.kind in {"nchw", "nhwc"} else ("pre_logits",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """One architecture: `shapes` of its state dict, and per pooling the dimension and the tensors read.

    `fixed`: the model is built for one image size; `patch`: its patch side in pixels, 1 where any size
    goes. `classifiers`: names of the layers that a checkpoint may hold and no embedding needs.
    """

    layout: Layout
    dims: Mapping[str, int]
    reads: Mapping[str, frozenset[str]]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: int
    image_size: tuple[int, int]
    fixed: bool
    resizable: bool
    patch: int
    classifiers: tuple[str, ...]

    @property
    def poolings(self) -> tuple[str, ...]:
        """The poolings that the architecture can give."""
        return tuple(self.dims)

    @property
    def default_pooling(self) -> str:
        """Class token, else global average of the map, else mean of the tokens, else what there is."""
        return self.poolings[0]

    @property
    def on_path(self) -> frozenset[str]:
        """Every tensor that some pooling reads."""
        return frozenset().union(*self.reads.values())


def pool(model: Any, layout: Layout, features: Any, pooling: str) -> torch.Tensor:
    """`features` (what `model.forward_features` gave) as float32 [B, D].

    Averages are taken in float32 whatever the precision of the forward pass.
    """
    if pooling == "pre_logits":
        pooled: torch.Tensor = model.forward_head(features, pre_logits=True)
        return pooled.float().contiguous()
    values: torch.Tensor = features.float()
    if pooling == "cls":
        return values[:, 0].contiguous()
    if pooling == "cls+mean":
        return torch.cat([pool(model, layout, features, part) for part in ("cls", "mean")], dim=1)
    if layout.kind == "tokens":
        mean = values[:, layout.prefix :].mean(dim=1)
        normalised: torch.Tensor = model.fc_norm(mean) if layout.norm_after_mean else mean
        return normalised.float()
    return values.mean(dim=(2, 3) if layout.kind == "nchw" else (1, 2))


def create(timm_name: str) -> Any:
    """The architecture as timm builds it, without classifier, at the image size of its weights."""
    return timm.create_model(timm_name, pretrained=False, num_classes=0).eval()


@lru_cache(maxsize=64)
def survey(timm_name: str) -> Survey:
    """The dry run of `timm_name`; BackboneError where the architecture can't be used for embeddings."""
    with torch.device("meta"), torch.no_grad():
        model = create(timm_name)
        height, width = _image_size(model)
        images = torch.zeros(1, 3, height, width)
        try:
            layout, observed = _observe(model, images)
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise BackboneError(
                f"timm's {timm_name} can't be used as a backbone",
                f"its dry run ends with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                "see featprobe backbones ls",
            ) from error
    fixed = bool(model.pretrained_cfg.get("fixed_input_size"))
    return Survey(
        layout=layout,
        dims={pooling: dim for pooling, (dim, _) in observed.items()},
        reads={pooling: reads for pooling, (_, reads) in observed.items()},
        shapes={name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        image_size=(height, width),
        fixed=fixed,
        resizable=hasattr(model, "set_input_size"),
        patch=_patch(model) if fixed else 1,
        classifiers=_classifiers(model),
    )


def check_image_size(name: str, timm_name: str, size: tuple[int, int]) -> None:
    """BackboneError unless the backbone `name`, of architecture `timm_name`, takes images of `size` (h, w)."""
    facts = survey(timm_name)
    own, shown = facts.image_size, size_text(size)
    if size == own:
        return
    step = f"type --image-size {own[0]}"
    if not facts.fixed and not _runs_at(timm_name, size):
        raise BackboneError(f"{name} can't take images of {shown} pixels", f"it takes {size_text(own)}", step)
    if facts.fixed and not facts.resizable:
        wrong = f"{name} takes images of {size_text(own)} pixels alone, not {shown}"
        raise BackboneError(wrong, "its position embedding can't be adapted", step)
    if any(side % facts.patch for side in size):
        below = max(facts.patch, size[0] // facts.patch * facts.patch)
        raise BackboneError(
            f"{name} can't take images of {shown} pixels",
            f"its patches are {facts.patch} pixels wide; the nearest sizes are {below} and {below + facts.patch}",
            f"type --image-size {below}",
        )


def size_text(size: tuple[int, int]) -> str:
    """Such as "224 x 224"."""
    return f"{size[0]} x {size[1]}"


@lru_cache(maxsize=64)
def _runs_at(timm_name: str, size: tuple[int, int]) -> bool:
    with torch.device("meta"), torch.no_grad():
        try:
            features = create(timm_name).forward_features(torch.zeros(1, 3, *size))
        except RuntimeError:
            return False
        return 0 not in getattr(features, "shape", (1,))


def _image_size(model: Any) -> tuple[int, int]:
    channels, height, width = model.pretrained_cfg.get("input_size", (3, 224, 224))
    if channels != 3:
        raise BackboneError(
            f"{model.pretrained_cfg.get('architecture')} takes {channels} channels",
            "featprobe feeds RGB",
            "see featprobe backbones ls",
        )
    return int(height), int(width)


def _layout(model: Any, features: Any) -> Layout:
    shape = tuple(getattr(features, "shape", ()))
    width = getattr(model, "num_features", None)
    has_cls = getattr(model, "cls_token", None) is not None
    kind = "other"
    if len(shape) == 3 and shape[2] == width:
        kind = "tokens"
    elif len(shape) == 4:
        kind = "nhwc" if _channels_last(model, shape, width) else "nchw"
    norm = getattr(model, "fc_norm", None)
    return Layout(
        kind=kind,
        prefix=int(getattr(model, "num_prefix_tokens", int(has_cls))),
        has_cls=has_cls,
        norm_after_mean=norm is not None and not isinstance(norm, torch.nn.Identity),
    )


def _channels_last(model: Any, shape: tuple[int, ...], width: int | None) -> bool:
    declared = getattr(model, "output_fmt", None)
    if declared is not None:
        return "NHWC" in str(declared)
    return shape[3] == width and shape[1] != width


def _patch(model: Any) -> int:
    size = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    return int(max(size)) if isinstance(size, (tuple, list)) else int(size)


def _classifiers(model: Any) -> tuple[str, ...]:
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


class _Reads(TorchFunctionMode):
    """Notes the names of the tensors that any torch function is given."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names, self.seen = names, set[str]()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if not _only_looks(func):
            self.seen.update(
                self.names[id(leaf)] for leaf in _leaves((args, kwargs)) if id(leaf) in self.names
            )
        return func(*args, **(kwargs or {}))


def _only_looks(func: Callable[..., Any]) -> bool:
    if getattr(func, "__name__", "") != "__get__":
        return False
    return getattr(getattr(func, "__self__", None), "__name__", "") not in _READING_GETTERS


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _observe(model: Any, images: torch.Tensor) -> tuple[Layout, dict[str, tuple[int, frozenset[str]]]]:
    names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    with _Reads(names) as trunk:
        features = model.forward_features(images)
    layout = _layout(model, features)
    observed = {}
    for pooling in layout.poolings:
        with _Reads(names) as head:
            embedding = pool(model, layout, features, pooling)
        if embedding.ndim != 2:
            raise ValueError(f"{pooling} gives the shape {tuple(embedding.shape)}")
        observed[pooling] = (int(embedding.shape[1]), frozenset(trunk.seen | head.seen))
    return layout, observed
