"""Keys such as `cls` or `last4/cls+mean`: which features of a model become an embedding, all from one forward pass."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch

from featprobe.backbones.core.info import DENSE, MAP_POOLINGS, TOKEN_POOLINGS
from featprobe.errors import BackboneError, listed, nearest

GEM_POWER: Final = 3.0
_GEM_FLOOR: Final = 1e-6
_LAST: Final = re.compile(r"last([1-9]\d*)")


@dataclass(frozen=True, slots=True)
class Key:
    """`pooling` of `layer`: "" is the last layer, "lastN" the last N blocks, else the path of a module."""

    layer: str
    pooling: str

    @classmethod
    def parse(cls, text: str) -> Key:
        """The key written as POOLING or LAYER/POOLING."""
        layer, _, pooling = text.rpartition("/")
        return cls(layer, pooling)

    @property
    def blocks(self) -> int:
        """N of "lastN", 0 for other layers."""
        match = _LAST.fullmatch(self.layer)
        return int(match.group(1)) if match else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How features are to be pooled.

    `kind`: "tokens" [B, N, D], "nchw" [B, D, H, W], "nhwc" [B, H, W, D], "ncdhw" [B, D, Z, H, W], "vector" [B, D]
    or "other". `prefix`: class, register and distillation tokens before the patch tokens. `norm_after_mean`:
    the model was trained to normalise after averaging (timm's `fc_norm`), and has no normalised class token.
    `logits`: the model has a classifier.
    """

    kind: str
    prefix: int = 0
    has_cls: bool = False
    norm_after_mean: bool = False
    logits: bool = False

    @property
    def poolings(self) -> tuple[str, ...]:
        """The poolings that this layout can give, the default one first."""
        found: tuple[str, ...] = ("pre_logits",)
        if self.kind == "tokens":
            full = self.has_cls and not self.norm_after_mean
            found = TOKEN_POOLINGS if full else ("mean", "pre_logits", DENSE)
        elif self.kind in {"nchw", "nhwc"}:
            found = MAP_POOLINGS
        elif self.kind == "ncdhw":
            found = tuple(pooling for pooling in MAP_POOLINGS if pooling != DENSE)
        return (*found, "logits") if self.logits else found


def layout_of(model: Any, features: Any) -> Layout:
    """The layout of `features`, which `model.forward_features` or one of its layers gave."""
    shape = tuple(getattr(features, "shape", ()))
    width = getattr(model, "num_features", None)
    has_cls = bool(getattr(model, "has_class_token", getattr(model, "cls_token", None) is not None))
    norm = getattr(model, "fc_norm", None)
    kinds = {
        2: "vector",
        3: "tokens",
        4: "nhwc" if _channels_last(model, shape, width) else "nchw",
        5: "ncdhw",
    }
    return Layout(
        kind=kinds.get(len(shape), "other"),
        prefix=int(getattr(model, "num_prefix_tokens", int(has_cls))),
        has_cls=has_cls,
        norm_after_mean=norm is not None and not isinstance(norm, torch.nn.Identity),
        logits=bool(getattr(model, "num_classes", 0)),
    )


def _channels_last(model: Any, shape: tuple[int, ...], width: int | None) -> bool:
    declared = getattr(model, "output_fmt", None)
    if declared is not None:
        return "NHWC" in str(declared)
    return len(shape) == 4 and shape[3] == width and shape[1] != width


