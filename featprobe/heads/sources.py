"""Says what a training needs from outside: a source of image batches and an ear for its progress."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from featprobe.records import AnyArray, FloatArray, IntArray

if TYPE_CHECKING:
    import torch


class BatchSource(Protocol):
    """The images of one part of a fold. The trainer decides on order and batches, the source only loads.

    `labels`, known without reading an image: int64 [N], class index of each row, 0 <= label < n_classes; of several
    labels at once int64 [N, L] of 0, 1 and -1 for missing; of a number float64 [N]. A source may have `names`, a
    sequence of N texts by which errors name an image. Where a row is a case of several images (`featprobe.heads.bags`)
    it may have `draws`, whether training sees some of a case's images only, by the seed that augments, and
    `at_once`, how many whole cases fit into memory.
    """

    @property
    def labels(self) -> AnyArray:
        """int64 [N] or [N, L], float64 [N]."""

    def batches(
        self, order: IntArray, batch_size: int, *, augment_seed: int | None
    ) -> Iterator[torch.Tensor]:
        """One float32 tensor [B, 3, H, W] per slice order[i * batch_size : (i + 1) * batch_size].

        `order`: int64 [M], positions into this source (0 <= position < N). With `augment_seed` None images
        are not augmented; else the augmentation of an image is a function of (augment_seed, position) alone,
        so that it depends neither on the batch nor on where a resumed run begins.
        """


@dataclass(frozen=True, slots=True, eq=False)
class HeadStart:
    """A fitted linear probe as a head begins from it: scores = weight @ ((x - centre) / deviation) + bias.

    `centre`, `deviation`: float64 [D]; `weight`: float64 [K, D]; `bias`: float64 [K]. `words`: what it is, for reports.
    """

    centre: FloatArray
    deviation: FloatArray
    weight: FloatArray
    bias: FloatArray
    words: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands: sent after every step and, with `metrics`, after every epoch.

    `epoch` of `epochs` and `step` of `steps` count from 1. `metrics` is None but at the end of an epoch, whose
    checkpoint is then on disk: epoch, lr, train_loss, val_loss and, by the kind of target, val_accuracy,
    val_balanced_accuracy and val_auroc (where it is defined), or val_mae.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    metrics: Mapping[str, float] | None = None
