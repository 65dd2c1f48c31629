"""Whether a checkpoint fits an architecture, tensor by tensor; nothing is ever loaded in part without being said."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from featprobe.backbones.core.files import Checkpoint
from featprobe.backbones.core.nearest_architecture import nearest_architectures
from featprobe.backbones.core.styles import leftover
from featprobe.backbones.core.survey import Survey
from featprobe.backbones.core.unwrapping import counted
from featprobe.errors import BackboneError

_TOLERATED: Final = 4
# Weights without classifier, or VGG without its fully connected layers, still hold this share of an architecture.
_WHOLE: Final = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Names of a checkpoint's tensors against an architecture's.

    `fitting`: same name and shape. `reshaped`: same name, another shape. `missing`: wanted by the
    architecture, not given. `heads`: classifiers and what else is known to serve no embedding, classifiers of
    another number of classes included. `unexpected`: all others.
    """

    fitting: tuple[str, ...]
    reshaped: tuple[str, ...]
    missing: tuple[str, ...]
    heads: tuple[str, ...]
    unexpected: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Every tensor of a checkpoint and of an architecture, and what became of it.

    `used`: tensor of the architecture -> its name in the file. `unused`: name in the file -> why, such as "decoder" or
    "of unknown use". `missing`: tensor of the architecture that the file lacks -> the poolings that read it, () for
    none. `reshaped`: tensor -> (shape in the file, shape wanted).
    """

    used: Mapping[str, str]
    unused: Mapping[str, str]
    missing: Mapping[str, tuple[str, ...]]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def lines(self) -> list[str]:
        """The account in sentences, one a line."""
        total = len(self.used) + len(self.missing) + len(self.reshaped)
        said = [f"used: {len(self.used)} of the architecture's {total} tensors"]
        renamed = {ours: theirs for ours, theirs in self.used.items() if ours != theirs}
        if renamed:
            ours, theirs = next(iter(renamed.items()))
            said.append(f"  {len(renamed)} of them under other names, such as {theirs} for {ours}")
        said.append(
            f"unused: {len(self.unused)}" + (f" ({counted(self.unused.values())})" if self.unused else "")
        )
        said += [f"  {name}: {why}" for name, why in self.unused.items()]
        said.append(f"missing: {len(self.missing)}")
        said += [
            f"  {name}: {'read by ' + ', '.join(poolings) if poolings else 'no pooling reads it'}"
            for name, poolings in self.missing.items()
        ]
        said.append(f"of another shape: {len(self.reshaped)}")
        said += [
            f"  {name}: {_size(given)} for {_size(wanted)}" for name, (given, wanted) in self.reshaped.items()
        ]
        return said


def compare(shapes: Mapping[str, tuple[int, ...]], survey: Survey) -> Fit:
    """`shapes` of a checkpoint against those of `survey`; all names sorted."""
    known = survey.shapes
    fitting = {name for name, shape in shapes.items() if name in known and tuple(shape) == tuple(known[name])}
    reshaped = {name for name in shapes if name in known} - fitting
    strangers = {name for name in shapes if name not in known}
    heads = {name for name in strangers if _is_head(name, survey.classifiers)}
    # A classifier of other classes is no fault of the weights; only logits would need it.
    other_classes = {name for name in reshaped if _is_classifier(name, survey.classifiers)}
    return Fit(
        fitting=tuple(sorted(fitting)),
        reshaped=tuple(sorted(reshaped)),
        missing=tuple(sorted(name for name in known if name not in shapes)),
        heads=tuple(sorted(heads | other_classes)),
        unexpected=tuple(sorted(strangers - heads)),
    )


def _is_head(name: str, classifiers: Sequence[str]) -> bool:
    return leftover([name.split(".", maxsplit=1)[0]]) is not None or _is_classifier(name, classifiers)


def _is_classifier(name: str, classifiers: Sequence[str]) -> bool:
    return any(name.startswith(f"{layer}.") for layer in classifiers)


def account(
    checkpoint: Checkpoint, survey: Survey, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Account:
    """What became of every tensor of `checkpoint` and of the architecture of `survey`.

    `shapes`: of the checkpoint's tensors after a family renamed them, None where nothing is renamed.
    """
    given = shapes or {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()}
    fit = compare(given, survey)
    names = {name: checkpoint.originals.get(name, name) for name in given}
    unused = {names[name]: "another shape" for name in fit.reshaped}
    unused |= {names[name]: "of unknown use" for name in fit.unexpected}
    unused |= {names[name]: "head" for name in fit.heads}
    unused |= {name: checkpoint.reasons.get(name, "") or "of unknown use" for name in checkpoint.left_out}
    return Account(
        used={name: names[name] for name in fit.fitting},
        unused=dict(sorted(unused.items())),
        missing={
            name: tuple(pooling for pooling, reads in survey.reads.items() if name in reads)
            for name in fit.missing
        },
        reshaped={name: (tuple(given[name]), tuple(survey.shapes[name])) for name in fit.reshaped},
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

    The error names the tensors that fit, are missing, have another shape or belong elsewhere, and the nearest
    architecture. `source` names the weights in the error, `likely` the backbones that they may be for where their
    tensors resemble none, `file` their path.
    """
    wanted = frozenset().union(*(survey.reads[pooling] for pooling in poolings))
    given = wanted & set(fit.fitting)
    missing = [tensor for tensor in fit.missing if tensor in wanted]
    reshaped = [tensor for tensor in fit.reshaped if tensor in wanted]
    if not missing and not reshaped and len(fit.unexpected) <= _TOLERATED:
        return
    parts = [f"{len(given)} of the {len(wanted)} tensors that {', '.join(poolings)} needs fit"]
    if missing:
        parts.append(f"{len(missing)} {'is' if len(missing) == 1 else 'are'} missing ({_first(missing)})")
    if reshaped:
        shown = [
            f"{tensor} {_size(shapes[tensor])} for {_size(survey.shapes[tensor])}" for tensor in reshaped
        ]
        parts.append(
            f"{len(reshaped)} {'has' if len(reshaped) == 1 else 'have'} another shape ({_first(shown)})"
        )
    if fit.unexpected:
        parts.append(
            f"{len(fit.unexpected)} {'belongs' if len(fit.unexpected) == 1 else 'belong'} to another architecture ({_first(fit.unexpected)})"
        )
    if 0 < len(given) < len(wanted):
        parts.append(f"those that fit begin with {_first(sorted(given))}")
    step = _next_step(fit, survey, shapes, name=name, likely=likely, file=file)
    raise BackboneError(f"{source} does not fit {name}", ", ".join(parts), step)


def _next_step(
    fit: Fit,
    survey: Survey,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    name: str,
    likely: Sequence[str],
    file: str,
) -> str:
    given = set(fit.fitting)
    served = [pooling for pooling, reads in survey.reads.items() if reads and reads <= given]
    if served and len(fit.unexpected) <= _TOLERATED:
        return f"they serve {' and '.join(served)}: type --pooling {served[0]}"
    # An architecture is nearer only where more of the tensors fit it than fit the one that was asked for.
    for near in nearest_architectures(shapes):
        if near.name != name and near.fitting > len(given):
            look = f"they look most like {near.name} ({near.fitting} of {near.total} tensors)"
            if near.share < _WHOLE:
                return f"{look}, but are not whole: give weights of {name}"
            return f"{look}: type --backbone {near.name} --weights {near.name}={file}"
    if likely:
        return f"they look like {likely[0]}: type --backbone {likely[0]} --weights {likely[0]}={file}"
    return f"give weights of {name}; featprobe backbones show {name} --weights {file} lists every tensor"


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
