"""From a blueprint to a backbone: build the architecture, read the weights, prove that they fit, load them."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode

from featprobe.backbones.core import fit as fitting
from featprobe.backbones.core.create import create
from featprobe.backbones.core.files import Checkpoint, read_checkpoint
from featprobe.backbones.core.info import NO_WEIGHTS, PRETRAINED, RANDOM, BackboneInfo, LoadRequest
from featprobe.backbones.core.model import Backbone, Resize, check_poolings
from featprobe.backbones.core.places import NO_PLACE, locate
from featprobe.backbones.core.shards import INDEX
from featprobe.backbones.core.survey import Survey, gflops, survey
from featprobe.registry import BACKBONES

# timm's converters from a project's own key names to timm's, by the names it gives them.
_CONVERTERS: Final = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")
_PREFIX_TOKENS: Final = 5
_DRAWS: Final = frozenset({torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_})

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """What a family knows about one backbone beyond its `info`.

    `rename`: from a project's own key names to the model's, applied to every file. `join`: the tensors of a
    further file (`WeightsFile.part`) under the model's names. `resize`: adapts the model to an image size where
    timm's way is not the published one. `weightless`: there is nothing to load.
    """

    info: BackboneInfo
    numerics: int
    rename: Callable[[Tensors], Tensors] | None = None
    join: Callable[[str, Tensors], Tensors] | None = None
    resize: Resize | None = None
    weightless: bool = False


def deepened(info: BackboneInfo) -> dict[str, Any]:
    """The fields of BackboneInfo that cost a dry run: parameters (without a classifier), operations and dims."""
    facts = survey(info.architecture)
    return {
        "parameters": facts.parameters,
        "gflops": gflops(info.architecture, info.rules[info.default_rule].image_size),
        "dims": {pooling: facts.dims[pooling] for pooling in info.poolings},
    }


def assemble(blueprint: Blueprint, request: LoadRequest) -> Backbone:
    """The backbone of `blueprint` with the weights of `request`, frozen, in eval mode, on the CPU.

    The global random state is left as it was. Raises BackboneError where weights can't be had or don't fit,
    a pooling does not exist or an image size can't be taken.
    """
    info = blueprint.info
    facts = survey(info.architecture)
    poolings = tuple(request.poolings) or (info.default_pooling,)
    check_poolings(info, poolings)
    loaded = _Loaded({}, (), (), ())
    label = NO_WEIGHTS if blueprint.weightless else _label(request.weights)
    if request.weights == RANDOM or blueprint.weightless:
        origin = ""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            model = create(info.architecture)
    else:
        checkpoint, origin = _checkpoint(blueprint, request)
        if origin:
            label = _label(origin)
            checkpoint = dataclasses.replace(
                checkpoint, notes=(*checkpoint.notes, f"the weights folder's own file {origin}")
            )
        with _NoDraws():
            model = create(info.architecture)
        loaded = _fitted(checkpoint, blueprint, facts, model, poolings, request)
        _fill(model, loaded)
    state = model.state_dict()
    hashed = facts.on_path - frozenset(loaded.missing)
    backbone = Backbone(
        model,
        info=info,
        survey=facts,
        resize=blueprint.resize or _timm_resize,
        weights_sha256=fitting.tensors_sha256({name: state[name] for name in hashed}),
        weights_label=label,
        numerics=blueprint.numerics,
        missing=loaded.missing,
        unexpected=loaded.unexpected,
        notes=(*info.notes, *loaded.notes),
        weights_origin=origin,
    )
    backbone.eval().requires_grad_(requires_grad=False)
    backbone.prepare(request.image_size)
    return backbone


@dataclass(frozen=True, slots=True)
class _Loaded:
    tensors: Tensors
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    notes: tuple[str, ...]


class _NoDraws(TorchFunctionMode):
    """Leaves out drawing random weights, most of the time of building a large model, where a file replaces them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # Zeros, not what the memory held: a truncated normal draws again until its values are in range.
        return args[0].zero_() if func in _DRAWS else func(*args, **(kwargs or {}))


def _fill(model: Any, loaded: _Loaded) -> None:
    model.load_state_dict(loaded.tensors, strict=False)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name not in loaded.tensors:
                # No pooling that is served reads these; they must only not be whatever the memory held.
                tensor.zero_()


