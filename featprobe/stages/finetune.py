"""The unfrozen comparison: the same images, splits and statistics as the probe, with trainable weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featprobe import backbones, splitting
from featprobe.config import FinetuneConfig
from featprobe.errors import ConfigError, DataError, LeakError
from featprobe.heads import HEADS_NUMERICS, parse_mode
from featprobe.imaging import Intensity, parse_intensity
from featprobe.protocols import need_suitable
from featprobe.records import DENSE_POOLINGS, Predictions, RunKey, Samples
from featprobe.registry import PROTOCOLS
from featprobe.results import ResultsFolder
from featprobe.stages.calibrating import varied
from featprobe.stages.evaluation import (
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
from featprobe.stages.training import Outcome, Subject, Unit, train_unit_fold
from featprobe.stages.training_calibrating import stored_as
from featprobe.stages.training_costs import costs
from featprobe.stages.training_recipes import check_settings, protocol_of, recipe_of, variant_of
from featprobe.stages.training_rows import amounts_of, need_trainable

if TYPE_CHECKING:
    import torch

    from featprobe.stages.images import ImageShelf


def finetune(config: FinetuneConfig) -> Summary:
    """Train every backbone of `config` in every mode on the probe's own splits, and judge it alike.

    Returns the number of models computed and reused. Raises DataError, BackboneError, LeakError, SplitError,
    ProbeError (training that fails), OutputError.
    """
    check_settings(config)
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
        _need_target(source, config)
        _refuse_early(source, config)
    device = pick_device(config.device)
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
            if seed == config.seed:
                announce(subject.question)
                for note in protocol_of(config).sentences():
                    print(f"{source.name}: {note}")
            data[source.name] = subject.question.samples
            for run in runs:
                for unit in _units(own, subject, run):
                    recipes[unit.initial.fingerprint] = unit.initial
                    if stored(
                        folder, stored_as(unit.hash, unit.key), unit.key, unit.initial
                    ) and not _lacks_export(own, unit):
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
    """The gate needs no pixels for most leaks, amounts of labels none: such a data set is refused before it is decoded."""
    try:
        asked = [
            (seed, question(source.name, source.samples, dataclasses.replace(config, seed=seed)))
            for seed in seeds(config)
        ]
        need_trainable(config, asked)
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


def _lacks_export(config: FinetuneConfig, unit: Unit) -> bool:
    """Whether models are asked for that an earlier run did not write; its checkpoints give them without training."""
    return config.export and not any((config.out / "models").glob(f"*-{unit.hash[:8]}-*.safetensors"))


def _poolings(config: FinetuneConfig, backbone: Any, name: str) -> tuple[str, ...]:
    """What is taken of the backbone: what the flags name, else the protocol's, else its default."""
    info = backbone.info
    named = poolings_of(config, name)
    default = protocol_of(config).pooling(info.poolings, info.default_pooling)
    return tuple(dict.fromkeys(backbone.canonical(one) for one in named or (default,)))


def _units(config: FinetuneConfig, subject: Subject, run: BackboneRun) -> Iterator[Unit]:
    wanted = _wanted(config, run)
    backbone = load_backbone(wanted, run, seed=config.seed)
    rule = resolved_rule(config, backbone, config.image_size)
    # Positions are fitted to the size before the optimiser is given them.
    backbone.set_image_size(rule.image_size)
    initial = recipe_for(subject.source, backbone, rule, precision=config.precision, storage="float32")
    for mode in config.mode:
        for pooling in _poolings(config, backbone, run.backbone):
            recipe = recipe_of(config, mode, pooling)
            for fraction, shots in amounts_of(config):
                key = RunKey(
                    dataset=subject.source.name,
                    backbone=backbone.name,
                    weights=backbone.weights_label,
                    mode=str(parse_mode(mode)),
                    pooling=pooling,
                    preprocessing=rule.label,
                    probe="mlp-head" if recipe.hidden else "linear-head",
                    protocol=subject.question.protocol.replace("featprobe", config.protocol, 1),
                    fraction=fraction,
                    shots=shots,
                    variant=variant_of(config, recipe),
                    seed=config.seed,
                    fingerprint=initial.fingerprint,
                )
                digest = subject.question.unit(
                    initial.fingerprint,
                    stage="finetune",
                    pooling=pooling,
                    training=recipe.to_dict(),
                    moves=[config.flip, config.vertical_flip, config.rotate],
                    amount=[fraction, shots],
                    protocol=PROTOCOLS.get(config.protocol).sha256,
                    search=[config.trials, config.minutes],
                    numerics=HEADS_NUMERICS,
                )
                key = varied(key, config, subject.question.samples.task)
                yield Unit(run, backbone, rule, pooling, initial, recipe, key, digest)


def _wanted(config: FinetuneConfig, run: BackboneRun) -> FinetuneConfig:
    """`config` with the pooling that the protocol takes of this backbone, so that its weights are asked for."""
    info = backbones.describe(run.backbone)
    default = protocol_of(config).pooling(info.poolings, info.default_pooling)
    if poolings_of(config, run.backbone) or default == info.default_pooling:
        return config
    return dataclasses.replace(config, pooling=(default,))


def _train(
    config: FinetuneConfig, folder: ResultsFolder, subject: Subject, unit: Unit, device: torch.device
) -> None:
    """Train, predict and store one unit, fold by fold; a killed run goes on at its last checkpoint."""
    checkpoints = config.out / "checkpoints" / unit.hash[:12]
    outcomes: list[Outcome] = []
    for fold in subject.question.plan.folds:
        place = checkpoints / f"fold-{fold.name}"
        try:
            outcomes.append(train_unit_fold(config, subject, unit, fold, device, place))
        except BaseException:
            _leave_nothing_empty(place, config.out)
            raise
    predictions = [
        Predictions(
            with_fold(unit.key, fold.name),
            subject.question.samples.take(fold.test),
            outcome.scores,
            outcome.n_train,
        )
        for fold, outcome in zip(subject.question.plan.folds, outcomes, strict=True)
    ]
    about = _info(config, subject, unit, outcomes, device)
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
) -> dict[str, Any]:
    folds = {fold.name: outcome for fold, outcome in zip(subject.question.plan.folds, outcomes, strict=True)}
    spent = costs([outcome.cost for outcome in outcomes], device, config.watts)
    notes = [f"fold {name}: {note}" for name, outcome in folds.items() for note in outcome.notes]
    shared = [*subject.question.notes, *protocol_of(config).sentences()]
    searched = {name: outcome.search for name, outcome in folds.items() if outcome.search}
    return {
        "key": unit.key.to_dict(),
        "identity": identity(unit.key, unit.initial),
        "scheme": subject.question.plan.scheme,
        "training": unit.recipe.to_dict(),
        "device": device_name(device),
        "seconds": spent["seconds"],
        "costs": spent,
        "best_epoch": {name: outcome.head.best_epoch for name, outcome in folds.items()},
        "history": {name: [dict(row) for row in outcome.head.history] for name, outcome in folds.items()},
        "dataset_notes": shared,
        "notes": [*shared, *notes],
        **({"search": searched} if searched else {}),
    }
