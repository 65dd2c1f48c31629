"""What is in the data, before any model sees it: targets, groups, splits, unreadable files, copies, leaks, shortcuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from featprobe import shortcuts, splitting
from featprobe.config import InspectConfig
from featprobe.records import Samples, TextArray
from featprobe.stages.leak_pages import write_leaks
from featprobe.stages.machine import need_writable
from featprobe.stages.sources import Source, open_sources
from featprobe.stages.summary import Summary
from featprobe.stages.survey import Survey, counted, survey

QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)


def inspect(config: InspectConfig) -> int:
    """Print tables per data set, write leaks.csv and leaks.html where --out is given; 1 where something leaks, else 0."""
    return inspected(config).status


def inspected(config: InspectConfig) -> Summary:
    """As `inspect`, with what was written."""
    if config.out is not None:
        need_writable(config.out)
    found: list[tuple[Source, Sequence[splitting.Leak]]] = []
    facts: dict[str, str] = {}
    for source in open_sources(config, config.workers):
        seen = survey(source, config.workers)
        samples = splitting.with_twins(seen.samples)
        leaks = splitting.find_leaks(samples)
        found.append((source, leaks))
        facts[source.name] = _size_in_words(samples)
        print(f"\n{source.name}: {facts[source.name]}")
        print(_targets(samples).to_string())
        _print_images(seen)
        _print_copies(samples)
        _print_leaks(leaks)
        _print_shortcuts(seen)
    paths = write_leaks(config.out, found, facts) if config.out is not None else ()
    for path in paths:
        print(f"leaks: {path}")
    leaking = any(leak.crosses for _, leaks in found for leak in leaks)
    return Summary(computed=1, paths=paths, status=int(leaking))


def _size_in_words(samples: Samples) -> str:
    groups, cases = (len(np.unique(column)) for column in (samples.group, samples.case))
    of_cases = f", {cases} cases" if cases < len(samples) else ""
    declared = "" if samples.groups_declared else " (none declared: every image or case is its own)"
    return f"{len(samples)} images{of_cases}, {groups} groups{declared}"


def _targets(samples: Samples) -> pd.DataFrame:
    """What is to be predicted, over the splits."""
    split = np.where(samples.split == "", "(none)", samples.split)
    if samples.task == "continuous" and samples.label_names:
        return _quantiles(samples, split)
    if samples.task == "multilabel":
        return _prevalence(samples, split)
    names = np.array([*samples.label_names, "(no label)"])[samples.label]
    frame = pd.DataFrame({"class": names, "split": split, "group": samples.group})
    table = frame.pivot_table(
        index="class", columns="split", values="group", aggfunc="size", fill_value=0, observed=True
    )
    order = [name for name in (*samples.label_names, "(no label)") if name in table.index]
    table = table.loc[order]
    table["images"] = table.sum(axis=1)
    table["groups"] = frame.groupby("class")["group"].nunique()
    return table


def _prevalence(samples: Samples, split: TextArray) -> pd.DataFrame:
    """Per label: images and groups that have it, images without a statement, prevalence among the others by split."""
    rows = {}
    for name, label in zip(samples.label_names, samples.label.T, strict=True):
        known = label >= 0
        rows[name] = {
            "images": int((label == 1).sum()),
            "groups": len(np.unique(samples.group[label == 1])),
            "(no label)": int((~known).sum()),
            **{
                f"share in {part}": round(float(label[known & (split == part)].mean()), 3)
                if (known & (split == part)).any()
                else float("nan")
                for part in np.unique(split).tolist()
            },
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("label")


def _quantiles(samples: Samples, split: TextArray) -> pd.DataFrame:
    """The quantity's distribution in each split."""
    rows = {}
    for part in np.unique(split).tolist():
        values = samples.label[(split == part) & samples.labelled]
        marks = np.quantile(values, QUANTILES) if len(values) else np.full(len(QUANTILES), np.nan)
        rows[part] = {
            "images": int((split == part).sum()),
            "(no label)": int(((split == part) & ~samples.labelled).sum()),
            **{f"{100 * q:g} %": f"{mark:.4g}" for q, mark in zip(QUANTILES, marks, strict=True)},
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(samples.label_names[0])


def _print_images(seen: Survey) -> None:
    samples, good = seen.samples, seen.readable
    for label, column in (("sites", samples.site), ("modalities", samples.modality)):
        if (column != "").any():
            print(f"{label}: {counted(column)}")
    if good.any():
        sizes = np.array([f"{w} x {h}" for w, h in zip(seen.width[good], seen.height[good], strict=True)])
        print(f"width x height: {counted(sizes, 4)}")
        print(f"formats: {counted(seen.format)}; {counted(seen.mode)}")
    print(f"{len(seen.faults)} images can't be read")
    for path, reason in seen.faults[:10]:
        print(f"  {path}: {reason}")
    blank = int((good & (samples.phash == "")).sum())
    if blank:
        print(f"{blank} images are of one grey level")


def _print_copies(samples: Samples) -> None:
    """How many images there are more than once, across splits or not."""
    pixels = np.where(samples.phash == "", "", samples.pixel_sha256)
    _, first = np.unique(samples.sha256, return_index=True)
    for column, what in (
        (samples.sha256, "are byte-for-byte copies of another"),
        (pixels[first], "have the pixels of another in other bytes"),
    ):
        counts = Counter(value for value in column.tolist() if value)
        spare = sum(counts.values()) - len(counts)
        if spare:
            print(f"{spare} images {what}")
    twins = Counter(value for value in samples.twin.tolist() if value)
    if twins:
        print(
            f"{sum(twins.values())} images are near copies (re-encoded, resized, mirrored, brightened), in "
            f"{len(twins)} sets of up to {max(twins.values())}"
        )


def _print_leaks(leaks: Sequence[splitting.Leak]) -> None:
    across = Counter(leak.kind for leak in leaks if leak.crosses)
    inside = Counter(leak.kind for leak in leaks if not leak.crosses)
    print(
        "leaks across splits: " + (", ".join(f"{count} {kind}" for kind, count in across.items()) or "none")
    )
    if inside:
        print("inside one side: " + ", ".join(f"{count} {kind}" for kind, count in inside.items()))
    for leak in leaks[:10]:
        distance = f", distance {leak.distance:.3f}" if leak.distance else ""
        print(
            f"  {leak.kind}: {leak.id_a} ({leak.split_a or 'no split'}) and "
            f"{leak.id_b} ({leak.split_b or 'no split'}){distance}"
        )
    if len(leaks) > 10:
        print(f"  ... and {len(leaks) - 10} more: --out DIR writes them all to leaks.csv")


def _print_shortcuts(seen: Survey) -> None:
    """Whether the target follows from what is known of the files alone."""
    samples = seen.samples.take(seen.readable)
    if len(samples) and samples.labelled.any():
        answer = shortcuts.metadata_shortcut(samples, seen.metadata())
        print(f"{'SHORTCUT' if answer.flagged else 'shortcut'}: {answer.words}")
