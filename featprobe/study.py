"""A whole study from one TOML file: each section fills a stage's configuration; what is there is not redone."""

from __future__ import annotations

import dataclasses
import json
import sysconfig
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from featprobe.config import (
    CompareConfig,
    ExportConfig,
    ExtractConfig,
    FinetuneConfig,
    ProbeConfig,
)
from featprobe.errors import ConfigError, nearest
from featprobe.options import from_mapping
from featprobe.stages.summary import Summary

STAGES: Final = ("extract", "export", "probe", "finetune", "compare")
ABOUT: Final = ("title", "about", "command", "time", "expect", "canaries", "get")


def run(path: Path, out: Path | None = None, cache: Path | None = None, dry_run: bool = False) -> int:
    """Run the study in the file `path`, a .toml, or again that of a results folder's run.json; returns the exit status.

    A study is a table `[study]` (title, about, command, time, expect, canaries, get) and any number of `[[extract]]`,
    `[[export]]`, `[[probe]]`, `[[finetune]]` and one `[compare]`, whose keys are the stages' flags. Canaries run
    with every study unless `canaries = false` stands in `[study]` or in a section. Paths of data and
    weights are relative to the folder where the command is typed. `out` and `cache` win over the file. With `dry_run`
    nothing is computed: every stage is printed with what it needs and, where that is missing (exit status 1), how to
    get it; `[study.get]` says so by data set or backbone. Probes that what is cached has too few rows for are named.
    Raises ConfigError for a file that is missing, no TOML, or has an unknown section or key.
    """
    document = _read(path)
    folder = out or Path("results") / (f"{path.parent.name}-again" if _is_receipt(path) else path.stem)
    plan = _plan(document, path, folder, cache)
    about = document.get("study", {})
    if dry_run:
        return _preview(plan, about)
    if about.get("title"):
        print(f"{about['title']}: {len(plan)} stages, results in {folder}")
    began = time.perf_counter()
    done = [(name, _stage(name)(config)) for name, config in plan]
    computed = sum(summary.computed for _, summary in done)
    reused = sum(summary.reused for _, summary in done)
    seconds = time.perf_counter() - began
    if computed:
        print(f"study: {computed} computed, {reused} there already, in {seconds:.0f} s")
    else:
        print(f"study: nothing to compute: all {reused} results were there already ({seconds:.0f} s)")
    from featprobe.stages.receipt import held_to

    held = held_to(str(about.get("expect", "")), folder)
    if held:
        print(held)
    report = next((summary.paths[0] for name, summary in reversed(done) if name == "compare"), None)
    if report is not None:
        print(f"report: {report.resolve()}")
    return 0


def _preview(plan: Sequence[tuple[str, Any]], about: Mapping[str, Any]) -> int:
    """Print what would run and what it needs; 0 where all is here, else 1."""
    from featprobe.stages.needs import needs, told

    for number, (name, config) in enumerate(plan, start=1):
        fields = {
            field.name: (getattr(config, field.name), field.default) for field in dataclasses.fields(config)
        }
        set_here = [
            f"{key.replace('_', '-')} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
            for key, (value, default) in fields.items()
            if value != default
        ]
        print(f"{number}. {name}: {'; '.join(set_here) or 'as by default'}")
    found = needs([config for _, config in plan], about.get("get", {}))
    for line in told(found):
        print(line)
    missing = sum(bool(need.missing) for need in found)
    refused = _refused(plan)
    for line in refused:
        print(line)
    print(f"{missing} of {len(found)} data sets and weights are missing" if missing else "everything is here")
    return 1 if missing or refused else 0


def _refused(plan: Sequence[tuple[str, Any]]) -> list[str]:
    """What is said of probes that what is cached already has too few rows for."""
    from featprobe.stages.probe import refusal

    found = []
    for number, (name, config) in enumerate(plan, start=1):
        if name == "probe" and config.cache.is_dir():
            words = refusal(config)
            found += [f"REFUSED: {number}. {name}: {words}"] * bool(words)
    return found


def demo(out: Path, cache: Path) -> int:
    """Run pipelines/demo.toml: built-in images, offline, minutes."""
    return run(pipeline("demo"), out, cache)


