"""Retrieval on everything that the cache holds: each test image asks the training images which are most like it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from featprobe import retrieval
from featprobe.cache import Cache
from featprobe.config import RetrieveConfig
from featprobe.errors import ConfigError
from featprobe.records import AnyArray, FloatArray, IntArray
from featprobe.retrieval import Protocol, Ranking, RetrievalFolder
from featprobe.significance.means import RowValues, mean_estimates
from featprobe.splitting.plans import Fold
from featprobe.stages.evaluation import (
    describe_run,
    identity,
    title,
    with_fold,
)
from featprobe.stages.finite import need_finite
from featprobe.stages.machine import need_writable
from featprobe.stages.retrieval_page import write_page
from featprobe.stages.retrieval_plan import Search, index_rows, searches
from featprobe.stages.summary import Summary

MANY_TIES = 0.05
"""Share of queries with equal distances among their neighbours beyond which that is said."""


def retrieve(config: RetrieveConfig) -> Summary:
    """Rank training images for each test image and write retrieval.csv, retrieval.parquet and retrieval.html.

    Every image asks by itself, under the splits and the gate of `probe`. Protocols: see
    `featprobe.retrieval.protocol`. Returns the number of searches computed and reused. Raises CacheError where the
    cache holds nothing that fits, LeakError at the gate, SplitError where there are too few images or classes,
    ProbeError for a target without classes, ConfigError for flags that don't go together, MissingExtraError for
    --index without FAISS, OutputError.
    """
    if config.metrics:
        raise ConfigError(
            "retrieve has no metrics to choose",
            "its measures are those of its protocol",
            "leave --metrics out, or type featprobe probe with it",
        )
    rule = retrieval.protocol(config.protocol, config.top)
    distances = tuple(dict.fromkeys(config.distance)) or rule.distances
    cache = Cache(config.cache)
    asked = searches(config, rule, distances, cache)
    _need_one_index(config, asked)
    need_writable(config.out)
    folder = RetrievalFolder(config.out)
    there = folder.record()["units"]
    todo = [search for search in asked if search.hash not in there]
    _search_all(cache, config, rule, folder, todo)
    paths = [
        config.out / "retrieval.csv",
        *write_page(config, rule, folder, asked, describe_run(config, "retrieve")),
    ]
    if config.index is not None:
        paths += _export(cache, config, rule, asked[0])
    print(
        f"retrieve: {len(todo)} computed, {len(asked) - len(todo)} there already  {config.out / 'retrieval.csv'}"
    )
    return Summary(len(todo), len(asked) - len(todo), tuple(paths))


def _search_all(
    cache: Cache, config: RetrieveConfig, rule: Protocol, folder: RetrievalFolder, asked: Sequence[Search]
) -> None:
    """Table by table; what one gives is stored before the next is read."""
    bar = tqdm(total=len(asked), unit="search", desc="retrieve", disable=None)
    with bar:
        for _, group in itertools.groupby(asked, key=lambda search: (id(search.subject), id(search.table))):
            own = list(group)
            X = own[0].table.read(cache)
            need_finite(X, own[0].rows, own[0].subject.samples.id, title(own[0].key.to_dict()))
            X = X[own[0].rows]
            done = []
            for search in own:
                done.append(_searched(config, rule, search, X))
                bar.update()
            folder.add(done)


def _searched(config: RetrieveConfig, rule: Protocol, search: Search, X: AnyArray) -> retrieval.Unit:
    """One search over all folds, ready to be stored."""
    samples, folds = search.subject.samples, search.subject.plan.folds
    rows_by_fold, blocks, done = [], [], []
    for fold in folds:
        index = index_rows(rule, fold)
        ranking = retrieval.rank(
            X[index],
            X[fold.test],
            distance=search.distance,
            k=config.top,
            index_group=samples.group[index],
            query_group=samples.group[fold.test],
            exclude=rule.excludes_own_group,
        )
        found = np.where(ranking.neighbour >= 0, index[ranking.neighbour], -1)
        labels = np.where(found >= 0, samples.label[found], -1)
        values = retrieval.scores(samples.label[fold.test], labels, rule.measures)
        rows_by_fold.append(RowValues(fold.name, samples.take(fold.test), values))
        blocks.append(_block(search, fold, found, ranking))
        done.append((fold, found, ranking))
    notes = list(_notes(search, done))
    for note in notes:
        print(f"{title(search.key.to_dict())}, {search.distance}: {note}")
    sizes = {fold.name: len(index_rows(rule, fold)) for fold in folds}
    return retrieval.Unit(
        hash=search.hash,
        estimates=_estimates(config, rule, search, rows_by_fold, sizes),
        neighbours={name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        | {name: value for name, value in search.key.to_dict().items() if name != "fold"}
        | {"distance_kind": search.distance},
        info={
            "identity": f"{identity(search.key, search.table.recipe)} {search.distance}",
            "key": search.key.to_dict(),
            "distance": search.distance,
            "scheme": search.subject.plan.scheme,
            "dataset_notes": list(search.subject.notes),
            "notes": notes,
        },
    )


def _estimates(
    config: RetrieveConfig,
    rule: Protocol,
    search: Search,
    rows_by_fold: Sequence[RowValues],
    sizes: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Rows of retrieval.csv."""
    k = {measure.name: measure.k for measure in rule.measures}
    found = mean_estimates(rows_by_fold, list(k), resamples=config.resamples, seed=search.key.seed)
    mean = round(float(np.mean(list(sizes.values()))))
    return [
        {
            **with_fold(search.key, one.fold).to_dict(),
            "distance": search.distance,
            "k": k[one.measure],
            "metric": one.measure,
            "value": one.value,
            "ci_low": one.ci_low,
            "ci_high": one.ci_high,
            "ci_method": one.ci_method,
            "n_queries": one.n_rows,
            "n_groups": one.n_groups,
            "n_index": sizes.get(one.fold, mean),
        }
        for one in found
    ]


