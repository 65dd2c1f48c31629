"""What every way of fusing promises, so that a new one takes one file; it knows probes by one door alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from featprobe.errors import ProbeError
from featprobe.records import AnyArray, FloatArray, IntArray

Parts = Sequence[tuple[IntArray, IntArray]]
"""Pairs (fit, validate) of row positions; groups are never on both sides."""


class Learned(Protocol):
    """A fitted probe: `chosen` and `scores` as of `featprobe.probes.FittedProbe`."""

    @property
    def chosen(self) -> Mapping[str, float]:
        """Such as {"C": 0.01}."""

    @property
    def scores(self) -> Mapping[float, float]:
        """Value of the probe's grid -> mean validation score, higher is better."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report must say."""

    def predict(self, X: FloatArray) -> FloatArray:
        """`Predictions.y_score` of X [M, D]."""


class Learner(Protocol):
    """The door to the probes: whoever fuses says which probe, and how it is tuned."""

    def __call__(
        self,
        X: FloatArray,
        y: AnyArray,
        *,
        selection: Parts,
        calibration: Parts,
        scaled: bool = False,
        value: float | None = None,
        refit: bool = True,
        final: bool = False,
    ) -> Learned:
        """The probe tuned on `selection` and fitted to all of X [N, D] and y.

        `scaled`: the columns' scales mean something, so that the probe must not standardise them. `value`: of the
        probe's grid, then nothing is chosen. `refit` False (`selection` has one part): for its scores alone, it
        need not be fitted to all rows. `final`: the plain linear probe for the target instead, on what other probes said.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """What is learnt from beside the views.

    `y`: as `featprobe.probes.fit_probe` takes it for the `task`. `names`: of the views. `selection`: parts to choose
    on; `calibration`: grouped folds, each row held out at most once. `learn`: see `Learner`.
    """

    y: AnyArray
    task: str
    names: tuple[str, ...]
    selection: Parts
    calibration: Parts
    seed: int
    learn: Learner

    def inside(self, parts: Parts, rows: IntArray, *, whole: bool = False) -> list[tuple[IntArray, IntArray]]:
        """`parts` as far as they lie in `rows`, as positions in `rows` (ascending).

        A part that has nothing left to validate, or less than two classes left to fit to, is left out; with `whole`,
        one that lacks any class of `rows`.
        """
        place = np.full(len(self.y), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        found = []
        for part in parts:
            fit, held = (place[side][place[side] >= 0] for side in part)
            own = self.y[rows[fit]]
            if len(fit) and len(held) and self._can_fit(own) and not (whole and self._lacks(own, rows)):
                found.append((fit, held))
        return found

    def _can_fit(self, y: AnyArray) -> bool:
        if self.task == "multilabel":
            return bool(((y == 0).any(axis=0) & (y == 1).any(axis=0)).any())
        return len(np.unique(y)) > 1

    def _lacks(self, y: AnyArray, rows: IntArray) -> bool:
        classes = self.task in {"classes", "ordinal"}
        return classes and len(np.unique(y)) < len(np.unique(self.y[rows]))


class Model(Protocol):
    """What was learnt."""

    def predict(self, views: Sequence[FloatArray]) -> FloatArray:
        """`Predictions.y_score` of the rows of views [M, D_v]; a row's answer depends on no other row."""


Fit = tuple[Model, dict[str, float], tuple[str, ...]]
"""(model, what was chosen, notes)."""


class Fusion(Protocol):
    """A way of fusing; members of the registry FUSIONS.

    `describe`: one sentence for reports, with the source. `tasks`: the kinds of target (of TASKS). One that needs a
    library of the extra "fusion" names it as `package`.
    """

    name: str
    describe: str
    tasks: tuple[str, ...]

    def fit(self, views: Sequence[FloatArray], training: Training) -> Fit:
        """Learn from views [N, D_v], all finite, none of them constant, at least two."""


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """A fused system that is ready to predict. `names`, `widths`: of the views that it was learnt from. Pickles."""

    method: str
    names: tuple[str, ...]
    widths: tuple[int, ...]
    model: Model
    chosen: Mapping[str, float]
    notes: tuple[str, ...]

    def predict(self, views: Sequence[FloatArray]) -> FloatArray:
        """`Predictions.y_score` of views [M, D_v], in the order of the names.

        Raises ProbeError for other views, other widths, views of different rows, or values that are not finite.
        """
        tables = tuple(np.ascontiguousarray(X, dtype=np.float64) for X in views)
        if tuple(X.shape[1:] for X in tables) != tuple((width,) for width in self.widths):
            raise ProbeError(
                f"views of the widths {', '.join(str(X.shape[1:]) for X in tables)} can't be fused",
                f"learnt from were {', '.join(f'{n} [N, {w}]' for n, w in zip(self.names, self.widths, strict=True))}",
            )
        if len({len(X) for X in tables}) != 1:
            raise ProbeError(
                "the views have different rows",
                ", ".join(f"{name} has {len(X)}" for name, X in zip(self.names, tables, strict=True)),
            )
        for name, X in zip(self.names, tables, strict=True):
            if not np.isfinite(X).all():
                raise ProbeError(f"test embeddings of {name} hold values that are not finite")
        return self.model.predict(tables)


def varying(X: FloatArray) -> npt.NDArray[np.bool_]:
    """Which columns of X [N, D] differ by more than rounding, bool [D] (scikit-learn's bound for constant columns)."""
    mean, variance = X.mean(axis=0), X.var(axis=0)
    n, eps = len(X), np.finfo(np.float64).eps
    return np.asarray(variance > n * eps * variance + (n * mean * eps) ** 2)


def named(name: str, notes: Sequence[str]) -> tuple[str, ...]:
    """Notes of one view's probe."""
    return tuple(f"{name}: {note}" for note in notes)
