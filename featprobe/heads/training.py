"""Trains one fold: checks what it was given, reuses or resumes what is on disk, returns the best epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from featprobe.errors import ConfigError
from featprobe.heads.arithmetic import check_precision, machine
from featprobe.heads.bags import without_gaps
from featprobe.heads.checkpoints import CheckpointStore
from featprobe.heads.inference import FittedHead, run_batches
from featprobe.heads.led import LedStore
from featprobe.heads.loop import FeatureSource, Part, State, Trainer
from featprobe.heads.model import Classifier
from featprobe.heads.objective import Objective, objective_of
from featprobe.heads.recipe import TrainingRecipe
from featprobe.heads.sources import BatchSource, HeadStart, Progress
from featprobe.heads.starting import agreed_start
from featprobe.heads.team import SOLO, Team
from featprobe.records import FloatArray

SAVE_SECONDS: Final = 300.0

TOO_SURE: Final = 0.05
"""Balanced accuracy on the validation part that the epoch of the least loss may lack without a word."""

FEW: Final = 2.5
"""Validation rows that this must be worth besides."""


def train_fold(
    backbone: nn.Module,
    dim: int,
    n_classes: int,
    *,
    train: BatchSource,
    val: BatchSource,
    recipe: TrainingRecipe,
    device: torch.device | str,
    checkpoint_dir: Path,
    resume_key: str,
    task: str = "classes",
    start: Callable[[FloatArray, FloatArray], HeadStart] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    save_seconds: float = SAVE_SECONDS,
    team: Team = SOLO,
) -> FittedHead:
    """A model trained on `train`, its best epoch chosen on `val`.

    `backbone`: float32 [B, 3, H, W] -> [B, dim]; it is copied, so one instance serves every fold. `n_classes`:
    classes, labels, or 1 for a number; `task`: the kind of target (of TASKS), see `BatchSource.labels`.
    `checkpoint_dir` holds this fold alone. `resume_key`: a hash of all that decides the result (recipe,
    data, labels, fold, backbone's weights); a finished training with the same key is returned without
    training, an interrupted one goes on where it was saved: at every epoch's end and, inside long epochs,
    every `save_seconds`. All randomness follows from (recipe.seed, epoch, step), so that on the CPU, with the
    same thread count, a resumed run ends in the same weights, bit for bit. `start`, for mode lp-ft: from the
    untrained backbone's features of training and validation rows, float64 [N, dim], to the head to begin from.

    The processes of `team` call this alike and share the training: each passes its rows of every batch, the gradient
    and BatchNorm's moments are the whole batch's, and each returns the same model. Order, augmentation, mixing and
    dropout follow from (seed, epoch, step, row), so that another number of processes is the same training but for
    the rounding of the sums. The main one alone calls `start` and touches `checkpoint_dir`. `batch_size` and
    `micro_batch` count the images of all processes together.

    Raises ProbeError (labels that can't be trained on, a loss that is not finite, memory that runs out),
    ConfigError (a setting that device, model or target can't follow) and OutputError (nothing can be written).
    """
    recipe, where = recipe.resolved(), torch.device(device)
    with team.agreeing():
        objective = objective_of(recipe, train.labels, val.labels, n_classes=n_classes, task=task)
        check_precision(where, recipe.precision)
        store = LedStore(CheckpointStore(checkpoint_dir, resume_key), team)
        with machine(where, recipe.precision, recipe.batch_size, deterministic=recipe.deterministic):
            model = Classifier(backbone, dim, objective.outputs, recipe)
            _check_model(model, len(train.labels), recipe, start)
            _check_team(model, recipe, team)
            model = _placed(model, recipe, where)
            record = store.finished()
            if record is not None:
                store.clear_last()
                return _fitted(
                    model,
                    objective,
                    recipe,
                    State(**record["progress"]),
                    store,
                    rows=len(val.labels),
                    trained=False,
                )
            store.claim()
            trainer = Trainer(
                model,
                *_parts(model, train, val, recipe, where, start, team),
                objective=objective,
                recipe=recipe,
                device=where,
                store=store,
                on_progress=on_progress,
                save_seconds=save_seconds,
                team=team,
            )
            trainer.run()
            return _fitted(model, objective, recipe, trainer.state, store, rows=len(val.labels), trained=True)


def _placed(model: Classifier, recipe: TrainingRecipe, device: torch.device) -> Classifier:
    if recipe.channels_last:
        return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    return model.to(device)


def _parts(
    model: Classifier,
    train: BatchSource,
    val: BatchSource,
    recipe: TrainingRecipe,
    device: torch.device,
    start: Callable[[FloatArray, FloatArray], HeadStart] | None,
    team: Team,
) -> tuple[Part, Part]:
    def features(source: BatchSource) -> FeatureSource:
        made = run_batches(
            model.embed,
            source,
            device,
            precision=recipe.precision,
            batch_size=recipe.batch_size,
            team=team,
        )
        return FeatureSource(made.to(device), source.labels, getattr(source, "names", ()))

    if model.mode.standardises or model.frozen:
        fixed = features(train)
        if model.mode.kind == "lp-ft" and start is not None:
            rows, held = (
                without_gaps(one.features, fixed.features).double().cpu().numpy()
                for one in (fixed, features(val))
            )
            model.head.start_from(agreed_start(start, rows, held, team))
        elif model.mode.standardises:
            model.head.standardise_by(fixed.features)
        if model.frozen:
            learning = Part(train, True) if recipe.augments or recipe.mixes else Part(fixed, False)
            return learning, Part(features(val), False)
    return Part(train, True), Part(val, True)


def _fitted(
    model: Classifier,
    objective: Objective,
    recipe: TrainingRecipe,
    state: State,
    store: LedStore,
    *,
    rows: int,
    trained: bool,
) -> FittedHead:
    model.restore(store.load_best())
    planned = 1 if recipe.optimizer == "lbfgs" else recipe.max_epochs
    return FittedHead(
        model=model.eval(),
        objective=objective,
        recipe=recipe,
        best_epoch=state.best_epoch,
        history=tuple(state.history),
        stopped_early=state.epoch < planned,
        trained=trained,
        seconds=state.seconds,
        checkpoint=store.best_path,
        notes=(*store.notes, *_unfinished(recipe, state, planned), *_too_sure(recipe, state, rows)),
    )


def _unfinished(recipe: TrainingRecipe, state: State, planned: int) -> tuple[str, ...]:
    """What must be said where the epochs ran out before the validation stopped getting better."""
    if recipe.optimizer == "lbfgs" or state.best_epoch < planned:
        return ()
    note = (
        f"the best of {planned} epochs is the last: {recipe.monitor} was still getting better, so the model may be "
        f"judged below what it can do; type --epochs {2 * planned}"
    )
    return (note,)


def _too_sure(recipe: TrainingRecipe, state: State, rows: int) -> tuple[str, ...]:
    """What must be said where the loss chose an epoch whose answers are worse than a later one's.

    A training on few images grows too sure of itself: its loss rises while it still learns to tell classes apart.
    `rows`: of the validation part; what one or two of them make is chance.
    """
    other = "val_balanced_accuracy"
    if recipe.monitor != "val_loss" or not all(other in row for row in state.history) or not state.best_epoch:
        return ()
    values = [row[other] for row in state.history]
    best = max(range(state.best_epoch - 1, len(values)), key=values.__getitem__)
    chosen = values[state.best_epoch - 1]
    if not values[best] - chosen > max(TOO_SURE, FEW / rows):
        return ()
    note = (
        f"val_loss was lowest at epoch {state.best_epoch}, {other} highest at epoch {best + 1} ({chosen:.3f} against "
        f"{values[best]:.3f}): the model grew too sure of its answers; --monitor {other} would choose the latter"
    )
    return (note,)


def _check_model(
    model: Classifier,
    rows: int,
    recipe: TrainingRecipe,
    start: Callable[[FloatArray, FloatArray], HeadStart] | None,
) -> None:
    if model.mode.kind == "lp-ft" and (start is None or recipe.hidden):
        raise ConfigError(
            "mode lp-ft begins from a fitted linear probe",
            "an mlp has none" if recipe.hidden else "none was handed in",
            "type --head linear" if recipe.hidden else "hand in `start`",
        )
    if model.moving and min(rows, recipe.batch_size, recipe.micro_batch or rows) < 2:
        raise ConfigError(
            "a batch of one image can't train a backbone with BatchNorm layers",
            "their statistics need two images or must be frozen",
            "type --batch-size 2 or --freeze-norm-stats",
        )


def _check_team(model: Classifier, recipe: TrainingRecipe, team: Team) -> None:
    if team.size > 1 and recipe.compile and (model.moving or _drops(model)):
        raise ConfigError(
            f"--compile in {team.size} processes does not fit this backbone",
            "its BatchNorm or dropout layers must see the whole batch, which a compiled model does not let them",
            "leave out --compile, or start one process",
        )


def _drops(model: Classifier) -> bool:
    """Whether anything is drawn while `model` trains."""
    return any(
        getattr(layer, "drop_prob", 0.0) or (isinstance(layer, _DropoutNd) and layer.p > 0)
        for layer in model.modules()
    )
