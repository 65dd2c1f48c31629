"""What retrieval found as a page: values, what tells systems apart, and queries with their neighbours."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from featprobe import __version__, retrieval
from featprobe.config import RetrieveConfig
from featprobe.imaging import THUMBNAIL_SIDE
from featprobe.records import IntArray, Samples, sha256_json
from featprobe.retrieval import Protocol, RetrievalFolder
from featprobe.significance.comparison import PAIR_COLUMNS, Comparison
from featprobe.significance.means import RowValues, compare_means
from featprobe.stages.retrieval_plan import Search
from featprobe.stages.systems import add_systems

if TYPE_CHECKING:
    from featprobe.report.retrieval import Gallery, Part

MAIN: Final = "mAP"
"""The measure by which systems are ordered on the page, at the protocol's number of neighbours."""

_WHICH: Final = ("dataset", "protocol", "seed", "distance")
DIFFERENCE_COLUMNS: Final = (*_WHICH, *(name for name in PAIR_COLUMNS if name not in {"dataset", "level"}))


def write_page(
    config: RetrieveConfig,
    rule: Protocol,
    folder: RetrievalFolder,
    searches: Sequence[Search],
    run: Mapping[str, Any],
) -> list[Path]:
    """Write retrieval.html, retrieval_differences.csv and figures/ of these searches, all stored; their paths.

    Nothing is written where the last page was made of the same and its files are there.
    """
    record = folder.record()
    state = sha256_json(
        {"searches": [search.hash for search in searches], "figures": config.figures, "version": __version__}
    )
    last = record.get("page", {})
    if last.get("state") == state and all((config.out / name).exists() for name in last["files"]):
        return [config.out / name for name in last["files"]]
    from featprobe.report.retrieval import write_retrieval

    names = _systems(searches)
    parts, compared = [], []
    methods: dict[str, None] = {}
    grouped = itertools.groupby(searches, key=lambda search: (search.key.dataset, search.key.seed))
    for (_, seed), group in grouped:
        own = list(group)
        comparisons = {
            kind: _compared(config, rule, folder, [s for s in own if s.distance == kind], names)
            for kind in dict.fromkeys(search.distance for search in own)
        }
        compared += [_differences(own[0], kind, found) for kind, found in comparisons.items()]
        drawn = config.figures if seed == config.seed else 0
        parts.append(_part(config, rule, folder, own, names, comparisons, record["units"], drawn))
        methods |= dict.fromkeys(row["ci_method"] for row in folder.estimates([s.hash for s in own]))
        methods |= dict.fromkeys(
            pair.method for found in comparisons.values() for one in found for pair in one.pairs
        )
    differences = pd.concat(compared, ignore_index=True)
    files = write_retrieval(
        parts,
        config.out,
        lead=_lead(config, rule),
        glossary={kind: retrieval.KINDS[kind] for kind in dict.fromkeys(m.kind for m in rule.measures)},
        methods=[*_rules(rule), *methods],
        differences=differences,
        provenance=_provenance(run, searches, names),
    )
    for name in set(last.get("files", ())) - set(files):
        with contextlib.suppress(OSError):
            (config.out / name).unlink()
    folder.note(page={"state": state, "files": list(files)}, retrieve=dict(run))
    return [config.out / name for name in files]


def _systems(searches: Sequence[Search]) -> dict[str, str]:
    """Hash of each search -> the short name of its system."""
    frame = pd.DataFrame([search.key.to_dict() for search in searches])
    (named,) = add_systems(frame)
    short = named["system"].str.replace(" · frozen retrieval", "", regex=False)
    return dict(zip([search.hash for search in searches], short.tolist(), strict=True))


