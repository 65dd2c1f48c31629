"""Passes over the images: one decode feeds every backbone that stands at the same image."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from featprobe import loading
from featprobe.cache import Cache, Writer
from featprobe.config import ExtractConfig
from featprobe.errors import CacheError
from featprobe.records import DENSE_POOLINGS
from featprobe.stages.forward import embed, need_finite, taken_apart
from featprobe.stages.machine import default_workers, environment
from featprobe.stages.recheck import recheck
from featprobe.stages.rules import described

if TYPE_CHECKING:
    import torch

    from featprobe.stages.extract import Job


@dataclass(slots=True)
class Forward:
    """Wall time of one backbone's forward passes, decoding not included, and how many images passed."""

    seconds: float = 0.0
    images: int = 0

    def add(self, seconds: float, images: int) -> None:
        """One batch."""
        self.seconds += seconds
        self.images += images

    def recorded(self) -> dict[str, Any]:
        """For the environment of a cache file; nothing where every row was taken over."""
        if not self.images:
            return {}
        return {"forward_seconds": round(self.seconds, 6), "forward_images": self.images}


def grouped(pending: Sequence[tuple[Job, Writer]]) -> list[list[tuple[Job, Writer]]]:
    """Jobs that stand at the same image with the same batch size share one pass over the images."""
    groups: dict[tuple[int, int], list[tuple[Job, Writer]]] = {}
    for job, writer in pending:
        groups.setdefault((writer.position, writer.batch_size), []).append((job, writer))
    return list(groups.values())


def run_pass(
    cache: Cache, config: ExtractConfig, group: Sequence[tuple[Job, Writer]], device: torch.device
) -> None:
    """Run the images once through every backbone of `group`, from where it stands to the end, and finish its files."""
    source = group[0][0].source
    start, size = group[0][1].position, group[0][1].batch_size
    total = len(source.samples)
    _announce(group, start, total)
    donated = {
        job.path: cache.donated_rows(source.name, job.recipe, writer.poolings) for job, writer in group
    }
    # One decode feeds every backbone, image size and view of the group.
    rules = list(dict.fromkeys(rule for job, _ in group for rule in job.views.values()))
    workers = default_workers(device) if config.workers is None else config.workers
    for job, _ in group:
        job.backbone.to(device)
    began = time.perf_counter()
    stream = loading.batches(source.dataset, np.arange(start, total), rules, batch_size=size, workers=workers)
    spent = [Forward() for _ in group]
    with tqdm(total=total, initial=start, unit="img", desc=source.name, disable=None) as bar:
        for number, batch in enumerate(stream):
            consumed = min(total, start + (number + 1) * size)
            for (job, writer), forward in zip(group, spent, strict=True):
                images = {view: batch.images[rules.index(rule)] for view, rule in job.views.items()}
                _append(config, job, writer, batch, images, donated[job.path], consumed, device, forward)
            bar.update(len(batch.rows) + len(batch.quarantined))
    seconds = time.perf_counter() - began
    for (job, writer), forward in zip(group, spent, strict=True):
        about = {"batch_size": size, "workers": workers, "seconds": round(seconds, 3), **forward.recorded()}
        path = writer.finish(environment(device, **about, **job.whereabouts))
        _report_quarantine(cache, source.name, path)
        rate = (total - start) / max(seconds, 1e-9)
        print(
            f"{source.name} · {job.run.backbone} ({job.backbone.weights_label}): {total} images in {seconds:.1f} s ({rate:.0f}/s)  {path}"
        )


def _announce(group: Sequence[tuple[Job, Writer]], start: int, total: int) -> None:
    if len(group) > 1:
        tables = sum(len(writer.poolings) for _, writer in group)
        print(
            f"{group[0][0].source.name}: one pass over {total - start} images for {len(group)} files, {tables} embeddings each"
        )
    for job, writer in group:
        resumed = f", going on at image {start} of {total}" if start else ""
        print(
            f"{job.source.name} · {job.run.backbone} ({job.backbone.weights_label}): {job.rule_words}: {described(job.rule)}; "
            f"{', '.join(writer.poolings)}; {job.recipe.precision}{resumed}"
        )


def _append(
    config: ExtractConfig,
    job: Job,
    writer: Writer,
    batch: loading.Batch,
    images: Mapping[str, torch.Tensor],
    donated: Mapping[str, Mapping[str, Any]],
    consumed: int,
    device: torch.device,
    forward: Forward,
) -> None:
    """Embed what no earlier file of the same recipe holds, take over the rest, and commit the batch."""
    hashes = job.source.samples.sha256[batch.rows]
    missing = np.flatnonzero([str(value) not in donated for value in hashes])
    began = time.perf_counter()
    fresh = embed(
        job.backbone,
        {view: batch_of[missing] for view, batch_of in images.items()},
        writer.poolings,
        sizes=batch.size[missing],
        precision=config.precision,
        device=device,
    )
    forward.add(time.perf_counter() - began, len(missing))
    embeddings = {}
    for pooling in writer.poolings:
        table = np.empty((len(batch.rows), *fresh[pooling].shape[1:]), dtype=job.recipe.storage)
        with np.errstate(over="ignore"):  # a float16 overflow is named below, with its image
            table[missing] = fresh[pooling]
        for row in np.setdiff1d(np.arange(len(hashes)), missing):
            table[row] = donated[str(hashes[row])][pooling]
        ids = job.source.samples.id[batch.rows].tolist()
        need_finite(table, ids, backbone=job.run.backbone, precision=config.precision, storage=config.storage)
        embeddings[pooling] = table
    writer.append(
        batch.rows,
        embeddings,
        batch.pixel_sha256,
        batch.phash,
        batch.thumbnail,
        batch.quarantined,
        consumed,
    )


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


def quarantine_heals(cache: Cache, job: Job) -> bool:
    """Whether an image that could not be read now can: then its row must be added."""
    quarantine, rules = cache.read_quarantine(job.path), list(job.views.values())
    healed = sum(
        len(batch.rows)
        for batch in loading.batches(job.source.dataset, quarantine.row, rules, batch_size=32, workers=0)
    )
    print(f"{job.source.name}: {len(quarantine)} images in quarantine tried again, {healed} now readable")
    return healed > 0


def recheck_versions(
    cache: Cache, job: Job, device: torch.device, recorded: Mapping[str, str], now: Mapping[str, str]
) -> None:
    """Compute 16 rows again under the versions of `now`; CacheError where they differ from the cached ones."""
    flat = [key for key in job.poolings if taken_apart(key)[0].rpartition("/")[2] not in DENSE_POOLINGS]
    table = cache.read(job.path, (flat or list(job.poolings))[0], thumbnails=False)
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
