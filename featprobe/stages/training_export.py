"""Writes trained models for plain timm, each with a card that says what it is and how images are made ready."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featprobe import __version__
from featprobe.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from featprobe.heads.inference import FittedHead
    from featprobe.stages.training import Trainable


def export(folder: Path, task: Trainable, head: FittedHead) -> tuple[str, ...]:
    """Write NAME.safetensors and NAME.json; returns notes, such as that timm has no model of the kind."""
    from safetensors.torch import save

    from featprobe.heads.exporting import to_timm

    backbone = task.unit.backbone
    if task.unit.view.of_case is not None or task.unit.rule.depth is not None:
        what = "cases" if task.unit.rule.depth is None else "volumes"
        return (f"not exported: a model of {what}: timm's models take one flat image",)
    try:
        tensors, options = to_timm(head, backbone.architecture, task.unit.rule.image_size)
    except ConfigError as error:
        return (f"not exported: {error.wrong}: {error.known}",)
    key = task.unit.key
    parts = (
        key.dataset,
        backbone.name,
        key.weights,
        key.mode,
        key.pooling,
        task.unit.hash[:8],
        task.fold.name,
    )
    name = "-".join(str(part).replace("/", "_").replace(":", "") for part in parts)
    samples = task.subject.question.samples
    card: dict[str, Any] = {
        "architecture": backbone.architecture,
        "create_model": options,
        "task": samples.task,
        "label_names": list(samples.label_names),
        "target": {"mean": head.objective.mean, "scale": head.objective.scale},
        "preprocessing": dataclasses.asdict(task.unit.rule),
        "key": {**key.to_dict(), "fold": task.fold.name},
        "recipe": head.recipe.to_dict(),
        "featprobe": __version__,
    }
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    for path, data in (
        (folder / f"{name}.safetensors", save(tensors)),
        (folder / f"{name}.json", text.encode()),
    ):
        _write(path, data)
    return ()


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"{path} can't be written: {error}",
            "what was there before is unharmed",
            "free space or choose another --out, then type the same command again",
        ) from error
