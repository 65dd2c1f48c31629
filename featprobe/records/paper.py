"""What a paper must say of a study, gathered from what was really run; the report room turns it into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featprobe.records.values import FloatArray, TextArray


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """One data set after the gate against leaks. `classes`: class or label -> rows that have it.

    `groups_declared`: False where every image counts as its own group. `scheme`: how train and test were parted.
    `n_train`, `n_test`, `n_groups`: lowest and highest over the systems, of the test rows' groups. `kind`: what it
    is known by ("digits", "medmnist:NAME"), "" for the user's own.
    """

    name: str
    task: str
    images: int
    groups: int
    cases: int
    groups_declared: bool
    classes: Mapping[str, int]
    scheme: str
    n_train: tuple[int, int]
    n_test: tuple[int, int]
    n_groups: tuple[int, int]
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneFacts:
    """One backbone with one set of weights under one preprocessing.

    `weights`: "pretrained", "random" or a file's name; `weights_sha256`: of the tensors, hex, "" where not recorded;
    `preprocessing`: in words and numbers; `poolings`: POOLING or LAYER/POOLING; `canary`: a control, no candidate.
    """

    name: str
    weights: str
    architecture: str
    weights_sha256: str
    preprocessing: str
    precision: str
    poolings: tuple[str, ...]
    licence: str
    citation: str
    canary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FitFacts:
    """One way in which embeddings, or images, became predictions.

    `mode`: frozen, head, full, ...; `what`: the probe's or head's name; `variant`: what departs from the plain way; `protocol`, `describe`, `source`, `differs`:
    as in `ProbeProtocol`; `training`: name -> value of a trained model's recipe.
    """

    mode: str
    what: str
    protocol: str
    variant: str = ""
    describe: str = ""
    source: str = ""
    differs: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A whole study. `resamples`: of the intervals and of the comparison; `toml`: a study that repeats it.

    `amounts`: how much was learnt from, in words, where that differs. `missing`: what the folder did not record, each a sentence. `leaks`: what was done about leaks. `devices`: where
    it ran. `document`: the same study as tables, for run.json.
    """

    data: tuple[DataFacts, ...]
    backbones: tuple[BackboneFacts, ...]
    fits: tuple[FitFacts, ...]
    seeds: tuple[int, ...]
    resamples: tuple[int, int]
    versions: Mapping[str, str]
    document: Mapping[str, Any]
    toml: str
    command: str = ""
    leaks: tuple[str, ...] = ()
    amounts: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Thumbnails:
    """Small grey pictures of one data set's images: `id` [N] and `grey`, uint8 [N, H, W], in the same order."""

    id: TextArray
    grey: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.grey.ndim != 3 or len(self.grey) != len(self.id):
            raise ValueError(f"grey has shape {self.grey.shape}, not ({len(self.id)}, H, W)")


@dataclass(frozen=True, slots=True, eq=False)
class MeanRanks:
    """Systems ranked over several data sets: `mean`, float64 [K], the mean rank of each of `systems` (1 is best).

    `critical_difference`: mean ranks closer than this can't be told apart; None where `cliques` (positions in
    `systems`) says which sets can't. `datasets`: how many were ranked over; `method`: the test in words.
    """

    systems: tuple[str, ...]
    mean: FloatArray
    datasets: int
    method: str
    critical_difference: float | None = None
    cliques: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.mean.shape != (len(self.systems),):
            raise ValueError(f"mean has shape {self.mean.shape}, not ({len(self.systems)},)")

    def ties(self) -> list[tuple[int, ...]]:
        """The largest sets of systems that can't be told apart, positions from the best on; sets of one left out."""
        if self.critical_difference is None:
            return [clique for clique in self.cliques if len(clique) > 1]
        order = np.argsort(self.mean, kind="stable")
        ranks = self.mean[order]
        found: list[tuple[int, ...]] = []
        reached = -1
        for first in range(len(order)):
            last = int(np.flatnonzero(ranks - ranks[first] < self.critical_difference)[-1])
            if last > first and last > reached:
                found.append(tuple(int(position) for position in order[first : last + 1]))
                reached = last
        return found
