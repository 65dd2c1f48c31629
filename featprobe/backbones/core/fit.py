"""Whether a checkpoint fits an architecture, tensor by tensor; nothing is ever loaded in part without being said."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from featprobe.backbones.core.survey import Survey
from featprobe.errors import BackboneError

# Layers that stand behind every embedding, by the names that training scripts give them; the names of timm's
# own classifier come with the architecture.
_HEADS: Final = (
    "head",
    "head_dist",
    "fc",
    "classifier",
    "linear_head",
    "dino_head",
    "ibot_head",
    "mask_token",
)
_TOLERATED: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Names of a checkpoint's tensors against an architecture's.

    `fitting`: same name and shape. `reshaped`: same name, another shape. `missing`: wanted by the
    architecture, not given. `heads`: classifiers, which no embedding needs. `unexpected`: all others.
    """

    fitting: tuple[str, ...]
    reshaped: tuple[str, ...]
    missing: tuple[str, ...]
    heads: tuple[str, ...]
    unexpected: tuple[str, ...]


def compare(shapes: Mapping[str, tuple[int, ...]], survey: Survey) -> Fit:
    """`shapes` of a checkpoint against those of `survey`; all names sorted."""
    known = survey.shapes
    strangers = sorted(name for name in shapes if name not in known)
    heads = {name for name in strangers if _is_head(name, survey.classifiers)}
    return Fit(
        fitting=tuple(sorted(n for n, shape in shapes.items() if n in known and tuple(shape) == known[n])),
        reshaped=tuple(sorted(n for n, shape in shapes.items() if n in known and tuple(shape) != known[n])),
        missing=tuple(sorted(name for name in known if name not in shapes)),
        heads=tuple(sorted(heads)),
        unexpected=tuple(name for name in strangers if name not in heads),
    )


def _is_head(name: str, classifiers: Sequence[str]) -> bool:
    return name.split(".", maxsplit=1)[0] in _HEADS or any(
        name.startswith(f"{layer}.") for layer in classifiers
    )


def require(
    fit: Fit,
    survey: Survey,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    poolings: Sequence[str],
    source: str,
    name: str,
    likely: Sequence[str] = (),
    file: str = "FILE",
) -> None:
    """BackboneError unless every tensor that `poolings` read is there in its shape, and next to nothing else.

    `source` names the weights in the error, `likely` the backbones that they may be for, `file` their path.
    """
    wanted = frozenset().union(*(survey.reads[pooling] for pooling in poolings))
    missing = [tensor for tensor in fit.missing if tensor in wanted]
    reshaped = [tensor for tensor in fit.reshaped if tensor in wanted]
    if not missing and not reshaped and len(fit.unexpected) <= _TOLERATED:
        return
    given = set(fit.fitting)
    parts = [f"{len(wanted & given)} of the {len(wanted)} tensors that {', '.join(poolings)} needs fit"]
    if missing:
        parts.append(f"{len(missing)} are missing ({_first(missing)})")
    if reshaped:
        shown = [
            f"{tensor} {_size(shapes[tensor])} for {_size(survey.shapes[tensor])}" for tensor in reshaped
        ]
        parts.append(f"{len(reshaped)} have another shape ({_first(shown)})")
    if fit.unexpected:
        parts.append(f"{len(fit.unexpected)} belong to another architecture ({_first(fit.unexpected)})")
    step = f"give weights of {name}, or see featprobe backbones show {name}"
    served = [pooling for pooling, reads in survey.reads.items() if reads <= given]
    if served and len(fit.unexpected) <= _TOLERATED:
        step = f"they serve {' and '.join(served)}: type --pooling {served[0]}"
    elif likely:
        step = f"they look like {likely[0]}: type --backbone {likely[0]} --weights {likely[0]}={file}"
    raise BackboneError(f"{source} does not fit {name}", ", ".join(parts), step)


def _first(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _size(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) over the tensors sorted by name: name, dtype, shape, bytes. The device does not matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        kind = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name}\0{kind}\0{_size(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
