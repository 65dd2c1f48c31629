"""Paired comparisons of everything that was evaluated, and the report that states them."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from featprobe import report
from featprobe.cache import Cache
from featprobe.config import CompareConfig
from featprobe.errors import ResultsError
from featprobe.metrics import main_metric
from featprobe.records import (
    KEY_COLUMNS,
    ReportContent,
    sha256_json,
)
from featprobe.registry import METRICS
from featprobe.results import ResultsFolder, load_many
from featprobe.stages import beyond_pairs
from featprobe.stages.ailments import ailments
from featprobe.stages.canaries import shuffled_apart
from featprobe.stages.evaluation import describe_run, title
from featprobe.stages.families import by_family, in_full
from featprobe.stages.further import completed
from featprobe.stages.label_studies import label_studies, sentences
from featprobe.stages.leak_pairs import leak_pairs
from featprobe.stages.machine import need_writable, versions
from featprobe.stages.maps import embedding_maps
from featprobe.stages.ood_table import strange, with_estimates
from featprobe.stages.panels import Panels, metric_of
from featprobe.stages.paper import study as whole_study
from featprobe.stages.pictures import thumbnails
from featprobe.stages.spendings import spendings
from featprobe.stages.subgroups import Subgroups
from featprobe.stages.summary import Summary
from featprobe.stages.systems import SHUFFLED, add_systems

PSEUDONYMIZED = "it was pseudonymized, so none of its images is shown"


def compare(config: CompareConfig) -> Summary:
    """Compare the systems of every data set in the results folders and write the report.

    Raises ResultsError where there is nothing to compare or test rows differ, OutputError.
    """
    if config.metric is not None:
        METRICS.get(config.metric)
    out = config.out or config.results[0]
    estimates, predictions, runs = load_many(with_estimates(config.results))
    strangers = strange(config.results)
    need_writable(out)
    folder = ResultsFolder(out)
    identity = _identity(config, runs, strangers[0])
    page = out / "report.html"
    if folder.run().get("report") == {"identity": identity, "sha256": _sha256_file(page)}:
        print(f"report: nothing has changed since it was written  {page.resolve()}")
        return Summary(0, 1, (page,))
    content = _with_strange(_content(config, estimates, predictions, runs), *strangers)
    page = report.write_report(content, out)
    assert content.study is not None
    folder.record_run(
        study=content.study.document,
        report={"identity": identity, "sha256": _sha256_file(page)},
        compare=describe_run(config, "compare"),
    )
    print(report.console_table(content))
    for study in content.label_studies:
        print(f"\n{report.console_labels(study)}")
    for words in report.console_costs(content):
        print(words)
    for words in content.warnings:
        print(f"WARNING: {words}")
    for name, told in content.findings.items():
        for sentence in told:
            print(f"{name}: {sentence}")
    for line in report.statistics_lines(content):
        print(line)
    print(f"report: {page.resolve()}")
    return Summary(1, 0, (page,))


def _identity(config: CompareConfig, runs: Sequence[Mapping[str, Any]], strangers: pd.DataFrame) -> str:
    """Equal where the report would come out the same: the tables' own hashes stand for them."""
    more = [strangers.to_csv(index=False)] if len(strangers) else []
    return sha256_json([*(run["files"] for run in runs), *more, describe_run(config, "compare")])


def _with_strange(
    content: ReportContent, rows: pd.DataFrame, settings: Mapping[str, str], notes: Sequence[str]
) -> ReportContent:
    """`content` with what `featprobe ood` found, as far as it lies in the folders."""
    return dataclasses.replace(
        content,
        strange=rows if len(rows) else None,
        provenance={**content.provenance, **settings},
        notes=(*content.notes, *notes),
    )


