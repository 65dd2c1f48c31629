"""Weights and images that anybody can make again, bit for bit, on any machine and without any deep learning library.

Every value comes from the raw integers of numpy's Philox generator, whose stream numpy guarantees for ever, and
from two operations that IEEE 754 fixes; its key is the SHA-256 of the seed and the tensor's name. Neither the
order of tensors nor a library's way of initialising matters.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def unit(name: str, shape: tuple[int, ...], seed: int = 0) -> Floats:
    """float32 of `shape`, uniform on [-sqrt 3, sqrt 3): mean 0, variance 1."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    count = math.prod(shape)
    raw = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw((count + 1) // 2)
    words = raw.astype("<u8").view("<u4")[:count]
    # 24 bits are exactly a float32, so only the product with sqrt 3 is rounded.
    values = (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-23) - np.float32(1)
    return (values * np.float32(math.sqrt(3))).reshape(shape)


def seeded_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Floats]:
    """A tensor of each name and shape, on a scale at which every one of them moves the features.

    Layer scales ("gamma") lie in 0.1 to 1, weights of norms around 1 with deviation 0.1; biases have deviation
    0.02, positions and tokens 0.2; matrices and kernels 1 / sqrt(inputs), so that activations neither vanish
    nor grow and the attention is far from even.
    """
    return {name: _scaled(name, unit(name, tuple(shape), seed)) for name, shape in shapes.items()}


def _scaled(name: str, values: Floats) -> Floats:
    leaf = name.rpartition(".")[2]
    if leaf == "gamma":
        return np.float32(0.55) + np.float32(0.45 / math.sqrt(3)) * values
    if leaf == "pos_embed" or leaf.endswith(("_token", "_tokens")):
        return np.float32(0.2) * values
    if values.ndim == 1:
        return np.float32(0.02) * values if leaf == "bias" else np.float32(1) + np.float32(0.1) * values
    inputs = math.prod(values.shape[1:])
    return np.float32(1 / math.sqrt(inputs)) * values


def seeded_images(size: int | tuple[int, int], n: int = 2, seed: int = 0) -> Floats:
    """Float32 [n, 3, height, width] with mean 0 and variance 1, as after normalisation; `size` is height = width."""
    height, width = (size, size) if isinstance(size, int) else size
    return unit(f"images {height} x {width}", (n, 3, height, width), seed)


def sha256(tensors: Mapping[str, Floats]) -> str:
    """SHA-256 (hex) over the names, sorted, and the little-endian bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].astype("<f4").tobytes())
    return digest.hexdigest()
