"""Probes on everything that the cache holds: chosen inside the training data, judged once on the test set."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib
import numpy as np
from tqdm import tqdm

from featprobe import cases, probes, shortcuts, splitting
from featprobe.cache import Cache
from featprobe.config import ProbeConfig
from featprobe.errors import ConfigError
from featprobe.records import AnyArray, FloatArray, IntArray, Predictions, RunKey, Samples
from featprobe.registry import PROBES
from featprobe.results import ResultsFolder
from featprobe.stages.evaluation import (
    Question,
    announce,
    describe_run,
    identity,
    judged,
    question,
    seeds,
    title,
    with_fold,
)
from featprobe.stages.machine import need_writable
from featprobe.stages.summary import Summary
from featprobe.stages.tables import Material, Table, materials
from featprobe.stages.views import View, views


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One probe on one view of one embedding table, over all folds: what is stored, and reused, as a whole.

    `rows`: where the rows of the question stand in the table.
    """

    subject: Question
    view: View
    table: Table
    rows: IntArray
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
    if config.shots and config.fraction != (1.0,):
        raise ConfigError(
            "--shots and --fraction are both given",
            "both say how much is learnt from",
            "leave one of them out",
        )
    cache = Cache(config.cache)
    chosen = materials(cache, config)
    need_writable(config.out)
    folder = ResultsFolder(config.out)
    units = [unit for material in chosen for unit in _units(config, material)]
    todo = [unit for unit in units if not folder.has(unit.hash)]
    _fit_all(cache, config, folder, todo)
    folder.record_run(probe=describe_run(config, "probe"))
    print(
        f"probe: {len(todo)} computed, {len(units) - len(todo)} there already  {config.out / 'results.csv'}; next: featprobe compare {config.out}"
    )
    return Summary(len(todo), len(units) - len(todo), (config.out / "results.csv",))


def _units(config: ProbeConfig, material: Material) -> Iterator[Unit]:
    """Everything that is asked of one data set: seeds x views x tables x amounts of training data x probes."""
    names = _probes(config, material)
    amounts = [(1.0, shots) for shots in config.shots] or [(fraction, 0) for fraction in config.fraction]
    positions = {str(name): row for row, name in enumerate(material.samples.id)}
    for seed in seeds(config):
        subject = question(material.name, material.samples, dataclasses.replace(config, seed=seed))
        if seed == config.seed:
            announce(subject)
        rows = np.array([positions[str(name)] for name in subject.samples.id], dtype=np.int64)
        found = views(subject, config)
        if seed == config.seed:
            for note in dict.fromkeys(note for view in found for note in view.notes):
                print(f"{material.name}: {note}")
        if material.scheme:
            plan = dataclasses.replace(subject.plan, scheme=material.scheme)
            subject = dataclasses.replace(subject, plan=plan)
        for view in found:
            for table in material.tables:
                for fraction, shots in amounts:
                    for name in names:
                        key = _key(subject, view, table, name, seed)
                        key = dataclasses.replace(key, fraction=fraction, shots=shots)
                        yield Unit(subject, view, table, rows, key, _hash(config, subject, view, table, key))


def _probes(config: ProbeConfig, material: Material) -> tuple[str, ...]:
    """The probes that fit the data set's target; ProbeError where none of those named does."""
    task = material.samples.task
    if not config.probe:
        return probes.probes_for(task)
    fitting = tuple(name for name in config.probe if task in PROBES.get(name).tasks)
    if not fitting:
        probes.need_suitable(config.probe[0], task)
    return fitting


def _key(subject: Question, view: View, table: Table, name: str, seed: int) -> RunKey:
    layer, _, pooling = table.pooling.rpartition("/")
    return RunKey(
        dataset=subject.name,
        backbone=table.recipe.backbone,
        weights=table.weights_label,
        mode="frozen",
        pooling=pooling,
        layer=layer,
        protocol=subject.protocol,
        inputs=view.inputs,
        fusion=view.fusion,
        level=view.level,
        preprocessing=table.recipe.preprocessing.label,
        probe=name,
        seed=seed,
        fingerprint=table.fingerprint,
    )


def _hash(config: ProbeConfig, subject: Question, view: View, table: Table, key: RunKey) -> str:
    what = {name: getattr(key, name) for name in ("pooling", "layer", "probe", "fraction", "shots")}
    looked = {"level": view.level, "inputs": view.inputs, "fusion": view.fusion, "missing": config.missing}
    return subject.unit(table.fingerprint, stage="probe", **what, **looked)


