"""Which embedding tables of the cache are probed: those of one data set side by side, or of one against another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from featprobe import splitting
from featprobe.cache import Cache, CacheEntry
from featprobe.config import ProbeConfig
from featprobe.errors import CacheError, ConfigError, SplitError, listed, nearest
from featprobe.records import DENSE_POOLINGS, AnyArray, Recipe, Samples, sha256_json
from featprobe.registry import PROTOCOLS


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One pooling of one cache file, or of two whose rows follow one another; embeddings are read when needed."""

    entries: tuple[CacheEntry, ...]
    pooling: str

    @property
    def recipe(self) -> Recipe:
        """The (first) file's."""
        return self.entries[0].recipe

    @property
    def weights_label(self) -> str:
        """The (first) file's."""
        return self.entries[0].weights_label

    @property
    def fingerprint(self) -> str:
        """The file's, or of two files together."""
        prints = [entry.recipe.fingerprint for entry in self.entries]
        return prints[0] if len(prints) == 1 else sha256_json(prints)

    @property
    def dense(self) -> bool:
        """Whether patch tokens are kept apart, for heads that attend to them."""
        return is_dense(self.pooling)

    def read(self, cache: Cache) -> AnyArray:
        """The embeddings, [N, D]; dense ones [N, h, w, D]."""
        return np.concatenate([_embeddings(cache, entry, self.pooling) for entry in self.entries])


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Material:
    """One data set to be judged on (or a pair, the first to learn from): `samples` N rows of every table.

    `scheme`: how a pair is parted, in words.
    """

    name: str
    samples: Samples
    tables: tuple[Table, ...]
    scheme: str = ""


def is_dense(key: str) -> bool:
    """Whether a key of the cache, POOLING or LAYER/POOLING, holds patch tokens."""
    return key.rpartition("/")[2] in DENSE_POOLINGS


def materials(cache: Cache, config: ProbeConfig) -> list[Material]:
    """What the flags choose of the cache; near copies are found here, once.

    Raises CacheError where the cache holds nothing that fits or an extraction is unfinished, SplitError where two
    data sets have different labels.
    """
    _need_flat(config)
    if bool(config.train_on) != bool(config.test_on):
        raise ConfigError(
            "--train-on and --test-on belong together",
            f"given are {config.train_on or 'no --train-on'} and {' '.join(config.test_on) or 'no --test-on'}",
            "type --train-on A --test-on B, or leave both out",
        )
    if not config.train_on:
        entries = _selected(cache, config, config.data)
        return [_single(cache, config, name, entries) for name in _fittable(config, entries)]
    if config.data:
        raise ConfigError(
            "--data can't be used with --train-on", "the data sets are named there", "leave --data out"
        )
    other = [
        flag
        for flag, given in (
            ("--resplit", config.resplit),
            ("--holdout", config.holdout is not None),
            ("--leave-out", config.leave_out is not None),
        )
        if given
    ]
    if other:
        raise ConfigError(
            f"{other[0]} can't be used with --train-on",
            "one data set is learnt from, the other is judged on: there is nothing to split",
            f"leave {other[0]} out",
        )
    entries = _selected(cache, config, (config.train_on, *config.test_on))
    return [_transfer(cache, config, config.train_on, name, entries) for name in config.test_on]


def _names(entries: Sequence[CacheEntry]) -> list[str]:
    return list(dict.fromkeys(entry.dataset for entry in entries))


def _fittable(config: ProbeConfig, entries: Sequence[CacheEntry]) -> list[str]:
    """The data sets with an embedding that a probe can be fitted on; of the others it is said that they have none."""
    found = []
    for name in _names(entries):
        own = [entry for entry in entries if entry.dataset == name]
        if any(_poolings(entry, config) for entry in own):
            found.append(name)
            continue
        keys = sorted({key for entry in own for key in entry.poolings})
        print(
            f"{name}: WARNING: left out, it has no embedding that a probe can be fitted on: {', '.join(keys)}"
        )
    return found


def _selected(cache: Cache, config: ProbeConfig, data: Sequence[str]) -> list[CacheEntry]:
    every = cache.current()
    names = {
        "data set": sorted({entry.dataset for entry in every}),
        "backbone": sorted({entry.recipe.backbone for entry in every}),
    }
    for kind, wanted in (("data set", data), ("backbone", config.backbone)):
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
        if (not data or entry.dataset in data)
        and (not config.backbone or entry.recipe.backbone in config.backbone)
    ]
    unfinished = [part for name in data or (None,) for part in cache.parts(name)]
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
    if not any(_poolings(entry, config) for entry in chosen):
        keys = {key for entry in chosen for key in entry.poolings}
        wanted = f" of the pooling {' or '.join(config.pooling)}" if config.pooling else ""
        wanted += f" of the layer {' or '.join(config.layer)}" if config.layer else ""
        raise CacheError(
            f"{config.cache} holds no embedding{wanted} that a probe can be fitted on",
            f"there are: {', '.join(sorted(keys))}",
            "type featprobe cache ls, or featprobe extract with --pooling to add one",
        )
    return chosen


