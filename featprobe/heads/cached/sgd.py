"""Trains linear heads for every learning rate and input at once: one matrix product per input, not one per head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from featprobe.errors import ProbeError
from featprobe.heads.cached.recipes import LinearSearch
from featprobe.heads.cached.rows import Rows, endless_batches
from featprobe.heads.cached.targets import Target, accuracy, auroc
from featprobe.heads.optimisation import derive_seed, lr_factor
from featprobe.records import AnyArray, IntArray

Slope = Callable[[Tensor], Tensor]
"""Scores [B, H, K] of H heads -> derivative of each head's loss by its scores."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One head of the search: `number` counts the learning rates."""

    input: str
    number: int
    learning_rate: float

    def __str__(self) -> str:
        return f"{self.input}, learning rate {self.learning_rate:g}"


class Bank:
    """H linear heads on one input as one matrix [H * K, D], each with its own learning rate.

    Plain SGD with momentum: v <- momentum * v + gradient, w <- w - rate * v. The gradient of all heads is one
    product, and the heads never touch each other.
    """

    def __init__(self, first: Sequence[Tensor], rates: Sequence[float], momentum: float) -> None:
        self.heads, self.outputs, self.momentum = len(first), len(first[0]), momentum
        self.weight = torch.cat(list(first))
        self.bias = torch.zeros_like(self.weight[:, 0])
        self.speed, self.bias_speed = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        per_head = torch.tensor(rates, dtype=torch.float32, device=self.weight.device)
        self.rates = per_head.repeat_interleave(self.outputs)

    def scores(self, inputs: Tensor) -> Tensor:
        """[B, H, K] of inputs [B, D]."""
        return torch.addmm(self.bias, inputs, self.weight.T).view(len(inputs), self.heads, self.outputs)

    def step(self, inputs: Tensor, slope: Slope, factor: float) -> None:
        """One step on a batch [B, D] at `factor` times the peak rates."""
        slopes = slope(self.scores(inputs)).reshape(len(inputs), -1)
        self.speed.addmm_(slopes.T, inputs, beta=self.momentum)
        self.bias_speed.mul_(self.momentum).add_(slopes.sum(dim=0))
        self.weight.addcmul_(self.speed, self.rates[:, None], value=-factor)
        self.bias.addcmul_(self.bias_speed, self.rates, value=-factor)

    def head(self, number: int) -> tuple[Tensor, Tensor]:
        """(weight [K, D], bias [K]) of one head, not copies."""
        rows = slice(number * self.outputs, (number + 1) * self.outputs)
        return self.weight[rows], self.bias[rows]


