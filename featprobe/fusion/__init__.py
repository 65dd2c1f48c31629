"""From several embeddings of the same images to one answer: side by side, by vote, or by what they share."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from featprobe.errors import MissingExtraError, ProbeError
from featprobe.fusion.contract import Fused, Fusion, Learned, Learner, Parts, Training, varying
from featprobe.records import FloatArray
from featprobe.registry import FUSIONS

__all__ = [
    "Fused",
    "Fusion",
    "Learned",
    "Learner",
    "Parts",
    "Training",
    "describe",
    "fuse",
    "need_suitable",
]


def fuse(method: str, views: Sequence[FloatArray], training: Training) -> Fused:
    """`method` (of FUSIONS) learnt from `views`, float [N, D_v] each, row i of all of them the same image.

    Everything (scales, components, C, weights) is learnt and chosen on these rows. Raises ProbeError for a single
    view, views of different rows, a view that is constant or not finite, or a target that the method does not fit;
    ConfigError for an unknown name; MissingExtraError where the method's library is not installed.
    """
    need_suitable(method, training.task)
    member: Fusion = FUSIONS.get(method)
    tables = tuple(np.ascontiguousarray(X, dtype=np.float64) for X in views)
    if len(tables) != len(training.names):
        raise ValueError(f"{len(tables)} views, but {len(training.names)} names")
    _need_several(tables, training)
    model, chosen, notes = member.fit(tables, training)
    return Fused(
        method=method,
        names=training.names,
        widths=tuple(X.shape[1] for X in tables),
        model=model,
        chosen=chosen,
        notes=notes,
    )


def need_suitable(method: str, task: str) -> None:
    """ConfigError where no method has this name, ProbeError where it can't be used for this kind of target.

    MissingExtraError where its library is not installed.
    """
    member: Fusion = FUSIONS.get(method)
    package = getattr(member, "package", "")
    if package and find_spec(package) is None:
        raise MissingExtraError(f"fusing by {method}", package, "fusion")
    if task not in member.tasks:
        fitting = [name for name, other in FUSIONS.items() if task in other.tasks]
        raise ProbeError(
            f"fusing by {method} can't be used for a target of kind {task!r}",
            f"methods that can: {', '.join(fitting)}",
            f"type --fuse {fitting[0]}",
        )


def describe(method: str) -> str:
    """The method in one sentence, for reports."""
    return str(FUSIONS.get(method).describe)


def _need_several(tables: Sequence[FloatArray], training: Training) -> None:
    if len(tables) < 2:
        raise ProbeError(
            "fusing needs at least two views",
            f"there is {', '.join(training.names) or 'none'}",
            "extract another backbone, pooling, layer or view, or leave --fuse out",
        )
    for name, X in zip(training.names, tables, strict=True):
        if X.ndim != 2 or len(X) != len(training.y):
            raise ProbeError(
                f"the views have different rows: {name} is {X.shape}",
                f"there are {len(training.y)} labels; {training.names[0]} is {tables[0].shape}",
                "type featprobe extract for all of them again: what is cached is only refreshed",
            )
        bad = ~np.isfinite(X).all(axis=1)
        if bad.any():
            raise ProbeError(
                f"{int(bad.sum())} of {len(X)} training embeddings of {name} hold values that are not finite",
                f"the first is row {int(bad.argmax())}",
                "type: featprobe cache verify, or extract again with --precision fp32",
            )
        if not varying(X).any():
            raise ProbeError(
                f"{name} is constant over the {len(X)} training rows",
                "there is nothing in it to fuse",
                f"leave {name} out",
            )