def _need_flat(config: ProbeConfig) -> None:
    """ConfigError where patches are asked for and nothing takes them: a probe takes one row of D values for each image."""
    for pooling in config.pooling:
        if pooling in DENSE_POOLINGS and not _takes_dense(config):
            raise ConfigError(
                f"--pooling {pooling} can't be probed",
                "patches are kept apart for export and for attentive probes; one row for each image has --pooling mean or gap",
                f"type --protocol featprobe-attentive, leave it out, or type featprobe cache export --pooling {pooling}",
            )


def _takes_dense(config: ProbeConfig) -> bool:
    """Whether a protocol that is asked for attends to patch tokens."""
    return any(is_dense(key) for name in config.protocol for key in PROTOCOLS.get(name).inputs)


def _poolings(entry: CacheEntry, config: ProbeConfig) -> list[str]:
    """The keys that are probed, of the poolings asked for, whatever the layer: a row of D values each, or patches where a protocol takes them."""
    return [
        key
        for key in (entry.poolings if _takes_dense(config) else entry.flat)
        if not config.pooling or key in config.pooling or key.rpartition("/")[2] in config.pooling
        if not config.layer or (key.rpartition("/")[0] or "last") in config.layer
    ]


def _single(cache: Cache, config: ProbeConfig, name: str, entries: Sequence[CacheEntry]) -> Material:
    """All tables of one data set, which must hold the same images."""
    own = [entry for entry in entries if entry.dataset == name]
    samples = _samples(cache, own)
    for entry, other in zip(own[1:], samples[1:], strict=True):
        _need_same(own[0], samples[0], entry, other)
    tables = tuple(Table((entry,), pooling) for entry in own for pooling in _poolings(entry, config))
    return Material(name, splitting.with_twins(samples[0]), tables)


def _transfer(
    cache: Cache, config: ProbeConfig, train: str, test: str, entries: Sequence[CacheEntry]
) -> Material:
    """Learn on all of one data set, judge on all of another, with every recipe that both were extracted by."""
    if train == test:
        raise ConfigError(f"--train-on and --test-on are both {train!r}", "", "name two data sets")
    sides = {name: [entry for entry in entries if entry.dataset == name] for name in (train, test)}
    pairs = [
        (a, b) for a in sides[train] for b in sides[test] if a.recipe.images_free == b.recipe.images_free
    ]
    tables = tuple(
        Table((a, b), pooling) for a, b in pairs for pooling in _poolings(a, config) if pooling in b.poolings
    )
    if not tables:
        raise CacheError(
            f"{train!r} and {test!r} were not extracted by the same recipe",
            "backbone, weights, preprocessing, precision and pooling must be equal",
            "type featprobe extract for both data sets with the same flags",
        )
    parts = {name: _samples(cache, side) for name, side in sides.items()}
    for name, side in sides.items():
        for entry, other in zip(side[1:], parts[name][1:], strict=True):
            _need_same(side[0], parts[name][0], entry, other)
    try:
        samples = splitting.transfer(parts[train][0], parts[test][0], names=(train, test))
    except SplitError as error:
        raise SplitError(f"{train!r} and {test!r}: {error.wrong}", error.known, error.next_step) from None
    shared = set(parts[train][0].group.tolist()) & set(parts[test][0].group.tolist())
    if shared and parts[train][0].groups_declared:
        print(
            f"{train}->{test}: {len(shared)} group names occur in both data sets; they are taken for different "
            "people (--pseudonymize with one key, or equal images, would tell)"
        )
    scheme = f"trained on all of {train}, tested on all of {test}"
    return Material(f"{train}->{test}", splitting.with_twins(samples), tables, scheme)


def _embeddings(cache: Cache, entry: CacheEntry, pooling: str) -> AnyArray:
    return cache.read(entry.path, pooling, thumbnails=False).embeddings


def _samples(cache: Cache, entries: Sequence[CacheEntry]) -> list[Samples]:
    """The samples of each file; the thumbnails, which are the same in all, of the first alone."""
    return [cache.read_samples(entry.path, thumbnails=number == 0) for number, entry in enumerate(entries)]


def _need_same(first: CacheEntry, samples: Samples, other: CacheEntry, others: Samples) -> None:
    columns = ("id", "group", "case", "split", "modality", "site")
    same = (
        samples.task == others.task
        and samples.label_names == others.label_names
        and all(getattr(samples, name).tolist() == getattr(others, name).tolist() for name in columns)
        and np.array_equal(samples.label_texts(), others.label_texts())
    )
    if not same:
        raise CacheError(
            f"{first.recipe.backbone} and {other.recipe.backbone} were extracted from different states of the data set {first.dataset!r}",
            f"{len(samples)} against {len(others)} images, or other labels, groups, cases or splits",
            "type featprobe extract for both again: what is cached is only refreshed",
        )
