"""The unfrozen comparison: the same images, splits and statistics as the probe, with trainable weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featprobe import backbones, splitting
from featprobe.config import FinetuneConfig
from featprobe.datasets.stacks import VOLUME
from featprobe.errors import ConfigError, DataError, LeakError
from featprobe.heads import HEADS_NUMERICS, TrainingRecipe, parse_mode
from featprobe.heads.team import Team
from featprobe.imaging import Intensity, parse_intensity
from featprobe.protocols import need_suitable
from featprobe.records import DENSE_POOLINGS, Predictions, RunKey, Samples
from featprobe.registry import PROTOCOLS
from featprobe.results import ResultsFolder
from featprobe.stages.bags import STAND_IN, batches_of, need_possible, seen
from featprobe.stages.calibrating import varied
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
from featprobe.stages.launch import company, device_of, processes_here
from featprobe.stages.machine import device_name, keep_freed_memory, need_writable, offline
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
from featprobe.stages.training import Outcome, Subject, Unit, train_unit_fold
from featprobe.stages.training_calibrating import stored_as
from featprobe.stages.training_costs import costs
from featprobe.stages.training_recipes import check_settings, protocol_of, recipe_of, variant_of
from featprobe.stages.training_rows import amounts_of, need_trainable
from featprobe.stages.views import View, views

if TYPE_CHECKING:
    import torch

    from featprobe.stages.images import ImageShelf


def finetune(config: FinetuneConfig) -> Summary:
    """Train every backbone of `config` in every mode on the probe's own splits, and judge it alike.

    Returns the number of models computed and reused. Raises DataError, BackboneError, LeakError, SplitError,
    ProbeError (training that fails), OutputError. Under a launcher all processes share each training; the first one
    alone writes and prints.
    """
    check_settings(config)
    with company(config.device) as team:
        return _finetune(config, team)


def _finetune(config: FinetuneConfig, team: Team) -> Summary:
    team.decided(lambda: need_writable(config.out))
    intensity = parse_intensity(config.intensity)
    runs = backbone_runs(config)
    for run in runs:
        backbones.resolve(run.backbone)
        _need_kind(config, run)
        _need_rows(config, run)
    need_poolings(config, runs)
    sources = open_sources(config, config.workers)
    for source in sources:
        _need_target(source, config)
        _refuse_early(source, config)
    device = device_of(team, config.device)
    keep_freed_memory(device)
    folder = ResultsFolder(config.out)
    computed = reused = 0
    recipes, data = {}, {}
    for source in sources:
        shelf, samples = _decoded(source, config, intensity)
        subjects = {
            seed: _subject(source, shelf, samples, dataclasses.replace(config, seed=seed))
            for seed in seeds(config)
        }
        need_trainable(config, [(seed, subject.question) for seed, subject in subjects.items()])
        for seed, subject in subjects.items():
            own = dataclasses.replace(config, seed=seed)
            found = views(subject.question, own, stand_in=STAND_IN)
            if seed == config.seed:
                _announce(config, subject.question, found)
            data[source.name] = subject.question.samples
            for run in runs:
                for unit in _units(own, subject, found, run, drawn=config.seed):
                    recipes[unit.initial.fingerprint] = unit.initial
                    team.same(unit.hash, f"images, labels, weights or settings of {source.name}")
                    if team.decided(partial(_is_there, own, folder, unit)):
                        reused += 1
                        continue
                    _train(own, folder, subject, unit, device, team)
                    computed += 1
    if team.main:
        remember(folder, "finetune", config, recipes, data, computed=bool(computed))
    print(
        f"finetune: {computed} computed, {reused} there already  {config.out / 'results.csv'}; next: featprobe compare {config.out}"
    )
    return Summary(computed, reused, (config.out / "results.csv",))


def _refuse_early(source: Source, config: FinetuneConfig) -> None:
    """The gate needs no pixels for most leaks, amounts of labels and cases none: such a data set is refused before it is
    decoded.
    """  # noqa: D205 - two reasons, one sentence
    try:
        asked = [
            (seed, question(source.name, source.samples, dataclasses.replace(config, seed=seed)))
            for seed in seeds(config)
        ]
        for _, subject in asked:
            need_possible(config, views(subject, config))
        need_trainable(config, asked)
    except LeakError as error:
        more = "equal pixels and near copies are looked for after decoding, see featprobe inspect"
        raise LeakError(error.wrong, f"{error.known}; {more}", error.next_step) from None


def _need_kind(config: FinetuneConfig, run: BackboneRun) -> None:
    """ConfigError for volumes and a backbone of images, or the reverse, and for what volumes can't be put through."""
    backbones.learn(
        run.backbone,
        offline=offline(config.offline),
        weights_dir=config.weights_dir,
        remote_code=config.remote_code,
    )
    info = backbones.describe(run.backbone)
    volumes = config.slices == VOLUME
    if volumes != (info.rules[info.default_rule].depth is not None):
        takes = "flat images, and --slices volume gives whole volumes" if volumes else "whole volumes"
        raise ConfigError(
            f"{run.backbone} takes {takes}",
            "volumes are trained on whole by 3-D backbones, slice by slice by others",
            "type --slices all, or --backbone medicalnet_resnet10" if volumes else "type --slices volume",
        )
    flat = "--cutmix" if config.cutmix else "--channels-last" if config.channels_last else ""
    if volumes and flat:
        raise ConfigError(f"{flat} is of flat images", f"{run.backbone} takes volumes", "leave it out")


