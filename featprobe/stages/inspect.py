"""What is in the data, before any model sees it: classes, groups, splits, unreadable files, duplicates, leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from featprobe import splitting
from featprobe.config import InspectConfig
from featprobe.datasets import UnreadableImageError
from featprobe.records import Samples
from featprobe.stages.machine import need_writable
from featprobe.stages.sources import Source, open_sources
from featprobe.stages.summary import Summary

LEAK_COLUMNS = ("kind", "id_a", "id_b", "split_a", "split_b", "distance")


def inspect(config: InspectConfig) -> int:
    """Print a table per data set, write leaks.csv where --out is given; 1 where something leaks, else 0."""
    return inspected(config).status


def inspected(config: InspectConfig) -> Summary:
    """As `inspect`, with what was written."""
    if config.out is not None:
        need_writable(config.out)
    tables, leaking = [], False
    for source in open_sources(config, config.workers):
        leaks = splitting.find_leaks(source.samples)
        _print_samples(source)
        _print_unreadable(source, config.workers)
        _print_leaks(leaks)
        tables += [
            {"dataset": source.name, **{name: getattr(leak, name) for name in LEAK_COLUMNS}} for leak in leaks
        ]
        leaking |= any(leak.split_a != leak.split_b for leak in leaks)
    paths: tuple[Path, ...] = ()
    if config.out is not None:
        paths = (config.out / "leaks.csv",)
        part = paths[0].with_suffix(".csv.part")
        pd.DataFrame(tables, columns=["dataset", *LEAK_COLUMNS]).to_csv(part, index=False)
        part.replace(paths[0])
        print(f"leaks: {paths[0]}")
    return Summary(computed=1, paths=paths, status=int(leaking))


def _print_samples(source: Source) -> None:
    samples = source.samples
    groups = len(np.unique(samples.group))
    declared = "" if samples.groups_declared else " (none declared: every image is its own)"
    print(f"\n{source.name}: {len(samples)} images, {groups} groups{declared}")
    names = np.array([*samples.label_names, "(no label)"])[samples.label]
    frame = pd.DataFrame(
        {
            "class": names,
            "split": np.where(samples.split == "", "(none)", samples.split),
            "group": samples.group,
        }
    )
    table = frame.pivot_table(
        index="class", columns="split", values="group", aggfunc="size", fill_value=0, observed=True
    )
    table["images"] = table.sum(axis=1)
    table["groups"] = frame.groupby("class")["group"].nunique()
    print(table.to_string())
    _print_repeats(samples)


def _print_repeats(samples: Samples) -> None:
    counts = Counter(value for value in samples.sha256.tolist() if value)
    repeated = [count for count in counts.values() if count > 1]
    if repeated:
        print(f"{sum(repeated) - len(repeated)} images are byte-for-byte copies of another")


def _print_unreadable(source: Source, workers: int | None) -> None:
    """Decode every image once; what fails is listed, as extraction would put it into quarantine."""

    def fault(row: int) -> str:
        try:
            source.dataset.decode(source.dataset.read(row))
        except (UnreadableImageError, OSError) as error:
            return str(error)
        return ""

    rows = range(len(source.samples))
    with ThreadPoolExecutor(workers) as pool:
        faults = list(
            tqdm(pool.map(fault, rows), total=len(rows), unit="img", desc="decode", leave=False, disable=None)
        )
    found = [(str(source.samples.path[row]), text) for row, text in enumerate(faults) if text]
    print(f"{len(found)} images can't be read")
    for path, text in found[:10]:
        print(f"  {path}: {text}")


def _print_leaks(leaks: Sequence[splitting.Leak]) -> None:
    across = Counter(leak.kind for leak in leaks if leak.split_a != leak.split_b)
    inside = Counter(leak.kind for leak in leaks if leak.split_a == leak.split_b)
    print(
        "leaks across splits: " + (", ".join(f"{count} {kind}" for kind, count in across.items()) or "none")
    )
    if inside:
        print("inside one side: " + ", ".join(f"{count} {kind}" for kind, count in inside.items()))
    for leak in leaks[:10]:
        print(
            f"  {leak.kind}: {leak.id_a} ({leak.split_a or 'no split'}) and {leak.id_b} ({leak.split_b or 'no split'})"
        )
    if len(leaks) > 10:
        print(f"  ... and {len(leaks) - 10} more: --out DIR writes them all to leaks.csv")
