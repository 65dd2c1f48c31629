"""Images through frozen backbones into the cache: one decode serves all backbones, a killed run goes on."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featprobe import backbones, datasets
from featprobe.backbones.canaries import IMAGE_STATS
from featprobe.backbones.core.rules import rule_name
from featprobe.cache import Cache, CacheEntry, Writer
from featprobe.config import ExtractConfig
from featprobe.errors import ConfigError
from featprobe.imaging import PRINTS_NUMERICS, canonical_intensity
from featprobe.records import DENSE_POOLINGS, Preprocessing, Recipe, images_sha256
from featprobe.stages.forward import stored_key, taken_apart
from featprobe.stages.machine import (
    default_batch_size,
    environment,
    keep_freed_memory,
    need_writable,
    numeric_packages,
    offline,
    pick_device,
    versions,
)
from featprobe.stages.receipt import extraction
from featprobe.stages.rules import resolved_rule, with_views
from featprobe.stages.sources import (
    BackboneRun,
    Source,
    backbone_runs,
    need_poolings,
    open_sources,
    poolings_of,
    with_canaries,
)
from featprobe.stages.summary import Summary

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One data set under one recipe: what is to lie in the cache.

    `named`: the preprocessing rule by its name; `asked`: the name it was asked for by; `extractions`: the settings of
    this extraction and earlier ones that the file was of use to, for the receipt.
    """

    source: Source
    run: BackboneRun
    backbone: Any
    rule: Preprocessing
    recipe: Recipe
    poolings: tuple[str, ...]
    path: Path
    seed: int
    named: str
    asked: str
    extractions: tuple[Any, ...] = ()

    @property
    def rule_words(self) -> str:
        """The rule as a reader asked for it, and which one that is."""
        return self.named if self.asked == self.named else f"{self.asked} (= {self.named})"

    @property
    def views(self) -> dict[str, Preprocessing]:
        """View -> the preprocessing that gives it; "plain" alone without test-time augmentation."""
        return {view: self.rule.one(view) for view in self.rule.views}

    @property
    def whereabouts(self) -> dict[str, Any]:
        """Where images and weights were, recorded so that `cache recheck` finds them again."""
        return {
            "source": {"spec": self.source.spec, "options": self.source.options},
            "weights": self.run.weights,
            "weights_origin": self.backbone.weights_origin,
            "preprocessing": self.named,
            "seed": self.seed,
            "canary": self.run.canary,
            "extractions": list(self.extractions),
        }


def extract(config: ExtractConfig) -> Summary:
    """Fill the cache with every data set under every backbone of `config`; what lies there is reused.

    Returns the number of files computed and reused. Raises DataError, BackboneError, CacheError, OutputError.
    """
    need_writable(config.cache)
    canonical_intensity(config.intensity)
    if config.tta_keep and not config.tta:
        raise ConfigError(
            "--tta-keep without --tta", "there is one view alone", "type --tta hflip --tta-keep"
        )
    runs = backbone_runs(config)
    for run in runs:
        backbones.resolve(run.backbone)
        poolings_of(config, run.backbone)
    need_poolings(config, runs)
    if config.canaries:
        runs = with_canaries(config, runs)
    sources = open_sources(config, config.workers)
    device = pick_device(config.device)
    keep_freed_memory(device)
    loaded = [(run, load_backbone(config, run, seed=config.seed)) for run in runs]
    if any(backbone.preprocessing().depth for _, backbone in loaded):
        # The statistics are of flat images: a study of volumes has its random twins alone.
        loaded = [(run, backbone) for run, backbone in loaded if not _baseline(run)]
        if config.canaries:
            print("canaries: no image statistics of volumes; random twins alone")
    cache = Cache(config.cache)
    total = Summary()
    for source in sources:
        jobs = [
            _job(cache, config, source, run, backbone, size)
            for run, backbone in loaded
            for size in (dict.fromkeys(config.image_size) if not _baseline(run) else (None,)) or (None,)
        ]
        # Two names of one backbone, or two files of one size, are one recipe and one cache file.
        jobs = list({job.path: job for job in reversed(jobs)}.values())[::-1]
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
    """The backbone of `run`, in eval mode on the CPU, its off-path weights printed."""
    backbone = backbones.load(
        run.backbone,
        weights=run.weights,
        seed=seed,
        offline=offline(config.offline),
        poolings=() if _baseline(run) else poolings_of(config, run.backbone),
        weights_dir=config.weights_dir,
        remote_code=config.remote_code,
    )
    for note in backbone.notes:
        if note not in backbone.info.notes:
            print(f"{run.backbone}: {note}")
    if backbone.missing:
        print(
            f"{run.backbone}: weights without {len(backbone.missing)} tensors that the requested pooling does not use: {', '.join(backbone.missing[:6])}"
        )
    return backbone


def _baseline(run: BackboneRun) -> bool:
    """The image-statistics baseline that nobody named looks at images in its own way, whatever the flags say."""
    return run.canary and run.backbone == IMAGE_STATS


def _keys(config: ExtractConfig, run: BackboneRun, backbone: Any) -> tuple[str, ...]:
    """What is taken of the backbone, POOLING or LAYER/POOLING, under the names of the cache."""
    poolings = poolings_of(config, run.backbone)
    if _baseline(run) or not (poolings or config.layer):
        return (backbone.info.default_pooling,)
    poolings = poolings or (backbone.info.default_pooling,)
    asked = [f"{layer}/{pooling}" for layer in config.layer or ("last",) for pooling in poolings]
    return tuple(dict.fromkeys(backbone.canonical(key) for key in asked))


