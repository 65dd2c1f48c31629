"""Images through frozen backbones into the cache: one decode serves all backbones, a killed run goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from featprobe import backbones, datasets, loading
from featprobe.cache import Cache, CacheEntry, Writer
from featprobe.config import ExtractConfig
from featprobe.errors import CacheError, ConfigError
from featprobe.records import Preprocessing, Recipe, images_sha256
from featprobe.stages.forward import embed, need_finite, recheck
from featprobe.stages.machine import (
    NUMERIC_PACKAGES,
    default_batch_size,
    default_workers,
    environment,
    need_writable,
    offline,
    pick_device,
    versions,
)
from featprobe.stages.sources import BackboneRun, Source, backbone_runs, open_sources
from featprobe.stages.summary import Summary

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One data set under one recipe: what is to lie in the cache."""

    source: Source
    run: BackboneRun
    backbone: Any
    rule: Preprocessing
    recipe: Recipe
    poolings: tuple[str, ...]
    path: Path


def extract(config: ExtractConfig) -> Summary:
    """Fill the cache with every data set under every backbone of `config`; what lies there is reused.

    Returns the number of files computed and reused. Raises DataError, BackboneError, CacheError, OutputError.
    """
    need_writable(config.cache)
    runs = backbone_runs(config)
    for run in runs:
        backbones.resolve(run.backbone)
    device = pick_device(config.device)
    sources = open_sources(config, config.workers)
    loaded = [(run, load_backbone(config, run, seed=config.seed)) for run in runs]
    cache = Cache(config.cache)
    total = Summary()
    for source in sources:
        jobs = [_job(cache, config, source, run, backbone) for run, backbone in loaded]
        done = _extract_source(cache, config, source, jobs, device)
        total = dataclasses.replace(
            total,
            computed=total.computed + done.computed,
            reused=total.reused + done.reused,
            paths=total.paths + done.paths,
        )
    print(
        f"cache: {total.computed} computed, {total.reused} there already; next: featprobe probe --cache {config.cache}"
    )
    return total


def load_backbone(config: Any, run: BackboneRun, *, seed: int) -> Any:
    """The backbone of `run`, in eval mode on the CPU, its preprocessing and off-path weights printed."""
    backbone = backbones.load(
        run.backbone,
        weights=run.weights,
        seed=seed,
        offline=offline(config.offline),
        poolings=config.pooling,
        image_size=config.image_size,
    )
    if backbone.missing:
        print(
            f"{run.backbone}: weights without {len(backbone.missing)} tensors that the requested pooling does not use: {', '.join(backbone.missing[:6])}"
        )
    return backbone


def resolved_rule(config: Any, backbone: Any) -> Preprocessing:
    """The preprocessing that the flags and the backbone resolve to."""
    rule: Preprocessing = backbone.preprocessing(
        config.preprocessing, image_size=config.image_size, fit=config.fit
    )
    return rule


def recipe_for(source: Source, backbone: Any, rule: Preprocessing, *, precision: str, storage: str) -> Recipe:
    """Everything that can change an embedding of `source` by `backbone`."""
    return Recipe(
        images=images_sha256(source.samples.sha256),
        backbone=backbone.name,
        architecture=backbone.architecture,
        weights=backbone.weights_sha256,
        preprocessing=rule,
        precision=precision,
        storage=storage,
        numerics={
            "family": backbone.numerics,
            "decoder": datasets.DECODER_NUMERICS,
            "loading": loading.LOADING_NUMERICS,
        },
    )


def _job(cache: Cache, config: ExtractConfig, source: Source, run: BackboneRun, backbone: Any) -> Job:
    rule = resolved_rule(config, backbone)
    recipe = recipe_for(source, backbone, rule, precision=config.precision, storage=config.storage)
    poolings = tuple(
        dict.fromkeys(
            backbone.canonical(pooling) for pooling in config.pooling or (backbone.info.default_pooling,)
        )
    )
    return Job(source, run, backbone, rule, recipe, poolings, cache.path(source.name, recipe))