def _need_rows(config: FinetuneConfig, run: BackboneRun) -> None:
    for name in poolings_of(config, run.backbone):
        if name in DENSE_POOLINGS:
            raise ConfigError(
                f"--pooling {name} can't be fine-tuned",
                "a linear head takes one row for each image, as --pooling mean or gap gives",
                "leave it out",
            )


def _need_target(source: Source, config: FinetuneConfig) -> None:
    """An error where the protocol or a mode does not fit the target."""
    task = source.samples.task
    need_suitable(config.protocol, task, source.name)
    if task == "continuous" and any(parse_mode(mode).kind == "lp-ft" for mode in config.mode):
        raise ConfigError(
            f"--mode lp-ft does not fit the target of {source.name!r}, which is a number",
            "it begins from a logistic probe",
            "type --mode full",
        )


def _decoded(source: Source, config: FinetuneConfig, intensity: Intensity) -> tuple[ImageShelf, Samples]:
    """The images at hand, and the samples of those that can be read, their copies found."""
    from featprobe.stages.images import MEMORY, ImageShelf

    volumes = config.slices == VOLUME
    # Every process keeps the images: which rows fall to it changes with each epoch.
    memory = MEMORY // processes_here()
    shelf = ImageShelf(
        source.dataset, intensity=intensity, workers=config.workers, volumes=volumes, memory=memory
    )
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


def _announce(config: FinetuneConfig, subject: Question, found: Sequence[View]) -> None:
    announce(subject)
    notes = [*protocol_of(config).sentences(), *(note for view in found for note in view.notes)]
    if len(found) > 1:
        looked = [" ".join(filter(None, (f"by {v.level}", v.inputs, v.fusion))) for v in found]
        notes.append(
            f"each mode is trained {len(found)} times on each fold: {', '.join(looked)} (fewer: --level, --fusion)"
        )
    for note in dict.fromkeys(notes):
        print(f"{subject.name}: {note}")


def _is_there(config: FinetuneConfig, folder: ResultsFolder, unit: Unit) -> bool:
    there = stored(folder, stored_as(unit.hash, unit.key), unit.key, unit.initial)
    return there and not _lacks_export(config, unit)


def _lacks_export(config: FinetuneConfig, unit: Unit) -> bool:
    """Whether models are asked for that an earlier run did not write; its checkpoints give them without training."""
    plain = unit.view.of_case is None and unit.rule.depth is None
    return (
        config.export and plain and not any((config.out / "models").glob(f"*-{unit.hash[:8]}-*.safetensors"))
    )


def _poolings(config: FinetuneConfig, backbone: Any, name: str) -> tuple[str, ...]:
    """What is taken of the backbone: what the flags name, else the protocol's, else its default."""
    info = backbone.info
    named = poolings_of(config, name)
    default = protocol_of(config).pooling(info.poolings, info.default_pooling)
    return tuple(dict.fromkeys(backbone.canonical(one) for one in named or (default,)))


def _units(
    config: FinetuneConfig, subject: Subject, found: Sequence[View], run: BackboneRun, *, drawn: int
) -> Iterator[Unit]:
    """`drawn`: seed of random weights, the same for all repeats: they are one backbone, as in extraction."""
    wanted = _wanted(config, run)
    backbone = load_backbone(wanted, run, seed=drawn)
    rule = resolved_rule(config, backbone, config.image_size)
    # Positions are fitted to the size before the optimiser is given them.
    backbone.set_image_size(rule.image_size)
    initial = recipe_for(subject.source, backbone, rule, precision=config.precision, storage="float32")
    for view in found:
        for mode in config.mode:
            for pooling in _poolings(config, backbone, run.backbone):
                recipe, about = batches_of(recipe_of(config, mode, pooling), config, view)
                for fraction, shots in amounts_of(config):
                    key = RunKey(
                        dataset=subject.source.name,
                        backbone=backbone.name,
                        weights=backbone.weights_label,
                        mode=str(parse_mode(mode)),
                        pooling=pooling,
                        inputs=view.inputs,
                        fusion=view.fusion,
                        level=view.level,
                        preprocessing=rule.label,
                        probe="mlp-head" if recipe.hidden else "linear-head",
                        protocol=subject.question.protocol.replace("featprobe", config.protocol, 1),
                        fraction=fraction,
                        shots=shots,
                        variant=variant_of(config, recipe),
                        seed=config.seed,
                        fingerprint=initial.fingerprint,
                    )
                    digest = _hash(config, subject.question, view, recipe, key)
                    key = varied(key, config, view.samples.task)
                    yield Unit(run, view, backbone, rule, pooling, initial, recipe, key, digest, about)


