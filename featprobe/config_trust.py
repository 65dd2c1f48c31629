"""The configuration of what tells known images from strange ones, filled alike by flags and Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from featprobe.config import EvaluationOptions
from featprobe.options import option
from featprobe.records import POOLINGS

DETECTORS: Final = ("mahalanobis", "relative-mahalanobis", "knn", "max-softmax", "energy")
"""What strangeness is measured by."""


@dataclass(frozen=True, kw_only=True)
class OodConfig(EvaluationOptions):
    """Tell the images of other cached data sets from those of one, by the embeddings alone."""

    inside: str | None = option(None, "the cached data set that is known", metavar="NAME")
    outside: tuple[str, ...] = option((), "cached data sets that are strange to it", metavar="NAME")
    cache: Path = option(Path("cache"), "folder of the embedding files", metavar="DIR")
    backbone: tuple[str, ...] = option((), "only these backbones of the cache", metavar="NAME")
    pooling: tuple[str, ...] = option(
        (), "only these poolings (default: all that are cached)", choices=POOLINGS
    )
    layer: tuple[str, ...] = option((), "only these layers (default: all that are cached)", metavar="LAYER")
    detector: tuple[str, ...] = option(
        (), "what strangeness is measured by (default: all that fit the target)", choices=DETECTORS
    )
    neighbours: int = option(10, "which neighbour's distance knn takes", metavar="K", least=1)
