"""Probes on everything that the cache holds: chosen inside the training data, judged once on the test set."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from tqdm import tqdm

from featprobe import probes, splitting
from featprobe.cache import Cache, CacheEntry
from featprobe.config import ProbeConfig
from featprobe.errors import CacheError, listed, nearest
from featprobe.records import AnyArray, FloatArray, Predictions, RunKey, Samples
from featprobe.registry import PROBES
from featprobe.results import ResultsFolder
from featprobe.stages.evaluation import (
    Question,
    announce,
    describe_run,
    identity,
    judged,
    question,
    with_fold,
)
from featprobe.stages.machine import need_writable
from featprobe.stages.summary import Summary


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One pooling of one cache file; its embeddings are read when a probe needs them, one table at a time."""

    entry: CacheEntry
    pooling: str
    samples: Samples


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One probe on one embedding table, over all folds: what is stored, and reused, as a whole."""

    subject: Question
    table: Table
    probe: str
    key: RunKey
    hash: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one fold of a unit came to."""

    y_score: FloatArray
    n_train: int
    chosen: dict[str, float]
    notes: tuple[str, ...]


def probe(config: ProbeConfig) -> Summary:
    """Fit the probes of `config` on the cache and write results.csv and predictions.parquet.

    Returns the number of models computed and reused. Raises CacheError where the cache holds nothing that
    fits or an extraction is unfinished, LeakError at the gate, SplitError, ProbeError, OutputError.
    """
    for name in config.probe:
        PROBES.get(name)
    cache = Cache(config.cache)
    tables = _tables(cache, config)
    need_writable(config.out)
    folder = ResultsFolder(config.out)
    units = [
        _unit(config, subject, table, name)
        for subject, members in _questions(config, tables)
        for table in members
        for name in config.probe
    ]
    todo = [unit for unit in units if not folder.has(unit.hash)]
    _fit_all(cache, config, folder, todo)
    folder.record_run(probe=describe_run(config, "probe"))
    print(
        f"probe: {len(todo)} computed, {len(units) - len(todo)} there already  {config.out / 'results.csv'}; next: featprobe compare {config.out}"
    )
    return Summary(len(todo), len(units) - len(todo), (config.out / "results.csv",))


def _tables(cache: Cache, config: ProbeConfig) -> list[Table]:
    entries = _selected(cache, config)
    tables = []
    for entry in entries:
        samples = cache.read_samples(entry.path)
        poolings = [pooling for pooling in entry.poolings if not config.pooling or pooling in config.pooling]
        tables += [Table(entry, pooling, samples) for pooling in poolings]
    if not tables:
        there = sorted({pooling for entry in entries for pooling in entry.poolings})
        raise CacheError(
            f"no embedding in {config.cache} has the pooling {' or '.join(config.pooling)}",
            f"there are: {', '.join(there)}",
            "type featprobe cache ls",
        )
    return tables


def _selected(cache: Cache, config: ProbeConfig) -> list[CacheEntry]:
    every = cache.current()
    names = {
        "data set": sorted({entry.dataset for entry in every}),
        "backbone": sorted({entry.recipe.backbone for entry in every}),
    }
    for kind, wanted in (("data set", config.data), ("backbone", config.backbone)):
        for name in wanted:
            if name not in names[kind]:
                raise CacheError(
                    f"the cache {config.cache} holds no {kind} {name!r}",
                    nearest(name, names[kind]) or f"it holds: {listed(names[kind]) or 'nothing'}",
                    "type featprobe cache ls, or featprobe extract to add it",
                )
    chosen = [
        entry
        for entry in every
        if (not config.data or entry.dataset in config.data)
        and (not config.backbone or entry.recipe.backbone in config.backbone)
    ]
    unfinished = [part for name in config.data or (None,) for part in cache.parts(name)]
    if unfinished:
        raise CacheError(
            f"an extraction is unfinished: {unfinished[0]}",
            f"{len(unfinished)} .part files lie in {config.cache}",
            "type the featprobe extract command again to finish it, or featprobe cache gc to give it up",
        )
    if not chosen:
        raise CacheError(
            f"the cache {config.cache} holds no embeddings",
            "",
            f"type featprobe extract --cache {config.cache}",
        )
    return chosen


def _questions(config: ProbeConfig, tables: Sequence[Table]) -> list[tuple[Question, list[Table]]]:
    """Per data set: the gate and the folds, made once for all its tables, which must hold the same images."""
    found = []
    for name in dict.fromkeys(table.entry.dataset for table in tables):
        members = [table for table in tables if table.entry.dataset == name]
        for other in members[1:]:
            _need_same(members[0], other)
        subject = question(name, members[0].samples, config)
        announce(subject)
        found.append((subject, members))
    return found


def _need_same(first: Table, other: Table) -> None:
    def told(samples: Samples) -> list[list[Any]]:
        return [
            samples.id.tolist(),
            samples.label.tolist(),
            list(samples.label_names),
            samples.group.tolist(),
            samples.split.tolist(),
        ]

    if told(first.samples) != told(other.samples):
        raise CacheError(
            f"{first.entry.recipe.backbone} and {other.entry.recipe.backbone} were extracted from different states of the data set {first.entry.dataset!r}",
            f"{len(first.samples)} against {len(other.samples)} images, or other labels, groups or splits",
            "type featprobe extract for both again: what is cached is only refreshed",
        )