def _extract_source(
    cache: Cache, config: ExtractConfig, source: Source, jobs: Sequence[Job], device: torch.device
) -> Summary:
    entries = {entry.path: entry for entry in cache.entries(source.name)}
    _need_one_content(cache, source, list(entries.values()))
    reused = 0
    with contextlib.ExitStack() as stack:
        pending: list[tuple[Job, Writer]] = []
        for job in jobs:
            stack.enter_context(cache.lock(job.path))
            entry = entries.get(job.path)
            heals = entry is not None and entry.n < entry.n_images and _quarantine_heals(cache, job)
            if entry is not None and not heals and set(job.poolings) <= set(entry.poolings):
                _refresh(cache, job, entry, device)
                reused += 1
                continue
            present = entry.poolings if heals and entry is not None else ()
            pending.append((job, stack.enter_context(_writer(cache, config, job, present, device))))
        for group in _passes(pending):
            _run_pass(cache, config, group, device)
    return Summary(computed=len(pending), reused=reused, paths=tuple(job.path for job in jobs))


def _need_one_content(cache: Cache, source: Source, entries: Sequence[CacheEntry]) -> None:
    """One name for two contents is an error; a list that grew or shrank shares images with the old one."""
    if not entries:
        return
    there = set().union(*(cache.read_samples(entry.path).sha256.tolist() for entry in entries))
    if not there & set(source.samples.sha256.tolist()):
        raise ConfigError(
            f"the cache already holds another data set called {source.name!r}",
            f"it shares no image with {source.spec}",
            f"name this one: --data OTHER={source.spec}",
        )


def _refresh(cache: Cache, job: Job, entry: CacheEntry, device: torch.device) -> None:
    """Check what is there where versions changed, and bring its labels, groups and splits up to date."""
    recorded = entry.environment.get("versions", {})
    now = versions(NUMERIC_PACKAGES)
    if any(recorded.get(package) != now[package] for package in now):
        _recheck_versions(cache, job, device, recorded, now)
    changed = cache.refresh(job.path, job.source.samples, {"versions": versions(), **_whereabouts(job)})
    print(
        f"{job.source.name} · {job.run.backbone} ({entry.weights_label}): cached{', labels refreshed' if changed else ''}  {job.path}"
    )


def _quarantine_heals(cache: Cache, job: Job) -> bool:
    """Whether an image that could not be read now can: then its row must be added."""
    quarantine = cache.read_quarantine(job.path)
    healed = sum(
        len(batch.rows)
        for batch in loading.batches(job.source.dataset, quarantine.row, [job.rule], batch_size=32, workers=0)
    )
    print(f"{job.source.name}: {len(quarantine)} images in quarantine tried again, {healed} now readable")
    return healed > 0


def _recheck_versions(
    cache: Cache, job: Job, device: torch.device, recorded: Mapping[str, str], now: Mapping[str, str]
) -> None:
    table = cache.read(job.path, job.poolings[0])
    positions = {str(name): row for row, name in enumerate(job.source.samples.id)}
    readable = np.array([positions[str(name)] for name in table.samples.id], dtype=np.int64)
    outcome = recheck(
        table, job.source.dataset, readable, job.backbone.to(device), job.rule, rows=16, device=device
    )
    old = ", ".join(
        f"{package} {recorded.get(package, '?')} -> {now[package]}"
        for package in now
        if recorded.get(package) != now[package]
    )
    if not outcome.agrees:
        raise CacheError(
            f"{job.path} was written under other versions ({old}) and its embeddings now come out differently",
            f"relative distance {outcome.worst:.2g}, allowed {outcome.allowed:.2g}",
            "remove the file and type the same command again, or go back to the old versions",
        )
    print(
        f"{job.source.name} · {job.run.backbone}: {outcome.rows} rows computed again under {old}: the same to {outcome.worst:.1e}"
    )


def _whereabouts(job: Job) -> dict[str, Any]:
    return {"source": {"spec": job.source.spec, "options": job.source.options}, "weights": job.run.weights}


@contextlib.contextmanager
def _writer(
    cache: Cache, config: ExtractConfig, job: Job, present: Sequence[str], device: torch.device
) -> Iterator[Writer]:
    """The file's writer. `present`: poolings that must be written again, because more images can be read now."""
    wanted = sorted({*present, *job.poolings})
    with cache.writer(
        job.source.name,
        job.recipe,
        job.source.samples,
        {pooling: job.backbone.dim(pooling) for pooling in wanted},
        batch_size=config.batch_size or default_batch_size(device),
        weights_label=job.backbone.weights_label,
        environment=environment(device, **_whereabouts(job)),
        fresh=bool(present),
    ) as writer:
        for note in writer.notes:
            print(f"{job.source.name} · {job.run.backbone}: {note}")
        yield writer