def pipeline(name: str) -> Path:
    """A study that comes with featprobe: from the checkout, else from the installation."""
    homes = [
        Path(__file__).resolve().parents[1] / "pipelines",
        Path(sysconfig.get_path("data")) / "share" / "featprobe" / "pipelines",
    ]
    for home in homes:
        if (home / f"{name}.toml").is_file():
            return home / f"{name}.toml"
    raise ConfigError(
        f"the study {name!r} is not installed",
        f"looked in {' and '.join(map(str, homes))}",
        "install featprobe again",
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        document = _received(text, path) if _is_receipt(path) else tomllib.loads(text)
    except FileNotFoundError:
        there = sorted(str(file) for file in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        raise ConfigError(
            f"there is no study {path}",
            nearest(str(path), there) or f"there are: {', '.join(there) or 'none'}",
            "type featprobe run STUDY.toml",
        ) from None
    except (ValueError, IsADirectoryError) as error:
        kind = "JSON" if _is_receipt(path) else "TOML"
        raise ConfigError(f"{path} is no {kind} file", str(error), "mend the line that is named") from None
    unknown = [key for key in document if key not in {"study", *STAGES}]
    if unknown:
        raise ConfigError(
            f"unknown section {unknown[0]!r} in {path}",
            nearest(unknown[0], STAGES) or f"known: study, {', '.join(STAGES)}",
        )
    _need_about(document.get("study", {}), path)
    return document


def _is_receipt(path: Path) -> bool:
    return path.suffix == ".json"


def _received(text: str, path: Path) -> Mapping[str, Any]:
    """The study that `compare` wrote into run.json."""
    run = json.loads(text)
    study = run.get("study") if isinstance(run, dict) else None
    if not isinstance(study, dict):
        raise ConfigError(
            f"{path} holds no study",
            "featprobe compare writes it there",
            f"type featprobe compare {path.parent}, then the same command again",
        )
    return study


def _need_about(about: Any, path: Path) -> None:
    """ConfigError where `[study]` is no table, or has a key or a value that means nothing."""
    where = f"[study] of {path}"
    if not isinstance(about, dict):
        raise ConfigError(
            f"study in {path} is no table", "", "write [study] once, with title and about below it"
        )
    strange = [key for key in about if key not in ABOUT]
    if strange:
        raise ConfigError(
            f"unknown key {strange[0]!r} in {where}",
            nearest(strange[0], ABOUT) or f"known: {', '.join(ABOUT)}",
        )
    if not isinstance(about.get("canaries", True), bool):
        raise ConfigError(
            f"canaries = {about['canaries']!r} in {where}",
            "it must be true or false, without quotes",
            "write canaries = true, or leave it out",
        )
    get = about.get("get", {})
    if not isinstance(get, dict) or not all(isinstance(value, str) for value in get.values()):
        raise ConfigError(
            f"get in {where} is no table of texts",
            "it says by data set or backbone how to get it",
            'write [study.get] and below it NAME = "..."',
        )
    if not isinstance(about.get("title", ""), str):
        raise ConfigError(f"title = {about['title']!r} in {where}", "it must be text", 'write title = "..."')


def _plan(document: Mapping[str, Any], path: Path, out: Path, cache: Path | None) -> list[tuple[str, Any]]:
    """Every stage's configuration, all checked before the first runs."""
    kinds: dict[str, type[Any]] = {
        "extract": ExtractConfig,
        "export": ExportConfig,
        "probe": ProbeConfig,
        "finetune": FinetuneConfig,
        "compare": CompareConfig,
    }
    about = document.get("study", {})
    canaries = about.get("canaries", True)
    plan = []
    for name in STAGES:
        sections = document.get(name, [])
        for number, section in enumerate(sections if isinstance(sections, list) else [sections], start=1):
            values = dict(section)
            if name in {"extract", "probe"}:
                values.setdefault("canaries", canaries)
            if name == "compare":
                values.setdefault("results", [str(out)])
                if about.get("title"):
                    values.setdefault("title", about["title"])
            if name == "export":
                values["out"] = str(out / str(values.get("out", "embeddings")))
            elif name != "extract":
                values["out"] = str(out)
            if cache is not None and name != "finetune":
                values["cache"] = str(cache)
            plan.append((name, from_mapping(kinds[name], values, f"[{name}] number {number} of {path}")))
    if not plan:
        raise ConfigError(
            f"{path} holds no stage",
            f"known: {', '.join(STAGES)}",
            "add [[extract]], [[probe]] and [compare]",
        )
    return plan


def _stage(name: str) -> Callable[[Any], Summary]:
    from importlib import import_module

    stage: Callable[[Any], Summary] = getattr(import_module(f"featprobe.stages.{name}"), name)
    return stage