def _timm_resize(model: Any, size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        # timm's resampling of window positions indexes in a way that newer versions of torch warn of.
        warnings.simplefilter("ignore", UserWarning)
        model.set_input_size(img_size=size)


def _label(weights: str) -> str:
    if weights in {PRETRAINED, RANDOM}:
        return weights
    path = Path(weights.removesuffix(INDEX))
    return path.name if path.stem in {PRETRAINED, RANDOM} else path.stem


def _checkpoint(blueprint: Blueprint, request: LoadRequest) -> tuple[Checkpoint, str]:
    """The tensors, and the name of the user's own file where the weights folder was given one, else ""."""
    info = blueprint.info
    wanted = survey(info.architecture).shapes
    if info.terms:
        request.announce(f"{info.name}: {info.terms}")
    if request.weights != PRETRAINED:
        return read_checkpoint(Path(request.weights).expanduser(), name=info.name, wanted=wanted), ""
    whole: Checkpoint | None = None
    own = ""
    for file in info.files or (NO_PLACE,):
        place = locate(
            file,
            name=info.name,
            offline=request.offline,
            announce=request.announce,
            weights_dir=request.weights_dir,
            source=info.weights_source,
        )
        if file.part and blueprint.join is None:
            continue  # a configuration, read by the family itself
        found = read_checkpoint(place.path, name=info.name, wanted=None if file.part else wanted)
        whole = _joined(whole, found, file.part, blueprint)
        own = own or (place.own_file if not file.part else "")
    assert whole is not None
    return whole, own


def _joined(whole: Checkpoint | None, found: Checkpoint, part: str, blueprint: Blueprint) -> Checkpoint:
    if whole is None or blueprint.join is None:
        return found
    tensors = {**whole.tensors, **blueprint.join(part, dict(found.tensors))}
    return dataclasses.replace(whole, tensors=tensors, notes=(*whole.notes, *found.notes))


def _fitted(
    checkpoint: Checkpoint,
    blueprint: Blueprint,
    facts: Survey,
    model: Any,
    poolings: Sequence[str],
    request: LoadRequest,
) -> _Loaded:
    weights = request.weights
    tensors, notes = _renamed(checkpoint, blueprint, facts, model)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if request.report is not None:
        for line in fitting.account(checkpoint, facts, shapes).lines():
            request.report(line)
    fit = fitting.compare(shapes, facts)
    name = blueprint.info.name
    fitting.require(
        fit,
        facts,
        shapes,
        poolings=poolings,
        source="what the hub holds" if weights == PRETRAINED else f"the weights file {Path(weights).name}",
        name=name,
        likely=[other for other in _look_alikes(checkpoint.tensors) if other != name],
        file=weights,
    )
    absent = sorted(facts.on_path & {*fit.missing, *fit.reshaped})
    unexpected = (*fit.heads, *fit.unexpected, *checkpoint.left_out)
    if absent:
        notes = (
            *notes,
            f"{len(absent)} tensors that {', '.join(poolings)} does not read are not in the weights",
        )
    if unexpected:
        notes = (
            *notes,
            f"{len(unexpected)} tensors of the weights were left out: {', '.join(unexpected[:6])}",
        )
    return _Loaded({tensor: tensors[tensor] for tensor in fit.fitting}, tuple(absent), unexpected, notes)


def _renamed(
    checkpoint: Checkpoint, blueprint: Blueprint, facts: Survey, model: Any
) -> tuple[Tensors, tuple[str, ...]]:
    tensors = dict(checkpoint.tensors)
    if blueprint.rename is not None:
        tensors = blueprint.rename(tensors)
    fit = fitting.compare({name: tuple(tensor.shape) for name, tensor in tensors.items()}, facts)
    if not fit.unexpected and not fit.reshaped and not (facts.on_path & set(fit.missing)):
        return tensors, checkpoint.notes
    converted = _converted(tensors, model)
    if converted is None or set(converted) == set(tensors):
        return tensors, checkpoint.notes
    return converted, (*checkpoint.notes, "key names were converted to timm's")


def _converted(tensors: Tensors, model: Any) -> Tensors | None:
    module = sys.modules[type(model).__module__]
    converter = next((getattr(module, name) for name in _CONVERTERS if hasattr(module, name)), None)
    if converter is None:
        return None
    try:
        converted: Tensors = _call(converter, dict(tensors), model)
    except (AttributeError, AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        # A converter that stumbles over the file says only that the file is of another architecture.
        return None
    # timm resamples patches and positions of another size without a word; here they stay what they are, and
    # the comparison of shapes refuses them.
    return {
        name: tensors[name] if name in tensors and _resampled(tensors[name], tensor) else tensor
        for name, tensor in converted.items()
    }


def _resampled(before: torch.Tensor, after: torch.Tensor) -> bool:
    if before.numel() == after.numel():
        return False
    # Class and register tokens may be split off a position embedding; its grid must not change.
    return (
        before.ndim != 3
        or before.ndim != after.ndim
        or abs(before.shape[1] - after.shape[1]) > _PREFIX_TOKENS
    )


def _call(converter: Callable[..., Any], tensors: Tensors, model: Any) -> Any:
    try:
        return converter(tensors, model)
    except TypeError:
        return converter(tensors)


def _look_alikes(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Registered names whose telling tensor, as their family states it, is in the file."""
    return [
        name
        for _, family in BACKBONES.items()
        for name, tells in getattr(family, "signatures", {}).items()
        if any(tensor in tensors and tuple(tensors[tensor].shape) == shape for tensor, shape in tells.items())
    ]
