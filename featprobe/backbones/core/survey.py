"""What an architecture is made of, found by a dry run without memory: poolings, dims, and which tensors each reads.

The dry run is on PyTorch's meta device: shapes are computed, no number is. Which weights a pooling reads is
observed, not guessed from names, so that a missing tensor is accepted exactly where it can't matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from featprobe.backbones.core.create import create
from featprobe.backbones.core.features import (
    Layout,
    embed,
    grid_of,
    layer_names,
    layout_of,
    patch_of,
    pool,
)
from featprobe.backbones.core.info import DENSE
from featprobe.errors import BackboneError

# Getters that hand out the values of a tensor; all others (shape, dtype, ...) only look at it.
_READING_GETTERS: Final = frozenset({"T", "mT", "H", "mH", "data", "real", "imag"})
_STUMBLES: Final = (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError, AssertionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """One architecture: `shapes` of its state dict, and per pooling the dimension and the tensors read.

    `fixed`: the model is built for one image size; `patch`: its patch side in pixels, 1 where any size
    goes. `input_size`: (channels, [depth,] height, width). `classifiers`: names of the layers that a checkpoint
    may hold and no embedding but the logits needs. `layers`: those worth naming.
    """

    layout: Layout
    dims: Mapping[str, int]
    reads: Mapping[str, frozenset[str]]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: int
    input_size: tuple[int, ...]
    fixed: bool
    resizable: bool
    patch: int
    classifiers: tuple[str, ...]
    layers: tuple[str, ...]

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

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the weights' own input."""
        return self.input_size[-2], self.input_size[-1]

    @property
    def depth(self) -> int | None:
        """Slices of the weights' own input, None for a network of flat images."""
        return self.input_size[1] if len(self.input_size) == 4 else None