def _unit(config: ProbeConfig, subject: Question, table: Table, name: str) -> Unit:
    layer, _, pooling = table.pooling.rpartition("/")
    recipe = table.entry.recipe
    key = RunKey(
        dataset=subject.name,
        backbone=recipe.backbone,
        weights=table.entry.weights_label,
        mode="frozen",
        pooling=pooling,
        layer=layer,
        preprocessing=recipe.preprocessing.label,
        probe=name,
        seed=config.seed,
        fingerprint=recipe.fingerprint,
    )
    unit = subject.unit(recipe.fingerprint, stage="probe", pooling=pooling, layer=layer, probe=name)
    return Unit(subject, table, name, key, unit)


def _fit_all(cache: Cache, config: ProbeConfig, folder: ResultsFolder, units: Sequence[Unit]) -> None:
    """Every (unit, fold) in parallel with one BLAS thread each; a unit is stored as soon as its folds are done."""
    tasks = [(unit, number) for unit in units for number in range(len(unit.subject.plan.folds))]
    jobs = min(config.jobs or joblib.cpu_count(), max(1, len(tasks)))
    if not tasks:
        return

    @functools.lru_cache(maxsize=1)
    def embeddings(path: Path, pooling: str) -> AnyArray:
        return np.asarray(cache.read(path, pooling).embeddings)

    with joblib.parallel_config(backend="loky", n_jobs=jobs, inner_max_num_threads=1):
        stream = joblib.Parallel(return_as="generator", pre_dispatch=2 * jobs)(
            joblib.delayed(_fit_fold)(
                *_fold_arrays(
                    unit, number, embeddings(unit.table.entry.path, unit.table.pooling), config.seed
                )
            )
            for unit, number in tasks
        )
        done: dict[str, list[Outcome]] = {}
        for (unit, _), outcome in zip(
            tasks, tqdm(stream, total=len(tasks), unit="fit", desc="probe", disable=None), strict=True
        ):
            done.setdefault(unit.hash, []).append(outcome)
            if len(done[unit.hash]) == len(unit.subject.plan.folds):
                _store(config, folder, unit, done.pop(unit.hash))


def _fold_arrays(unit: Unit, number: int, embeddings: AnyArray, seed: int) -> tuple[Any, ...]:
    """Plain arrays of one fold: X and y to learn from, selection and calibration parts, X to be judged on."""
    subject = unit.subject
    fold = subject.plan.folds[number]
    samples = subject.samples
    positions = {str(name): row for row, name in enumerate(unit.table.samples.id)}
    rows = np.array([positions[str(name)] for name in samples.id], dtype=np.int64)
    learn = np.concatenate([fold.train, fold.val])
    calibration = splitting.inner_folds(samples, learn, folds=5, seed=seed)
    on_val = [(np.arange(len(fold.train)), np.arange(len(fold.train), len(learn)))]
    selection = on_val if len(fold.val) else calibration
    X = embeddings[rows].astype(np.float64)
    return (
        unit.probe,
        X[learn],
        samples.label[learn],
        X[fold.test],
        len(samples.label_names),
        selection,
        calibration,
        seed,
    )


def _fit_fold(
    name: str,
    X: FloatArray,
    y: Any,
    X_test: FloatArray,
    n_classes: int,
    selection: Any,
    calibration: Any,
    seed: int,
) -> Outcome:
    fitted = probes.fit_probe(
        name, X, y, n_classes=n_classes, selection=selection, calibration=calibration, seed=seed
    )
    return Outcome(fitted.predict_proba(X_test), len(X), dict(fitted.chosen), tuple(fitted.notes))


def _store(config: ProbeConfig, folder: ResultsFolder, unit: Unit, outcomes: Sequence[Outcome]) -> None:
    folds = unit.subject.plan.folds
    predictions = [
        Predictions(
            with_fold(unit.key, fold.name),
            unit.subject.samples.take(fold.test),
            outcome.y_score,
            outcome.n_train,
        )
        for fold, outcome in zip(folds, outcomes, strict=True)
    ]
    notes = [
        f"fold {fold.name}: {note}"
        for fold, outcome in zip(folds, outcomes, strict=True)
        for note in outcome.notes
    ]
    for note in notes:
        print(f"{unit.key.dataset} · {unit.key.backbone} · {unit.probe}: {note}")
    folder.add(
        unit.hash,
        predictions,
        judged(predictions, config),
        {
            "key": unit.key.to_dict(),
            "identity": identity(unit.key, unit.table.entry.recipe),
            "scheme": unit.subject.plan.scheme,
            "chosen": {fold.name: outcome.chosen for fold, outcome in zip(folds, outcomes, strict=True)},
            "dataset_notes": list(unit.subject.notes),
            "notes": [*unit.subject.notes, *notes],
        },
    )
