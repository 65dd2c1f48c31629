"""featprobe backbones: what exists, how it is fed, whose it is, where its weights come from."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd

from featprobe import backbones
from featprobe.backbones import BackboneInfo
from featprobe.errors import BackboneError, listed
from featprobe.records import DENSE_POOLINGS
from featprobe.stages.rules import described


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


def show(
    name: str,
    image_size: int | None,
    fit: str | None,
    weights: str | None = None,
    weights_dir: Path | None = None,
) -> int:
    """Print all that is known of one backbone, and with `weights` what becomes of every tensor of that file."""
    backbones.learn(name, offline=True, weights_dir=weights_dir)
    info = backbones.describe(name, deep=True)
    lines = [
        ("name", info.name),
        ("family", info.family),
        ("architecture", info.architecture),
        ("parameters", "none" if not info.parameters else f"{info.parameters / 1e6:.1f} million"),
        ("operations", _operations(info)),
        ("poolings", ", ".join(_pooling(info, pooling) for pooling in info.poolings)),
        ("default pooling", info.default_pooling),
        ("layers", listed(backbones.layers(name), 12)),
        ("licence", info.licence),
        *([("terms", info.terms)] if info.terms else []),
        ("citation", info.citation),
        ("weights", info.weights_source),
        *_whereabouts(info, weights_dir),
    ]
    default = backbones.default_rule(name)
    for rule in info.rules:
        resolved = backbones.preprocessing(name, rule, image_size=image_size, fit=fit)
        mark = " (default)" if rule == default else ""
        lines.append((f"preprocessing {rule}{mark}", described(resolved)))
    if "authors" not in info.rules:
        lines.append(("preprocessing authors", "none is published beside native, which is taken"))
    lines += [("note", note) for note in info.notes]
    width = max(len(key) for key, _ in lines) + 2
    for key, value in lines:
        print(f"{key:<{width}}{value}")
    if weights is not None:
        backbones.account(name, weights, print)
    return 0


def _pooling(info: BackboneInfo, pooling: str) -> str:
    dim = info.dims.get(pooling)
    kept = " for each patch" if pooling in DENSE_POOLINGS else ""
    return pooling if dim is None else f"{pooling} ({dim}{kept})"


def _operations(info: BackboneInfo) -> str:
    rule = info.rules[info.default_rule]
    size = " x ".join(str(side) for side in ((rule.depth,) if rule.depth else ()) + rule.image_size)
    if not info.gflops:
        return "next to none"
    return f"{info.gflops:.1f} GFLOPs for one image of {size} (a multiply-add counts as two)"


def _whereabouts(info: BackboneInfo, weights_dir: Path | None) -> Iterator[tuple[str, str]]:
    """Where each file lies on this machine and its SHA-256; nothing is downloaded for that."""
    from featprobe.backbones.core.places import locate

    for file in info.files:
        part = f"file ({file.part})" if file.part else "file"
        try:
            found = locate(
                file, name=info.name, offline=True, announce=lambda _: None, weights_dir=weights_dir
            )
        except BackboneError:
            fetched = (
                "see the note on converting it"
                if info.conversion
                else "type featprobe backbones fetch to get it"
            )
            yield part, f"not on this machine; {fetched}"
            continue
        yield part, f"{found.path}  SHA-256 {found.sha256}"
