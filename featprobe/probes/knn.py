"""The nearest neighbours: what training rows near a new one say of it, with nothing fitted but their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from featprobe.errors import ConfigError, ProbeError
from featprobe.probes.neighbours import METRICS, Nearest, nearest_rows
from featprobe.probes.paths import PathProbe, Settings
from featprobe.records import AnyArray, FloatArray, IntArray
from featprobe.registry import PROBES

GRID: Final = (200.0, 100.0, 50.0, 20.0, 10.0, 5.0, 1.0)
TEMPERATURE: Final = 0.07
VOTES: Final = ("share", "mlknn")

_BLOCK: Final = 1024
"""New rows whose neighbours' targets are held at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Voters:
    """The training rows and how they vote.

    `rows`: float64 [N, D], for "cosine" of length 1. `truth`: int [N], multilabel int [N, L], continuous float
    [N]. `classes`: columns of the prediction. A neighbour's vote weighs exp(nearness / temperature) for "cosine"
    (Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, 2018, section 3.4, as DINOv2
    evaluates: a softmax over the nearest, of which the first k are summed) and 1 for "euclidean".
    """

    rows: FloatArray
    truth: AnyArray
    task: str
    classes: int
    metric: str
    temperature: float

    def near(self, X: FloatArray, k: int) -> Nearest:
        """The k nearest training rows of each of X [M, D]."""
        return nearest_rows(self.rows, unit(X) if self.metric == "cosine" else X, k, self.metric)

    def vote(self, nearest: Nearest, counts: Sequence[int]) -> FloatArray:
        """What the first k neighbours say for each k of `counts` (ascending), [len(counts), M, K].

        Classes: the share of the votes, so that of tied classes the first is predicted, as in scikit-learn.
        Multilabel: the share among neighbours that know the label, the label's share in training where none does.
        Continuous: the mean.
        """
        weights = np.ones(nearest.rows.shape)
        if self.metric == "cosine":
            weights = np.exp((nearest.nearness - nearest.nearness[:, :1]) / self.temperature)
        result = np.empty((len(counts), len(weights), self.classes))
        for start in range(0, len(weights), _BLOCK):
            part = slice(start, start + _BLOCK)
            result[:, part] = self._vote(nearest.rows[part], weights[part], counts)
        return result

    def _vote(self, rows: IntArray, weights: FloatArray, counts: Sequence[int]) -> FloatArray:
        yes, known = np.zeros((len(rows), self.classes)), np.zeros((len(rows), self.classes))
        result, done = [], 0
        for k in counts:
            own, new = self.truth[rows[:, done:k]], weights[:, done:k]
            if self.task in {"classes", "ordinal"}:
                cells = (np.arange(len(rows))[:, None] * self.classes + own).ravel()
                yes += np.bincount(cells, new.ravel(), yes.size).reshape(yes.shape)
                known = yes.sum(axis=1, keepdims=True)
            elif self.task == "multilabel":
                yes += np.einsum("mk,mkl->ml", new, own == 1)
                known = known + np.einsum("mk,mkl->ml", new, own >= 0)
            else:
                yes[:, 0] += (new * own).sum(axis=1)
                known = known + new.sum(axis=1)[:, None]
            done = k
            result.append(np.where(known > 0, yes / np.where(known > 0, known, 1), self.prior()))
        return np.array(result)

    def prior(self) -> FloatArray:
        """Each label's share of positives in training, [L] (1/2 where none is known); other targets: 0, never used."""
        if self.task != "multilabel":
            return np.zeros(1)
        known = (self.truth >= 0).sum(axis=0)
        return np.asarray(np.where(known > 0, (self.truth == 1).sum(axis=0) / np.maximum(known, 1), 0.5))

    def hits(self, nearest: Nearest, k: int) -> IntArray:
        """How many of the first k neighbours have each label, [M, L]; one that does not know it counts as without."""
        result = np.empty((len(nearest.rows), self.classes), dtype=np.int64)
        for start in range(0, len(result), _BLOCK):
            part = slice(start, start + _BLOCK)
            result[part] = (self.truth[nearest.rows[part, :k]] == 1).sum(axis=1)
        return result


@dataclass(frozen=True, slots=True, eq=False)
class NeighbourModel:
    """The vote of the `k` nearest, or the chance [L, k + 1] of each label by how many of them have it."""

    voters: Voters
    k: int
    chances: FloatArray | None

    def predict(self, X: FloatArray) -> FloatArray:
        """See `contract.Model`."""
        nearest = self.voters.near(X, self.k)
        if self.chances is None:
            return np.asarray(self.voters.vote(nearest, [self.k])[0])
        return looked_up(self.chances, self.voters.hits(nearest, self.k))


