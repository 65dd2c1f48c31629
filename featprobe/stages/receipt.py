"""A study can be repeated from what it left behind: every stage records itself, and `compare` writes the receipt.

The receipt is the entry `study` of run.json and, for readers, study.toml: the stages' settings as a study that
`featprobe run` takes, without a row of data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from featprobe.cache import Cache, CacheEntry
from featprobe.options import as_mapping
from featprobe.records import Recipe, Samples
from featprobe.results import ResultsFolder, load_many
from featprobe.stages.evaluation import describe_run
from featprobe.stages.sources import absolute_spec, poolings_of
from featprobe.stages.systems import SHUFFLED

ELSEWHERE: Final = ("out", "results", "batch-size", "workers", "jobs")
"""Settings that change no number, or that `featprobe run` gives."""

RECEIPT: Final = "study"
"""The entry of run.json."""

EXPECTED: Final = "estimates with the SHA-256 "


def remember(
    folder: ResultsFolder,
    stage: str,
    config: Any,
    recipes: Mapping[str, Recipe],
    data: Mapping[str, Samples],
    *,
    computed: bool,
) -> None:
    """Record that `stage` ran with `config` on what has these recipes (by fingerprint) and samples (by data set).

    What was `computed` anew may stand in for older results, so it is repeated after whatever gave those.
    """
    old = folder.run()
    now = {"stage": stage, "settings": settings(config)}
    known = old.get("stages", [])
    folder.record_run(
        stages=known if now in known and not computed else [*(one for one in known if one != now), now],
        recipes={**old.get("recipes", {}), **{name: recipe.to_dict() for name, recipe in recipes.items()}},
        data={**old.get("data", {}), **{name: about(samples) for name, samples in data.items()}},
        **{stage: describe_run(config, stage)},
    )


def settings(config: Any) -> dict[str, Any]:
    """What `config` asks for, as TOML keys; files of data and weights by their absolute paths."""
    values = {name: value for name, value in as_mapping(config).items() if name not in ELSEWHERE}
    if hasattr(config, "weights"):
        values["backbone"] = list(config.backbone)
    if "pseudonymize" in values:
        values["pseudonymize"] = str(Path(values["pseudonymize"]).absolute())
    if hasattr(config, "weights"):
        values["data"] = [absolute_spec(spec) for spec in config.data]
        values |= {"weights": [_absolute(value) for value in config.weights]} if config.weights else {}
    return values


def _absolute(value: str) -> str:
    """`value` of --weights with a file's path made absolute."""
    name, sign, rest = value.partition("=")
    if sign and Path(rest).exists():
        return f"{name}={Path(rest).absolute()}"
    return str(Path(value).absolute()) if Path(value).exists() else value


def about(samples: Samples) -> dict[str, Any]:
    """What may be said of a data set without a word about any of its rows."""
    texts = samples.label_texts().tolist()
    if samples.task == "multilabel":
        marks = np.asarray(samples.label) == 1
        classes = {
            name: int(count) for name, count in zip(samples.label_names, marks.sum(axis=0), strict=True)
        }
    elif samples.task == "continuous":
        classes = {samples.label_names[0]: int(samples.labelled.sum())}
    else:
        counts = Counter(texts)
        classes = {name: counts[name] for name in samples.label_names}
    return {
        "task": samples.task,
        "images": len(samples),
        "groups": len(set(samples.group.tolist())),
        "cases": len(set(samples.case.tolist())),
        "groups_declared": samples.groups_declared,
        "classes": classes,
    }


def extraction(config: Any, spec: str, run: Any, earlier: Sequence[Any]) -> list[Any]:
    """The settings of every extraction that a cache file was of use to: `earlier` ones, and this one.

    `spec`: its data set, `run`: its backbone. What nobody named comes with the backbone that it is a control of.
    """
    if run.canary:
        return list(earlier)
    own = dataclasses.replace(
        config,
        data=(spec,),
        backbone=(run.backbone,),
        weights=(run.weights,),
        pooling=poolings_of(config, run.backbone),
    )
    now = {name: value for name, value in settings(own).items() if name != "cache"}
    return list(earlier) if now in earlier else [*earlier, now]


