"""References made by the authors' own code: seeded weights under their names, and what their models made of them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_SEEDED = _load("seeded")


class Authors:
    """One project's arrays, see arrays/README.md; `project` is "dinov2" or "dinov3"."""

    def __init__(self, project: str) -> None:
        self.arrays: Mapping[str, Any] = np.load(HERE / "arrays" / f"{project}.npz")

    def __call__(self, key: str) -> Any:
        """The array called `key`, such as dinov2_vits14/224x224/cls."""
        return self.arrays[key]

    def shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        """The tensors of the authors' model `name`."""
        return {key: tuple(shape) for key, shape in json.loads(str(self(f"{name}/shapes"))).items()}

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The seeded weights of `name` under the authors' names, as their state dict holds them."""
        drawn = _SEEDED.seeded_tensors(self.shapes(name))
        assert _SEEDED.sha256(drawn) == str(self(f"{name}/weights")), "these are not the reference's weights"
        tensors = {key: torch.from_numpy(value) for key, value in drawn.items()}
        tensors |= {key: tensors[same] for key, same in json.loads(str(self(f"{name}/same"))).items()}
        kept = f"{name}/computed/"
        computed = (key for key in self.arrays if key.startswith(kept))
        return tensors | {key.removeprefix(kept): torch.from_numpy(self(key)) for key in computed}

    def images(self, size: str) -> torch.Tensor:
        """The seeded images of `size`, such as 168x224 (height and width): float32 [2, 3, H, W]."""
        height, width = map(int, size.split("x"))
        return torch.from_numpy(_SEEDED.seeded_images((height, width)))

    def patches(self, given: torch.Tensor, key: str) -> torch.Tensor:
        """Of patch tokens [B, h, w, D] those places and channels that the array `key` keeps."""
        tokens = given.flatten(1, 2)
        rows = np.linspace(0, tokens.shape[1] - 1, self(key).shape[1]).round().astype(int)
        return tokens[:, rows, ::8]


def distance(given: torch.Tensor, *wanted: Any) -> float:
    """Norm of the difference from `wanted` (arrays side by side), relative to its norm; the worse of the images."""
    expected = torch.cat([torch.from_numpy(array).flatten(1).double() for array in wanted], dim=1)
    difference = given.flatten(1).double() - expected
    return float((difference.norm(dim=1) / expected.norm(dim=1)).max())


@pytest.fixture(scope="session")
def authors() -> Callable[[str], Authors]:
    """Project -> its references."""
    return Authors


@pytest.fixture(scope="session", name="distance")
def _distance() -> Callable[..., float]:
    """How far features are from a reference."""
    return distance


@pytest.fixture(scope="session")
def seeded() -> ModuleType:
    """The module that draws weights and images."""
    return _SEEDED
