"""From the words of the command line to data sets and (backbone, weights) runs, with every name checked first."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from featprobe import backbones
from featprobe.backbones.canaries import IMAGE_STATS
from featprobe.config import BackboneOptions, DataOptions
from featprobe.datasets import DatasetOptions, open_dataset, split_spec
from featprobe.errors import BackboneError, ConfigError, nearest
from featprobe.hashing import hash_images
from featprobe.records import POOLINGS, Samples

WEIGHT_WORDS: Final = ("pretrained", "random")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Source:
    """An opened data set with the bytes of its images hashed. `spec` and `options` open it again."""

    dataset: Any
    samples: Samples
    spec: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The data set's name."""
        return str(self.dataset.name)


@dataclasses.dataclass(frozen=True, slots=True)
class BackboneRun:
    """One backbone with one choice of weights: "pretrained", "random" or a file; `canary`: nobody named it."""

    backbone: str
    weights: str
    canary: bool = False


def dataset_options(config: DataOptions) -> DatasetOptions:
    """The reading options of a configuration, as the datasets room wants them."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(DatasetOptions)}
    if config.label == "none":
        values["label_column"] = ("none",)
    return DatasetOptions(**values)


def open_sources(config: DataOptions, workers: int | None = None) -> list[Source]:
    """Open every --data, print its notes, hash its images. ConfigError where one name stands for two contents."""
    options = dataset_options(config)
    opened: dict[str, Source] = {}
    for spec in config.data:
        dataset = open_dataset(spec, options)
        hashed = dataset.samples.replace(
            sha256=hash_images(dataset, workers=workers or (os.cpu_count() or 1), progress=True)
        )
        recorded = {
            name: str(value.absolute()) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(options).items()
        }
        source = Source(dataset, hashed, absolute_spec(spec), recorded)
        before = opened.get(source.name)
        if before is not None and before.samples.sha256.tolist() != hashed.sha256.tolist():
            raise ConfigError(
                f"two data sets are called {source.name!r}",
                f"{before.spec} and {spec} hold different images",
                f"name one of them: --data OTHER={split_spec(spec)[1]}",
            )
        opened[source.name] = source
        for note in dataset.notes:
            print(f"{source.name}: {note}")
    return list(opened.values())


def absolute_spec(spec: str) -> str:
    """`spec` with a path made absolute, so that it opens from any folder."""
    name, location = split_spec(spec)
    path = Path(location).expanduser()
    by_name = location == "digits" or location.startswith("medmnist:")
    # A pattern of shards, train-{000..009}.tar, is no path itself, but its folder is.
    pattern = "{" in path.name and path.parent.is_dir()
    if by_name or not (path.exists() or pattern):
        return spec
    whole = path.parent.resolve() / path.name if pattern else path.resolve()
    return f"{name}={whole}" if name else str(whole)


def backbone_runs(config: BackboneOptions) -> list[BackboneRun]:
    """Every (backbone, weights) that the flags ask for, in their order, without repeats.

    A `--weights NAME=VALUE` is for that backbone and wins over a plain `--weights VALUE`, which is for all;
    several values are several runs. ConfigError for a NAME that is no --backbone, or a file that is not there.
    """
    named: dict[str, list[str]] = {}
    plain: list[str] = []
    for value in config.weights:
        name, sign, rest = value.partition("=")
        if sign and name in config.backbone:
            named.setdefault(name, []).append(rest)
        elif sign and not Path(value).exists():
            raise ConfigError(
                f"--weights names {name!r}, which is no --backbone of this call",
                nearest(name, config.backbone) or f"there are: {', '.join(config.backbone)}",
            )
        else:
            plain.append(value)
    runs = [
        BackboneRun(name, value)
        for name in config.backbone
        for value in named.get(name, plain or ["pretrained"])
    ]
    for run in runs:
        _need_weights(run)
    return list(dict.fromkeys(runs))


def poolings_of(config: BackboneOptions, backbone: str) -> tuple[str, ...]:
    """The poolings that the flags ask of `backbone`: its own, as NAME=POOLING, else the plain ones; () for none.

    ConfigError for a NAME that is no --backbone and for a pooling that no backbone has.
    """
    named: list[str] = []
    plain: list[str] = []
    for value in config.pooling:
        name, _, pooling = value.rpartition("=")
        if name and name not in config.backbone:
            raise ConfigError(
                f"--pooling names {name!r}, which is no --backbone of this call",
                nearest(name, config.backbone) or f"there are: {', '.join(config.backbone)}",
            )
        if pooling not in POOLINGS:
            raise ConfigError(
                f"unknown --pooling {pooling!r}",
                nearest(pooling, POOLINGS) or f"known: {', '.join(POOLINGS)}",
            )
        if not name:
            plain.append(pooling)
        elif name == backbone:
            named.append(pooling)
    return tuple(dict.fromkeys(named or plain))


def need_poolings(config: BackboneOptions, runs: Sequence[BackboneRun]) -> None:
    """BackboneError, with a call that every backbone can answer, where one lacks a pooling that is asked of it.

    What can't be described before its files are read is checked when it is loaded.
    """
    infos = {}
    for name in dict.fromkeys(run.backbone for run in runs):
        with contextlib.suppress(BackboneError):
            infos[name] = backbones.describe(name)
    asked = {name: poolings_of(config, name) for name in infos}
    for name, info in infos.items():
        for pooling in asked[name]:
            if pooling in info.poolings:
                continue
            fits = {
                each: [one for one in asked[each] if one in infos[each].poolings]
                or [infos[each].default_pooling]
                for each in infos
            }
            words = [
                f"{each}={one}" if len(config.backbone) > 1 else one for each in fits for one in fits[each]
            ]
            raise BackboneError(
                f"{name} has no pooling {pooling!r}",
                f"it has {', '.join(info.poolings)}",
                f"type --pooling {' '.join(words)}",
            )


def with_canaries(config: BackboneOptions, runs: Sequence[BackboneRun]) -> list[BackboneRun]:
    """`runs` with the random twin of each backbone that brings weights, and the image-statistics baseline."""
    twins = [BackboneRun(run.backbone, "random", canary=True) for run in runs if run.backbone != IMAGE_STATS]
    known = {(run.backbone, run.weights) for run in runs}
    twins = [twin for twin in dict.fromkeys(twins) if (twin.backbone, twin.weights) not in known]
    baseline = [] if IMAGE_STATS in config.backbone else [BackboneRun(IMAGE_STATS, "pretrained", canary=True)]
    return [*runs, *twins, *baseline]


def _need_weights(run: BackboneRun) -> None:
    if run.weights in WEIGHT_WORDS or Path(run.weights).is_file():
        return
    known = nearest(run.weights, WEIGHT_WORDS) or "it is neither pretrained, nor random, nor a file"
    raise ConfigError(
        f"there are no weights {run.weights!r} for {run.backbone}",
        known,
        f"type --weights {run.backbone}=FILE",
    )