def _fit_all(cache: Cache, config: ProbeConfig, folder: ResultsFolder, units: Sequence[Unit]) -> None:
    """Every (unit, fold) in parallel with one BLAS thread each; a unit is stored as soon as its folds are done."""
    # Tables are large: all that is asked of one is done before the next is read.
    order = {id(unit.table): number for number, unit in enumerate(reversed(units))}
    units = sorted(units, key=lambda unit: -order[id(unit.table)])
    tasks = [(unit, number) for unit in units for number in range(len(unit.view.folds))]
    jobs = min(config.jobs or joblib.cpu_count(), max(1, len(tasks)))
    if not tasks:
        return

    @functools.lru_cache(maxsize=1)
    def embeddings(table: Table) -> AnyArray:
        return table.read(cache)

    said: dict[tuple[str, int], tuple[str, ...]] = {}
    for unit in units:
        about = (unit.subject.name, id(unit.table))
        if about not in said:
            said[about] = _site_notes(unit, embeddings)

    with joblib.parallel_config(backend="loky", n_jobs=jobs, inner_max_num_threads=1):
        stream = joblib.Parallel(return_as="generator", pre_dispatch=2 * jobs)(
            joblib.delayed(_fit_fold)(*_fold_arrays(unit, number, embeddings(unit.table)))
            for unit, number in tasks
        )
        done: dict[str, list[Outcome]] = {}
        for (unit, _), outcome in zip(
            tasks, tqdm(stream, total=len(tasks), unit="fit", desc="probe", disable=None), strict=True
        ):
            done.setdefault(unit.hash, []).append(outcome)
            if len(done[unit.hash]) == len(unit.view.folds):
                notes = said[unit.subject.name, id(unit.table)]
                _store(config, folder, unit, done.pop(unit.hash), notes)


def _site_notes(unit: Unit, embeddings: Callable[[Table], AnyArray]) -> tuple[str, ...]:
    """That the embedding tells where an image comes from, where it does: then it may tell the class by the site."""
    samples = unit.subject.samples
    if len(set(samples.site.tolist()) - {""}) < 2:
        return ()
    found = shortcuts.site_shortcut(samples, embeddings(unit.table)[unit.rows], seed=unit.key.seed)
    return (found.words,) if found.flagged else ()


def _fold_arrays(unit: Unit, number: int, embeddings: AnyArray) -> tuple[Any, ...]:
    """Plain arrays of one fold: X and y to learn from, selection and calibration parts, X to be judged on."""
    view, key = unit.view, unit.key
    fold, samples = view.folds[number], view.samples
    amount: dict[str, Any] = {"fraction": key.fraction, "shots": key.shots, "seed": key.seed}
    learn = splitting.subset(samples, np.concatenate([fold.train, fold.val]), **amount)
    held = np.isin(learn, fold.val)
    whole = key.fraction == 1 and not key.shots
    X = view.features(np.asarray(embeddings[unit.rows], dtype=np.float64), unit.subject.samples.modality)
    X = cases.fill_missing(X, learn)
    calibration = splitting.inner_folds(samples, learn, folds=5, seed=key.seed)
    # A few shots may leave next to nothing of the validation part: C is then chosen by inner folds.
    on_val = held.any() and (whole or _as_many_classes(samples, learn, learn[held]))
    return (
        key.probe,
        X[learn],
        samples.label[learn],
        X[fold.test],
        samples.label_names,
        samples.task,
        [(np.flatnonzero(~held), np.flatnonzero(held))] if on_val else calibration,
        calibration,
        key.seed,
    )


def _as_many_classes(samples: Samples, whole: IntArray, part: IntArray) -> bool:
    """Whether every target of `whole` is met in `part` too, and not all of `whole` is in it."""
    texts = samples.label_texts()
    several = len(part) < len(whole)
    return several and set(texts[whole].tolist()) <= set(texts[part].tolist())


def _fit_fold(
    name: str,
    X: FloatArray,
    y: Any,
    X_test: FloatArray,
    label_names: tuple[str, ...],
    task: str,
    selection: Any,
    calibration: Any,
    seed: int,
) -> Outcome:
    fitted = probes.fit_probe(
        name,
        X,
        y,
        n_classes=len(label_names),
        selection=selection,
        calibration=calibration,
        seed=seed,
        task=task,
        label_names=label_names,
    )
    return Outcome(fitted.predict(X_test), len(X), dict(fitted.chosen), tuple(fitted.notes))


def _store(
    config: ProbeConfig,
    folder: ResultsFolder,
    unit: Unit,
    outcomes: Sequence[Outcome],
    more: Sequence[str] = (),
) -> None:
    folds = unit.view.folds
    predictions = [
        Predictions(
            with_fold(unit.key, fold.name),
            unit.view.samples.take(fold.test),
            outcome.y_score,
            outcome.n_train,
        )
        for fold, outcome in zip(folds, outcomes, strict=True)
    ]
    notes = [
        *more,
        *(
            f"fold {fold.name}: {note}"
            for fold, outcome in zip(folds, outcomes, strict=True)
            for note in outcome.notes
        ),
    ]
    for note in notes:
        print(f"{title(unit.key.to_dict())}: {note}")
    about = [*unit.subject.notes, *unit.view.notes]
    folder.add(
        unit.hash,
        predictions,
        judged(predictions, dataclasses.replace(config, seed=unit.key.seed)),
        {
            "key": unit.key.to_dict(),
            "identity": identity(unit.key, unit.table.recipe),
            "scheme": unit.subject.plan.scheme,
            "chosen": {fold.name: outcome.chosen for fold, outcome in zip(folds, outcomes, strict=True)},
            "dataset_notes": about,
            "notes": [*about, *notes],
        },
    )