def _passes(pending: Sequence[tuple[Job, Writer]]) -> list[list[tuple[Job, Writer]]]:
    """Jobs that stand at the same image with the same batch size share one pass over the images."""
    groups: dict[tuple[int, int], list[tuple[Job, Writer]]] = {}
    for job, writer in pending:
        groups.setdefault((writer.position, writer.batch_size), []).append((job, writer))
    return list(groups.values())


def _run_pass(
    cache: Cache, config: ExtractConfig, group: Sequence[tuple[Job, Writer]], device: torch.device
) -> None:
    source = group[0][0].source
    start, size = group[0][1].position, group[0][1].batch_size
    total = len(source.samples)
    _announce(group, start, total)
    donated = {
        job.path: cache.donated_rows(source.name, job.recipe, writer.poolings) for job, writer in group
    }
    rules = list(dict.fromkeys(job.rule for job, _ in group))
    workers = default_workers(device) if config.workers is None else config.workers
    for job, _ in group:
        job.backbone.to(device)
    began = time.perf_counter()
    stream = loading.batches(source.dataset, np.arange(start, total), rules, batch_size=size, workers=workers)
    with tqdm(total=total, initial=start, unit="img", desc=source.name, disable=None) as bar:
        for number, batch in enumerate(stream):
            consumed = min(total, start + (number + 1) * size)
            for job, writer in group:
                images = batch.images[rules.index(job.rule)]
                _append(config, job, writer, batch, images, donated[job.path], consumed, device)
            bar.update(len(batch.rows) + len(batch.quarantined))
    seconds = time.perf_counter() - began
    for job, writer in group:
        path = writer.finish(
            environment(
                device, batch_size=size, workers=workers, seconds=round(seconds, 3), **_whereabouts(job)
            )
        )
        _report_quarantine(cache, source.name, path)
        rate = (total - start) / max(seconds, 1e-9)
        print(
            f"{source.name} · {job.run.backbone} ({job.backbone.weights_label}): {total} images in {seconds:.1f} s ({rate:.0f}/s)  {path}"
        )


def _announce(group: Sequence[tuple[Job, Writer]], start: int, total: int) -> None:
    for job, writer in group:
        resumed = f", going on at image {start} of {total}" if start else ""
        print(
            f"{job.source.name} · {job.run.backbone} ({job.backbone.weights_label}): {job.rule.label}, {'+'.join(writer.poolings)}, "
            f"{job.recipe.precision}{resumed}"
        )


def _append(
    config: ExtractConfig,
    job: Job,
    writer: Writer,
    batch: loading.Batch,
    images: torch.Tensor,
    donated: Mapping[str, Mapping[str, Any]],
    consumed: int,
    device: torch.device,
) -> None:
    """Embed what no earlier file of the same recipe holds, take over the rest, and commit the batch."""
    hashes = job.source.samples.sha256[batch.rows]
    missing = np.flatnonzero([str(value) not in donated for value in hashes])
    fresh = embed(job.backbone, images[missing], writer.poolings, precision=config.precision, device=device)
    embeddings = {}
    for pooling in writer.poolings:
        table = np.empty((len(batch.rows), job.backbone.dim(pooling)), dtype=job.recipe.storage)
        with np.errstate(over="ignore"):  # a float16 overflow is named below, with its image
            table[missing] = fresh[pooling]
        for row in np.setdiff1d(np.arange(len(hashes)), missing):
            table[row] = donated[str(hashes[row])][pooling]
        ids = job.source.samples.id[batch.rows].tolist()
        need_finite(table, ids, backbone=job.run.backbone, precision=config.precision, storage=config.storage)
        embeddings[pooling] = table
    writer.append(batch.rows, embeddings, batch.pixel_sha256, batch.phash, batch.quarantined, consumed)


def _report_quarantine(cache: Cache, name: str, path: Path) -> None:
    quarantine = cache.read_quarantine(path)
    if len(quarantine):
        print(
            f"{name}: WARNING: {len(quarantine)} images could not be read and are in quarantine (tried again next time):"
        )
        for identity, reason in list(zip(quarantine.path, quarantine.reason, strict=True))[:10]:
            print(f"  {identity}: {reason}")
        if len(quarantine) > 10:
            print(f"  ... and {len(quarantine) - 10} more, in {path}: quarantine/")
