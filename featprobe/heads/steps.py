"""One optimizer step: mixing, the batch in portions, gradients added up, clipped and applied, the average moved on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from featprobe.heads.arithmetic import autocast
from featprobe.heads.memory import Portions, Statistics
from featprobe.heads.mixing import Mixer
from featprobe.heads.model import Classifier
from featprobe.heads.objective import Objective
from featprobe.heads.optimisation import build_optimizer, derive_seed, lr_factor, seeded, set_lr
from featprobe.heads.recipe import TrainingRecipe


class Stepper:
    """Takes steps with `model`. `average`: timm's moving average of it, None without one."""

    def __init__(
        self,
        model: Classifier,
        objective: Objective,
        recipe: TrainingRecipe,
        device: torch.device,
        total: int,
    ) -> None:
        self.model, self.objective = model, objective
        self.recipe, self.device, self.total = recipe, device, total
        self.optimizer = build_optimizer(model, recipe, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.mixer = Mixer(recipe, objective) if recipe.mixes else None
        self.average: Any = None
        if recipe.ema:
            from timm.utils.model_ema import ModelEmaV3

            # With its warm-up, or a short training would be judged by where it began.
            self.average = ModelEmaV3(model, decay=recipe.ema, use_warmup=True)
        # A BatchNorm layer can't be trained on one image.
        self.portions = Portions(recipe.micro_batch or recipe.batch_size, least=2 if model.moving else 1)
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
    ) -> Tensor:
        """The batch's mean loss, after the step. `at`: (epoch, step); `done`: steps before this one."""
        recipe = self.recipe
        set_lr(self.optimizer, lr_factor(done, self.total, recipe.warmup, recipe.schedule))
        if self.mixer is not None:
            inputs, truth = self.mixer(inputs, truth, derive_seed(recipe.seed, "mixing", *at))
        self.statistics.keep()

        def attempt() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            with seeded(self.device, derive_seed(recipe.seed, "step", *at)):
                return self._gradient(forward, inputs, truth)

        loss = self.portions.run(attempt, undo=self.statistics.restore, rows=len(inputs))
        self._apply()
        if self.average is not None:
            self.average.update(self.model, step=done + 1)
        return loss

    def _gradient(self, forward: Callable[[Tensor], Tensor], inputs: Tensor, truth: Tensor) -> Tensor:
        amount = self.objective.amount(truth.to(self.device, non_blocking=True))
        sums = []
        for images, labels in self.portions.parts(inputs, truth):
            with autocast(self.device, self.recipe.precision):
                scores = forward(self._placed(images))
            loss = self.objective.total(scores, labels.to(self.device, non_blocking=True)) / amount
            torch.autograd.backward(self.scaler.scale(loss))
            sums.append(loss.detach())
        return torch.stack(sums).sum()

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