def _block(search: Search, fold: Fold, found: IntArray, ranking: Ranking) -> dict[str, AnyArray]:
    """Columns of retrieval.parquet for one fold; `found` [Q, K] are rows of the samples, -1 where there is none."""
    samples = search.subject.samples
    names = np.array([*samples.label_names, ""], dtype=np.str_)
    ids = np.append(samples.id, "")
    labels = np.where(found >= 0, samples.label[found], -1)
    queries, top = found.shape
    truth = samples.label[fold.test]
    return {
        "fold": np.full(found.size, fold.name),
        "query": np.repeat(samples.id[fold.test], top),
        "query_label": np.repeat(names[truth], top),
        "rank": np.tile(np.arange(1, top + 1), queries),
        "neighbour": ids[found].ravel(),
        "neighbour_label": names[labels].ravel(),
        "distance": ranking.distance.ravel(),
        "hit": (labels == truth[:, None]).ravel(),
    }


def _notes(search: Search, folds: Sequence[tuple[Fold, IntArray, Ranking]]) -> Iterator[str]:
    """What must be said of one search; per fold what was found [Q, K] and how."""
    group = search.subject.samples.group
    total = sum(len(fold.test) for fold, _, _ in folds)
    met = sum(
        int(((group[found] == group[fold.test][:, None]) & (found >= 0)).sum()) for fold, found, _ in folds
    )
    if met:
        yield f"{met} of the {sum(found.size for _, found, _ in folds)} neighbours are of the query's own group"
    tied = sum(int((np.diff(ranking.distance, axis=1) == 0).any(axis=1).sum()) for _, _, ranking in folds)
    if tied > MANY_TIES * total:
        yield f"{tied} of {total} queries have neighbours at equal distances, which keep the order of the index"


def _need_one_index(config: RetrieveConfig, asked: Sequence[Search]) -> None:
    """ConfigError where --index is asked for and it is not plain of what."""
    if config.index is None:
        return
    retrieval.need_index(config.index)
    counts = {
        "data sets": ("--data", len({search.subject.name for search in asked})),
        "tables of embeddings": (
            "--backbone, --pooling or --layer",
            len({(search.table.fingerprint, search.table.pooling) for search in asked}),
        ),
        "distances": ("--distance", len({search.distance for search in asked})),
        "folds": ("--holdout 0.2 instead of folds", len(asked[0].subject.plan.folds)),
        "seeds": ("--repeats 1", len({search.key.seed for search in asked})),
    }
    for what, (flag, count) in counts.items():
        if count > 1:
            raise ConfigError(
                f"--index writes one index, and there are {count} {what}",
                "each would be an index of its own",
                f"choose one with {flag}",
            )


def _export(cache: Cache, config: RetrieveConfig, rule: Protocol, search: Search) -> tuple[Any, ...]:
    """Write the training index; both paths."""
    assert config.index is not None
    samples = search.subject.samples
    rows = index_rows(rule, search.subject.plan.folds[0])
    X: FloatArray = search.table.read(cache)[search.rows[rows]]
    names = np.array(samples.label_names, dtype=np.str_)
    paths = retrieval.write_index(
        config.index,
        X,
        distance=search.distance,
        ids=samples.id[rows].tolist(),
        labels=names[samples.label[rows]].tolist(),
    )
    print(f"index: {len(rows)} images  {paths[0]}, their ids and labels in {paths[1]}")
    return paths
