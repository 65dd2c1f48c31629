"""Reading weights files without running anything in them: safetensors, and PyTorch files as weights only."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from featprobe.errors import BackboneError, nearest

SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin")

# The teacher stands first: it is the network that DINO's authors evaluate and publish.
_CONTAINERS: Final = ("teacher", "state_dict", "model_state_dict", "model")
_WRAPPERS: Final = ("_orig_mod.", "module.", "backbone.", "model.")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`tensors`: name -> tensor on the CPU, floating point as float32. `notes`: what was unwrapped, in words."""

    tensors: dict[str, torch.Tensor]
    notes: tuple[str, ...]


def read_checkpoint(path: Path, *, name: str = "NAME") -> Checkpoint:
    """The tensors of `path`, taken out of a training checkpoint's containers and prefixes.

    `name`: the backbone, for errors. Half-precision and float64 values become float32. Raises BackboneError for a file that is missing, of an
    unknown suffix, truncated, that needs code to be unpickled, or whose values are not finite.
    """
    if not path.is_file():
        raise BackboneError(
            f"the weights file {path} {'is a folder' if path.is_dir() else 'does not exist'}",
            nearest(str(path), ("pretrained", "random")) or "weights are 'pretrained', 'random' or a file",
            f"type --weights {name}=FILE with a {', '.join(SUFFIXES)} file",
        )
    if path.suffix.lower() not in SUFFIXES:
        raise BackboneError(
            f"the weights file {path.name} has the suffix {path.suffix!r}",
            f"known: {', '.join(SUFFIXES)}",
            f"type --weights {name}=FILE with a file of one of these kinds",
        )
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)
    tensors, notes = _unwrapped(content, path)
    return Checkpoint(*_floats(tensors, notes, path))


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # An old pickle protocol is worth a warning to developers, none to those who can only read the file.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error):
            raise _damaged(path, error) from error
        raise BackboneError(
            f"the weights file {path.name} is refused: it holds Python objects, not only tensors",
            "unpickling them would run code from the file",
            "save its state_dict() with safetensors.torch.save_file where you trust it, and give that file",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> BackboneError:
    reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    return BackboneError(
        f"the weights file {path.name} can't be read: it is truncated, damaged or of another kind",
        f"it has {path.stat().st_size:,} bytes, and the reader says: {reason}",
        "compare its size and checksum with the source's, and copy it again",
    )


def _unwrapped(content: Any, path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    notes: list[str] = []
    for _ in range(len(_CONTAINERS)):
        inside = [name for name in _CONTAINERS if isinstance(content, Mapping) and name in content]
        if not inside or not isinstance(content[inside[0]], Mapping):
            break
        notes.append(f"{path.name}: the weights were taken from its entry {inside[0]!r}")
        content = content[inside[0]]
    if not isinstance(content, Mapping):
        raise _no_tensors(path)
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise _no_tensors(path)
    for prefix in (*_WRAPPERS, *_WRAPPERS):
        inner = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
        if inner and (prefix == "backbone." or len(inner) == len(tensors)):
            left = len(tensors) - len(inner)
            notes.append(
                f"{path.name}: the prefix {prefix!r} was taken off"
                + (f" and {left} tensors outside it left out" if left else "")
            )
            tensors = inner
    return tensors, notes


def _no_tensors(path: Path) -> BackboneError:
    return BackboneError(
        f"the weights file {path.name} holds no named tensors",
        "a state dict, alone or under 'state_dict', 'model' or 'teacher', is looked for",
        "save the model's state_dict() with safetensors.torch.save_file",
    )


def _floats(
    tensors: Mapping[str, torch.Tensor], notes: list[str], path: Path
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    converted: dict[str, torch.Tensor] = {}
    kinds: set[str] = set()
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            converted[name] = tensor
            continue
        if tensor.dtype != torch.float32:
            kinds.add(str(tensor.dtype).removeprefix("torch."))
        converted[name] = tensor.to(torch.float32).contiguous()
        if not bool(torch.isfinite(converted[name]).all()):
            raise BackboneError(
                f"the weights file {path.name} holds values that are not finite",
                f"the first is in the tensor {name}",
                "compare the file's checksum with the source's, and copy it again",
            )
    if kinds:
        notes.append(f"{path.name}: {' and '.join(sorted(kinds))} values were turned into float32")
    return converted, tuple(notes)