@lru_cache(maxsize=64)
def survey(architecture: str) -> Survey:
    """The dry run of `architecture`; BackboneError where it can't be used for embeddings."""
    with torch.device("meta"), torch.no_grad():
        model = create(architecture)
        images = torch.zeros(1, *_input_size(model))
        try:
            layout, observed = _observe(model, images)
        except _STUMBLES as error:
            raise BackboneError(
                f"{architecture} can't be used as a backbone",
                f"its dry run ends with {type(error).__name__}: {_first_line(error)}",
                "see featprobe backbones ls",
            ) from error
    fixed = bool(model.pretrained_cfg.get("fixed_input_size"))
    reads = {pooling: reads for pooling, (_, reads) in observed.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return Survey(
        layout=layout,
        dims={pooling: dim for pooling, (dim, _) in observed.items()},
        reads=reads,
        shapes=shapes,
        parameters=_parameters(model, reads),
        input_size=tuple(images.shape[1:]),
        fixed=fixed,
        resizable=hasattr(model, "set_input_size"),
        patch=patch_of(model) if fixed else 1,
        classifiers=_classifiers(model),
        layers=tuple(layer_names(model)),
    )


@lru_cache(maxsize=256)
def survey_layer(architecture: str, key: str) -> tuple[int, frozenset[str]]:
    """(D, names of the tensors read) of a key LAYER/POOLING; BackboneError where the layer does not exist."""
    facts = survey(architecture)
    with torch.device("meta"), torch.no_grad():
        model = create(architecture)
        names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
        with _Reads(names) as reads:
            found = embed(model, facts.layout, torch.zeros(1, *facts.input_size), [key])[key]
    return int(found.shape[-1]), frozenset(reads.seen)


@lru_cache(maxsize=256)
def row_shape(architecture: str, key: str, size: tuple[int, int]) -> tuple[int, ...]:
    """Shape of one embedding at images of `size` (height, width): (D,), or (h, w, D) for patches."""
    facts = survey(architecture)
    model = _sized(architecture, size)
    with torch.device("meta"), torch.no_grad():
        images = torch.zeros(1, *facts.input_size[:-2], *size)
        return tuple(embed(model, facts.layout, images, [key])[key].shape[1:])


@lru_cache(maxsize=64)
def gflops(architecture: str, size: tuple[int, int]) -> float:
    """Billions of floating-point operations of one image of `size`, a multiply-add counted as two."""
    facts = survey(architecture)
    model = _sized(architecture, size)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.forward_features(torch.zeros(1, *facts.input_size[:-2], *size))
    return float(counter.get_total_flops()) / 1e9


def _sized(architecture: str, size: tuple[int, int]) -> Any:
    with torch.device("meta"), torch.no_grad():
        model = create(architecture)
        facts = survey(architecture)
        if facts.fixed and size != facts.image_size:
            model.set_input_size(img_size=size)
    return model


def check_image_size(name: str, architecture: str, size: tuple[int, int]) -> None:
    """BackboneError unless the backbone `name`, of `architecture`, takes images of `size` (h, w)."""
    facts = survey(architecture)
    own, shown = facts.image_size, size_text(size)
    if size == own:
        return
    step = f"type --image-size {own[0]}"
    if not facts.fixed and not _runs_at(architecture, size):
        raise BackboneError(f"{name} can't take images of {shown} pixels", f"it takes {size_text(own)}", step)
    cell = _cell(architecture) if facts.depth is not None else 1
    if min(size) < cell:
        raise BackboneError(
            f"{name} can't take volumes of {shown} pixels",
            f"one place of its output covers {cell}, so nothing but its padding would be left",
            f"type --image-size {own[0]}, at least {cell}",
        )
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
def _cell(architecture: str) -> int:
    """How many pixels of a side one place of the output map stands for."""
    facts = survey(architecture)
    with torch.device("meta"), torch.no_grad():
        features = create(architecture).forward_features(torch.zeros(1, *facts.input_size))
    return -(-facts.image_size[0] // int(features.shape[-1]))


@lru_cache(maxsize=64)
def _runs_at(architecture: str, size: tuple[int, int]) -> bool:
    facts = survey(architecture)
    with torch.device("meta"), torch.no_grad():
        try:
            features = create(architecture).forward_features(torch.zeros(1, *facts.input_size[:-2], *size))
        except RuntimeError:
            return False
        return 0 not in getattr(features, "shape", (1,))


def _input_size(model: Any) -> tuple[int, ...]:
    size = tuple(int(side) for side in model.pretrained_cfg.get("input_size", (3, 224, 224)))
    if len(size) == 3 and size[0] != 3:
        raise BackboneError(
            f"{model.pretrained_cfg.get('architecture')} takes {size[0]} channels",
            "featprobe feeds RGB",
            "see featprobe backbones ls",
        )
    return size


def _classifiers(model: Any) -> tuple[str, ...]:
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _parameters(model: Any, reads: Mapping[str, frozenset[str]]) -> int:
    """All but the classifier's, which only the logits read."""
    others = frozenset().union(*(read for pooling, read in reads.items() if pooling != "logits"))
    classifier = reads.get("logits", frozenset()) - others
    return sum(parameter.numel() for name, parameter in model.named_parameters() if name not in classifier)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else ""


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
    layout = layout_of(model, features)
    observed = {}
    for pooling in layout.poolings:
        head = _head_reads(model, layout, images, features, pooling, names)
        if head is not None:
            observed[pooling] = (head[0], frozenset(trunk.seen | head[1]))
    return layout, observed


def _head_reads(
    model: Any,
    layout: Layout,
    images: torch.Tensor,
    features: Any,
    pooling: str,
    names: Mapping[int, str],
) -> tuple[int, set[str]] | None:
    """(D, tensors that the pooling reads beyond the trunk's); None for logits or patches that are no plain array."""
    optional = pooling in {"logits", DENSE}
    head_key: str = getattr(model, "head_key", "")
    try:
        with _Reads(names) as reads:
            if pooling == "logits" and head_key:
                embedding = embed(model, layout, images, [pooling])[pooling]
            else:
                embedding = pool(model, layout, features, pooling, grid_of(model, images))
        rank = 4 if pooling == DENSE else 2
        if getattr(embedding, "ndim", 0) != rank:
            raise ValueError(f"{pooling} gives the shape {tuple(getattr(embedding, 'shape', ()))}")
    except _STUMBLES:
        if optional:
            return None
        raise
    return int(embedding.shape[-1]), reads.seen
