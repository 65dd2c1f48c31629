"""Trains one fold: checks what it was given, reuses or resumes what is on disk, returns the best epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from featprobe.errors import ConfigError, ProbeError
from featprobe.heads.arithmetic import check_precision, machine
from featprobe.heads.checkpoints import CheckpointStore
from featprobe.heads.inference import FittedHead, run_batches
from featprobe.heads.loop import FeatureSource, Part, State, Trainer
from featprobe.heads.model import Classifier, batch_norms
from featprobe.heads.recipe import TrainingRecipe
from featprobe.heads.sources import BatchSource, Progress

SAVE_SECONDS: Final = 300.0


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
    on_progress: Callable[[Progress], None] | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> FittedHead:
    """A classifier trained on `train`, its best epoch chosen on `val`.

    `backbone`: float32 [B, 3, H, W] -> [B, dim]; it is copied, so one instance serves every fold.
    `checkpoint_dir` holds this fold alone. `resume_key`: a hash of all that decides the result (recipe,
    data, labels, fold, backbone's weights); a finished training with the same key is returned without
    training, an interrupted one goes on where it was saved: at every epoch's end and, inside long epochs,
    every `save_seconds`. All randomness follows from (recipe.seed, epoch, step), so that on the CPU, with the
    same thread count, a resumed run ends in the same weights, bit for bit.

    Raises ProbeError (labels that can't be trained on, a loss that is not finite, memory that runs out),
    ConfigError (a setting that device or model can't follow) and OutputError (nothing can be written).
    """
    recipe, where = recipe.resolved(), torch.device(device)
    _check_labels(train, val, n_classes)
    _check_settings(backbone, len(train.labels), recipe, where)
    store = CheckpointStore(checkpoint_dir, resume_key)
    with machine(where, recipe.precision, recipe.batch_size):
        model = Classifier(backbone, dim, n_classes, recipe).to(where)
        record = store.finished()
        if record is not None:
            store.clear_last()
            return _fitted(model, recipe, State(**record["progress"]), store, trained=False)
        store.claim()
        trainer = Trainer(
            model,
            *_parts(model, train, val, recipe, where),
            recipe=recipe,
            device=where,
            store=store,
            on_progress=on_progress,
            save_seconds=save_seconds,
        )
        trainer.run()
        return _fitted(model, recipe, trainer.state, store, trained=True)


def _parts(
    model: Classifier, train: BatchSource, val: BatchSource, recipe: TrainingRecipe, device: torch.device
) -> tuple[Part, Part]:
    if not model.frozen:
        return Part(model, train), Part(model, val)

    def features(source: BatchSource) -> FeatureSource:
        made = run_batches(
            model.embed, source, device, precision=recipe.precision, batch_size=recipe.batch_size
        )
        return FeatureSource(made.to(device), source.labels)

    fixed = features(train)
    model.head.standardise_by(fixed.features)
    learning = Part(model, train) if recipe.augments else Part(model.head, fixed)
    return learning, Part(model.head, features(val))


def _fitted(
    model: Classifier, recipe: TrainingRecipe, state: State, store: CheckpointStore, *, trained: bool
) -> FittedHead:
    model.restore(store.load_best())
    return FittedHead(
        model=model.eval(),
        recipe=recipe,
        best_epoch=state.best_epoch,
        history=tuple(state.history),
        stopped_early=state.epoch < recipe.max_epochs,
        trained=trained,
        seconds=state.seconds,
        checkpoint=store.best_path,
        notes=tuple(store.notes),
    )


def _check_labels(train: BatchSource, val: BatchSource, n_classes: int) -> None:
    for name, source in (("training", train), ("validation", val)):
        if len(source.labels) == 0:
            raise ProbeError(
                f"the {name} part of this fold is empty",
                "training needs rows to learn from and rows to choose the best epoch on",
                "see the split with: featprobe inspect --data SPEC",
            )
        if source.labels.min() < 0 or source.labels.max() >= n_classes:
            raise ProbeError(
                f"the {name} part holds rows without a label",
                f"labels lie between 0 and {n_classes - 1}",
                "leave those rows out, or name the label column with --label-column",
            )
    if len(np.unique(train.labels)) < 2:
        raise ProbeError(
            "the training part holds one class only",
            f"all {len(train.labels)} rows have the label {train.labels[0]}",
            "see the split with: featprobe inspect --data SPEC",
        )


def _check_settings(backbone: nn.Module, rows: int, recipe: TrainingRecipe, device: torch.device) -> None:
    check_precision(device, recipe.precision)
    moving_norms = recipe.mode == "full" and not recipe.freeze_norm_stats
    if moving_norms and min(rows, recipe.batch_size) < 2 and any(True for _ in batch_norms(backbone)):
        raise ConfigError(
            "a batch of one image can't train a backbone with BatchNorm layers",
            "their statistics need two images or must be frozen",
            "type --batch-size 2 or --freeze-norm-stats",
        )
