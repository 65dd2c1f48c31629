"""Probes on everything that the cache holds: chosen inside the training data, judged once on the test set."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib
import numpy as np
from tqdm import tqdm

from featprobe import health, shortcuts
from featprobe.cache import Cache
from featprobe.config import ProbeConfig
from featprobe.errors import CacheError, FeatprobeError, ProbeError
from featprobe.records import AnyArray, Predictions, RunKey
from featprobe.results import Batch, ResultsFolder
from featprobe.stages.calibrating import need_calibratable, varied
from featprobe.stages.evaluation import (
    Question,
    announce,
    identity,
    judged,
    question,
    seeds,
    stored,
    title,
    with_fold,
)
from featprobe.stages.feasible import need_rows
from featprobe.stages.finite import need_finite
from featprobe.stages.fit_costs import fit_costs
from featprobe.stages.fitting import Outcome, Unit, Work
from featprobe.stages.fusing import FusedWork, fit, fused_units, work_of
from featprobe.stages.machine import need_writable
from featprobe.stages.models import save_models
from featprobe.stages.protocols import SEARCHED, Ask, asks, protocols_of
from featprobe.stages.receipt import remember
from featprobe.stages.summary import Summary
from featprobe.stages.systems import SHUFFLED
from featprobe.stages.tables import Material, Table, materials
from featprobe.stages.variants import need_possible, variants
from featprobe.stages.views import View, views

__all__ = ["Unit", "probe", "refusal"]


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
    cache = Cache(config.cache)
    need_writable(config.out)
    folder = ResultsFolder(config.out)
    units = _planned(config, cache)
    todo = [
        unit
        for unit in units
        if not stored(folder, unit.hash, unit.key, *(table.recipe for table in unit.tables))
    ]
    need_rows(todo)
    _fit_all(cache, config, folder, todo)
    remember(
        folder,
        "probe",
        config,
        {table.fingerprint: table.recipe for unit in units for table in unit.tables},
        {unit.subject.name: unit.subject.samples for unit in units},
        computed=bool(todo),
    )
    if config.models:
        save_models(cache, config, units)
    print(
        f"probe: {len(todo)} computed, {len(units) - len(todo)} there already  {config.out / 'results.csv'}; next: featprobe compare {config.out}"
    )
    return Summary(len(todo), len(units) - len(todo), (config.out / "results.csv",))


def refusal(config: ProbeConfig) -> str:
    """Why `probe` would refuse `config`, "" where it would not; nothing is fitted.

    What the cache lacks is no refusal: an extraction may bring it.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            need_rows(_planned(config, Cache(config.cache)))
    except CacheError:
        return ""
    except FeatprobeError as error:
        return str(error)
    return ""


def _planned(config: ProbeConfig, cache: Cache) -> list[Unit]:
    """Everything that is asked for; every contradiction between flags, protocols and data ends here."""
    need_calibratable(config, protocols_of(config))
    need_possible(config)
    asked = [(material, asks(config, material)) for material in materials(cache, config)]
    return [unit for material, wanted in asked for unit in _units(config, material, wanted)]


def _units(config: ProbeConfig, material: Material, wanted: Sequence[Ask]) -> Iterator[Unit]:
    """Everything that is asked of one data set: seeds x views x protocols x tables x amounts of labels x probes."""
    positions = {str(name): row for row, name in enumerate(material.samples.id)}
    for seed in seeds(config):
        subject = question(material.name, material.samples, dataclasses.replace(config, seed=seed))
        rows = np.array([positions[str(name)] for name in subject.samples.id], dtype=np.int64)
        if material.scheme:
            plan = dataclasses.replace(subject.plan, scheme=material.scheme)
            subject = dataclasses.replace(subject, plan=plan)
        if seed == config.seed:
            announce(subject)
        found = views(subject, config)
        if seed == config.seed:
            said = [note for view in found for note in view.notes]
            said += [note for ask in wanted for note in ask.brief]
            said += [
                f"protocol {ask.protocol.name} judges single images: patches of a case's images are not pooled"
                for ask in wanted
                if any(table.dense for tables in ask.inputs for table in tables)
                and any(view.of_case is not None for view in found)
            ]
            for note in dict.fromkeys(said):
                print(f"{material.name}: {note}")
        for view in found:
            for number, ask in enumerate(wanted):
                for tables in ask.inputs:
                    if view.of_case is not None and tables[0].dense:
                        continue
                    plain = _key(subject, view, ask, tables, ask.fits[0], seed)
                    keys = list(variants(plain, ask.fits, config))
                    if config.canaries and not number and seed == config.seed and _is_trained(tables[0]):
                        # One probe with all labels: what finds something in shuffled labels has seen the answers.
                        keys.append(dataclasses.replace(plain, mode=SHUFFLED))
                    for one in keys:
                        key = varied(one, config, view.samples.task)
                        digest = _hash(config, subject, view, ask, tables, key)
                        yield Unit(subject, view, ask.protocol, tables, rows, key, digest, ask.notes)
        yield from fused_units(config, material, wanted, subject, found, rows, seed)


def _is_trained(table: Table) -> bool:
    return table.weights_label not in {"random", "none"}


def _key(subject: Question, view: View, ask: Ask, tables: Sequence[Table], name: str, seed: int) -> RunKey:
    table = tables[0]
    layer, _, pooling = table.pooling.rpartition("/")
    several = len(tables) > 1
    return RunKey(
        dataset=subject.name,
        backbone=table.recipe.backbone,
        weights=table.weights_label,
        mode="frozen",
        pooling=SEARCHED if several else pooling,
        layer="" if several else layer,
        protocol=subject.protocol.replace("featprobe", ask.protocol.name, 1),
        inputs=view.inputs,
        fusion=view.fusion,
        level=view.level,
        preprocessing=table.recipe.preprocessing.label,
        probe=name,
        seed=seed,
        fingerprint=table.fingerprint,
    )


