"""Decides each step of a training as a pure function of the recipe: seeds, order, learning rate, groups."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from featprobe.heads.recipe import TrainingRecipe
from featprobe.records import IntArray

if TYPE_CHECKING:
    from featprobe.heads.model import Classifier

_STREAMS: Final = ("head", "order", "augmentation", "step", "adapters", "mixing", "trial")


def derive_seed(seed: int, stream: str, *counters: int) -> int:
    """A seed (0 <= seed < 2**63) for one use of randomness; other streams and counters are independent."""
    path = (_STREAMS.index(stream), *counters)
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=path)
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Torch's generators of CPU and `device` start from `seed` inside and are as before outside."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def epoch_order(count: int, batch_size: int, *, seed: int, epoch: int) -> IntArray:
    """The shuffled positions of one epoch, int64 [M].

    A last batch of at most half of `batch_size` is left out (another one each epoch), unless it is the only
    one: its BatchNorm statistics would be noise and its gradient would count as much as a whole batch's.
    """
    order = np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(count)
    rest = count % batch_size
    short = rest if count > batch_size and 2 * rest <= batch_size else 0
    return order[: count - short].astype(np.int64)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """The number of batches of `epoch_order`."""
    return math.ceil(len(epoch_order(count, batch_size, seed=0, epoch=0)) / batch_size)


def balanced_order(order: IntArray, labels: IntArray, *, seed: int, epoch: int) -> IntArray:
    """As many positions as `order` has, drawn so that every class of `labels` [N] comes equally often.

    With replacement: whole shuffled passes over each class, then a part of another one.
    """
    rng = np.random.default_rng([derive_seed(seed, "order", epoch), 1])
    classes = np.unique(labels)
    shares = np.full(len(classes), len(order) // len(classes))
    shares[rng.permutation(len(classes))[: len(order) % len(classes)]] += 1
    drawn = []
    for label, count in zip(classes, shares, strict=True):
        own = np.flatnonzero(labels == label)
        passes = [rng.permutation(own) for _ in range(-(-int(count) // len(own)))]
        drawn.append(np.concatenate(passes)[:count] if passes else own[:0])
    return rng.permutation(np.concatenate(drawn)).astype(np.int64)


def lr_factor(step: int, total: int, warmup: float, schedule: str = "cosine") -> float:
    """The learning rate of step 0 ... total - 1 as a share of its peak: linear warm-up, then cosine to 0.

    `schedule` "constant" stays at the peak after the warm-up.
    """
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (total - rising)))


def build_optimizer(model: Classifier, recipe: TrainingRecipe, device: torch.device) -> torch.optim.Optimizer:
    """The recipe's optimizer over what the mode ever trains; each group's `peak_lr` is what `set_lr` scales.

    Vectors (biases, norm layers' gains) and what the network itself names in `no_weight_decay` (positions, class
    tokens) are not decayed. A block's rate is `layer_decay` to the power of the blocks above it, as timm's
    `param_groups_layer_decay` has it. Where the device has a fused optimizer it is used.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for scale, parameter, exempt in model.tunable():
        peak = recipe.peak_lr * scale
        decay = 0.0 if parameter.ndim <= 1 or exempt else recipe.weight_decay
        groups.setdefault((peak, decay), []).append(parameter)
    filled = [
        {"params": chosen, "lr": peak, "peak_lr": peak, "weight_decay": decay}
        for (peak, decay), chosen in groups.items()
    ]
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(filled, fused=True if device.type in {"cpu", "cuda"} else None)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def class_weights(labels: IntArray, n_classes: int, kind: str) -> torch.Tensor | None:
    """float32 [C] for the loss, or None: N / (K * N_k) over the K classes that occur, 1 for the others."""
    if kind == "none":
        return None
    counts = np.bincount(labels, minlength=n_classes)
    present = np.count_nonzero(counts)
    weights = np.where(counts > 0, len(labels) / (present * np.maximum(counts, 1)), 1.0)
    return torch.from_numpy(weights.astype(np.float32))
