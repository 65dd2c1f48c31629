"""What every protocol promises, so that a new one takes one file and nothing beside it has to know its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from featprobe.errors import ProbeError
from featprobe.protocols.orders import torch_order
from featprobe.records import AnyArray, FloatArray, IntArray, sha256_json

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a rule may depend on.

    `rows`: that are fitted to while choosing. `columns`: of the embedding. `classes`: that occur in training.
    `shots`: per class, 0 for all labels or a share of them.
    """

    rows: int
    columns: int
    classes: int
    shots: int = 0


REFERENCE: Final = (
    Facts(rows=12, columns=8, classes=2),
    Facts(rows=150, columns=384, classes=7),
    Facts(rows=10_000, columns=1536, classes=100, shots=16),
)
"""Facts at which a rule that follows from them is written into the hash of a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Which of the training rows a value is chosen on.

    `kind`, where the data bring no validation part: "folds" (featprobe's grouped inner folds), "random" (a share of
    the rows), "per class" (that share of each class, at least one row, none of a class of one) or "none". `given`:
    what becomes of a validation part that the data bring: it "chooses", "joins" the training rows, or is "left out".
    `few_share`: the share where few labels are learnt from. `apart`: then those rows are taken from all training
    rows before the few labels are drawn from the others. `seed`: the published one, to which the run's is added.
    `largest`: a random draw fits `1 - share` of the rows, rounded down, and holds out the rest, instead of the reverse.
    """

    kind: Literal["folds", "random", "per class", "none"]
    given: Literal["chooses", "joins", "left out"] = "chooses"
    share: float = 0.1
    few_share: float = 0.1
    apart: bool = False
    seed: int = 0
    largest: bool = False

    def held(self, labels: AnyArray, *, seed: int, few: bool = False) -> BoolArray:
        """Which of N rows are held out, bool [N], of `labels` int [N] (random: any array of N rows).

        The order is torch's random permutation for `seed`, of the rows as they stand in the data set. Raises
        ProbeError where nothing, or all, would be held out.
        """
        count, share = len(labels), self.few_share if few else self.share
        held = np.zeros(count, dtype=np.bool_)
        order = torch_order(count, self.seed + seed)
        if self.kind == "random":
            number = count - int((1 - share) * count) if self.largest else int(count * share)
            held[order[count - number :] if self.largest else order[:number]] = True
        else:
            for label in np.unique(labels):
                own = order[labels[order] == label]
                if len(own) > 1:
                    held[own[: max(1, int(share * len(own)))]] = True
        if not 0 < held.sum() < count:
            raise ProbeError(
                f"{share:.0%} of {count} training rows can't be held out to choose on",
                f"{int(held.sum())} rows would be",
                "give a validation split or more labels, or type --protocol featprobe",
            )
        return held


class Model(Protocol):
    """A fitted model."""

    def predict(self, X: FloatArray) -> FloatArray:
        """Probabilities of the K classes that occur in training, float64 [M, K], of X float64 [M, D]."""


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What a protocol's own trainer came to: the model, what was chosen, the score of each value tried."""

    model: Model
    chosen: Mapping[str, float]
    scores: Mapping[float, float]
    notes: tuple[str, ...] = ()


Trainer = Callable[[FloatArray, IntArray, tuple[IntArray, IntArray], bool, int], Trained]
"""(X float64 [N, D], y in 0..K-1 [N], (fit, held) row positions, whether few labels are learnt from, seed)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeProtocol:
    """A rule by which embeddings are judged; members of the registry PROTOCOLS.

    `source`: paper, and repository at the commit that was read. `describe`: one sentence for reports. `tasks`: the
    kinds of target (of TASKS). What is fitted: `probe`, the name of a registered one ("": the user's choice, or
    featprobe's for the target); or `head`, the name of a recipe of `featprobe.heads.cached`; or `trainer`, the
    protocol's own, reported as `trained`. `scale`, `grid` (or `grid_of` the facts), `score`, `pick`, `refit`,
    `options`: as in `featprobe.probes.Rule`. `draw`: the rows to choose on. `inputs`: keys of the cache that it
    takes, the first that is there (): any; `searched`: all of them at once, and `instead` those that stand for them
    where a backbone has no class token. `metrics`: those that the publication reports, as far as they judge a target.
    `differs`: what ours does otherwise than the publication. `revision`: to be
    raised when a trainer's numbers change.
    """

    name: str
    source: str
    describe: str
    tasks: tuple[str, ...]
    probe: str = ""
    head: str = ""
    trainer: Trainer | None = None
    trained: str = ""
    draw: Draw
    scale: str | None = None
    grid: tuple[float, ...] | None = None
    grid_of: Callable[[Facts], tuple[float, ...]] | None = None
    score: str | None = None
    pick: str | None = None
    refit: bool = True
    few_refit: bool = True
    options: Mapping[str, float | str | bool] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    searched: bool = False
    instead: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    revision: int = 1

    @property
    def fits(self) -> str:
        """What is fitted, as the column `probe` of a result names it; "" where the user chooses."""
        return self.probe or self.head or self.trained

    def refits(self, *, few: bool) -> bool:
        """Whether the chosen value is fitted again, with the rows that it was chosen on."""
        return self.refit and (self.few_refit or not few)

    def rule(self, facts: Facts, *, few: bool = False) -> dict[str, Any]:
        """The fields of `featprobe.probes.Rule`. ProbeError where no value of the grid fits the facts."""
        return {
            "scale": self.scale,
            "grid": self.grid_of(facts) if self.grid_of else self.grid,
            "score": self.score,
            "pick": self.pick,
            "refit": self.refits(few=few),
            "options": dict(self.options),
        }

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) over all that decides a result; not over words for readers."""
        names = ("name", "probe", "head", "trained", "scale", "grid", "score", "pick", "refit", "few_refit")
        values = {name: getattr(self, name) for name in (*names, "inputs", "searched", "instead", "revision")}
        draw = {name: getattr(self.draw, name) for name in Draw.__slots__}
        grids = [self.grid_of(facts) for facts in REFERENCE] if self.grid_of else []
        if self.metrics:  # without them the hash is that of earlier versions
            values["metrics"] = self.metrics
        return sha256_json({**values, "draw": draw, "options": dict(self.options), "grids": grids})

    def sentences(self) -> tuple[str, ...]:
        """What every report must say of it."""
        first = f"protocol {self.name}: {self.describe} ({self.source})"
        reported = f"protocol {self.name}: reported by {', '.join(self.metrics)}"
        return (
            first,
            *[reported] * bool(self.metrics),
            *(f"protocol {self.name}: {words}" for words in self.differs),
        )


def values(grid: Iterable[float]) -> tuple[float, ...]:
    """A grid as plain numbers."""
    return tuple(float(value) for value in grid)
