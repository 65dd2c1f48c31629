"""Runs the epochs: one optimizer step after the other, a validation and a checkpoint at each epoch's end."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from featprobe.errors import ProbeError
from featprobe.heads.arithmetic import autocast
from featprobe.heads.checkpoints import CheckpointStore, pack_optimizer, unpack_optimizer
from featprobe.heads.inference import paired, run_batches
from featprobe.heads.model import Classifier
from featprobe.heads.optimisation import (
    build_optimizer,
    class_weights,
    derive_seed,
    epoch_order,
    lr_factor,
    seeded,
    set_lr,
    steps_per_epoch,
)
from featprobe.heads.recipe import TrainingRecipe
from featprobe.heads.sources import BatchSource, Progress
from featprobe.records import IntArray

STEPS_BETWEEN_CHECKS: Final = 50
"""Reading a loss makes a GPU wait; a loss that is not finite is found at most this many steps late."""


class FeatureSource:
    """A BatchSource of features computed once, float32 [N, D]: what a frozen backbone makes of `source`."""

    def __init__(self, features: Tensor, labels: IntArray) -> None:
        self.features, self.labels = features, labels

    def batches(self, order: IntArray, batch_size: int, *, augment_seed: int | None) -> Iterator[Tensor]:
        """Features [B, D] per slice of `order`; there is nothing to augment."""
        del augment_seed
        for start in range(0, len(order), batch_size):
            yield self.features[torch.from_numpy(order[start : start + batch_size])]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a fold and what makes logits [B, C] of its batches: the model, or its head on features."""

    forward: Callable[[Tensor], Tensor]
    source: BatchSource


@dataclass(slots=True)
class State:
    """Where a training stands: `epoch` finished epochs, `step` steps into the next, its losses so far."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    images: int = 0
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON types; not a deep copy."""
        return {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}


