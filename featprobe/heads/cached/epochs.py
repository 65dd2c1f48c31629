"""Trains one head epoch by epoch on cached embeddings and keeps the epoch that the validation part likes best."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from featprobe.errors import ProbeError
from featprobe.heads.cached.models import CachedHead, build
from featprobe.heads.cached.recipes import EpochTraining
from featprobe.heads.cached.rows import Rows
from featprobe.heads.cached.targets import Target, accuracy
from featprobe.heads.optimisation import class_weights, epoch_order, lr_factor, set_lr
from featprobe.records import AnyArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """The best epoch's tensors and what was seen on the way: validation score (higher is better) per epoch."""

    tensors: dict[str, AnyArray]
    best_epoch: int
    scores: tuple[float, ...]
    stopped_early: bool


def train(
    recipe: EpochTraining,
    table: AnyArray,
    target: Target,
    *,
    parts: tuple[IntArray, IntArray],
    seed: int,
    device: torch.device,
) -> Trained:
    """The recipe's head on `table` [N, D] or [N, h, w, D]. `parts`: row positions (train, val)."""
    fit, held = (Rows(table, rows, device) for rows in parts)
    moments = fit.moments() if recipe.standardise else None
    model = build(recipe, fit.width, target.outputs, moments=moments, seed=seed).to(device)
    optimizer = _optimizer(recipe, model)
    truth = torch.from_numpy(target.values[fit.rows]).to(device)
    weights = _weights(recipe, target, fit.rows, device)
    scores: list[float] = []
    best, tensors = 0, model.tensors()
    for epoch in range(recipe.epochs):
        _run_epoch(recipe, model, optimizer, fit, truth, target, weights, seed=seed, epoch=epoch)
        scores.append(_validate(recipe, model, held, target, weights))
        if not math.isfinite(scores[-1]):
            raise _diverged(recipe, f"the validation loss became {-scores[-1]} after epoch {epoch + 1}")
        if not best or scores[-1] > scores[best - 1]:
            best, tensors = epoch + 1, copy.deepcopy(model.tensors())
        if 0 < recipe.patience <= epoch + 1 - best:
            break
    arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
    return Trained(arrays, best, tuple(scores), len(scores) < recipe.epochs)


def _run_epoch(
    recipe: EpochTraining,
    model: CachedHead,
    optimizer: torch.optim.Optimizer,
    fit: Rows,
    truth: Tensor,
    target: Target,
    weights: Tensor | None,
    *,
    seed: int,
    epoch: int,
) -> None:
    order = _order(recipe, len(fit), seed=seed, epoch=epoch)
    starts = range(0, len(order), recipe.batch_size)
    losses = []
    for step, start in enumerate(starts):
        set_lr(optimizer, _factor(recipe, epoch, step, len(starts)))
        positions = order[start : start + recipe.batch_size]
        scores = model(fit.batch(positions))
        loss = mean_loss(target, scores, truth[torch.from_numpy(positions).to(truth.device)], weights)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if recipe.clip_norm > 0:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        losses.append(loss.detach())
    values = torch.stack(losses).tolist()
    for step, value in enumerate(values, start=1):
        if not math.isfinite(value):
            raise _diverged(recipe, f"the training loss became {value} at step {step} of epoch {epoch + 1}")


def mean_loss(target: Target, scores: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy, logistic loss over known cells, or squared error of scores [B, K]."""
    if target.link == "softmax":
        # A class that training lacks (-1) can't be scored.
        return functional.cross_entropy(scores, truth, weight=weights, ignore_index=-1)
    if target.link == "number":
        return functional.mse_loss(scores, truth.to(scores.dtype))
    known = truth.isfinite().to(scores.dtype)
    cells = functional.binary_cross_entropy_with_logits(
        scores, truth.nan_to_num().to(scores.dtype), weight=known, reduction="sum"
    )
    return cells / known.sum().clamp(min=1)


@torch.no_grad()
def _validate(
    recipe: EpochTraining, model: CachedHead, held: Rows, target: Target, weights: Tensor | None
) -> float:
    outputs = torch.cat([model(block) for block in held.blocks()]).cpu()
    if not bool(torch.isfinite(outputs).all()):
        return float("nan")
    if recipe.monitor == "val_accuracy":
        return accuracy(target, outputs.numpy(), held.rows)
    exact = None if weights is None else weights.double().cpu()
    return -mean_loss(target, outputs.double(), torch.from_numpy(target.values[held.rows]), exact).item()


def _order(recipe: EpochTraining, count: int, *, seed: int, epoch: int) -> IntArray:
    whole = 1 if recipe.every_row else recipe.batch_size
    return epoch_order(count, whole, seed=seed, epoch=epoch if recipe.reshuffle else 0)


def _factor(recipe: EpochTraining, epoch: int, step: int, steps: int) -> float:
    """The learning rate of one step as a share of its peak."""
    if recipe.schedule == "cosine":
        return lr_factor(epoch * steps + step, recipe.epochs * steps, recipe.warmup)
    if recipe.schedule == "cosine-epochs":
        return lr_factor(max(epoch - 1, 0), recipe.epochs, 0.0)
    return 1.0


def _optimizer(recipe: EpochTraining, model: CachedHead) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    fused = True if parameters[0].device.type in {"cpu", "cuda"} else None
    if recipe.optimizer == "adam":
        return torch.optim.Adam([{"params": parameters, "peak_lr": recipe.lr}], lr=recipe.lr, fused=fused)
    groups = [
        {
            "params": [one for one in parameters if (one.ndim > 1) == matrices],
            "peak_lr": recipe.lr,
            "weight_decay": recipe.weight_decay if matrices or recipe.decay_vectors else 0.0,
        }
        for matrices in (True, False)
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)


def _weights(recipe: EpochTraining, target: Target, rows: IntArray, device: torch.device) -> Tensor | None:
    if recipe.class_weight == "none":
        return None
    if target.link != "softmax":
        raise ProbeError(
            "class weights need a target of classes",
            f"{recipe.name} was asked for class_weight {recipe.class_weight!r}",
            "take class_weight 'none'",
        )
    weights = class_weights(np.asarray(target.values[rows]), target.outputs, recipe.class_weight)
    return None if weights is None else weights.to(device)


def _diverged(recipe: EpochTraining, what: str) -> ProbeError:
    return ProbeError(
        f"{what} of {recipe.name}",
        f"learning rate {recipe.lr:g}, inputs {'standardised' if recipe.standardise else 'unscaled'}",
        f"take a smaller rate, such as {recipe.lr / 10:g}",
    )
