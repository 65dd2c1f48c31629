"""featprobe backbones: what exists, how it is fed, whose it is, where its weights come from."""

from __future__ import annotations

from fnmatch import fnmatch

import pandas as pd

from featprobe import backbones
from featprobe.errors import BackboneError


def ls(pattern: str | None) -> int:
    """Print the registered backbones; with `pattern` (as in a shell) also timm's that match it."""
    infos = [info for info in backbones.list_backbones() if pattern is None or fnmatch(info.name, pattern)]
    rows = [
        {
            "name": i.name,
            "family": i.family,
            "poolings": ", ".join(i.poolings),
            "licence": i.licence,
            "weights": i.weights_source,
        }
        for i in infos
    ]
    if rows:
        print(pd.DataFrame(rows).to_string(index=False, justify="left"))
    if pattern is None:
        print("and every timm model: featprobe backbones ls '*convnext*' lists those that match")
        return 0
    names = backbones.timm_names(pattern)
    for name in names:
        print(f"timm:{name}")
    if not rows and not names:
        raise BackboneError(f"no backbone matches {pattern!r}", "", "type featprobe backbones ls '*vit*'")
    return 0


def show(name: str, image_size: int | None, fit: str | None) -> int:
    """Print all that is known of one backbone: architecture, sizes, preprocessing per rule, licence, source."""
    info = backbones.describe(name, deep=True)
    lines = {
        "name": info.name,
        "family": info.family,
        "architecture": info.architecture,
        "parameters": f"{info.parameters / 1e6:.1f} million" if info.parameters else "unknown",
        "poolings": ", ".join(
            f"{pooling} ({info.dims[pooling]})" if pooling in info.dims else pooling
            for pooling in info.poolings
        ),
        "default pooling": info.default_pooling,
        "licence": info.licence,
        "citation": info.citation,
        "weights": info.weights_source,
    }
    default = backbones.default_rule(name)
    for rule in info.rules:
        resolved = backbones.preprocessing(name, rule, image_size=image_size, fit=fit)
        mark = " (default)" if rule == default else ""
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (resolved.mean, resolved.std))
        lines[f"preprocessing {rule}{mark}"] = f"{resolved.label}; mean {mean}; std {std}"
    for note in info.notes:
        lines[f"note {len(lines)}"] = note
    width = max(map(len, lines)) + 2
    for key, value in lines.items():
        print(f"{'note' if key.startswith('note ') else key:<{width}}{value}")
    return 0