def document(
    title: str,
    config: Any,
    caches: Sequence[Cache],
    estimates: pd.DataFrame,
    runs: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[str]]:
    """(the study as tables, sentences on what of it was not recorded).

    `estimates`: as loaded, with the data sets' own names, for the fingerprints of the embeddings that count.
    """
    extracts, missing = _extracts(caches, estimates, runs)
    tables: dict[str, Any] = {"study": {"title": title, "canaries": False}, "extract": extracts}
    for stage in ("probe", "finetune"):
        tables[stage] = [
            dict(entry["settings"])
            for run in runs
            for entry in run.get("stages", [])
            if entry["stage"] == stage
        ]
        if not tables[stage] and any(stage in run for run in runs):
            missing.append(f"The settings of {stage} were not recorded; type featprobe {stage} again.")
    compare = {name: value for name, value in settings(config).items() if name != "cache"}
    tables["compare"] = compare
    tables[RECEIPT]["expect"] = EXPECTED + estimates_sha256(estimates)
    return {name: table for name, table in tables.items() if table or name == "compare"}, missing


def _extracts(
    caches: Sequence[Cache], estimates: pd.DataFrame, runs: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """One table per kind of extraction behind the frozen results, its data sets gathered."""
    frozen = estimates[estimates["mode"].isin(["frozen", SHUFFLED])]
    names = {str(name) for name in frozen["dataset"]}
    # A fused system has a fingerprint of its own; what it was made of is among the recorded recipes.
    prints = {*frozen["fingerprint"], *(name for run in runs for name in run.get("recipes", {}))}
    found: dict[str, dict[str, Any]] = {}
    silent: list[str] = []
    entries = [(cache, entry) for cache in caches for entry in cache.current()]
    for cache, entry in entries:
        if not _used(entry, names, prints):
            continue
        kept = entry.environment.get("extractions", [])
        if not kept and not entry.environment.get("canary"):
            silent.append(f"{entry.dataset} · {entry.recipe.backbone}")
        for values in kept:
            rest = {name: value for name, value in values.items() if name != "data"} | {
                "cache": str(cache.root)
            }
            table = found.setdefault(json.dumps(rest, sort_keys=True), {"data": [], **rest})
            table["data"] += [spec for spec in values["data"] if spec not in table["data"]]
    missing = []
    if silent:
        listed = ", ".join(dict.fromkeys(silent))
        missing.append(f"How {listed} was extracted was not recorded; type featprobe extract again.")
    return list(found.values()), missing


def _used(entry: CacheEntry, names: set[str], prints: set[str]) -> bool:
    """Whether a result rests on the file: by itself, or as one side of a pair of data sets."""
    pairs = {part for name in names if "->" in name for part in name.split("->")}
    return (entry.dataset in names and entry.recipe.fingerprint in prints) or entry.dataset in pairs


def estimates_sha256(estimates: pd.DataFrame) -> str:
    """SHA-256 (hex) of every value and interval, in any order of the rows, to 9 digits."""
    columns = [name for name in estimates.columns if name != "ci_method"]
    frame = estimates[columns].copy()
    for name in ("value", "ci_low", "ci_high"):
        frame[name] = [f"{value:.9g}" for value in frame[name]]
    lines = sorted(frame.to_csv(index=False, header=False).splitlines())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def held_to(expected: str, out: Path) -> str:
    """Whether the results in `out` are those that a receipt expects, in a sentence; "" where it expects none.

    `expected`: the key `expect` of its `[study]`.
    """
    words, _, sha256 = expected.rpartition(" ")
    if f"{words} " != EXPECTED or not ResultsFolder(out).run().get("units"):
        return ""
    estimates, _, _ = load_many([out])
    if estimates_sha256(estimates) == sha256:
        return "receipt: every estimate and interval is the same as in the study that is repeated"
    return (
        "receipt: WARNING: the estimates are not those of the study that is repeated: other versions, another "
        "machine, or other images, labels or weights; compare results.csv of both folders"
    )


def to_toml(tables: Mapping[str, Any], preface: Sequence[str]) -> str:
    """`tables` (as `document` gives them) as a TOML file that opens with `preface` as comments."""
    lines = [f"# {line}".rstrip() for line in preface]
    for name, table in tables.items():
        for one in table if isinstance(table, list) else [table]:
            head = f"[[{name}]]" if isinstance(table, list) else f"[{name}]"
            lines += ["", head, *_pairs(one)]
    return "\n".join([*lines, ""])


def _pairs(table: Mapping[str, Any]) -> Iterator[str]:
    # JSON's text, numbers, true, false and lists are TOML's, too.
    for key, value in table.items():
        yield f"{key} = {json.dumps(value, ensure_ascii=False)}"