def first_weight(outputs: int, width: int, *, std: float, seed: int, place: tuple[int, int]) -> Tensor:
    """The weights [K, D] that a head starts from, N(0, std); `place`: (number of its input, of its rate)."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "head", *place))
    return torch.empty(outputs, width).normal_(std=std, generator=generator)


def slope_of(target: Target, truth: Tensor, *, sum_rows: bool) -> Slope:
    """The derivative of cross-entropy (softmax) or of the logistic losses (sigmoid) by the scores of one batch.

    `truth`: int64 [B], or float32 [B, L] with NaN where missing. Losses are means over rows, for sigmoid over
    known cells; with `sum_rows` sums over rows of means over labels.
    """
    if target.link == "softmax":
        wanted = functional.one_hot(truth, target.outputs)[:, None]
        return lambda scores: torch.softmax(scores, dim=-1).sub_(wanted).div_(len(truth))
    known = truth.isfinite()
    cells = truth.shape[1] if sum_rows else known.sum().clamp(min=1)

    def sigmoid(scores: Tensor) -> Tensor:
        return (torch.sigmoid(scores) - truth.nan_to_num()[:, None]) * known[:, None] / cells

    return sigmoid


def train(
    recipe: LinearSearch,
    tables: Mapping[str, Rows],
    rates: Sequence[float],
    target: Target,
    *,
    steps: int,
    batch: int,
    seed: int,
) -> dict[str, Bank]:
    """A bank per input, after `steps` steps at peak `rates`; every bank sees the same batches."""
    rows = next(iter(tables.values()))
    truth = torch.from_numpy(target.values[rows.rows]).to(rows.device)
    sum_rows = recipe.multilabel_sum and len(target.classes) == target.outputs
    banks = {
        key: Bank(
            [_first(recipe, target, table, seed, (place, number)) for number in range(len(rates))],
            rates,
            recipe.momentum,
        )
        for place, (key, table) in enumerate(tables.items())
    }
    for step, positions in enumerate(endless_batches(len(rows), batch, steps, seed=seed)):
        chosen = truth[torch.from_numpy(positions).to(rows.device)]
        slope = slope_of(target, chosen, sum_rows=sum_rows)
        factor = lr_factor(step, steps, 0.0)
        for key, bank in banks.items():
            bank.step(tables[key].batch(positions), slope, factor)
    return banks


def _first(recipe: LinearSearch, target: Target, table: Rows, seed: int, place: tuple[int, int]) -> Tensor:
    return first_weight(target.outputs, table.width, std=recipe.init_std, seed=seed, place=place).to(
        table.device
    )


@torch.no_grad()
def search(
    recipe: LinearSearch,
    X: Mapping[str, AnyArray],
    target: Target,
    *,
    parts: tuple[IntArray, IntArray],
    seed: int,
    device: torch.device,
) -> tuple[Candidate, dict[str, AnyArray], dict[str, float], tuple[str, ...]]:
    """(chosen, its tensors, scores by candidate, notes). `parts`: row positions (train, val) of `X`."""
    fit, held = parts
    batch, steps = recipe.batch(len(fit)), recipe.steps(len(fit))
    peaks = [recipe.peak(rate, len(fit)) for rate in recipe.learning_rates]
    tables = {key: Rows(table, fit, device) for key, table in X.items()}
    banks = train(recipe, tables, peaks, target, steps=steps, batch=batch, seed=seed)
    scores, notes = _compare(recipe, banks, X, target, held, device)
    best = max(scores, key=lambda one: scores[one])  # the first of equals
    bank, number = banks[best.input], best.number
    if recipe.refit:
        rows = np.concatenate([fit, held])
        rows = rows[target.values[rows] >= 0] if target.link == "softmax" else rows
        again = {best.input: Rows(X[best.input], rows, device)}
        bank = train(
            recipe,
            again,
            [peaks[best.number]],
            target,
            steps=_refit_steps(recipe, len(rows), batch),
            batch=batch,
            seed=seed,
        )[best.input]
        number = 0
    weight, bias = bank.head(number)
    if not bool(torch.isfinite(weight).all()):
        raise _diverged(recipe, f"the refit of {best}")
    tensors = {"out.weight": weight.cpu().numpy().copy(), "out.bias": bias.cpu().numpy().copy()}
    passes = (
        f"{steps:,} steps of {batch} rows each: {steps * batch / len(fit):.3g} passes over {len(fit)} rows"
    )
    return best, tensors, {str(one): score for one, score in scores.items()}, (passes, *notes)


def _refit_steps(recipe: LinearSearch, rows: int, batch: int) -> int:
    """The published refit keeps the batch size of the search, also where that was cut to a small training part."""
    return recipe.iterations if recipe.iterations is not None else recipe.epochs * -(-rows // batch)


def _compare(
    recipe: LinearSearch,
    banks: Mapping[str, Bank],
    X: Mapping[str, AnyArray],
    target: Target,
    held: IntArray,
    device: torch.device,
) -> tuple[dict[Candidate, float], tuple[str, ...]]:
    """Validation score of every head that did not diverge, and notes."""
    made: dict[Candidate, AnyArray] = {}
    for key, bank in banks.items():
        outputs = torch.cat([bank.scores(block) for block in Rows(X[key], held, device).blocks()]).cpu()
        for number, rate in enumerate(recipe.learning_rates):
            if bool(torch.isfinite(outputs[:, number]).all()):
                made[Candidate(key, number, rate)] = outputs[:, number].numpy()
    total = len(banks) * len(recipe.learning_rates)
    if not made:
        raise _diverged(recipe, f"all {total} heads")
    notes: tuple[str, ...] = ()
    if len(made) < total:
        notes += (f"{total - len(made)} of {total} heads diverged and were left out",)
    if recipe.monitor == "auroc" or target.link == "sigmoid":
        areas = {one: auroc(target, outputs, held) for one, outputs in made.items()}
        if np.isfinite(next(iter(areas.values()))):
            return areas, notes
        notes += ("no class or label has both values in the validation part: chosen by accuracy",)
    return {one: accuracy(target, outputs, held) for one, outputs in made.items()}, notes


def _diverged(recipe: LinearSearch, what: str) -> ProbeError:
    return ProbeError(
        f"{what} of {recipe.name} diverged: scores are not finite",
        f"learning rates {min(recipe.learning_rates):g} to {max(recipe.learning_rates):g}, inputs unscaled",
        "take another head, such as mlp, which standardises its inputs",
    )