class Trainer:
    """Trains `model` on the part `train` and chooses the best epoch on the part `val`."""

    def __init__(
        self,
        model: Classifier,
        train: Part,
        val: Part,
        *,
        recipe: TrainingRecipe,
        device: torch.device,
        store: CheckpointStore,
        on_progress: Callable[[Progress], None] | None,
        save_seconds: float,
    ) -> None:
        self.model, self.train, self.val = model, train, val
        self.recipe, self.device, self.store = recipe, device, store
        self.on_progress, self.save_seconds = on_progress, save_seconds
        self.state = State()
        self.steps = steps_per_epoch(len(train.source.labels), recipe.batch_size)
        self.optimizer = build_optimizer(model, recipe, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        n_classes = model.head.linear.out_features
        weights = class_weights(train.source.labels, n_classes, recipe.class_weight)
        self.weights = None if weights is None else weights.to(device)
        self.unread: list[tuple[Tensor, int]] = []
        self.saved_at = self.clock = time.monotonic()

    def run(self) -> None:
        """Resumes where the store has a state, trains to the end, marks the store's best as finished."""
        self._resume()
        while self.state.epoch < self.recipe.max_epochs and not self.stopped_early:
            self._train_epoch()
            self._close_epoch()
        self.store.finish({**self._record(), "progress": self.state.to_dict()})

    @property
    def stopped_early(self) -> bool:
        """Whether `patience` epochs have passed without a better one."""
        waited = self.state.epoch - self.state.best_epoch
        return 0 < self.recipe.patience <= waited and self.state.epoch < self.recipe.max_epochs

    def _train_epoch(self) -> None:
        recipe, state = self.recipe, self.state
        labels = self.train.source.labels
        order = epoch_order(len(labels), recipe.batch_size, seed=recipe.seed, epoch=state.epoch)
        augment_seed = derive_seed(recipe.seed, "augmentation", state.epoch) if recipe.augments else None
        left = order[state.step * recipe.batch_size :]
        self.model.train()
        for inputs, positions in paired(
            self.train.source, left, recipe.batch_size, augment_seed=augment_seed
        ):
            loss = self._step(inputs, torch.from_numpy(labels[positions]))
            self.unread.append((loss, len(positions)))
            state.step += 1
            if len(self.unread) == STEPS_BETWEEN_CHECKS:
                self._read_losses()
            if state.step < self.steps and time.monotonic() - self.saved_at >= self.save_seconds:
                self._save()
            self._tell(state.epoch + 1, state.step)
        self._read_losses()

    def _step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        recipe, state = self.recipe, self.state
        inputs = inputs.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        done = state.epoch * self.steps + state.step
        set_lr(self.optimizer, lr_factor(done, recipe.max_epochs * self.steps, recipe.warmup))
        self.optimizer.zero_grad(set_to_none=True)
        with seeded(self.device, derive_seed(recipe.seed, "step", state.epoch, state.step)):
            with autocast(self.device, recipe.precision):
                logits = self.train.forward(inputs)
            loss = functional.cross_entropy(
                logits, labels, weight=self.weights, label_smoothing=recipe.label_smoothing
            )
            torch.autograd.backward(self.scaler.scale(loss))
        if recipe.clip_norm > 0:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def _read_losses(self) -> None:
        if not self.unread:
            return
        values = torch.stack([loss for loss, _ in self.unread]).tolist()
        first = self.state.step - len(values) + 1
        for offset, (value, (_, count)) in enumerate(zip(values, self.unread, strict=True)):
            if not math.isfinite(value):
                raise self._diverged(f"the training loss became {value} at step {first + offset}")
            self.state.loss_sum += value * count
            self.state.images += count
        self.unread.clear()

    def _close_epoch(self) -> None:
        state = self.state
        row = {
            "epoch": state.epoch + 1,
            "lr": self.optimizer.param_groups[-1]["lr"],
            "train_loss": state.loss_sum / state.images,
            **self._validate(),
        }
        state.history.append(row)
        state.epoch, state.step, state.loss_sum, state.images = state.epoch + 1, 0, 0.0, 0
        improved = state.best_epoch == 0 or self._better(row, state.history[state.best_epoch - 1])
        if improved:
            state.best_epoch = state.epoch
        # `last` first: should a kill fall between the two, resuming writes `best` from it.
        self._save()
        if improved:
            self._save_best()
        self._tell(state.epoch, self.steps, row)

    def _better(self, row: Mapping[str, float], best: Mapping[str, float]) -> bool:
        sign = -1 if self.recipe.monitor == "val_loss" else 1
        return sign * row[self.recipe.monitor] > sign * best[self.recipe.monitor]

    def _validate(self) -> dict[str, float]:
        self.model.eval()
        labels = self.val.source.labels
        logits = run_batches(
            self.val.forward,
            self.val.source,
            self.device,
            precision=self.recipe.precision,
            batch_size=self.recipe.batch_size,
        )
        weights = None if self.weights is None else self.weights.double().cpu()
        loss = functional.cross_entropy(logits.double(), torch.from_numpy(labels), weight=weights).item()
        if not math.isfinite(loss):
            raise self._diverged(f"the validation loss became {loss}")
        hit = logits.argmax(dim=1).numpy() == labels
        recalls = [hit[labels == label].mean() for label in np.unique(labels)]
        return {
            "val_loss": loss,
            "val_accuracy": float(hit.mean()),
            "val_balanced_accuracy": float(np.mean(recalls)),
        }

    def _diverged(self, what: str) -> ProbeError:
        lr, precision = self.recipe.peak_lr, self.recipe.precision
        return ProbeError(
            f"{what} of epoch {self.state.epoch + 1}",
            f"peak learning rate {lr:g}, precision {precision}",
            f"type --lr {lr / 10:g}" + ("" if precision == "fp32" else " or --precision fp32"),
        )

    def _save(self) -> None:
        self._read_losses()
        now = time.monotonic()
        self.state.seconds += now - self.clock
        tensors = {f"model.{name}": value for name, value in self.model.learned().items()}
        tensors |= {f"optimizer.{name}": value for name, value in pack_optimizer(self.optimizer).items()}
        self.store.save_last(tensors, {"progress": self.state.to_dict(), "scaler": self.scaler.state_dict()})
        self.saved_at = self.clock = now

    def _save_best(self) -> None:
        self.store.save_best(self.model.learned(), self._record())

    def _record(self) -> dict[str, Any]:
        return {
            "epoch": self.state.best_epoch,
            "metrics": self.state.history[self.state.best_epoch - 1],
            "recipe": self.recipe.to_dict(),
            "recipe_sha256": self.recipe.sha256,
            "tensors": "head" if self.model.frozen else "all",
        }

    def _resume(self) -> None:
        loaded = self.store.load_last()
        if loaded is None:
            return
        tensors, saved = loaded
        state = State(**saved["progress"])
        ends_with_best = state.step == 0 and state.best_epoch == state.epoch
        if state.best_epoch and not ends_with_best and not self.store.holds_best(state.best_epoch):
            return
        self.state = state
        self.model.restore(_below("model.", tensors))
        unpack_optimizer(self.optimizer, _below("optimizer.", tensors))
        self.scaler.load_state_dict(saved["scaler"])
        where = f"after epoch {state.epoch}" + (f", step {state.step}" if state.step else "")
        self.store.notes.append(f"resumed {where} of {self.recipe.max_epochs}")
        if ends_with_best:
            self._save_best()

    def _tell(self, epoch: int, step: int, metrics: Mapping[str, float] | None = None) -> None:
        if self.on_progress is not None:
            self.on_progress(Progress(epoch, self.recipe.max_epochs, step, self.steps, metrics))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
