"""Which embeddings tell known images from strange ones: both data sets under one recipe, copies left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from featprobe import splitting
from featprobe.cache import Cache, CacheEntry
from featprobe.config import ProbeConfig
from featprobe.config_trust import DETECTORS, OodConfig
from featprobe.errors import CacheError, ConfigError, DataError
from featprobe.records import IntArray, RunKey, Samples
from featprobe.stages.embedding_keys import key_of
from featprobe.stages.evaluation import Question, announce, question, seeds
from featprobe.stages.tables import Table, _need_same, _poolings, _samples, _selected

RANKED: Final = ("classes", "ordinal")

NEED_CLASSES: Final = ("relative-mahalanobis", "max-softmax", "energy")
"""Detectors that ask which class a row is of."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One known data set against one strange one, by one table of each and one detector, over all folds.

    `rows`: where the rows of the question stand in `table`; `kept`: rows of `other` that are judged, `strangers`
    their samples. `key` names the known side.
    """

    subject: Question
    table: Table
    rows: IntArray
    outside: str
    other: Table
    strangers: Samples
    kept: IntArray
    detector: str
    key: RunKey
    hash: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Outside:
    """A strange data set: its name, the rows that are judged, and the tables that face each other."""

    name: str
    samples: Samples
    kept: IntArray
    pairs: tuple[tuple[Table, Table], ...]


def trials(config: OodConfig, cache: Cache) -> list[Trial]:
    """Everything that is asked of the cache; what is split, and how, is printed.

    Raises ConfigError for flags that don't go together, CacheError where the cache lacks a data set or the two share
    no recipe, DataError where nothing strange is left, LeakError and SplitError as `probe`.
    """
    inside = config.inside
    if inside is None or not config.outside:
        raise ConfigError(
            "--inside and --outside belong together",
            f"given are {inside or 'no --inside'} and {' '.join(config.outside) or 'no --outside'}",
            "type --inside A --outside B, two data sets of featprobe cache ls",
        )
    if inside in config.outside:
        raise ConfigError(f"--inside and --outside are both {inside!r}", "", "name two data sets")
    chosen = ProbeConfig(
        cache=config.cache, backbone=config.backbone, pooling=config.pooling, layer=config.layer
    )
    outside = tuple(dict.fromkeys(config.outside))
    entries = _selected(cache, chosen, (inside, *outside))
    known = [entry for entry in entries if entry.dataset == inside]
    samples = splitting.with_twins(_same(cache, known)[0])
    others = [_outside(cache, chosen, inside, known, samples, name, entries) for name in outside]
    return list(_trials(config, inside, samples, others))


def _same(cache: Cache, entries: Sequence[CacheEntry]) -> list[Samples]:
    """The samples of each file of one data set, which must be the same."""
    samples = _samples(cache, entries)
    for entry, own in zip(entries[1:], samples[1:], strict=True):
        _need_same(entries[0], samples[0], entry, own)
    return samples


def _outside(
    cache: Cache,
    chosen: ProbeConfig,
    inside: str,
    known: Sequence[CacheEntry],
    samples: Samples,
    name: str,
    entries: Sequence[CacheEntry],
) -> Outside:
    own = [entry for entry in entries if entry.dataset == name]
    alike = [(a, b) for a in known for b in own if a.recipe.images_free == b.recipe.images_free]
    pairs = tuple(
        (Table((a,), pooling), Table((b,), pooling))
        for a, b in alike
        for pooling in _poolings(a, chosen)
        if pooling in b.poolings
    )
    if not pairs:
        raise CacheError(
            f"{inside!r} and {name!r} were not extracted by the same recipe",
            "backbone, weights, preprocessing, precision and pooling must be equal",
            "type featprobe extract for both data sets with the same flags",
        )
    strangers = _same(cache, own)[0]
    copies = np.zeros(len(strangers), dtype=np.bool_)
    for column in ("sha256", "pixel_sha256"):
        held = set(getattr(samples, column).tolist()) - {""}
        copies |= np.array([value in held for value in getattr(strangers, column).tolist()], dtype=np.bool_)
    kept = np.flatnonzero(~copies).astype(np.int64)
    if copies.any():
        print(f"{name}: {int(copies.sum())} images that are in {inside!r} too are left out")
    if not len(kept):
        raise DataError(
            f"no image of {name!r} is strange to {inside!r}",
            f"all {len(strangers)} are in both data sets",
            "name another data set with --outside",
        )
    return Outside(name, strangers.take(kept), kept, pairs)


def _detectors(config: OodConfig, name: str, samples: Samples) -> list[str]:
    """Those asked for, or all that fit the target; ConfigError where one that is asked for does not."""
    ranked = samples.task in RANKED
    for detector in config.detector:
        if detector in NEED_CLASSES and not ranked:
            raise ConfigError(
                f"--detector {detector} can't be used on {name!r}, whose target is {samples.task}",
                "it asks which class a row is of",
                "type --detector mahalanobis knn, or leave --detector out",
            )
    wanted = config.detector or DETECTORS
    return [one for one in dict.fromkeys(wanted) if ranked or one not in NEED_CLASSES]


def _trials(config: OodConfig, inside: str, samples: Samples, others: Sequence[Outside]) -> Iterator[Trial]:
    positions = {str(name): row for row, name in enumerate(samples.id)}
    detectors = _detectors(config, inside, samples)
    for seed in seeds(config):
        subject = question(inside, samples, dataclasses.replace(config, seed=seed))
        if seed == config.seed:
            announce(subject)
        rows = np.array([positions[str(name)] for name in subject.samples.id], dtype=np.int64)
        for other in others:
            for table, facing in other.pairs:
                key = key_of(subject, table, probe="logistic", seed=seed)
                about: dict[str, Any] = {
                    "outside": facing.fingerprint,
                    "strangers": other.samples.id.tolist(),
                    "their groups": other.samples.group.tolist(),
                    "pooling": table.pooling,
                }
                for detector in detectors:
                    what = about | {"neighbours": config.neighbours if detector == "knn" else 0}
                    digest = subject.unit(table.fingerprint, stage="ood", detector=detector, **what)
                    yield Trial(
                        subject,
                        table,
                        rows,
                        other.name,
                        facing,
                        other.samples,
                        other.kept,
                        detector,
                        key,
                        digest,
                    )


def target_classes(samples: Samples) -> IntArray:
    """The class of each row, int64 [N]; of a target without classes all rows are of one."""
    if samples.task in RANKED:
        return np.asarray(samples.label, dtype=np.int64)
    return np.zeros(len(samples), dtype=np.int64)
