"""Which searches retrieval is made of: data sets with classes, their splits, and who may be found in each fold."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from featprobe.cache import Cache
from featprobe.config import ProbeConfig, RetrieveConfig
from featprobe.errors import ProbeError, SplitError
from featprobe.records import IntArray, RunKey
from featprobe.retrieval import Protocol
from featprobe.splitting.plans import Fold
from featprobe.stages.embedding_keys import key_of
from featprobe.stages.evaluation import Question, announce, question, seeds
from featprobe.stages.tables import Material, Table, materials

RANKED_TASKS = ("classes", "ordinal")
"""Targets of which two images either have the same or not."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Search:
    """One table of embeddings under one distance, over all folds: what is stored, and reused, as a whole.

    `rows`: where the rows of the question stand in the table.
    """

    subject: Question
    table: Table
    rows: IntArray
    key: RunKey
    distance: str
    hash: str


def searches(config: RetrieveConfig, rule: Protocol, distances: Sequence[str], cache: Cache) -> list[Search]:
    """Everything that is asked of the cache; what is split, and how, is printed.

    Raises CacheError, LeakError and SplitError as `retrieve`, ProbeError for a named data set without classes.
    """
    chosen = [material for material in materials(cache, _as_probe(config)) if _ranked(material, config)]
    if not chosen:
        raise SplitError(
            "no data set that was chosen has classes",
            "a neighbour is a hit where it is of the query's class",
            "type featprobe cache ls, or featprobe extract for a data set of classes",
        )
    return [search for material in chosen for search in _searches(config, rule, distances, material)]


def _as_probe(config: RetrieveConfig) -> ProbeConfig:
    """The same choice from the cache as probe's."""
    shared = ("cache", "data", "backbone", "pooling", "layer", "resplit", "holdout", "leave_out")
    return ProbeConfig(**{name: getattr(config, name) for name in shared})


def _ranked(material: Material, config: RetrieveConfig) -> bool:
    """Whether the target has classes; ProbeError where a data set that was named has none."""
    task = material.samples.task
    if task in RANKED_TASKS:
        return True
    error = ProbeError(
        f"retrieval can't be judged on {material.name!r}, whose target is {task}",
        "a neighbour is a hit where it is of the query's class: targets of classes or ordered classes work",
        "type --data NAME for a data set of classes, or featprobe probe for this one",
    )
    if material.name in config.data:
        raise error
    print(f"{material.name}: left out: {error.wrong}")
    return False


def _searches(
    config: RetrieveConfig, rule: Protocol, distances: Sequence[str], material: Material
) -> Iterator[Search]:
    """Everything that is asked of one data set: seeds x tables x distances."""
    positions = {str(name): row for row, name in enumerate(material.samples.id)}
    for seed in seeds(config):
        subject = question(material.name, material.samples, dataclasses.replace(config, seed=seed))
        subject = _under(rule, subject)
        _need_enough(config, rule, subject)
        subject = _told(config, rule, subject)
        if seed == config.seed:
            announce(subject)
        rows = np.array([positions[str(name)] for name in subject.samples.id], dtype=np.int64)
        for table in material.tables:
            for distance in distances:
                key = key_of(subject, table, probe="retrieval", seed=seed)
                what = {"pooling": key.pooling, "layer": key.layer, "distance": distance, "top": config.top}
                unit = subject.unit(table.fingerprint, stage="retrieve", protocol=rule.name, **what)
                yield Search(subject, table, rows, key, distance, unit)


def _under(rule: Protocol, subject: Question) -> Question:
    """The question under a published rule, which may need the data's own split."""
    if not rule.own_split:
        return subject
    if subject.plan.scheme != "user's split":
        raise SplitError(
            f"--protocol {rule.name} needs the official split, and {subject.name!r} has none here",
            f"it was to be judged by {subject.plan.scheme}",
            "type --protocol featprobe, or give the data a split column and leave --resplit out",
        )
    return dataclasses.replace(subject, protocol=rule.name)


def index_rows(rule: Protocol, fold: Fold) -> IntArray:
    """The rows that may be found in a fold, ascending."""
    return np.sort(np.concatenate([fold.train, fold.val])) if rule.with_val else fold.train


def _need_enough(config: RetrieveConfig, rule: Protocol, subject: Question) -> None:
    """SplitError where fewer images are in an index than are to be found.

    One class alone, and a class that no index holds, the plan of the folds refuses.
    """
    for fold in subject.plan.folds:
        count = len(index_rows(rule, fold))
        if count < config.top:
            raise SplitError(
                f"data set {subject.name!r}: {count} images can be found in fold {fold.name}, fewer than --top {config.top}",
                "each query is answered with so many",
                f"type --top {max(1, count)}, or add images",
            )


def _told(config: RetrieveConfig, rule: Protocol, subject: Question) -> Question:
    """The question with what must be said of its indexes, whatever the embeddings."""
    samples = subject.samples
    notes: list[str] = []
    groups, own, short = 0, 0, 0
    for fold in subject.plan.folds:
        index = index_rows(rule, fold)
        held = Counter(samples.group[index].tolist())
        counts = np.array([held[group] for group in samples.group[fold.test].tolist()], dtype=np.int64)
        groups, own = groups + int((counts > 0).sum()), own + int(counts.sum())
        if rule.excludes_own_group:
            short += int((len(index) - counts < config.top).sum())
    if groups and rule.excludes_own_group:
        notes.append(f"{groups} queries do not get to see the {own} images of their own group in the index")
    elif groups:
        notes.append(
            f"{groups} queries have images of their own group in the index ({own}), which {rule.name} does not "
            "leave out: the values are too high"
        )
    if short:
        notes.append(
            f"{short} queries have fewer than {config.top} images to find: what is missing is a miss"
        )
    return dataclasses.replace(subject, notes=(*subject.notes, *notes))
