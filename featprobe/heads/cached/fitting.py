"""Fits a recipe to cached embeddings: checks them, trains, and hands back what predicts without torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from featprobe.errors import ProbeError
from featprobe.heads.arithmetic import machine
from featprobe.heads.cached import epochs, sgd
from featprobe.heads.cached.fitted import FittedCachedHead, check_finite
from featprobe.heads.cached.recipes import RECIPES, EpochTraining, HeadRecipe, LinearSearch
from featprobe.heads.cached.targets import Target, encode
from featprobe.records import AnyArray, IntArray


def fit_head(
    recipe: HeadRecipe,
    X: Mapping[str, AnyArray],
    y: AnyArray,
    *,
    train: IntArray,
    val: IntArray,
    n_classes: int,
    task: str,
    seed: int,
    device: torch.device | str = "cpu",
) -> FittedCachedHead:
    """The head of `recipe`, trained on the rows `train`, everything chosen on the rows `val`.

    `X`: embeddings by key, float [N, D], patches [N, h, w, D]; arrays or memory maps, of which batches alone are
    read. A recipe takes the keys that it names; where none of them is given, a search takes every [N, D] and
    another head the only one that suits. `y`, by `task`: int [N] in 0..n_classes-1 (classes, ordinal), int
    [N, n_classes] of 0, 1 and -1 for missing (multilabel), float [N] with `n_classes` 1 (continuous). On the CPU
    and with one thread count the result is a function of the arguments, bit for bit.

    Raises ProbeError (a task or embeddings that don't fit, values that are not finite, labels that can't be
    trained on, a loss that is not finite, memory that runs out).
    """
    if task not in recipe.tasks:
        fitting = [other.name for other in RECIPES.values() if task in other.tasks]
        raise ProbeError(
            f"the head {recipe.name} can't be fitted to a target of kind {task!r}",
            f"heads that can: {', '.join(fitting)}",
            f"take {fitting[-1]}",
        )
    train, val = np.asarray(train, dtype=np.int64), np.asarray(val, dtype=np.int64)
    inputs = _inputs(recipe, X)
    _check_shapes(inputs, y, n_classes, task)
    binary = isinstance(recipe, LinearSearch) and recipe.binary_output
    target = encode(y, train=train, val=val, n_classes=n_classes, task=task, binary_output=binary)
    for table in inputs.values():
        for part, what in ((train, "training"), (val, "validation")):
            check_finite(table, part, what)
    where = torch.device(device)
    with machine(where, "fp32", recipe.batch_size):
        if isinstance(recipe, LinearSearch):
            fitted = _search(recipe, inputs, target, (train, val), seed, where)
        elif isinstance(recipe, EpochTraining):
            fitted = _epochs(recipe, inputs, target, (train, val), seed, where)
        else:
            raise TypeError(f"no rule trains a {type(recipe).__name__}")
    key, tensors, chosen, scores, notes = fitted
    return FittedCachedHead(
        recipe=recipe,
        task=task,
        n_classes=n_classes,
        input=key,
        width=int(inputs[key].shape[-1]),
        link=target.link,
        classes=target.classes,
        mean=target.mean,
        scale=target.scale,
        tensors=tensors,
        chosen=chosen,
        scores=scores,
        notes=(*notes, *target.notes, *recipe.remarks),
    )


Fitted = tuple[str, dict[str, AnyArray], dict[str, float | str], dict[str, float], tuple[str, ...]]
"""(input, tensors, what was chosen, validation scores, notes)."""


def _search(
    recipe: LinearSearch,
    inputs: Mapping[str, AnyArray],
    target: Target,
    parts: tuple[IntArray, IntArray],
    seed: int,
    device: torch.device,
) -> Fitted:
    best, tensors, scores, notes = sgd.search(recipe, inputs, target, parts=parts, seed=seed, device=device)
    rates = recipe.learning_rates
    if len(rates) > 1 and best.learning_rate in {min(rates), max(rates)}:
        grid = f"{min(rates):g} to {max(rates):g}"
        notes += (f"the learning rate {best.learning_rate:g} lies at the end of its grid ({grid})",)
    lacking = [key for key in recipe.inputs if key not in inputs]
    if lacking:
        notes += (f"searched {', '.join(inputs)} alone: {', '.join(lacking)} not given",)
    chosen: dict[str, float | str] = {
        "candidate": str(best),
        "input": best.input,
        "learning_rate": best.learning_rate,
    }
    return best.input, tensors, chosen, scores, notes


def _epochs(
    recipe: EpochTraining,
    inputs: Mapping[str, AnyArray],
    target: Target,
    parts: tuple[IntArray, IntArray],
    seed: int,
    device: torch.device,
) -> Fitted:
    (key, table), *_ = inputs.items()
    trained = epochs.train(recipe, table, target, parts=parts, seed=seed, device=device)
    scores = {f"epoch {number}": score for number, score in enumerate(trained.scores, start=1)}
    chosen: dict[str, float | str] = {
        "candidate": f"epoch {trained.best_epoch}",
        "input": key,
        "epoch": float(trained.best_epoch),
    }
    how = "stopped early" if trained.stopped_early else "all that were planned"
    return key, trained.tensors, chosen, scores, (f"{len(scores)} epochs, {how}",)


def _inputs(recipe: HeadRecipe, X: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """The embeddings that the recipe takes, in its order; ProbeError where none or too many suit."""
    dense = isinstance(recipe, EpochTraining) and recipe.model == "attentive"
    dims = (3, 4) if dense else (2,)
    suiting = {key: np.asanyarray(table) for key, table in X.items() if np.ndim(table) in dims}
    named = {key: suiting[key] for key in recipe.inputs if key in suiting}
    found = named or suiting
    if not found:
        raise ProbeError(
            f"the head {recipe.name} has no embedding to train on",
            f"it takes {'patch tokens [N, h, w, D]' if dense else 'vectors [N, D]'}; given: "
            + (", ".join(f"{key} {np.shape(table)}" for key, table in X.items()) or "none"),
            f"extract with --pooling {' '.join(recipe.inputs) or 'cls'}",
        )
    if len(found) > 1 and not isinstance(recipe, LinearSearch):
        raise ProbeError(
            f"the head {recipe.name} takes one embedding", f"given: {', '.join(found)}", "hand in one of them"
        )
    return found


def _check_shapes(inputs: Mapping[str, AnyArray], y: AnyArray, n_classes: int, task: str) -> None:
    for key, table in inputs.items():
        expected = (len(table), n_classes) if task == "multilabel" else (len(table),)
        if np.shape(y) != expected:
            raise ProbeError(f"embeddings {key} {table.shape} and labels {np.shape(y)} do not fit together")
