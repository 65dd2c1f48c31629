"""The unfrozen comparison: the same images, splits and statistics as the probe, with trainable weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from featprobe import backbones, splitting
from featprobe.config import FinetuneConfig
from featprobe.errors import ConfigError, DataError, LeakError
from featprobe.heads import HEADS_NUMERICS, Progress, TrainingRecipe
from featprobe.imaging import Intensity, parse_intensity
from featprobe.records import DENSE_POOLINGS, IntArray, Predictions, Preprocessing, Recipe, RunKey, Samples
from featprobe.results import ResultsFolder
from featprobe.stages.evaluation import (
    Question,
    announce,
    identity,
    judged,
    question,
    seeds,
    stored,
    with_fold,
)
from featprobe.stages.extract import load_backbone, recipe_for
from featprobe.stages.machine import device_name, keep_freed_memory, need_writable, offline, pick_device
from featprobe.stages.receipt import remember
from featprobe.stages.rules import resolved_rule
from featprobe.stages.sources import (
    BackboneRun,
    Source,
    backbone_runs,
    need_poolings,
    open_sources,
    poolings_of,
)
from featprobe.stages.summary import Summary

if TYPE_CHECKING:
    import torch

    from featprobe.heads.inference import FittedHead
    from featprobe.stages.images import ImageShelf


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """One data set made ready: its images, the question, and each sample's row in the data set."""

    source: Source
    shelf: ImageShelf
    question: Question
    rows: IntArray


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One backbone, weights, pooling and mode over all folds: what is stored, and reused, as a whole.

    `initial`: the recipe of the backbone before training.
    """

    run: BackboneRun
    backbone: Any
    rule: Preprocessing
    pooling: str
    initial: Recipe
    recipe: TrainingRecipe
    key: RunKey
    hash: str


def finetune(config: FinetuneConfig) -> Summary:
    """Train every backbone of `config` in every mode on the probe's own splits, and judge it alike.

    Returns the number of models computed and reused. Raises DataError, BackboneError, LeakError, SplitError,
    ProbeError (training that fails), OutputError.
    """
    need_writable(config.out)
    intensity = parse_intensity(config.intensity)
    runs = backbone_runs(config)
    for run in runs:
        backbones.resolve(run.backbone)
        _need_flat(config, run)
        _need_rows(config, run)
    need_poolings(config, runs)
    sources = open_sources(config, config.workers)
    for source in sources:
        _need_classes(source)
        _refuse_early(source, config)
    device = pick_device(config.device)
    keep_freed_memory(device)
    folder = ResultsFolder(config.out)
    computed = reused = 0
    recipes, data = {}, {}
    for source in sources:
        shelf, samples = _decoded(source, config, intensity)
        for seed in seeds(config):
            own = dataclasses.replace(config, seed=seed)
            subject = _subject(source, shelf, samples, own)
            if seed == config.seed:
                announce(subject.question)
            data[source.name] = subject.question.samples
            for run in runs:
                for unit in _units(own, subject, run):
                    recipes[unit.initial.fingerprint] = unit.initial
                    if stored(folder, unit.hash, unit.key, unit.initial):
                        reused += 1
                        continue
                    _train(own, folder, subject, unit, device)
                    computed += 1
    remember(folder, "finetune", config, recipes, data, computed=bool(computed))
    print(
        f"finetune: {computed} computed, {reused} there already  {config.out / 'results.csv'}; next: featprobe compare {config.out}"
    )
    return Summary(computed, reused, (config.out / "results.csv",))


def _refuse_early(source: Source, config: FinetuneConfig) -> None:
    """The gate needs no pixels for most leaks: such a data set is refused before it is decoded."""
    try:
        question(source.name, source.samples, config)
    except LeakError as error:
        more = "equal pixels and near copies are looked for after decoding, see featprobe inspect"
        raise LeakError(error.wrong, f"{error.known}; {more}", error.next_step) from None


def _need_flat(config: FinetuneConfig, run: BackboneRun) -> None:
    """ConfigError for volumes, which are learnt from frozen backbones alone."""
    backbones.learn(
        run.backbone,
        offline=offline(config.offline),
        weights_dir=config.weights_dir,
        remote_code=config.remote_code,
    )
    info = backbones.describe(run.backbone)
    what = (
        "--slices volume"
        if config.slices == "volume"
        else f"{run.backbone} takes volumes"
        if info.rules[info.default_rule].depth is not None
        else ""
    )
    if what:
        raise ConfigError(
            f"{what}: fine-tuning does not learn from volumes",
            "it trains on flat images alone so far",
            "type featprobe extract and featprobe probe, which learn from the frozen backbone",
        )


def _need_rows(config: FinetuneConfig, run: BackboneRun) -> None:
    for name in poolings_of(config, run.backbone):
        if name in DENSE_POOLINGS:
            raise ConfigError(
                f"--pooling {name} can't be fine-tuned",
                "a linear head takes one row for each image, as --pooling mean or gap gives",
                "leave it out",
            )


def _need_classes(source: Source) -> None:
    if source.samples.task in {"multilabel", "continuous"}:
        raise DataError(
            f"the target of {source.name!r} is {source.samples.task}",
            "fine-tuning learns classes and ordered classes so far",
            "type featprobe extract and featprobe probe, which learn it from the frozen backbone",
        )


def _decoded(source: Source, config: FinetuneConfig, intensity: Intensity) -> tuple[ImageShelf, Samples]:
    """The images at hand, and the samples of those that can be read, their copies found."""
    from featprobe.stages.images import ImageShelf

    shelf = ImageShelf(source.dataset, intensity=intensity, workers=config.workers)
    if not len(shelf.rows):
        raise DataError(
            f"no image of {source.name!r} can be read",
            f"{len(shelf.faults)} failed, the first: {shelf.faults[0][1]}",
            f"type featprobe inspect --data {source.spec}",
        )
    for row, reason in shelf.faults[:10]:
        print(f"{source.name}: WARNING: left out, unreadable: {source.samples.path[row]}: {reason}")
    if len(shelf.faults) > 10:
        print(f"{source.name}: WARNING: and {len(shelf.faults) - 10} more unreadable images left out")
    return shelf, splitting.with_twins(shelf.printed(source.samples))


def _subject(source: Source, shelf: ImageShelf, samples: Samples, config: FinetuneConfig) -> Subject:
    """Gate and folds over the readable images: those that the cache would hold."""
    asked = question(source.name, samples, config)
    positions = {str(name): row for row, name in enumerate(source.samples.id)}
    rows = np.array([positions[str(name)] for name in asked.samples.id], dtype=np.int64)
    return Subject(source, shelf, asked, rows)


def _training(config: FinetuneConfig, mode: str) -> TrainingRecipe:
    return TrainingRecipe(
        mode=mode,
        epochs=config.epochs,
        patience=config.patience,
        batch_size=config.batch_size or 32,
        lr=config.lr,
        weight_decay=config.weight_decay,
        augment=config.augment and mode == "full",
        precision=config.precision,
        seed=config.seed,
    )


def _units(config: FinetuneConfig, subject: Subject, run: BackboneRun) -> list[Unit]:
    backbone = load_backbone(config, run, seed=config.seed)
    rule = resolved_rule(config, backbone, config.image_size)
    # Positions are fitted to the size before the optimiser is given them.
    backbone.set_image_size(rule.image_size)
    recipe = recipe_for(subject.source, backbone, rule, precision=config.precision, storage="float32")
    units = []
    for mode in config.mode:
        for pooling in dict.fromkeys(
            backbone.canonical(name)
            for name in poolings_of(config, run.backbone) or (backbone.info.default_pooling,)
        ):
            training = _training(config, mode)
            key = RunKey(
                dataset=subject.source.name,
                backbone=backbone.name,
                weights=backbone.weights_label,
                mode=mode,
                pooling=pooling,
                preprocessing=rule.label,
                probe="linear-head",
                protocol=subject.question.protocol,
                seed=config.seed,
                fingerprint=recipe.fingerprint,
            )
            unit = subject.question.unit(
                recipe.fingerprint,
                stage="finetune",
                pooling=pooling,
                training=training.to_dict(),
                flip=config.flip,
                numerics=HEADS_NUMERICS,
            )
            units.append(Unit(run, backbone, rule, pooling, recipe, training, key, unit))
    return units


def _train(
    config: FinetuneConfig, folder: ResultsFolder, subject: Subject, unit: Unit, device: torch.device
) -> None:
    """Train, predict and store one unit, fold by fold; a killed run goes on at its last checkpoint."""
    checkpoints = config.out / "checkpoints" / unit.hash[:12]
    predictions, fitted = [], []
    for fold in subject.question.plan.folds:
        place = checkpoints / f"fold-{fold.name}"
        try:
            scores, head = _train_fold(config, subject, unit, fold, device, place)
        except BaseException:
            _leave_nothing_empty(place, config.out)
            raise
        samples = subject.question.samples.take(fold.test)
        predictions.append(
            Predictions(with_fold(unit.key, fold.name), samples, scores, len(fold.train) + len(fold.val))
        )
        fitted.append(head)
    folder.add(unit.hash, predictions, judged(predictions, config), _info(subject, unit, fitted, device))


def _leave_nothing_empty(folder: Path, root: Path) -> None:
    """Remove `folder`, where it holds nothing, and what is empty then above it, up to and without `root`."""
    while folder != root:
        if folder.is_dir():
            if any(folder.iterdir()):
                return
            folder.rmdir()
        folder = folder.parent


def _train_fold(
    config: FinetuneConfig,
    subject: Subject,
    unit: Unit,
    fold: splitting.Fold,
    device: torch.device,
    checkpoints: Path,
) -> tuple[Any, FittedHead]:
    from featprobe.heads.inference import predict
    from featprobe.heads.training import train_fold
    from featprobe.stages.images import ImagePart

    samples = subject.question.samples
    learn, watch = (
        (fold.train, fold.val)
        if len(fold.val)
        else splitting.holdout(samples, fold.train, fraction=0.2, seed=config.seed)
    )

    def part(rows: IntArray) -> ImagePart:
        return ImagePart(subject.shelf, subject.rows[rows], samples.label[rows], unit.rule, flip=config.flip)

    epochs = unit.recipe.max_epochs
    title = f"{unit.key.dataset} {unit.run.backbone} ({unit.key.weights}) {unit.recipe.mode} fold {fold.name}"
    with tqdm(unit="step", desc=title, disable=None) as bar:

        def progress(now: Progress) -> None:
            bar.total = now.steps
            bar.update(max(0, now.step - bar.n))
            if now.metrics is not None:
                print(
                    f"{title}: epoch {now.epoch}/{epochs}, train loss {now.metrics['train_loss']:.3f}, val loss {now.metrics['val_loss']:.3f}, val balanced accuracy {now.metrics['val_balanced_accuracy']:.3f}"
                )

        head = train_fold(
            backbones.Pooled(unit.backbone, unit.pooling),
            unit.backbone.dim(unit.pooling),
            len(samples.label_names),
            train=part(learn),
            val=part(watch),
            recipe=unit.recipe,
            device=device,
            checkpoint_dir=checkpoints,
            resume_key=unit.hash,
            on_progress=progress,
        )
    for note in head.notes:
        print(f"{title}: {note}")
    return predict(head, part(fold.test), device=device), head


def _info(subject: Subject, unit: Unit, fitted: Sequence[FittedHead], device: torch.device) -> dict[str, Any]:
    folds = [fold.name for fold in subject.question.plan.folds]
    return {
        "key": unit.key.to_dict(),
        "identity": identity(unit.key, unit.initial),
        "scheme": subject.question.plan.scheme,
        "training": unit.recipe.to_dict(),
        "device": device_name(device),
        "seconds": round(sum(head.seconds for head in fitted), 1),
        "best_epoch": {name: head.best_epoch for name, head in zip(folds, fitted, strict=True)},
        "history": {
            name: [dict(row) for row in head.history] for name, head in zip(folds, fitted, strict=True)
        },
        "dataset_notes": list(subject.question.notes),
        "notes": [*subject.question.notes, *(note for head in fitted for note in head.notes)],
    }
