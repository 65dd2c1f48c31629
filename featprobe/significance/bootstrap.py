"""The one way in which featprobe resamples: whole groups, the same draw for every system and metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from featprobe.errors import ConfigError
from featprobe.records import AnyArray, FloatArray, IntArray, Predictions, Samples
from featprobe.registry import METRICS
from featprobe.significance.scales import Scale

THIN: Final = 10
"""Below this many groups of a class it is resampled within strata, so that it never drops out."""

CHUNK: Final = 2_000_000
"""Weights that are held at a time: 16 MB, whatever the number of rows and resamples."""


class Metric(Protocol):
    """What the statistics must know about a metric; see `featprobe.metrics.Metric`."""

    name: str
    higher_is_better: bool
    needs_classes: bool
    proportion: bool
    tasks: tuple[str, ...]

    def bounds(self, n_classes: int) -> tuple[float, float]:
        """The smallest and the largest value that it can take."""

    def __call__(self, y_true: AnyArray, y_score: FloatArray, weights: FloatArray) -> FloatArray:
        """Value per row of `weights`, [B]."""


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """How rows hang together: `unit` int [N] in 0..G-1 of each row, `stratum` int [G] of each unit."""

    unit: IntArray
    stratum: IntArray

    @property
    def freedom(self) -> int:
        """Degrees of freedom: units less strata, the convention of survey statistics."""
        return len(self.stratum) - len(np.unique(self.stratum))


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """The labelled test rows of one fold in the order of their ids, and how they are resampled.

    `plain` resamples all units alike, `stratified` within label patterns (the same object where every class
    has at least THIN groups, and always for targets that are not classes). `per_class`: units that hold a row of
    what `parts` names: int [C] the classes; for multilabel [2 L] each label absent and present (0 where the
    test rows hold one of its values only: it has no part in any metric); for continuous [0].
    """

    fold: str
    samples: Samples
    order: IntArray
    plain: Design
    stratified: Design
    per_class: IntArray
    parts: tuple[str, ...]

    @property
    def thin(self) -> bool:
        """Whether a class, or a value of a label, has fewer than THIN groups."""
        return bool((self.per_class[self.per_class > 0] < THIN).any())

    @property
    def n_units(self) -> int:
        """Independent groups."""
        return len(self.plain.stratum)

    def design(self, metric: Metric) -> Design:
        """The design for a metric: classes keep their place where the metric needs each of them."""
        return self.stratified if metric.needs_classes else self.plain


def suitable(names: Sequence[str], task: str) -> list[Metric]:
    """The metrics of these names; ConfigError where one is unknown or does not judge this kind of target."""
    members: list[Metric] = [METRICS.get(name) for name in names]
    for member in members:
        if task not in member.tasks:
            fitting = [name for name, other in METRICS.items() if task in other.tasks]
            raise ConfigError(
                f"the metric {member.name!r} does not judge a target of kind {task!r}",
                f"for {task} there are: {', '.join(fitting)}",
                f"type --metric {fitting[0]}",
            )
    return members


def scale_of(parts: Sequence[HeldOut], metric: Metric) -> Scale:
    """The scale on which the metric's interval is built."""
    return Scale(*metric.bounds(len(parts[0].samples.label_names)))


def judged_rows(predictions: Predictions) -> IntArray:
    """Positions of the labelled rows in the order of their ids, int64 [M]."""
    order = np.argsort(predictions.samples.id, kind="stable").astype(np.int64)
    return order[predictions.samples.labelled[order]]


def held_out(predictions: Predictions) -> HeldOut:
    """The labelled test rows of one fold, ready to be resampled."""
    order = judged_rows(predictions)
    samples = predictions.samples.take(order)
    unit = samples.units()
    n_units = int(unit.max(initial=-1)) + 1
    held, names = _holdings(samples, unit, n_units)
    per_class = held.sum(axis=0).astype(np.int64)
    plain = Design(unit, np.zeros(n_units, dtype=np.int64))
    part = HeldOut(predictions.key.fold, samples, order, plain, plain, per_class, names)
    if samples.task in {"classes", "ordinal"} and part.thin:
        return replace(part, stratified=Design(unit, label_strata(held)))
    return part


