"""Embedding tables for other tools: of images, or of cases with their images pooled and their modalities fused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from featprobe import cache as cache_room
from featprobe import cases
from featprobe.cache import Cache, CacheEntry
from featprobe.config import ExportConfig
from featprobe.errors import CacheError, ConfigError
from featprobe.records import EmbeddingTable
from featprobe.stages.cache_care import chosen
from featprobe.stages.machine import need_writable
from featprobe.stages.summary import Summary

SUFFIXES = (".npz", ".parquet")


def export(config: ExportConfig) -> Summary:
    """Write every chosen table to `config.out`: one file, or a folder of them.

    Raises ConfigError where several tables are to go into one file, CacheError where there is none, DataError where
    the images of a case contradict each other, OutputError.
    """
    store = Cache(config.cache)
    entries = _without_canaries(chosen(store.current(), config.data, config.backbone))
    tables = [(entry, name) for entry in entries for name in _asked(entry, config)]
    if not tables:
        raise CacheError(
            f"no cached embedding has the pooling {config.pooling!r}"
            if config.pooling
            else f"the cache {config.cache} holds no embeddings",
            "",
            f"type featprobe cache ls --cache {config.cache}",
        )
    targets = _targets(config, tables)
    for (entry, name), target in zip(tables, targets, strict=True):
        table = store.read(entry.path, name, thumbnails=False)
        notes = ""
        if config.level == "case":
            table, notes = _by_case(table, config)
        need_writable(target.parent)
        cache_room.export_table(table, target)
        rows = "cases" if config.level == "case" else "images"
        print(f"{len(table.samples)} {rows} x {entry.recipe.backbone} {name}{notes}  {target}")
    # An export computes no result: it is written anew each time.
    return Summary(paths=tuple(targets))


def _without_canaries(entries: list[CacheEntry]) -> list[CacheEntry]:
    """The files that somebody asked for; a study's canaries are exported only where there is nothing else."""
    return [entry for entry in entries if not entry.environment.get("canary")] or entries


def _asked(entry: CacheEntry, config: ExportConfig) -> list[str]:
    """The keys that are exported; patches, which are large, only where they are named.

    A pooling stands for its key of that name or, where the file has none, for that pooling of every layer.
    Raises ConfigError where patches can't be written as asked.
    """
    if config.pooling is None:
        return list(entry.flat)
    exact = [key for key in entry.poolings if key == config.pooling]
    keys = exact or [key for key in entry.poolings if key.rpartition("/")[2] == config.pooling]
    if config.level == "case" and not set(keys) <= set(entry.flat):
        raise ConfigError(
            f"--pooling {config.pooling} can't be exported by case",
            "the patches of two images do not show the same places",
            "type --level image",
        )
    return keys


def _targets(config: ExportConfig, tables: list[tuple[CacheEntry, str]]) -> list[Path]:
    if config.out.suffix in SUFFIXES:
        if len(tables) > 1:
            raise ConfigError(
                f"{len(tables)} tables don't fit into the one file {config.out}",
                "",
                "choose with --data, --backbone and --pooling, or name a folder: --out DIR --format npz",
            )
        return [config.out]
    level = "" if config.level == "image" else f"-case-{config.fusion or 'pool'}-{config.case_pooling}"
    return [
        config.out
        / entry.dataset
        / f"{entry.path.stem}-{name.replace('+', '_').replace('/', '-')}{level}.{config.format}"
        for entry, name in tables
    ]


def _by_case(table: EmbeddingTable, config: ExportConfig) -> tuple[EmbeddingTable, str]:
    """The table with a row for each case, and what is to be said of it."""
    samples = table.samples
    grouped = cases.cases_of(samples)
    count = len(grouped.samples)
    modalities = tuple(name for name in np.unique(samples.modality).tolist() if name)
    how = config.case_pooling
    notes = f", {how} over {len(samples)} images"
    if config.fusion == "concat":
        if not modalities:
            raise ConfigError(
                "--fusion concat needs modalities",
                f"the images of {table.dataset!r} have none",
                "add a column modality to the manifest, or leave --fusion out",
            )
        X = cases.fuse(
            table.embeddings, grouped.of_image, samples.modality, count, modalities=modalities, how=how
        )
        lacking = count - int(cases.complete(samples.modality, grouped.of_image, count, modalities).sum())
        notes += f", {'+'.join(modalities)} side by side"
        notes += f" (NaN where one of {lacking} cases lacks one)" if lacking else ""
    else:
        X = cases.pool(table.embeddings, grouped.of_image, count, how)
    fused = X.astype(table.embeddings.dtype)
    return dataclasses.replace(table, samples=grouped.samples, embeddings=fused), notes
