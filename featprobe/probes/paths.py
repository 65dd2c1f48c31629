"""What probes that are tuned along a grid share, so that a new kind is its path and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from featprobe.errors import ConfigError, ProbeError, nearest
from featprobe.probes.choosing import evened, pick, score
from featprobe.probes.contract import OWN, Fit, Model, Parts, Rule
from featprobe.probes.scaling import Scaling
from featprobe.probes.weighing import is_balanced
from featprobe.records import AnyArray, FloatArray, IntArray


class Path(Protocol):
    """Models fitted to the same rows, one for each value of a grid."""

    def predict(self, X: FloatArray) -> FloatArray:
        """`Model.predict` of every model, [G, M, K] (continuous: [G, M, 1])."""

    def keep(self, place: int) -> Model:
        """The model of one value alone, fit to be saved: arrays and scikit-learn's objects only."""


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """What a path is fitted with. `classes`: K, columns of the prediction; `task` of TASKS; `options` of the rule."""

    task: str
    classes: int
    seed: int
    options: Mapping[str, float | str | bool] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        """Whether classes are to weigh the same: the option `class_weight`."""
        return is_balanced(self.options)

    def only(self, *known: str) -> None:
        """ConfigError for an option that is not among `known`."""
        for name in self.options:
            if name not in known:
                told = f"known: {', '.join(known)}" if known else "it has none"
                raise ConfigError(f"unknown option {name!r} of the probe", nearest(name, known) or told)

    def word(self, name: str, known: Sequence[str]) -> str:
        """The option `name`, one of `known` (the first where it is not given); ConfigError for another."""
        value = self.options.get(name, known[0])
        if value not in known:
            raise ConfigError(f"unknown {name} {value!r}", f"known: {', '.join(known)}")
        return str(value)

    def positive(self, name: str, default: float) -> float:
        """The option `name`, a number above 0; ConfigError for another."""
        value = self.options.get(name, default)
        if isinstance(value, (str, bool)) or not 0 < value < float("inf"):
            raise ConfigError(f"{name} {value!r} is no number above 0", f"the default is {default:g}")
        return float(value)


@dataclass(frozen=True, slots=True, eq=False)
class ScaledModel:
    """A model of scaled embeddings, for embeddings as they come."""

    scaling: Scaling
    inner: Model

    def predict(self, X: FloatArray) -> FloatArray:
        """As the model's."""
        return self.inner.predict(self.scaling(X))


class PathProbe(ABC):
    """A probe that is its grid and its path; choosing, scaling and refitting are done here, by the rule.

    `parameter`: what the grid is of. `grid`: its values, from the simplest model to the least restrained, or
    `grid_for` where they follow from the data. `scoring`: the score by task (see `choosing.SCORES`). `picking`:
    see `choosing.PICKS`. `alone`: the value that is taken where no rows are left to choose on (one shot of a
    class), None where there is none. `weighs`: whether it knows the option `class_weight`.
    """

    name: ClassVar[str]
    describe: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    parameter: ClassVar[str]
    grid: ClassVar[tuple[float, ...]]
    scale: ClassVar[str] = "standard"
    scoring: ClassVar[Mapping[str, str]] = {
        "classes": "log_loss",
        "ordinal": "log_loss",
        "multilabel": "log_loss",
        "continuous": "squared_error",
    }
    picking: ClassVar[str] = "near best"
    alone: ClassVar[float | None] = None
    weighs: ClassVar[bool] = False

    @abstractmethod
    def path(self, X: FloatArray, y: AnyArray, grid: Sequence[float], settings: Settings) -> Path:
        """A model for each value of `grid`, fitted to the scaled rows X [N, D].

        `y`: int [N] in 0..K-1 (classes may be missing here: their probability is 0); multilabel int [N, L] with -1
        missing; continuous float [N]. A value that can't be fitted to these rows (k neighbours of fewer rows) gives
        NaN predictions and is not chosen.
        """

    def grid_for(self, X: FloatArray, classes: int) -> tuple[float, ...]:
        """The grid where no rule names one."""
        del X, classes
        return self.grid

    def notes(self, place: int, grid: Sequence[float]) -> tuple[str, ...]:
        """What is to be said of the choice."""
        if len(grid) < 2 or place not in {0, len(grid) - 1}:
            return ()
        end = "first" if place == 0 else "last"
        return (
            f"{self.parameter} = {grid[place]:g} is the {end} value of its grid ({grid[0]:g} to {grid[-1]:g}): one beyond it might do better",
        )

    def fit(
        self,
        X: FloatArray,
        y: AnyArray,
        *,
        selection: Parts,
        calibration: Parts,
        seed: int,
        label_names: Sequence[str] = (),
        task: str = "classes",
        rule: Rule = OWN,
    ) -> Fit:
        """See `contract.Probe.fit`. A grid of one value is not judged."""
        del calibration, label_names
        classes = 1 if task == "continuous" else int(y.max()) + 1 if y.ndim == 1 else y.shape[1]
        settings = Settings(task, classes, seed, dict(rule.options))
        grid = rule.grid or self.grid_for(X, classes)
        own = evened(self.scoring[task]) if settings.balanced else self.scoring[task]
        judge, kind = score(rule.score or own), rule.scale or self.scale
        scores: list[FloatArray] = []
        place = 0
        if len(grid) > 1:
            for fit, held in selection:
                scores.append(judge(y[held], self._fitted(X, y, fit, grid, kind, settings).predict(X[held])))
            if not np.isfinite(scores).all(axis=0).any():
                raise ProbeError(
                    f"no value of {self.parameter} of the {self.name} probe can be fitted to every part of the training data",
                    f"tried: {', '.join(f'{value:g}' for value in grid)}; the smallest part has {min(len(fit) for fit, _ in selection)} rows",
                )
            place = pick(scores, rule.pick or self.picking, relative=task == "continuous")
        rows = np.arange(len(X)) if rule.refit or len(selection) != 1 else selection[0][0]
        model = self._fitted(X, y, rows, grid[place : place + 1], kind, settings).keep(0)
        means = np.mean(scores, axis=0) if scores else np.empty(0)
        judged = {value: float(mean) for value, mean in zip(grid, means, strict=False) if np.isfinite(mean)}
        return model, {self.parameter: grid[place]}, judged, self.notes(place, grid)

    def _fitted(
        self, X: FloatArray, y: AnyArray, rows: IntArray, grid: Sequence[float], kind: str, settings: Settings
    ) -> _ScaledPath:
        own = X[rows]
        scaling = Scaling.of(own, kind)
        return _ScaledPath(scaling, self.path(scaling(own), y[rows], grid, settings))


@dataclass(frozen=True, slots=True, eq=False)
class _ScaledPath:
    scaling: Scaling
    inner: Path

    def predict(self, X: FloatArray) -> FloatArray:
        return self.inner.predict(self.scaling(X))

    def keep(self, place: int) -> Model:
        return ScaledModel(self.scaling, self.inner.keep(place))