def rare_parts(folds: Sequence[Predictions]) -> list[tuple[str, int]]:
    """(class, or value of a label; its groups in the test rows of all folds) where these are fewer than THIN."""
    parts = [held_out(one) for one in folds]
    counts = np.sum([part.per_class for part in parts], axis=0)
    named = zip(parts[0].parts, counts.tolist(), strict=True)
    return [(name, count) for name, count in named if 0 < count < THIN]


def _holdings(samples: Samples, unit: IntArray, n_units: int) -> tuple[AnyArray, tuple[str, ...]]:
    """(bool [G, K] which units hold a row of each class or value of a label, their names [K])."""
    names = samples.label_names
    if samples.task == "continuous":
        return np.zeros((n_units, 0), dtype=bool), ()
    if samples.task != "multilabel":
        held = np.zeros((n_units, len(names)), dtype=bool)
        held[unit, samples.label] = True
        return held, tuple(f"class {name!r}" for name in names)
    held = np.zeros((n_units, len(names), 2), dtype=bool)
    row, label = np.nonzero(samples.label >= 0)
    held[unit[row], label, samples.label[row, label]] = True
    held &= np.all(held.any(axis=0), axis=1, keepdims=True)
    words = tuple(f"label {name!r} {value}" for name in names for value in ("absent", "present"))
    return held.reshape(n_units, -1), words


