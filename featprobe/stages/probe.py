"""Probes on everything that the cache holds: chosen inside the training data, judged once on the test set."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib
import numpy as np
from tqdm import tqdm

from featprobe import cases, health, probes, shortcuts, splitting
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
from featprobe.stages.systems import SHUFFLED
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


@dataclasses.dataclass(frozen=True, slots=True)
class Remarks:
    """What is known of an embedding table by itself: notes, sentences of `health.check`, `health.signature`."""

    notes: tuple[str, ...]
    health: tuple[str, ...]
    signature: dict[str, Any]


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
                if config.canaries and seed == config.seed and table.weights_label not in {"random", "none"}:
                    # One probe with all labels: what finds something in shuffled labels has seen the answers.
                    key = dataclasses.replace(_key(subject, view, table, names[0], seed), mode=SHUFFLED)
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
    if key.mode == SHUFFLED:
        what["mode"] = key.mode
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

    said: dict[tuple[str, int], Remarks] = {}
    for unit in units:
        about = (unit.subject.name, id(unit.table))
        if about not in said:
            said[about] = _remarks(unit, embeddings)

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
                remarks = said[unit.subject.name, id(unit.table)]
                _store(config, folder, unit, done.pop(unit.hash), remarks)


def _remarks(unit: Unit, embeddings: Callable[[Table], AnyArray]) -> Remarks:
    """What is said of a table before any probe sees it."""
    samples, X = unit.subject.samples, embeddings(unit.table)
    findings = health.check(X, unit.table.recipe.storage)
    for finding in findings:
        print(f"{title(unit.key.to_dict())}: WARNING: {finding.words}")
    notes: tuple[str, ...] = ()
    if len(set(samples.site.tolist()) - {""}) > 1:
        # The embedding may tell where an image comes from, and by that the class.
        found = shortcuts.site_shortcut(samples, X[unit.rows], seed=unit.key.seed)
        notes = (found.words,) if found.flagged else ()
    return Remarks(notes, tuple(finding.words for finding in findings), health.signature(X))


def _shuffled(labels: AnyArray, groups: AnyArray, seed: int) -> AnyArray:
    """`labels` [N] or [N, L] of the rows of each group replaced by another group's, so that groups stay alike inside.

    Where groups have several rows the other group's labels are repeated or cut; where a class would get lost by
    that, rows are permuted instead.
    """
    generator = np.random.default_rng([seed, 0x5BFF1E])
    names, inverse = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(inverse == number) for number in range(len(names))]
    shuffled = labels.copy()
    for own, other in zip(members, generator.permutation(len(names)), strict=True):
        shuffled[own] = labels[np.resize(members[other], len(own))]
    if labels.dtype.kind in "iu" and len(np.unique(shuffled, axis=0)) < len(np.unique(labels, axis=0)):
        return labels[generator.permutation(len(labels))]
    return shuffled


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
    labels = samples.label[learn]
    if key.mode == SHUFFLED:
        labels = _shuffled(labels, samples.units()[learn], key.seed)
    return (
        key.probe,
        X[learn],
        labels,
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
    remarks: Remarks,
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
        *remarks.notes,
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
            "health": list(remarks.health),
            "signature": remarks.signature,
            "notes": [*about, *notes],
        },
    )