def _sha256_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _content(
    config: CompareConfig,
    estimates: pd.DataFrame,
    predictions: pd.DataFrame,
    runs: Sequence[Mapping[str, Any]],
) -> ReportContent:
    subgroups = Subgroups.asked(config, predictions)
    caches = _caches(config, runs)
    maps = tuple(embedding_maps(config, caches, estimates)) if config.map != "none" else ()
    leaks = tuple(leak_pairs(caches, estimates)) if config.images else ()
    studies = label_studies(
        predictions,
        runs,
        lambda task, family: metric_of(config, task, family),
        resamples=config.resamples,
        seed=config.seed,
    )
    full = in_full(estimates, beyond_pairs.with_source(predictions))
    notes = tuple(_notes(runs, full[0]))
    loaded = estimates
    every, predictions = add_systems(*by_family(*full, estimates))
    about = predictions.attrs
    families = dict(zip(every["dataset"], full[0]["dataset"], strict=True))
    pictures, hidden = thumbnails(caches, loaded, families) if config.images else ({}, [])
    every = completed(every, predictions, config)
    every = beyond_pairs.with_intervals(config, every, predictions, about)
    estimates, _ = shuffled_apart(every)
    predictions, _ = shuffled_apart(predictions)
    if estimates.empty:
        raise ResultsError(
            "there is nothing to compare",
            "every model was fitted on shuffled labels",
            "type featprobe probe to fit others",
        )
    panels = Panels(config, about, estimates, every, subgroups)
    for (name, level), part in predictions.groupby(["dataset", "level"], sort=False):
        panels.add(str(name), str(level), part)
    about_labels = {report.title_of_study(study): tuple(sentences(study)) for study in studies}
    by_subgroup, spreads = subgroups.frames()
    schemes = _schemes(runs, estimates)
    by_data = {families[family]: scheme for family, scheme in schemes.items()}
    beyond = beyond_pairs.statistics(
        pd.concat(panels.beside, ignore_index=True),
        estimates,
        predictions,
        {family: len(names) for family, names in panels.classes.items()},
    )
    return ReportContent(
        title=config.title,
        metric=config.metric or main_metric("classes"),
        estimates=estimates,
        predictions=predictions,
        comparisons=pd.concat(panels.compared, ignore_index=True),
        best=pd.concat(panels.standings, ignore_index=True),
        classes=panels.classes,
        tasks=panels.tasks,
        schemes=schemes,
        maps=maps,
        leaks=tuple(leak for leak in leaks if leak.dataset not in hidden),
        findings=panels.said | about_labels,
        warnings=(*ailments(runs), *panels.warned),
        canaries=pd.concat(panels.watched, ignore_index=True),
        label_studies=tuple(studies),
        trust=tuple(panels.trusted),
        costs=spendings(runs, estimates),
        notes=(*notes, *(f"{name}: {PSEUDONYMIZED}" for name in hidden)),
        subgroups=by_subgroup,
        spreads=spreads,
        provenance=_provenance(config, estimates, runs),
        study=whole_study(config, caches, loaded, runs, by_data),
        pictures=pictures,
        ranks=beyond_pairs.mean_ranks(beyond),
        statistics=beyond,
    )


def _caches(config: CompareConfig, runs: Sequence[Mapping[str, Any]]) -> list[Cache]:
    """The cache named, and those that the probes were fitted on, as far as they are there."""
    recorded = [run.get("probe", {}).get("configuration", {}).get("cache") for run in runs]
    folders = [config.cache, *(Path(folder) for folder in recorded if folder)]
    return [Cache(folder) for folder in dict.fromkeys(folders) if folder.is_dir()]


def _schemes(runs: Sequence[Mapping[str, Any]], estimates: pd.DataFrame) -> dict[str, str]:
    """Family -> how its rows were parted, as the stages recorded it."""
    units = [info for run in runs for info in run.get("units", {}).values() if "scheme" in info]
    keys = ["backbone", "weights", "mode", "probe", "level", "inputs", "protocol", "seed", "fingerprint"]
    said = {tuple(info["key"].get(name) for name in keys): str(info["scheme"]) for info in units}
    found: dict[str, str] = {}
    for row in estimates[["dataset", *keys]].drop_duplicates().itertuples(index=False):
        scheme = said.get(tuple(row)[1:])
        if scheme:
            found.setdefault(str(row[0]), scheme)
    return found


def _notes(runs: Sequence[Mapping[str, Any]], full: pd.DataFrame) -> list[str]:
    """Every warning that a stage stored with its results, once, under its data set.

    Of models that only stand in curves (not in `full`, see `families.in_full`) the number of notes is said.
    """
    names = [name for name in KEY_COLUMNS if name != "fold"]
    shown = set(full[names].drop_duplicates().itertuples(index=False, name=None))
    found: dict[str, None] = {}
    more: Counter[str] = Counter()
    for run in runs:
        for info in run.get("units", {}).values():
            key = info.get("key", {})
            if key.get("mode") == SHUFFLED:
                continue
            shared = set(info.get("dataset_notes", ()))
            in_curves = tuple(key.get(name, "") for name in names) not in shown
            for note in info.get("notes", ()):
                if in_curves and note not in shared and not info.get("superseded", False):
                    more[str(key.get("dataset", ""))] += 1
                    continue
                owner = key.get("dataset", "") if note in shared else title(key)
                found[f"{owner}: {note}"] = None
    said = [
        f"{name}: {count} {'note' if count == 1 else 'notes'} on models of fewer labels or other seeds, which stand in the "
        f"curves alone, {'is' if count == 1 else 'are'} in run.json"
        for name, count in more.items()
    ]
    return [*found, *said]


def _provenance(
    config: CompareConfig, estimates: pd.DataFrame, runs: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    commands = shlex.join(["featprobe", *sys.argv[1:]])
    lines = {
        "command": commands,
        "versions": ", ".join(f"{name} {value}" for name, value in versions().items() if value),
    }
    for run in runs:
        for stage in ("probe", "finetune"):
            if stage in run:
                values = run[stage]["configuration"]
                lines[f"{stage} settings"] = ", ".join(
                    f"{name}={value}" for name, value in values.items() if value not in (None, [], "")
                )
    lines["resamples and seed of the comparison"] = f"{config.resamples}, seed {config.seed}"
    for system, fingerprint in estimates[["system", "fingerprint"]].drop_duplicates().itertuples(index=False):
        lines[
            f"recipe of {system}"
            if f"recipe of {system}" not in lines
            else f"recipe of {system} ({fingerprint[:6]})"
        ] = fingerprint
    return lines
