"""Runs the epochs: one optimizer step after the other, a validation and a checkpoint at each epoch's end."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from featprobe.errors import ProbeError, listed
from featprobe.heads.checkpoints import pack_optimizer, unpack_optimizer
from featprobe.heads.convex import solve
from featprobe.heads.inference import run_batches
from featprobe.heads.led import LedStore
from featprobe.heads.model import Classifier
from featprobe.heads.objective import Objective
from featprobe.heads.optimisation import balanced_order, derive_seed, epoch_order, steps_per_epoch
from featprobe.heads.recipe import TrainingRecipe
from featprobe.heads.shares import shared
from featprobe.heads.sources import BatchSource, Progress
from featprobe.heads.steps import Stepper
from featprobe.heads.team import SOLO, Team
from featprobe.records import AnyArray, IntArray

STEPS_BETWEEN_CHECKS: Final = 50
"""Reading a loss makes a GPU wait; a loss that is not finite is found at most this many steps late."""


class FeatureSource:
    """A BatchSource of features computed once, float32 [N, D]: what a frozen backbone makes of `source`."""

    def __init__(self, features: Tensor, labels: AnyArray, names: Sequence[str] = ()) -> None:
        self.features, self.labels, self.names = features, labels, names

    def batches(self, order: IntArray, batch_size: int, *, augment_seed: int | None) -> Iterator[Tensor]:
        """Features [B, D] per slice of `order`; there is nothing to augment."""
        del augment_seed
        for start in range(0, len(order), batch_size):
            yield self.features[torch.from_numpy(order[start : start + batch_size])]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a fold: images, or, where `whole` is False, features for the head alone."""

    source: BatchSource
    whole: bool

    def forward(self, model: Classifier) -> Callable[[Tensor], Tensor]:
        """What makes scores [B, K] of this part's batches."""
        return model if self.whole else model.head


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
        objective: Objective,
        recipe: TrainingRecipe,
        device: torch.device,
        store: LedStore,
        on_progress: Callable[[Progress], None] | None,
        save_seconds: float,
        team: Team = SOLO,
    ) -> None:
        self.model, self.train, self.val, self.team = model, train, val, team
        self.objective, self.recipe = objective.to(device), recipe
        self.device, self.store = device, store
        self.on_progress, self.save_seconds = on_progress, save_seconds
        self.state = State()
        convex = recipe.optimizer == "lbfgs"
        self.steps = 1 if convex else steps_per_epoch(len(train.source.labels), recipe.batch_size)
        self.epochs = 1 if convex else recipe.max_epochs
        self.stepper = Stepper(model, self.objective, recipe, device, self.epochs * self.steps, team)
        self.truth = objective.truth(train.source.labels)
        forward = train.forward(model)
        self.forward: Callable[[Tensor], Tensor] = (
            torch.compile(forward) if recipe.compile and train.whole else forward
        )
        self.unread: list[tuple[Tensor, IntArray]] = []
        self.saved_at = self.clock = time.monotonic()

    def run(self) -> None:
        """Resumes where the store has a state, trains to the end, marks the store's best as finished."""
        self._resume()
        while self.state.epoch < self.epochs and not self.stopped_early:
            if self.recipe.optimizer == "lbfgs":
                self._solve()
            else:
                self._train_epoch()
            self._close_epoch()
        note = self.stepper.portions.note(
            self.recipe.batch_size, norms=bool(self.model.moving), processes=self.team.size
        )
        self.store.notes.extend([note] if note else [])
        self.store.finish({**self._record(), "progress": self.state.to_dict()})

    @property
    def stopped_early(self) -> bool:
        """Whether `patience` epochs have passed without a better one."""
        waited = self.state.epoch - self.state.best_epoch
        return 0 < self.recipe.patience <= waited and self.state.epoch < self.epochs

    def _solve(self) -> None:
        source = self.train.source
        assert isinstance(source, FeatureSource)
        head, l2 = self.model.head, self.recipe.l2
        loss = self.team.decided(lambda: solve(head, source.features, source.labels, self.objective, l2=l2))
        head.load_state_dict(self.team.tensors(head.state_dict))
        self.state.loss_sum, self.state.images = loss * len(source.labels), len(source.labels)

    def _train_epoch(self) -> None:
        recipe, state = self.recipe, self.state
        random = recipe.augments or getattr(self.train.source, "draws", False)
        augment_seed = derive_seed(recipe.seed, "augmentation", state.epoch) if random else None
        left = self._order()[state.step * recipe.batch_size :]
        self.model.begin_epoch(state.epoch)
        self.model.train()
        for inputs, positions, rows, live in shared(
            self.train.source,
            left,
            recipe.batch_size,
            augment_seed=augment_seed,
            team=self.team,
            mirrored=recipe.mixes,
        ):
            loss = self.stepper.step(
                self.forward,
                inputs,
                self.truth[torch.from_numpy(positions)],
                at=(state.epoch, state.step),
                done=state.epoch * self.steps + state.step,
                rows=rows,
                live=live,
            )
            self.unread.append((loss, positions))
            state.step += 1
            if len(self.unread) == STEPS_BETWEEN_CHECKS:
                self._read_losses()
            if state.step < self.steps and self.team.decided(self._is_due):
                self._save()
            self._tell(state.epoch + 1, state.step)
        self._read_losses()

    def _is_due(self) -> bool:
        """Whether the last checkpoint is old."""
        return time.monotonic() - self.saved_at >= self.save_seconds

    def _order(self) -> IntArray:
        """The positions of this epoch."""
        recipe, epoch = self.recipe, self.state.epoch
        labels = self.train.source.labels
        order = epoch_order(len(labels), recipe.batch_size, seed=recipe.seed, epoch=epoch)
        if recipe.sampling == "balanced":
            return balanced_order(order, labels, seed=recipe.seed, epoch=epoch)
        return order

    def _read_losses(self) -> None:
        if not self.unread:
            return
        values = torch.stack([loss for loss, _ in self.unread]).tolist()
        first = self.state.step - len(values) + 1
        for offset, (value, (_, positions)) in enumerate(zip(values, self.unread, strict=True)):
            if not math.isfinite(value):
                raise self._diverged(f"the training loss became {value} at step {first + offset}", positions)
            self.state.loss_sum += value * len(positions)
            self.state.images += len(positions)
        self.unread.clear()

    def _close_epoch(self) -> None:
        state = self.state
        found = {
            "epoch": state.epoch + 1,
            "lr": self.stepper.optimizer.param_groups[-1]["lr"],
            "train_loss": state.loss_sum / state.images,
            **self._validate(),
        }
        # Which epoch is the best, and when to stop, follows from the main process's own digits.
        row = self.team.decided(lambda: found)
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
        sign = -1 if self.recipe.monitor in {"val_loss", "val_mae"} else 1
        return sign * row[self.recipe.monitor] > sign * best[self.recipe.monitor]

    def _validate(self) -> dict[str, float]:
        judged = self.stepper.judged.eval()
        labels = self.val.source.labels
        scores = run_batches(
            self.val.forward(judged),
            self.val.source,
            self.device,
            precision=self.recipe.precision,
            batch_size=self.recipe.batch_size,
            team=self.team,
        )
        found = self.objective.metrics(scores, labels)
        if not math.isfinite(found["val_loss"]):
            raise self._diverged(f"the validation loss became {found['val_loss']}")
        if self.recipe.monitor not in found:
            raise ProbeError(
                f"{self.recipe.monitor} is not defined on the validation part",
                f"its {len(labels)} rows hold no class or label with both values",
                "type --monitor val_loss",
            )
        return found

    def _diverged(self, what: str, positions: Sequence[int] | IntArray = ()) -> ProbeError:
        lr, precision = self.recipe.peak_lr, self.recipe.precision
        names = getattr(self.train.source, "names", ())
        images = [str(names[p]) if len(names) else f"row {p}" for p in positions]
        look = f"; the batch was {listed(images, 40)}" if images else ""
        return ProbeError(
            f"{what} of epoch {self.state.epoch + 1}",
            f"peak learning rate {lr:g}, precision {precision}",
            f"type --lr {lr / 10:g}" + ("" if precision == "fp32" else " or --precision fp32") + look,
        )

    def _save(self) -> None:
        self._read_losses()
        now = time.monotonic()
        self.state.seconds += now - self.clock
        stepper = self.stepper
        tensors = {f"model.{name}": value for name, value in self.model.learned().items()}
        tensors |= {f"optimizer.{name}": value for name, value in pack_optimizer(stepper.optimizer).items()}
        if stepper.average is not None:
            tensors |= {f"average.{name}": value for name, value in stepper.judged.learned().items()}
        self.store.save_last(
            tensors,
            {
                "progress": self.state.to_dict(),
                "scaler": stepper.scaler.state_dict(),
                "portion": stepper.portions.size,
            },
        )
        self.saved_at = self.clock = now

    def _save_best(self) -> None:
        self.store.save_best(self.stepper.judged.learned(), self._record())

    def _record(self) -> dict[str, Any]:
        whole, frozen = self.model.mode.whole, self.model.frozen
        return {
            "epoch": self.state.best_epoch,
            "metrics": self.state.history[self.state.best_epoch - 1],
            "recipe": self.recipe.to_dict(),
            "recipe_sha256": self.recipe.sha256,
            "tensors": "head" if frozen else "all" if whole else "trained",
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
        stepper = self.stepper
        self.model.restore(_below("model.", tensors))
        if stepper.average is not None:
            stepper.judged.restore(_below("average.", tensors))
        unpack_optimizer(stepper.optimizer, _below("optimizer.", tensors))
        stepper.scaler.load_state_dict(saved["scaler"])
        stepper.portions.size = saved["portion"]
        where = f"after epoch {state.epoch}" + (f", step {state.step}" if state.step else "")
        self.store.notes.append(f"resumed {where} of {self.epochs}")
        if ends_with_best:
            self._save_best()

    def _tell(self, epoch: int, step: int, metrics: Mapping[str, float] | None = None) -> None:
        if self.on_progress is not None:
            self.on_progress(Progress(epoch, self.epochs, step, self.steps, metrics))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