def _rows(rule: Protocol, folder: RetrievalFolder, search: Search) -> list[RowValues]:
    """What each query is worth, from what is stored."""
    samples = search.subject.samples
    code = {name: c for c, name in enumerate(samples.label_names)} | {"": -1}
    stored = folder.neighbours(search.hash)
    found = stored["neighbour_label"].astype(str).map(code).to_numpy(dtype=np.int64)
    fold_of = stored["fold"].astype(str).to_numpy()
    result = []
    for fold in search.subject.plan.folds:
        labels = found[fold_of == fold.name].reshape(len(fold.test), -1)
        values = retrieval.scores(samples.label[fold.test], labels, rule.measures)
        result.append(RowValues(fold.name, samples.take(fold.test), values))
    return result


def _compared(
    config: RetrieveConfig,
    rule: Protocol,
    folder: RetrievalFolder,
    searches: Sequence[Search],
    names: Mapping[str, str],
) -> list[Comparison]:
    """Per measure all pairs of the systems, under one distance, of one data set and seed."""
    return compare_means(
        {names[search.hash]: _rows(rule, folder, search) for search in searches},
        [measure.name for measure in rule.measures],
        dataset=searches[0].key.dataset,
        resamples=config.resamples,
        seed=searches[0].key.seed,
    )


def _differences(search: Search, distance: str, found: Sequence[Comparison]) -> pd.DataFrame:
    """Rows of retrieval_differences.csv."""
    frames = [one.pairs_frame() for one in found]
    whole = pd.concat(frames, ignore_index=True)
    whole = whole.assign(protocol=search.key.protocol, seed=search.key.seed, distance=distance)
    return whole[list(DIFFERENCE_COLUMNS)]


def _part(
    config: RetrieveConfig,
    rule: Protocol,
    folder: RetrievalFolder,
    searches: Sequence[Search],
    names: Mapping[str, str],
    comparisons: Mapping[str, Sequence[Comparison]],
    units: Mapping[str, Any],
    drawn: int,
) -> Part:
    """What the page shows of one data set and seed; `drawn` queries of each search."""
    from featprobe.report.retrieval import Part

    key = searches[0].key
    rows = [row for search in searches for row in _headline(folder, search, names[search.hash])]
    best = {
        (kind, one.metric, one.system)
        for kind, found in comparisons.items()
        for comparison in found
        for one in comparison.best
        if one.in_best_set
    }
    pairs = pd.concat(
        [_differences(searches[0], kind, found) for kind, found in comparisons.items()], ignore_index=True
    )
    notes = dict.fromkeys(searches[0].subject.notes)
    for search in searches:
        about = f"{names[search.hash]}, {search.distance}: "
        notes |= dict.fromkeys(about + note for note in units[search.hash]["notes"])
    galleries = [_gallery(folder, search, names[search.hash], drawn) for search in searches if drawn]
    return Part(
        title=key.dataset if config.repeats == 1 else f"{key.dataset}, seed {key.seed}",
        facts=_facts(searches[0], rows),
        notes=tuple(notes),
        main=[measure.name for measure in rule.measures if measure.kind == MAIN][-1],
        estimates=pd.DataFrame(rows),
        pairs=pairs,
        best=frozenset(best),
        galleries=tuple(gallery for gallery in galleries if gallery.queries),
    )


def _headline(folder: RetrievalFolder, search: Search, system: str) -> Iterator[dict[str, Any]]:
    """The estimates that count: of the one split, or of the mean over folds."""
    rows = folder.estimates([search.hash])
    fold = "mean" if any(row["fold"] == "mean" for row in rows) else rows[0]["fold"]
    for row in rows:
        if row["fold"] == fold:
            numbers = {name: float(row[name] or "nan") for name in ("value", "ci_low", "ci_high")}
            sizes = {name: int(row[name]) for name in ("n_queries", "n_groups", "n_index")}
            yield {"system": system, "distance": row["distance"], "metric": row["metric"], **numbers, **sizes}


