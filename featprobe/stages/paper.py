"""What was really run, gathered from results folders and caches, for the methods paragraph and the checklist."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from featprobe import __version__, backbones
from featprobe.backbones.canaries import IMAGE_STATS
from featprobe.cache import Cache
from featprobe.config import CompareConfig
from featprobe.errors import FeatprobeError
from featprobe.records import BackboneFacts, DataFacts, FitFacts, Recipe, Study
from featprobe.registry import PROTOCOLS
from featprobe.stages import receipt
from featprobe.stages.machine import versions
from featprobe.stages.rules import described
from featprobe.stages.systems import SHUFFLED, fitted_by

Runs = Sequence[Mapping[str, Any]]


def study(
    config: CompareConfig,
    caches: Sequence[Cache],
    estimates: pd.DataFrame,
    runs: Runs,
    schemes: Mapping[str, str],
) -> Study:
    """All that can be known of the study. `estimates`: as loaded; `schemes`: data set -> how it was split."""
    tables, missing = receipt.document(config.title, config, caches, estimates, runs)
    preface = [
        f"The study behind a report of featprobe {__version__}, as it was run: featprobe run study.toml repeats it.",
        f"It was typed in {Path.cwd()}; paths are of that machine, so change them for yours.",
        *missing,
    ]
    command = shlex.join(["featprobe", *sys.argv[1:]])
    own = estimates[estimates["mode"] != SHUFFLED]
    return Study(
        data=tuple(_data(caches, own, runs, schemes)),
        backbones=tuple(_backbones(own, runs)),
        fits=tuple(_fits(own, runs)),
        seeds=tuple(sorted({int(seed) for seed in own["seed"]})),
        resamples=(_resamples(runs), config.resamples),
        versions={name: value for name, value in versions().items() if value},
        document=tables,
        toml=receipt.to_toml(tables, preface),
        command=command,
        leaks=tuple(_leaks(runs)),
        amounts=tuple(_amounts(own)),
        missing=tuple(missing),
        devices=tuple(_devices(caches, own, runs)),
    )


def _data(
    caches: Sequence[Cache], estimates: pd.DataFrame, runs: Runs, schemes: Mapping[str, str]
) -> Iterator[DataFacts]:
    recorded = {name: facts for run in runs for name, facts in run.get("data", {}).items()}
    kinds = {entry.dataset: _kind(entry.environment) for cache in caches for entry in cache.current()}
    for name in dict.fromkeys(estimates["dataset"]):
        rows = estimates[(estimates["dataset"] == name) & (estimates["fold"] != "mean")]
        spans = {column: _span(rows[column]) for column in ("n_train", "n_test", "n_groups")}
        known = recorded.get(str(name), {})
        yield DataFacts(
            name=str(name),
            task=known.get("task", "classes"),
            images=int(known.get("images", 0)),
            groups=int(known.get("groups", 0)),
            cases=int(known.get("cases", 0)),
            groups_declared=bool(known.get("groups_declared", True)),
            classes=known.get("classes", {}),
            scheme=schemes.get(str(name), ""),
            kind=kinds.get(str(name), ""),
            **spans,
        )


def _span(values: pd.Series[int]) -> tuple[int, int]:
    return int(values.min()), int(values.max())


def _kind(environment: Mapping[str, Any]) -> str:
    """What the world knows the data set by, from what was typed: "digits", "medmnist:NAME", or "" for none."""
    spec = str(environment.get("source", {}).get("spec", "")).rpartition("=")[2]
    if spec == "digits" or spec.startswith("medmnist:"):
        return spec.partition("@")[0]
    stem = Path(spec).stem.partition("_")[0]
    return f"medmnist:{stem}" if Path(spec).suffix == ".npz" and stem.endswith(("mnist", "mnist3d")) else ""


def _backbones(estimates: pd.DataFrame, runs: Runs) -> Iterator[BackboneFacts]:
    recipes = {name: values for run in runs for name, values in run.get("recipes", {}).items()}
    given = set(estimates.loc[estimates["weights"] != "random", "backbone"])
    for key, rows in estimates.groupby(["backbone", "weights", "preprocessing"], sort=False):
        name, weights, rule = map(str, key)
        prints = [recipes[one] for one in dict.fromkeys(rows["fingerprint"]) if one in recipes]
        recipe = Recipe.from_json(json.dumps(prints[0])) if prints else None
        licence, citation, architecture = _credits(name)
        poolings = [
            f"{layer}/{pooling}" if layer else pooling
            for layer, pooling in zip(rows["layer"], rows["pooling"], strict=True)
        ]
        yield BackboneFacts(
            name=name,
            weights=weights,
            architecture=recipe.architecture if recipe else architecture,
            weights_sha256=recipe.weights if recipe else "",
            preprocessing=described(recipe.preprocessing) if recipe else rule,
            precision=recipe.precision if recipe else "",
            poolings=tuple(dict.fromkeys(poolings)),
            licence=licence,
            citation=citation,
            canary=name == IMAGE_STATS or (weights == "random" and name in given),
        )


def _credits(name: str) -> tuple[str, str, str]:
    """(licence, citation, architecture); a fused or vanished backbone has none."""
    try:
        info = backbones.describe(name)
    except FeatprobeError:
        return "", "", ""
    return info.licence, info.citation, info.architecture


def _fits(estimates: pd.DataFrame, runs: Runs) -> Iterator[FitFacts]:
    training = {
        (info["key"].get("mode"), info["key"].get("probe")): info["training"]
        for run in runs
        for info in run.get("units", {}).values()
        if "training" in info and "key" in info
    }
    for key, _ in estimates.groupby(["mode", "probe", "protocol", "variant"], sort=False):
        mode, probe, protocol, variant = map(str, key)
        rule = fitted_by(protocol) if mode == "frozen" else protocol
        known = PROTOCOLS.get(rule) if mode == "frozen" and rule in dict(PROTOCOLS.items()) else None
        yield FitFacts(
            mode=mode,
            what=probe,
            protocol=rule,
            variant=variant,
            describe=known.describe if known else "",
            source=known.source if known else "",
            differs=known.differs if known else (),
            training=training.get((mode, probe), {}),
        )


def _amounts(estimates: pd.DataFrame) -> Iterator[str]:
    """Shares of the training labels and shots per class, ascending; none where all was learnt from alone."""
    fractions = sorted({float(value) for value in estimates.loc[estimates["shots"] == 0, "fraction"]})
    shots = sorted({int(value) for value in estimates["shots"]} - {0})
    if fractions not in ([], [1.0]):
        yield from (f"{100 * value:.3g} %" for value in fractions)
    yield from (f"{value} per class" for value in shots)


def _resamples(runs: Runs) -> int:
    found = [
        run[stage]["configuration"].get("resamples")
        for run in runs
        for stage in ("probe", "finetune")
        if stage in run
    ]
    return max((int(value) for value in found if value), default=0)


def _leaks(runs: Runs) -> Iterator[str]:
    """Every stored note that a flag against leaks caused, with its data set before it."""
    said: dict[str, None] = {}
    for run in runs:
        for info in run.get("units", {}).values():
            for note in info.get("dataset_notes", ()):
                if "leaks" in note:
                    said[f"{info.get('key', {}).get('dataset', '')}: {note}"] = None
    yield from said


def _devices(caches: Sequence[Cache], estimates: pd.DataFrame, runs: Runs) -> Iterator[str]:
    prints = set(estimates["fingerprint"])
    found = [
        str(entry.environment.get("device", ""))
        for cache in caches
        for entry in cache.current()
        if entry.recipe.fingerprint in prints
    ]
    found += [str(info.get("device", "")) for run in runs for info in run.get("units", {}).values()]
    yield from (name for name in dict.fromkeys(found) if name)