def label_strata(held: AnyArray) -> IntArray:
    """Stratum of each unit, int64 [G], from the classes that it holds (bool [G, C]).

    Units alone in their pattern can't be resampled and are put together (collapsed strata, Wolter 2007,
    section 2.5); a single one joins the largest stratum.
    """
    stratum = np.unique(held, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    sizes = np.bincount(stratum)
    alone = sizes[stratum] == 1
    if alone.sum() == 1 and len(sizes) > 1:
        stratum[alone] = sizes.argmax()
    elif alone.any():
        stratum[alone] = len(sizes)
    return np.unique(stratum, return_inverse=True)[1].reshape(-1).astype(np.int64)


def weight_chunks(
    design: Design, *, resamples: int, seed: Sequence[int], whole: bool = False
) -> Iterator[FloatArray]:
    """Bootstrap weights of the rows, float64 [b, N] at a time, `resamples` rows in all.

    In each stratum n - 1 of its n units are drawn with replacement and weigh n / (n - 1) each time, so that
    the variance is unbiased also in small strata (Rao & Wu, JASA 83, 1988, eq. 2.3 with m = n - 1). A
    single unit keeps the weight 1. `whole`: all n are drawn, and weigh 1, as the textbook's bootstrap does. A pure
    function of design and seed.
    """
    rng = np.random.default_rng(list(seed))
    n_units = len(design.stratum)
    members = [np.flatnonzero(design.stratum == s) for s in np.unique(design.stratum)]
    step = max(1, CHUNK // max(1, len(design.unit)))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        weight = np.ones((count, n_units))
        for member in members:
            size = len(member)
            if size > 1:
                taken = size if whole else size - 1
                drawn = rng.integers(0, size, (count, taken)) + size * np.arange(count)[:, None]
                times = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)
                weight[:, member] = times * (size / taken)
        yield np.take(weight, design.unit, axis=1)


def group_weights(
    groups: AnyArray, *, resamples: int, seed: int, strata: AnyArray | None = None
) -> FloatArray:
    """All bootstrap weights at once, float64 [B, N]; rows of one group always weigh the same.

    `groups` [N] and `strata` [N] (constant within a group) are any sortable values. The same groups and seed
    give the same draw whatever the order of rows, which is what pairs systems.
    """
    first, unit = np.unique(groups, return_index=True, return_inverse=True)[1:]
    of_unit = np.zeros(len(first)) if strata is None else np.asarray(strata)[first]
    stratum = np.unique(of_unit, return_inverse=True)[1].astype(np.int64)
    chunks = weight_chunks(Design(unit.astype(np.int64), stratum), resamples=resamples, seed=[seed])
    return np.concatenate(list(chunks))


def resampled(
    part: HeldOut,
    metrics: Sequence[Metric],
    scores: Sequence[FloatArray],
    *,
    resamples: int,
    seed: Sequence[int],
    whole: bool = False,
) -> FloatArray:
    """Values of several metrics of several systems, float64 [M, S, B], all under the same draws.

    `scores`: per system float64 [N, C] in the order of `part.samples`; `whole`: see `weight_chunks`.
    """
    result = np.full((len(metrics), len(scores), resamples), np.nan)
    for design in {id(d): d for d in (part.plain, part.stratified)}.values():
        wanted = [m for m, metric in enumerate(metrics) if part.design(metric) is design]
        if not wanted:
            continue
        start = 0
        for weights in weight_chunks(design, resamples=resamples, seed=seed, whole=whole):
            for m in wanted:
                for s, score in enumerate(scores):
                    values = metrics[m](part.samples.label, score, weights)
                    result[m, s, start : start + len(weights)] = values
            start += len(weights)
    return result


def resampled_by(
    part: HeldOut, metric: Metric, scores: Sequence[FloatArray], weights: FloatArray
) -> FloatArray:
    """The metric of each system (see `resampled`) under given `weights` [b, N], [S, b]."""
    return np.stack([metric(part.samples.label, score, weights) for score in scores])


def scored(predictions: Predictions, metric: Metric) -> FloatArray:
    """What the metric judges: probabilities, or where it judges decisions and thresholds are moved, those moved, [N, C]."""
    return predictions.decision_score if getattr(metric, "decides", False) else predictions.y_score


def point(part: HeldOut, metric: Metric, score: FloatArray) -> float:
    """The metric on the test rows as they are."""
    return float(metric(part.samples.label, score, np.ones((1, len(score))))[0])


def unresampleable(parts: Sequence[HeldOut], metric: Metric) -> str:
    """Why groups can't be resampled for this metric ("" where they can)."""
    for part in parts:
        where = "in the test rows" if part.fold == "test" else f"in the test rows of fold {part.fold}"
        if part.n_units < 2:
            return f"1 group {where}"
        single = np.flatnonzero(part.per_class == 1)
        if metric.needs_classes and len(single):
            return f"{part.parts[single[0]]} has 1 group {where}"
        if part.design(metric).freedom < 1:
            return f"too few groups {where}"
    return ""


def exact_floor(parts: Sequence[HeldOut], metric: Metric, confidence: float) -> float:
    """Lower confidence bound of a proportion where every group is right; NaN for other metrics.

    Clopper & Pearson (1934) for n of n groups is (alpha / 2)^(1 / n). The mean over F folds (and C classes,
    for a metric that averages over them) of shares p with product p^n_cell >= alpha / 2 is at least
    (alpha / 2)^(1 / (cells x smallest n_cell)), because a mean is never below the geometric one.
    """
    if not metric.proportion:
        return float("nan")
    cells: list[int] = []
    for part in parts:
        if metric.needs_classes:
            # Each group counts for one class only, so that the classes are independent.
            first = np.unique(part.plain.unit, return_index=True)[1]
            present = np.flatnonzero(part.per_class)
            held = np.bincount(part.samples.label[first], minlength=len(part.per_class))
            cells += held[present].tolist()
        else:
            cells.append(part.n_units)
    groups = len(cells) * min(cells)
    return float(((1 - confidence) / 2) ** (1 / groups)) if groups else float("nan")


def no_value(parts: Sequence[HeldOut]) -> str:
    """Why a metric has no value on these test rows."""
    return {
        "continuous": "the true or the predicted values of the test rows are all the same",
        "multilabel": "no label has both its values in the test rows",
    }.get(parts[0].samples.task, "the test rows hold one class only")


def too_many_lost(parts: Sequence[HeldOut], lost: int, resamples: int) -> str:
    """Why so many resamples have no value."""
    what = {"continuous": "hold one value only", "multilabel": "hold no label with both its values"}
    return f"{lost} of {resamples} resamples {what.get(parts[0].samples.task, 'hold one class only')}"


def words(parts: Sequence[HeldOut], metric: Metric, *, resamples: int, confidence: float) -> tuple[str, str]:
    """(how it was resampled, the estimand's population), for ci_method."""
    unit = "group" if parts[0].samples.groups_declared else "image"
    strata = any(part.design(metric) is not part.plain for part in parts)
    within = " within strata of label patterns" if strata else ""
    folds = " within folds" if len(parts) > 1 else ""
    dropping = metric.needs_classes and any(part.samples.task == "multilabel" and part.thin for part in parts)
    rare = (
        f", labels with under {THIN} {unit}s of a value left out of resamples without it" if dropping else ""
    )
    how = f"{unit} bootstrap{folds}{within}, {100 * confidence:g} %, {resamples} resamples{rare}"
    return how, f"new {unit}s"