def _facts(search: Search, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    samples, plan, size = search.subject.samples, search.subject.plan, rows[0]
    folds = f"; every value is the mean over {len(plan.folds)} folds" if len(plan.folds) > 1 else ""
    in_mean = " on average" if folds else ""
    return {
        "Split": f"{plan.scheme}{folds}",
        "Queries": f"{size['n_queries']:,} test images from {size['n_groups']:,} independent groups",
        "Index": f"{size['n_index']:,} images{in_mean}",
        "Classes": f"{len(samples.label_names)}: {', '.join(samples.label_names)}",
    }


def _gallery(folder: RetrievalFolder, search: Search, system: str, count: int) -> Gallery:
    """Some queries of the first fold with what they found; none where the cache holds no pictures."""
    from featprobe.report.retrieval import Gallery, Neighbour, Query

    samples, fold = search.subject.samples, search.subject.plan.folds[0]
    stored = folder.neighbours(search.hash)
    own = stored[stored["fold"].astype(str) == fold.name]
    hits = own["hit"].to_numpy().reshape(len(fold.test), -1)[:, 0]
    chosen = _drawn(hits, count, search.key.seed)
    row_of = {str(name): row for row, name in enumerate(samples.id)}
    top = len(own) // len(fold.test)
    queries = []
    for place in chosen.tolist() if samples.thumbnail.shape[1] else []:
        found = own.iloc[place * top : (place + 1) * top]
        near = tuple(
            Neighbour(
                _picture(samples, row_of[row.neighbour]),
                str(row.neighbour_label),
                row.distance,
                bool(row.hit),
            )
            for row in found.itertuples(index=False)
            if row.neighbour
        )
        row = int(fold.test[place])
        label = samples.label_names[int(samples.label[row])]
        queries.append(Query(str(samples.id[row]), label, _picture(samples, row), near))
    where = "" if len(search.subject.plan.folds) == 1 else f" of fold {fold.name}"
    words = (
        f"{len(queries)} queries{where}, drawn at random: first those whose nearest image is of their class, then "
        "those whose nearest is not, half of each where there are so many."
    )
    return Gallery(system, search.distance, words, tuple(queries))


def _drawn(hits: Any, count: int, seed: int) -> IntArray:
    """Positions of at most `count` queries: half whose nearest image is a hit, half a miss, as far as there are."""
    generator = np.random.default_rng([seed, 0x5EA7C4])
    good, bad = (generator.permutation(np.flatnonzero(hits == kind)) for kind in (True, False))
    of_bad = min(len(bad), max(count // 2, count - len(good)))
    of_good = min(len(good), count - of_bad)
    return np.concatenate([np.sort(good[:of_good]), np.sort(bad[:of_bad])]).astype(np.int64)


def _picture(samples: Samples, row: int) -> Any:
    return samples.thumbnail[row].reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE)


def _lead(config: RetrieveConfig, rule: Protocol) -> str:
    of = "training and validation images" if rule.with_val else "training images"
    source = f" ({rule.source})" if rule.source else ""
    return f"Test images ask for the {config.top} {of} most like them. Protocol {rule.name}{source}"


def _rules(rule: Protocol) -> list[str]:
    """How neighbours were ranked, in sentences."""
    own = (
        "Images of the query's own group are left out of what it may find."
        if rule.excludes_own_group
        else "Images of the query's own group are not left out, as the protocol has it."
    )
    return [
        "The search is exact: the distances that decide a rank are computed in double precision. Equal distances keep the order of the index.",
        own,
    ]


def _provenance(
    run: Mapping[str, Any], searches: Sequence[Search], names: Mapping[str, str]
) -> dict[str, str]:
    settings = {name: value for name, value in run["configuration"].items() if value not in (None, [], "")}
    lines = {
        "settings": ", ".join(f"{name}={value}" for name, value in settings.items()),
        "versions": ", ".join(f"{name} {value}" for name, value in run["versions"].items() if value),
    }
    for search in searches:
        lines[f"recipe of {names[search.hash]} on {search.key.dataset}"] = search.table.fingerprint
    return lines