def recipe_for(source: Source, backbone: Any, rule: Preprocessing, *, precision: str, storage: str) -> Recipe:
    """Everything that can change an embedding of `source` by `backbone`."""
    from featprobe.loading import LOADING_NUMERICS

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
            "loading": LOADING_NUMERICS,
            "prints": PRINTS_NUMERICS,
        },
    )


def _job(
    cache: Cache, config: ExtractConfig, source: Source, run: BackboneRun, backbone: Any, size: int | None
) -> Job:
    keys = _keys(config, run, backbone)
    if _baseline(run):
        rule = dataclasses.replace(backbone.preprocessing(), intensity=canonical_intensity(config.intensity))
    else:
        rule = resolved_rule(config, backbone, size)
        rule = _augmented(config, rule, keys, backbone)
    recipe = recipe_for(source, backbone, rule, precision=config.precision, storage=config.storage)
    apart = rule.views if config.tta_keep and len(rule.views) > 1 else ()
    stored = (*keys, *(stored_key(key, view) for view in apart for key in keys))
    path = cache.path(source.name, recipe)
    asked = "native" if _baseline(run) else config.preprocessing or backbone.info.default_rule
    named = rule_name(backbone.info, asked)
    return Job(source, run, backbone, rule, recipe, stored, path, config.seed, named, asked)


def _augmented(
    config: ExtractConfig, rule: Preprocessing, keys: Sequence[str], backbone: Any
) -> Preprocessing:
    if not config.tta:
        return rule
    if any(key.rpartition("/")[2] in DENSE_POOLINGS for key in keys):
        raise ConfigError(
            "patches can't be averaged over the views of --tta",
            "a patch of a mirrored image is another place",
            "leave out --tta, or --pooling patches",
        )
    rule = with_views(rule, config.tta, patch=backbone.patch)
    for view in rule.views:
        backbone.check_image_size(rule.one(view).image_size)
    return rule


def _extract_source(
    cache: Cache, config: ExtractConfig, source: Source, jobs: Sequence[Job], device: torch.device
) -> Summary:
    from featprobe.stages import passes

    _need_one_content(cache, source, cache.entries(source.name))
    reused = 0
    with contextlib.ExitStack() as stack:
        pending: list[tuple[Job, Writer]] = []
        for job in jobs:
            stack.enter_context(cache.lock(job.path))
            # Looked up under the lock: another process may just have finished this very file.
            entry = next((entry for entry in cache.entries(source.name) if entry.path == job.path), None)
            earlier = entry.environment.get("extractions", []) if entry is not None else []
            job = dataclasses.replace(  # noqa: PLW2901 - what the file was asked for before is known only now
                job, extractions=tuple(extraction(config, job.source.spec, job.run, earlier))
            )
            heals = entry is not None and entry.n < entry.n_images and passes.quarantine_heals(cache, job)
            if entry is not None and not heals and set(job.poolings) <= set(entry.poolings):
                _refresh(cache, job, entry, device)
                reused += 1
                continue
            present = entry.poolings if heals and entry is not None else ()
            pending.append((job, stack.enter_context(_writer(cache, config, job, present, device))))
        for group in passes.grouped(pending):
            passes.run_pass(cache, config, group, device)
    return Summary(computed=len(pending), reused=reused, paths=tuple(job.path for job in jobs))


def _need_one_content(cache: Cache, source: Source, entries: Sequence[CacheEntry]) -> None:
    """One name for two contents is an error; a list that grew or shrank shares images with the old one."""
    if not entries:
        return
    there = set().union(
        *(cache.read_samples(entry.path, thumbnails=False).sha256.tolist() for entry in entries)
    )
    if not there & set(source.samples.sha256.tolist()):
        raise ConfigError(
            f"the cache already holds another data set called {source.name!r}",
            f"it shares no image with {source.spec} (other --slices or --axis give other images)",
            f"name this one: --data OTHER={datasets.split_spec(source.spec)[1]}",
        )


def _refresh(cache: Cache, job: Job, entry: CacheEntry, device: torch.device) -> None:
    """Check what is there where versions changed, and bring its labels, groups and splits up to date."""
    from featprobe.stages import passes

    recorded = entry.environment.get("versions", {})
    now = versions(numeric_packages(job.recipe.architecture))
    if any(recorded.get(package) != now[package] for package in now):
        passes.recheck_versions(cache, job, device, recorded, now)
    # Equal weights under another name are one recipe: the file is called what it is asked for as now.
    label = job.backbone.weights_label
    changed = cache.refresh(
        job.path,
        job.source.samples,
        {"versions": versions(), **job.whereabouts},
        weights_label=label,
    )
    renamed = f", weights called {entry.weights_label} before" if entry.weights_label != label else ""
    print(
        f"{job.source.name} · {job.run.backbone} ({label}): cached{', labels refreshed' if changed else ''}{renamed}  {job.path}"
    )


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
        {name: job.backbone.row_shape(taken_apart(name)[0], job.rule.image_size) for name in wanted},
        batch_size=config.batch_size or default_batch_size(device),
        weights_label=job.backbone.weights_label,
        environment=environment(device, **job.whereabouts),
        fresh=bool(present),
    ) as writer:
        for note in writer.notes:
            print(f"{job.source.name} · {job.run.backbone}: {note}")
        yield writer