def embed(
    model: Any,
    layout: Layout,
    images: torch.Tensor,
    keys: Sequence[str],
    sizes: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Key -> float32 [B, D] ([B, h, w, D] for `patches`), all from one pass of `images` [B, C, (D,) H, W].

    `layout`: of `forward_features`. `sizes`: int64 [B, 2], height and width of the images before
    preprocessing, for models that want them. BackboneError for a layer that the model does not have.
    """
    parsed = {key: Key.parse(key) for key in keys}
    wanted = set(parsed.values())
    head_key = getattr(model, "head_key", "")
    if head_key and any(key.pooling == "logits" and not key.layer for key in wanted):
        wanted.add(Key.parse(head_key))
    with _watched(model, {key.layer for key in wanted}) as seen:
        extra = {"sizes": sizes} if getattr(model, "wants_sizes", False) else {}
        features = model.forward_features(images, **extra)
    grid = grid_of(model, images)
    found = {}
    for text, key in parsed.items():
        if key.layer:
            found[text] = _pool_layer(model, layout, seen, key, grid)
        elif key.pooling == "logits" and head_key:
            found[text] = model.linear_head(
                _pool_layer(model, layout, seen, Key.parse(head_key), grid)
            ).float()
        else:
            found[text] = pool(model, layout, features, key.pooling, grid)
    return found


def pool(
    model: Any, layout: Layout, features: Any, pooling: str, grid: tuple[int, int] | None = None
) -> torch.Tensor:
    """`features` (what `model.forward_features` gave) as float32 [B, D], or [B, h, w, D] for `patches`.

    Averages are taken in float32 whatever the precision of the forward pass. `grid`: (h, w) of the patches.
    """
    if pooling in {"pre_logits", "logits"}:
        pooled: torch.Tensor = model.forward_head(features, pre_logits=pooling == "pre_logits")
        return pooled.float().contiguous()
    if layout.kind == "tokens" and pooling == "mean" and layout.norm_after_mean:
        normalised: torch.Tensor = model.fc_norm(features.float()[:, layout.prefix :].mean(dim=1))
        return normalised.float()
    return pool_values(features, layout, pooling, grid)


def pool_values(
    features: torch.Tensor, layout: Layout, pooling: str, grid: tuple[int, int] | None = None
) -> torch.Tensor:
    """`features` of `layout` as float32 [B, D] ([B, h, w, D] for `patches`), by arithmetic alone.

    `gem` is the generalised mean with power 3 over the values cut at 1e-6 (Radenovic et al., TPAMI 2019,
    equation 3, arXiv 1711.02512).
    """
    values = features.float()
    if layout.kind == "tokens":
        patches = values[:, layout.prefix :]
        parts = {
            "cls": values[:, 0].contiguous,
            "mean": lambda: patches.mean(dim=1),
            "cls+mean": lambda: torch.cat([values[:, 0], patches.mean(dim=1)], dim=1),
            DENSE: lambda: patches.reshape(len(values), *_cells(patches, grid), -1).contiguous(),
        }
        pooled: torch.Tensor = _known(parts, pooling)()
        return pooled
    if layout.kind == "nhwc":
        values = values.permute(0, 3, 1, 2)
    _known(MAP_POOLINGS, pooling)
    space = tuple(range(2, values.ndim))
    if pooling == "gem":
        powers = values.clamp(min=_GEM_FLOOR).pow(GEM_POWER)
        return powers.mean(dim=space).pow(1 / GEM_POWER)
    if pooling == DENSE:
        return values.permute(0, 2, 3, 1).contiguous()
    return values.mean(dim=space)


def _known(parts: Any, pooling: str) -> Any:
    """The part called `pooling`; BackboneError where these features have none of that name."""
    known = [name for name in parts if name not in {"pre_logits", "logits"}]
    if pooling not in known:
        raise BackboneError(
            f"these features have no pooling {pooling!r}",
            f"they have {', '.join(known)}",
            f"type --pooling {known[0]}",
        )
    return parts[pooling] if isinstance(parts, dict) else None


def _cells(patches: torch.Tensor, grid: tuple[int, int] | None) -> tuple[int, int]:
    """(h, w) of patch tokens [B, h * w, D]; ValueError where they are no grid."""
    count = int(patches.shape[1])
    side = math.isqrt(count)
    if grid is not None and grid[0] * grid[1] == count:
        return grid
    if side * side != count:
        raise ValueError(f"{count} tokens are no grid")
    return side, side


def grid_of(model: Any, images: torch.Tensor) -> tuple[int, int] | None:
    """(h, w) of the patches of `images`, None where the model cuts none."""
    patch = patch_of(model)
    if patch <= 1 or images.ndim != 4:
        return None
    return int(images.shape[2]) // patch, int(images.shape[3]) // patch


def patch_of(model: Any) -> int:
    """Side of the patches in pixels, 1 where a model has none."""
    embedding = getattr(model, "patch_embed", None)
    size = getattr(model, "patch_size", 1) if embedding is None else getattr(embedding, "patch_size", 1)
    return int(max(size)) if isinstance(size, (tuple, list)) else int(size)


def _pool_layer(
    model: Any, layout: Layout, seen: Mapping[str, list[Any]], key: Key, grid: tuple[int, int] | None
) -> torch.Tensor:
    if key.blocks:
        return _pool_blocks(model, layout, seen[key.layer], key.pooling, grid)
    output = seen[key.layer]
    if len(output) != 1:
        raise BackboneError(
            f"the layer {key.layer!r} runs {len(output)} times in a forward pass",
            "features can be taken of layers that run once",
            "name another with --layer",
        )
    inner = layout_of(model, output[0])
    known = tuple(p for p in inner.poolings if p not in {"pre_logits", "logits"})
    if inner.kind not in {"tokens", "nchw", "nhwc", "ncdhw"} or key.pooling not in known:
        raise BackboneError(
            f"the layer {key.layer!r} has no pooling {key.pooling!r}",
            f"it has {', '.join(known)}" if known else f"its output is {tuple(output[0].shape)}",
            f"type --pooling {known[0]}" if known else "name another with --layer",
        )
    return pool_values(output[0], inner, key.pooling, grid)


def _pool_blocks(
    model: Any, layout: Layout, outputs: Sequence[Any], pooling: str, grid: tuple[int, int] | None
) -> torch.Tensor:
    """The last blocks one beside the other, earliest first, each after the final norm.

    `cls+mean` is the class tokens of all and the patch mean of the last: the input of DINOv2's linear
    classifiers (Oquab et al., TMLR 2024, section on linear evaluation).
    """
    normed = [model.norm(output) for output in outputs]
    if pooling == "cls+mean":
        tokens = [pool_values(values, layout, "cls") for values in normed]
        return torch.cat([*tokens, pool_values(normed[-1], layout, "mean")], dim=1)
    return torch.cat([pool_values(values, layout, pooling, grid) for values in normed], dim=-1)


@contextmanager
def _watched(model: Any, layers: set[str]) -> Iterator[dict[str, list[Any]]]:
    """Layer -> the outputs of its modules, filled while the model runs."""
    seen: dict[str, list[Any]] = {layer: [] for layer in layers if layer}
    handles = []
    try:
        for layer, outputs in seen.items():
            handles += [module.register_forward_hook(_keep(outputs)) for module in modules_of(model, layer)]
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep(outputs: list[Any]) -> Any:
    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, (tuple, list)) else output)

    return hook


def modules_of(model: Any, layer: str) -> list[Any]:
    """The modules whose output the layer is; BackboneError, with the nearest names, where there are none."""
    count = Key(layer, "").blocks
    if count:
        blocks = list(getattr(model, "blocks", ())) if callable(getattr(model, "norm", None)) else []
        if count <= len(blocks):
            return blocks[-count:]
        raise BackboneError(
            f"there is no layer {layer!r}",
            f"the backbone has {len(blocks)} transformer blocks"
            if blocks
            else "it has no transformer blocks",
            f"type --layer last{len(blocks)}" if blocks else f"type --layer {layer_names(model)[-1]}",
        )
    if re.fullmatch(r"last-?\d+", layer):
        raise BackboneError(
            f"there is no layer {layer!r}",
            "lastN is the last N blocks, and N begins at 1",
            "type --layer last1",
        )
    modules = dict(model.named_modules())
    if not layer or layer not in modules:
        hint = nearest(layer, modules) or f"such as {listed(layer_names(model), 6)}"
        raise BackboneError(f"there is no layer {layer!r}", hint, "see featprobe backbones show NAME")
    return [modules[layer]]


def layer_names(model: Any) -> list[str]:
    """The layers worth naming: the blocks of a transformer, the stages of a network with a pyramid, else its children."""
    names = {id(module): name for name, module in model.named_modules()}
    blocks = [names[id(block)] for block in getattr(model, "blocks", ()) if id(block) in names]
    if blocks:
        return blocks
    stages = [str(stage["module"]) for stage in _pyramid(model)]
    known = [stage for stage in stages if stage in set(names.values())]
    return known or [name for name, _ in model.named_children()]


def _pyramid(model: Any) -> Sequence[Mapping[str, Any]]:
    info = getattr(model, "feature_info", ())
    found: Sequence[Mapping[str, Any]] = info if isinstance(info, (list, tuple)) else info.info
    return found