@dataclass(frozen=True, slots=True, eq=False)
class NeighbourPath:
    """One search with the largest k for every k; NaN for a k that has too few rows."""

    voters: Voters
    grid: tuple[int, ...]
    chances: dict[int, FloatArray] | None

    def predict(self, X: FloatArray) -> FloatArray:
        """[G, M, K]."""
        result = np.full((len(self.grid), len(X), self.voters.classes), np.nan)
        counts = sorted({k for k in self.grid if k <= self.most})
        if counts:
            nearest = self.voters.near(X, counts[-1])
            if self.chances is None:
                found = dict(zip(counts, self.voters.vote(nearest, counts), strict=True))
            else:
                found = {k: looked_up(self.chances[k], self.voters.hits(nearest, k)) for k in counts}
            for place, k in enumerate(self.grid):
                if k in found:
                    result[place] = found[k]
        return result

    @property
    def most(self) -> int:
        """The largest k that these rows can be asked for: ML-kNN leaves each row out of its own neighbours."""
        return len(self.voters.rows) - (self.chances is not None)

    def keep(self, place: int) -> NeighbourModel:
        """ProbeError where there are fewer rows than neighbours."""
        k = self.grid[place]
        if k > self.most:
            raise ProbeError(
                f"{k} nearest neighbours of {len(self.voters.rows)} training rows",
                f"the largest k for them is {self.most}",
                "take a smaller k, or more images",
            )
        return NeighbourModel(self.voters, k, None if self.chances is None else self.chances[k])


def unit(X: FloatArray) -> FloatArray:
    """Rows of length 1; a row of zeros stays."""
    greatest = np.abs(X).max(axis=1, keepdims=True, initial=0)
    rows = X / np.where(greatest > 0, greatest, 1)  # first, so that no square overflows or vanishes
    length = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return np.asarray(rows / np.where(length > 0, length, 1))


def looked_up(chances: FloatArray, hits: IntArray) -> FloatArray:
    """chances[l, hits[m, l]], [M, L]."""
    return np.asarray(np.take_along_axis(chances.T, hits, axis=0))


def chances(voters: Voters, counts: Sequence[int], smoothing: float) -> dict[int, FloatArray]:
    """ML-kNN: P(label | j of its k neighbours have it), [L, k + 1] for each k of `counts`.

    Zhang & Zhou, ML-KNN: a lazy learning approach to multi-label learning, Pattern Recognition 40 (2007), equations
    5 to 9 and figure 1: Bayes' rule with the label's share (s + positives) / (2 s + rows) and the share of j among
    the training rows with and without the label, each row left out of its own neighbours. A row that does not know a
    label counts for neither.
    """
    own = np.arange(len(voters.rows))
    found = nearest_rows(voters.rows, voters.rows, max(counts) + 1, voters.metric)
    itself = found.rows == own[:, None]
    itself[~itself.any(axis=1), -1] = True  # among copies of it: the last of them is left out instead
    others = Nearest(found.rows[~itself].reshape(len(own), -1), found.nearness[~itself].reshape(len(own), -1))
    has, lacks = voters.truth == 1, voters.truth == 0
    prior = (smoothing + has.sum(axis=0)) / (2 * smoothing + has.sum(axis=0) + lacks.sum(axis=0))
    result = {}
    for k in counts:
        hits = voters.hits(others, k)
        seen = np.array(
            [
                [np.bincount(hits[rows, label], minlength=k + 1) for rows in (has[:, label], lacks[:, label])]
                for label in range(voters.classes)
            ]
        )
        share = (smoothing + seen) / (smoothing * (k + 1) + seen.sum(axis=2, keepdims=True))
        yes, no = prior[:, None] * share[:, 0], (1 - prior[:, None]) * share[:, 1]
        result[k] = yes / (yes + no)
    return result


class KNN(PathProbe):
    """k nearest neighbours; options metric, temperature, vote, smoothing."""

    name = "knn"
    describe = (
        "nearest neighbours among the standardised embeddings by cosine similarity, votes weighted by exp(similarity / 0.07), "
        "k of 1 to 200 by validation loss"
    )
    tasks = ("classes", "ordinal", "multilabel", "continuous")
    parameter = "k"
    grid = GRID
    alone = 1.0

    def path(self, X: FloatArray, y: AnyArray, grid: Sequence[float], settings: Settings) -> NeighbourPath:
        """Options: `metric` ("cosine" or "euclidean"), `temperature` of the cosine's votes (0.07), for labels `vote`.

        `vote`: "share", or "mlknn" with its `smoothing` (1). Raises ConfigError for a k that is no whole number
        above 0, or for other options.
        """
        settings.only("metric", "temperature", "vote", "smoothing")
        if any(k < 1 or k != int(k) for k in grid):
            raise ConfigError(
                "k has to be a whole number above 0", f"given: {', '.join(f'{k:g}' for k in grid)}"
            )
        counts = tuple(int(k) for k in grid)
        metric, temperature = settings.word("metric", METRICS), settings.positive("temperature", TEMPERATURE)
        voters = Voters(X, y, settings.task, settings.classes, metric, temperature)
        if metric == "cosine":
            voters = replace(voters, rows=unit(X))
        table = None
        if settings.word("vote", VOTES) == "mlknn":
            if settings.task != "multilabel":
                raise ConfigError(
                    "ML-kNN is for targets of several labels", f"this one is of kind {settings.task!r}"
                )
            able = sorted({k for k in counts if k < len(X)})
            table = chances(voters, able, settings.positive("smoothing", 1.0)) if able else {}
        return NeighbourPath(voters, counts, table)

    def notes(self, place: int, grid: Sequence[float]) -> tuple[str, ...]:
        """Nothing lies beyond one neighbour."""
        return () if grid[place] == 1 else super().notes(place, grid)


PROBES.register("knn")(KNN())
