"""One fold of one fine-tuning: its rows, its training or search, its predictions, and what all that cost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from featprobe import backbones, probes, splitting
from featprobe.config import FinetuneConfig
from featprobe.errors import MissingExtraError
from featprobe.heads import HeadStart, Progress, TrainingRecipe, parse_mode
from featprobe.heads.team import SOLO, Team
from featprobe.records import FloatArray, IntArray, Preprocessing, Recipe, RunKey
from featprobe.registry import PROTOCOLS
from featprobe.stages.bags import parts_of, pooled, title
from featprobe.stages.evaluation import Question
from featprobe.stages.sources import BackboneRun, Source
from featprobe.stages.training_calibrating import recalibrated
from featprobe.stages.training_costs import Cost, peak_memory
from featprobe.stages.training_rows import rows_of
from featprobe.stages.views import View

if TYPE_CHECKING:
    import torch

    from featprobe.heads.inference import FittedHead
    from featprobe.stages.case_images import CasePart
    from featprobe.stages.images import ImagePart, ImageShelf


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """One data set made ready: its images, the question, and each sample's row in the data set."""

    source: Source
    shelf: ImageShelf
    question: Question
    rows: IntArray


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One backbone, weights, pooling, mode and amount on one view of the data over all folds: what is stored, and
    reused, as a whole.

    `view`: images or cases, whose rows the folds count. `initial`: the recipe of the backbone before training. `about`:
    what is said of its batches.
    """  # noqa: D205 - what it is of does not fit a first line

    run: BackboneRun
    view: View
    backbone: Any
    rule: Preprocessing
    pooling: str
    initial: Recipe
    recipe: TrainingRecipe
    key: RunKey
    hash: str
    about: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one fold came to. `scores`: of the test rows; `search`: what was tried, {} where nothing was."""

    scores: FloatArray
    head: FittedHead
    n_train: int
    cost: Cost
    search: dict[str, Any]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Trainable:
    """All that a training of one fold takes but the recipe and its place on disk."""

    subject: Subject
    unit: Unit
    fold: splitting.Fold
    train: ImagePart | CasePart
    val: ImagePart | CasePart
    device: torch.device
    title: str
    team: Team = SOLO

    def fit(
        self,
        recipe: TrainingRecipe,
        place: Path,
        key: str,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> FittedHead:
        """The model of `recipe`, its checkpoints in `place` under `key`; see `featprobe.heads.training`."""
        from featprobe.heads.training import train_fold

        samples = self.unit.view.samples
        single = backbones.Pooled(self.unit.backbone, self.unit.pooling)
        backbone, dim = pooled(single, single.dim, self.unit.view)
        return train_fold(
            backbone,
            dim,
            len(samples.label_names),
            train=self.train,
            val=self.val,
            recipe=recipe,
            device=self.device,
            checkpoint_dir=place,
            resume_key=key,
            task=samples.task,
            start=self._start if parse_mode(recipe.mode).kind == "lp-ft" else None,
            on_progress=on_progress,
            team=self.team,
        )

    def _start(self, rows: FloatArray, held: FloatArray) -> HeadStart:
        """Featprobe's own logistic probe on these rows, its C chosen on the validation part."""
        samples = self.unit.view.samples
        fitted = probes.fit_probe(
            "logistic",
            np.concatenate([rows, held]),
            np.concatenate([self.train.labels, self.val.labels]),
            n_classes=len(samples.label_names),
            selection=[(np.arange(len(rows)), np.arange(len(rows), len(rows) + len(held)))],
            calibration=[],
            seed=self.unit.key.seed,
            task=samples.task,
            label_names=samples.label_names if samples.task == "multilabel" else (),
            rule=probes.Rule(refit=False),
        )
        return head_start(fitted, rows, len(samples.label_names))


def head_start(fitted: probes.FittedProbe, rows: FloatArray, outputs: int) -> HeadStart:
    """A fitted logistic probe as a head begins from it, standardised by `rows` [N, D]; scores are the probe's own.

    Two classes share the probe's one score; a class that training lacks gets the least score of all.
    """
    model: Any = fitted.model
    coef, intercept = model.coef, model.intercept
    if fitted.task != "multilabel" and len(coef) == 1:
        coef, intercept = np.vstack([-coef / 2, coef / 2]), np.array([-intercept[0] / 2, intercept[0] / 2])
    centre, deviation = rows.mean(axis=0), rows.std(axis=0)
    deviation = np.where(deviation > 1e-6 * np.abs(centre), deviation, 1.0)
    weight, bias = np.zeros((outputs, rows.shape[1])), np.full(outputs, float(intercept.min()) - 10.0)
    weight[fitted.classes] = coef * deviation
    bias[fitted.classes] = intercept + coef @ centre
    chosen = ", ".join(f"{name} = {value:g}" for name, value in list(fitted.chosen.items())[:1])
    return HeadStart(centre, deviation, weight, bias, f"the logistic probe at {chosen}")


def train_unit_fold(
    config: FinetuneConfig,
    subject: Subject,
    unit: Unit,
    fold: splitting.Fold,
    device: torch.device,
    place: Path,
    team: Team = SOLO,
) -> Outcome:
    """Train (or search), predict and measure one fold; the processes of `team` share it, each gets all of it."""
    from featprobe.heads.inference import predict

    learn, watch = rows_of(PROTOCOLS.get(config.protocol), unit.view.samples, fold, unit.key)
    part = parts_of(config, subject, unit)
    task = Trainable(subject, unit, fold, part(learn), part(watch), device, title(unit, fold), team)
    with peak_memory(device) as peak:
        head, searched, notes = _fitted(config, task, place)
        began = time.perf_counter()
        scores = predict(head, part(fold.test), device=device, team=team)
        held = partial(predict, head, task.val, device=device, team=team)
        scores, said = recalibrated(scores, unit.key, unit.view.samples, task.val.labels, held)
        seconds = head.seconds + time.perf_counter() - began + float(searched.get("seconds", 0.0))
    if config.export and team.main:
        from featprobe.stages.training_export import export

        notes = (*notes, *export(config.out / "models", task, head))
    notes = (*notes, *said)
    for note in (*head.notes, *notes):
        print(f"{task.title}: {note}")
    whole = sum(parameter.numel() for parameter in unit.backbone.parameters())
    # Of all processes: what another number of them must not make cheaper.
    cost = Cost(seconds * team.size, team.most(peak.bytes), head.model.trained_parameters(), whole)
    return Outcome(scores, head, len(learn) + len(watch), cost, searched, (*head.notes, *notes))


def _fitted(
    config: FinetuneConfig, task: Trainable, place: Path
) -> tuple[FittedHead, dict[str, Any], tuple[str, ...]]:
    """(the model, what was searched, notes)."""
    if config.trials or config.minutes:
        from featprobe.stages.training_search import search

        return search(config, task, place)
    board = _board(config, task) if config.tensorboard and task.team.main else None
    try:
        with shown(task.title, task.unit.recipe, board) as progress:
            return task.fit(task.unit.recipe, place, task.unit.hash, progress), {}, ()
    finally:
        if board is not None:
            board.close()


class shown:  # noqa: N801 - used as a context, like contextlib's
    """A bar of the steps and a line per epoch, for `Trainable.fit`; `board`: TensorBoard's writer."""

    def __init__(self, title: str, recipe: TrainingRecipe, board: Any = None) -> None:
        self.title, self.epochs, self.board = title, recipe.max_epochs, board
        self.bar: Any = None

    def __enter__(self) -> Callable[[Progress], None]:
        self.bar = tqdm(unit="step", desc=self.title, disable=None)
        return self._progress

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def _progress(self, now: Progress) -> None:
        self.bar.total = now.steps
        self.bar.update(max(0, now.step - self.bar.n))
        if now.metrics is None:
            return
        row = dict(now.metrics)
        last = "val_balanced_accuracy" if "val_balanced_accuracy" in row else "val_mae"
        print(
            f"{self.title}: epoch {now.epoch}/{self.epochs}, train loss {row['train_loss']:.3f}, val loss {row['val_loss']:.3f}, {last.replace('_', ' ')} {row[last]:.3f}"
        )
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(name, value, now.epoch)


def _board(config: FinetuneConfig, task: Trainable) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("--tensorboard", "tensorboard", "tensorboard") from error
    name = f"{task.title.replace(' ', '-').replace('/', '-')}-{task.unit.hash[:8]}"
    return SummaryWriter(str(config.out / "tensorboard" / name))
