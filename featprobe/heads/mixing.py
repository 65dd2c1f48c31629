"""Mixup and CutMix by timm, as a function of a seed, for classes, several labels and numbers alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from featprobe.heads.objective import Objective
from featprobe.heads.recipe import TrainingRecipe


class Mixer:
    """Mixes the images of a batch with one another, and their labels by the same shares.

    Mixup: Zhang et al. 2018 (arXiv 1710.09412); CutMix: Yun et al. 2019 (arXiv 1905.04899); with both, half of the
    batches get each. In a batch of an odd number the last image stays as it is.
    """

    def __init__(self, recipe: TrainingRecipe, objective: Objective) -> None:
        from timm.data.mixup import Mixup

        self.classes = objective.link == "softmax"
        self.outputs = objective.outputs
        # Smoothing is the loss's: timm would smooth what the loss then smooths again.
        self.mixup: Any = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=recipe.mixup,
            cutmix_alpha=recipe.cutmix,
            label_smoothing=0.0,
            num_classes=objective.outputs,
            multi_label=True,
        )

    def __call__(self, images: Tensor, truth: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """(images [B, 3, H, W], dense targets [B, K]): new tensors; NaN (missing) stays NaN for both of a pair."""
        dense = self._dense(truth)
        even = len(images) - len(images) % 2
        if not even:
            return images, dense
        with _numpy_seeded(seed):
            mixed, targets = self.mixup(images[:even].clone(), dense[:even])
        return torch.cat([mixed, images[even:]]), torch.cat([targets, dense[even:]])

    def known(self, truth: Tensor) -> Tensor:
        """Stands for the targets [B, K] of a whole batch where only which of them are missing (NaN) matters."""
        dense = self._dense(truth)
        even = len(dense) - len(dense) % 2
        return torch.cat([dense[:even] + dense[:even].flip(0), dense[even:]])

    def _dense(self, truth: Tensor) -> Tensor:
        return functional.one_hot(truth, self.outputs).float() if self.classes else truth.clone()


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Numpy's global generator, which timm draws from, starts from `seed` inside and is as before outside."""
    before = np.random.get_state()  # noqa: NPY002 - timm has no other door
    np.random.seed(seed % 2**32)  # noqa: NPY002 - see above
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002 - see above