def _hash(
    config: ProbeConfig, subject: Question, view: View, ask: Ask, tables: Sequence[Table], key: RunKey
) -> str:
    what = {name: getattr(key, name) for name in ("pooling", "layer", "probe", "fraction", "shots")}
    what |= {"protocol": ask.rule, "keys": [table.pooling for table in tables]}
    if key.mode == SHUFFLED:
        what["mode"] = key.mode
    if key.variant:
        what["variant"] = key.variant
    looked = {"level": view.level, "inputs": view.inputs, "fusion": view.fusion, "missing": config.missing}
    return subject.unit(tables[0].fingerprint, stage="probe", **what, **looked)


def _fit_all(cache: Cache, config: ProbeConfig, folder: ResultsFolder, units: Sequence[Unit]) -> None:
    """Every (unit, fold) in parallel with one BLAS thread each; a unit is stored soon after its folds are done."""
    # Tables are large: all that is asked of one is done before the next is read.
    order = {id(unit.table): number for number, unit in enumerate(reversed(units))}
    units = sorted(units, key=lambda unit: -order[id(unit.table)])
    tasks = [(unit, number) for unit in units for number in range(len(unit.view.folds))]
    jobs = min(config.jobs or joblib.cpu_count(), max(1, len(tasks)))
    if not tasks:
        return

    @functools.lru_cache(maxsize=max(len(unit.tables) for unit in units))
    def embeddings(table: Table) -> AnyArray:
        return table.read(cache)

    said: dict[tuple[Any, ...], Remarks] = {}
    for unit in units:
        about = (unit.subject.name, *map(id, unit.tables))
        if about not in said:
            said[about] = _remarks(unit, embeddings)

    with (
        Batch(folder) as batch,
        joblib.parallel_config(backend="loky", n_jobs=jobs, inner_max_num_threads=1),
    ):
        stream = joblib.Parallel(return_as="generator", pre_dispatch=2 * jobs)(
            joblib.delayed(_fitted)(_who(unit, number), work_of(unit, number, embeddings))
            for unit, number in tasks
        )
        done: dict[str, list[Outcome]] = {}
        for (unit, _), outcome in zip(
            tasks, tqdm(stream, total=len(tasks), unit="fit", desc="probe", disable=None), strict=True
        ):
            done.setdefault(unit.hash, []).append(outcome)
            if len(done[unit.hash]) == len(unit.view.folds):
                remarks = said[unit.subject.name, *map(id, unit.tables)]
                _store(config, batch, unit, done.pop(unit.hash), remarks)


def _who(unit: Unit, number: int) -> str:
    return f"{title(unit.key.to_dict())}, fold {unit.view.folds[number].name}"


def _fitted(who: str, work: Work | FusedWork) -> Outcome:
    """`fit`, whose ProbeError says whose it is: many models are fitted in one call."""
    try:
        return fit(work)
    except ProbeError as error:
        raise ProbeError(f"{who}: {error.wrong}", error.known, error.next_step) from error


def _remarks(unit: Unit, embeddings: Callable[[Table], AnyArray]) -> Remarks:
    """What is said of tables before any probe sees them; a signature is of one table alone."""
    samples = unit.subject.samples
    several = len(set(samples.site.tolist()) - {""}) > 1
    notes: dict[str, None] = {}
    words: dict[str, None] = {}
    for table in unit.tables:
        X = embeddings(table)
        who = title({**unit.key.to_dict(), "backbone": table.recipe.backbone, "fusion": ""})
        need_finite(X, unit.rows, samples.id, who)
        if table.dense:
            X = X.mean(axis=(1, 2))  # what is said of patches is said of their mean
        for finding in health.check(X, table.recipe.storage):
            words.setdefault(finding.words)
        if several:
            # The embedding may tell where an image comes from, and by that the class.
            found = shortcuts.site_shortcut(samples, X[unit.rows], seed=unit.key.seed)
            if found.flagged:
                notes.setdefault(found.words)
    for sentence in words:
        print(f"{title(unit.key.to_dict())}: WARNING: {sentence}")
    signature = health.signature(X) if len(unit.tables) == 1 else {}
    return Remarks(tuple(notes), tuple(words), signature)


def _store(
    config: ProbeConfig,
    batch: Batch,
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
            outcome.thresholds,
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
    about = [*unit.subject.notes, *unit.view.notes, *unit.about]
    batch.add(
        unit.hash,
        predictions,
        judged(predictions, dataclasses.replace(config, seed=unit.key.seed), unit.protocol.metrics),
        {
            "key": unit.key.to_dict(),
            "identity": identity(unit.key, *(table.recipe for table in unit.tables)),
            "scheme": unit.subject.plan.scheme,
            "train_groups": {
                fold.name: outcome.groups for fold, outcome in zip(folds, outcomes, strict=True)
            },
            "chosen": {fold.name: outcome.chosen for fold, outcome in zip(folds, outcomes, strict=True)},
            "costs": fit_costs([o.cost for o in outcomes if o.cost], unit.tables, config.watts),
            "dataset_notes": about,
            "health": list(remarks.health),
            **({"signature": remarks.signature} if remarks.signature else {}),
            "notes": [*about, *notes],
        },
    )
