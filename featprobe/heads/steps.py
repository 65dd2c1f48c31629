"""One optimizer step: mixing, the batch in portions, gradients added up, clipped and applied, the average moved on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featprobe.heads.arithmetic import autocast
from featprobe.heads.memory import Portions, Statistics
from featprobe.heads.mixing import Mixer
from featprobe.heads.model import Classifier
from featprobe.heads.objective import Objective
from featprobe.heads.optimisation import build_optimizer, derive_seed, lr_factor, seeded, set_lr
from featprobe.heads.recipe import TrainingRecipe
from featprobe.heads.shares import Share
from featprobe.heads.team import SOLO, Team
from featprobe.records import IntArray


class Stepper:
    """Takes steps with `model`. `average`: timm's moving average of it, None without one.

    Each process of `team` passes its share of a batch; the gradient is the whole batch's in all of them.
    """

    def __init__(
        self,
        model: Classifier,
        objective: Objective,
        recipe: TrainingRecipe,
        device: torch.device,
        total: int,
        team: Team = SOLO,
    ) -> None:
        self.model, self.objective, self.team = model, objective, team
        self.recipe, self.device, self.total = recipe, device, total
        self.optimizer = build_optimizer(model, recipe, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.mixer = Mixer(recipe, objective) if recipe.mixes else None
        self.average: Any = None
        if recipe.ema:
            from timm.utils.model_ema import ModelEmaV3

            # With its warm-up, or a short training would be judged by where it began.
            self.average = ModelEmaV3(model, decay=recipe.ema, use_warmup=True)
        # A BatchNorm layer can't be trained on one image, and a process can't pass less than one.
        least = max(team.size, 2 if model.moving else 1)
        self.portions = Portions(recipe.micro_batch or recipe.batch_size, least=least)
        self.statistics = Statistics(model.moving)

    @property
    def judged(self) -> Classifier:
        """What is validated and kept: the average where there is one."""
        if self.average is None:
            return self.model
        averaged: Classifier = self.average.module
        return averaged

    def step(
        self,
        forward: Callable[[Tensor], Tensor],
        inputs: Tensor,
        truth: Tensor,
        *,
        at: tuple[int, int],
        done: int,
        rows: IntArray | None = None,
        live: bool = True,
    ) -> Tensor:
        """The batch's mean loss, after the step. `at`: (epoch, step); `done`: steps before this one.

        `truth`: of the whole batch [B, ...]; `inputs`: the images that this process passes, `rows` of it (None: all
        of them); `live`: whether they count, see `featprobe.heads.shares`.
        """
        recipe = self.recipe
        set_lr(self.optimizer, lr_factor(done, self.total, recipe.warmup, recipe.schedule))
        held = np.arange(len(truth)) if rows is None else rows
        labels = truth[torch.from_numpy(held)]
        counted = truth
        if self.mixer is not None:
            inputs, labels = self.mixer(inputs, labels, derive_seed(recipe.seed, "mixing", *at))
            counted = self.mixer.known(truth)
        share = Share(inputs, labels, held, len(truth), live)
        amount = self.objective.amount(counted.to(self.device, non_blocking=True))
        self.statistics.keep()

        def attempt() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            with seeded(self.device, derive_seed(recipe.seed, "step", *at)):
                return self._gradient(forward, share, amount)

        loss = self.portions.run(attempt, undo=self.statistics.restore, rows=len(truth), team=self.team)
        loss = self.team.add_up([one.grad for one in self.model.parameters() if one.grad is not None], loss)
        self._apply()
        if self.average is not None:
            self.average.update(self.model, step=done + 1)
        return loss

    def _gradient(self, forward: Callable[[Tensor], Tensor], share: Share, amount: Tensor) -> Tensor:
        sums = []
        for part in share.portions(self.portions):
            with autocast(self.device, self.recipe.precision), self._whole(part):
                scores = forward(self._placed(part.images))
            labels = part.truth.to(self.device, non_blocking=True)
            if not part.live:
                scores, labels = scores[:0], labels[:0]
            loss = self.objective.total(scores, labels) / amount
            torch.autograd.backward(self.scaler.scale(loss))
            sums.append(loss.detach())
        return torch.stack(sums).sum()

    def _whole(self, part: Share) -> AbstractContextManager[Any]:
        # A compiled model is one call of torch's: what is inside it can't be caught, and was checked to need nothing.
        if self.recipe.compile:
            return nullcontext()
        return self.team.whole_batch(part.rows, part.count, live=part.live)

    def _placed(self, images: Tensor) -> Tensor:
        placed = images.to(self.device, non_blocking=True)
        if self.recipe.channels_last and placed.ndim == 4:
            return placed.contiguous(memory_format=torch.channels_last)
        return placed

    def _apply(self) -> None:
        if self.recipe.clip_norm > 0:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