def _hash(config: FinetuneConfig, subject: Question, view: View, recipe: TrainingRecipe, key: RunKey) -> str:
    looked: dict[str, Any] = {}
    if view.of_case is not None or view.inputs:
        looked = {"level": view.level, "inputs": view.inputs, "fusion": view.fusion}
        looked |= {"missing": config.missing, "seen": seen(config, view)}
    return subject.unit(
        key.fingerprint,
        stage="finetune",
        pooling=key.pooling,
        training=recipe.to_dict(),
        moves=[config.flip, config.vertical_flip, config.rotate],
        amount=[key.fraction, key.shots],
        protocol=PROTOCOLS.get(config.protocol).sha256,
        search=[config.trials, config.minutes],
        numerics=HEADS_NUMERICS,
        **({"view": looked} if looked else {}),
    )


def _wanted(config: FinetuneConfig, run: BackboneRun) -> FinetuneConfig:
    """`config` with the pooling that the protocol takes of this backbone, so that its weights are asked for."""
    info = backbones.describe(run.backbone)
    default = protocol_of(config).pooling(info.poolings, info.default_pooling)
    if poolings_of(config, run.backbone) or default == info.default_pooling:
        return config
    return dataclasses.replace(config, pooling=(default,))


def _train(
    config: FinetuneConfig,
    folder: ResultsFolder,
    subject: Subject,
    unit: Unit,
    device: torch.device,
    team: Team,
) -> None:
    """Train, predict and store one unit, fold by fold; a killed run goes on at its last checkpoint."""
    checkpoints = config.out / "checkpoints" / unit.hash[:12]
    outcomes: list[Outcome] = []
    for fold in unit.view.folds:
        place = checkpoints / f"fold-{fold.name}"
        try:
            outcomes.append(train_unit_fold(config, subject, unit, fold, device, place, team))
        except BaseException:
            if team.main:
                _leave_nothing_empty(place, config.out)
            raise
    if not team.main:
        return
    predictions = [
        Predictions(
            with_fold(unit.key, fold.name),
            unit.view.samples.take(fold.test),
            outcome.scores,
            outcome.n_train,
        )
        for fold, outcome in zip(unit.view.folds, outcomes, strict=True)
    ]
    about = _info(config, subject, unit, outcomes, device, team.size)
    metrics = PROTOCOLS.get(config.protocol).metrics
    folder.add(stored_as(unit.hash, unit.key), predictions, judged(predictions, config, metrics), about)


def _leave_nothing_empty(folder: Path, root: Path) -> None:
    """Remove `folder`, where it holds nothing, and what is empty then above it, up to and without `root`."""
    while folder != root:
        if folder.is_dir():
            if any(folder.iterdir()):
                return
            folder.rmdir()
        folder = folder.parent


def _info(
    config: FinetuneConfig,
    subject: Subject,
    unit: Unit,
    outcomes: Sequence[Outcome],
    device: torch.device,
    processes: int,
) -> dict[str, Any]:
    folds = {fold.name: outcome for fold, outcome in zip(unit.view.folds, outcomes, strict=True)}
    spent = costs([outcome.cost for outcome in outcomes], device, config.watts)
    notes = [f"fold {name}: {note}" for name, outcome in folds.items() for note in outcome.notes]
    shared = [*subject.question.notes, *unit.view.notes, *protocol_of(config).sentences(), *unit.about]
    searched = {name: outcome.search for name, outcome in folds.items() if outcome.search}
    return {
        "key": unit.key.to_dict(),
        "identity": identity(unit.key, unit.initial),
        "scheme": subject.question.plan.scheme,
        "training": unit.recipe.to_dict(),
        "device": device_name(device),
        "processes": processes,
        "seconds": spent["seconds"],
        "costs": spent,
        "best_epoch": {name: outcome.head.best_epoch for name, outcome in folds.items()},
        "history": {name: [dict(row) for row in outcome.head.history] for name, outcome in folds.items()},
        "dataset_notes": shared,
        "notes": [*shared, *notes],
        **({"search": searched} if searched else {}),
    }
