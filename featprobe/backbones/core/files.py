"""Reading weights files without running anything in them: safetensors, and PyTorch files as weights only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

from featprobe.backbones.core.reading import read
from featprobe.backbones.core.unwrapping import Shapes, choose
from featprobe.errors import BackboneError, nearest

SUFFIXES: Final = (
    *(".safetensors", ".pth", ".pt", ".bin", ".torch", ".ckpt", ".pth.tar", ".pt.tar"),
    *(".safetensors.index.json", ".bin.index.json"),
)
_FOREIGN: Final = {
    ".npz": "NumPy arrays",
    ".npy": "a NumPy array",
    ".h5": "a Keras or HDF5 file",
    ".hdf5": "an HDF5 file",
    ".keras": "a Keras file",
    ".pb": "a TensorFlow graph",
    ".index": "a TensorFlow checkpoint",
    ".data-00000-of-00001": "a TensorFlow checkpoint",
    ".tflite": "a TensorFlow Lite model",
    ".msgpack": "a Flax checkpoint",
    ".onnx": "an ONNX graph",
    ".pkl": "a pickle, which could run code",
    ".pickle": "a pickle, which could run code",
    ".zip": "an archive",
    ".tar": "an archive",
    ".gz": "an archive",
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The network of a weights file.

    `tensors`: name -> tensor on the CPU, floating point as float32. `notes`: what was unwrapped, in words.
    `left_out`: the names in the file of all other tensors, a name of another entry as ENTRY/NAME; `reasons`: one
    of them -> why it isn't needed, such as "decoder", "" where that is unknown. `originals`: name -> name in the file.
    """

    tensors: dict[str, torch.Tensor]
    notes: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    originals: Mapping[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path, *, name: str = "NAME", wanted: Shapes | None = None) -> Checkpoint:
    """The network in `path`, taken out of a training checkpoint's entries and prefixes.

    `name`: the backbone, for errors. `wanted`: tensor -> shape of its architecture, by which the network is found
    where the file holds several or gives it an unknown prefix. Half-precision and float64 values become float32.
    Raises BackboneError for a file that is missing, of an unknown suffix, truncated, that is no weights file, that
    needs code to be unpickled, or whose values are not finite.
    """
    _check_path(path, name)
    choice = choose(read(path), wanted)
    if choice is None:
        raise BackboneError(
            f"the weights file {path.name} holds no named tensors",
            "a state dict, alone or under an entry such as 'state_dict', 'model' or 'teacher', is looked for",
            "save the model's state_dict() with safetensors.torch.save_file",
        )
    tensors, converted = _floats(choice.tensors, path)
    return Checkpoint(
        tensors=tensors,
        notes=tuple(f"{path.name}: {note}" for note in (*choice.notes, *converted)),
        left_out=tuple(choice.left_out),
        reasons=choice.left_out,
        originals=choice.originals,
    )


def _check_path(path: Path, name: str) -> None:
    if not path.is_file():
        raise BackboneError(
            f"the weights file {path} {'is a folder' if path.is_dir() else 'does not exist'}",
            nearest(str(path), ("pretrained", "random")) or "weights are 'pretrained', 'random' or a file",
            f"type --weights {name}=FILE with a {', '.join(SUFFIXES)} file",
        )
    lower = path.name.lower()
    if lower.endswith(SUFFIXES):
        return
    foreign = next((what for suffix, what in _FOREIGN.items() if lower.endswith(suffix)), "")
    raise BackboneError(
        f"the weights file {path.name} has the suffix {path.suffix!r}" + (f": {foreign}" if foreign else ""),
        f"known: {', '.join(SUFFIXES)}",
        f"type --weights {name}=FILE with a file of one of these kinds",
    )


def _floats(tensors: Mapping[str, torch.Tensor], path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    converted: dict[str, torch.Tensor] = {}
    kinds: set[str] = set()
    for name, tensor in tensors.items():
        _check_dense(name, tensor, path)
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
    return converted, [f"{' and '.join(sorted(kinds))} values were turned into float32"] if kinds else []


def _check_dense(name: str, tensor: torch.Tensor, path: Path) -> None:
    kind = "quantised" if tensor.is_quantized else ""
    kind = kind or ("sparse" if tensor.layout != torch.strided else "")
    kind = kind or ("without values (saved from the meta device)" if tensor.is_meta else "")
    if kind:
        raise BackboneError(
            f"the weights file {path.name} can't be used: its tensor {name} is {kind}",
            "ordinary dense tensors are needed",
            "save the model's state_dict() in float32 or float16 with safetensors.torch.save_file",
        )
