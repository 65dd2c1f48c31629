"""One fold of one model: which rows it learns from and chooses on by its protocol, and what it says of the test rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from featprobe import cases, probes, splitting
from featprobe.heads.cached import find_recipe
from featprobe.protocols import Facts, ProbeProtocol
from featprobe.records import AnyArray, FloatArray, IntArray, RunKey, Samples
from featprobe.splitting import Fold
from featprobe.stages.calibrating import Recalibration, planned, recalibrated
from featprobe.stages.evaluation import Question
from featprobe.stages.fit_costs import FitCost, trained_parameters
from featprobe.stages.moving import moved_thresholds
from featprobe.stages.systems import SHUFFLED
from featprobe.stages.tables import Table
from featprobe.stages.variants import BALANCED, MOVED, WHOLE_GROUPS, alone, is_variant
from featprobe.stages.views import View

Parts = list[tuple[IntArray, IntArray]]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One model on one view of an embedding, over all folds: what is stored, and reused, as a whole.

    `tables`: one, or several that the protocol searches. `rows`: where the rows of the question stand in them.
    `about`: what is said of the protocol.
    """

    subject: Question
    view: View
    protocol: ProbeProtocol
    tables: tuple[Table, ...]
    rows: IntArray
    key: RunKey
    hash: str
    about: tuple[str, ...]

    @property
    def table(self) -> Table:
        """The (first) table."""
        return self.tables[0]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one fold of a unit came to.

    `n_train`: rows that the kept model was fitted to; `groups`: that were learnt from, those to choose on among them.
    `thresholds`: where decisions are moved. `trained`: parameters of the kept model, None where it does not show them;
    `cost`: what all that took.
    """

    y_score: FloatArray
    n_train: int
    chosen: dict[str, Any]
    notes: tuple[str, ...]
    groups: int = 0
    thresholds: FloatArray | None = None
    trained: int | None = None
    cost: FitCost | None = None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Plain arrays of one fold, for a process of its own.

    `X`, `X_test`: rows to learn from and to be judged on, by key of the cache. `selection`, `calibration`:
    positions in the rows to learn from. `few`: whether less than all labels are learnt from. `groups`: of these rows.
    `balanced`: whether classes weigh the same. `moving`: grouped folds to move thresholds on, () where decisions are plain.
    `recalibration`: of the scores, None for scores as they are.
    """

    protocol: ProbeProtocol
    fits: str
    X: Mapping[str, AnyArray]
    y: AnyArray
    X_test: Mapping[str, AnyArray]
    label_names: tuple[str, ...]
    task: str
    selection: Parts
    calibration: Parts
    seed: int
    shots: int
    few: bool
    groups: int = 0
    balanced: bool = False
    moving: Parts = dataclasses.field(default_factory=list)
    recalibration: Recalibration | None = None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows that one fold of a unit learns from, by what they are for.

    `learn`: positions in the view's rows; all others positions in `learn`, as `Work` names them.
    """

    learn: IntArray
    selection: Parts
    calibration: Parts
    moving: Parts
    recalibration: Recalibration | None


def rows_of(unit: Unit, number: int) -> Rows:
    """The rows of fold `number`; SplitError or ProbeError where they can't be drawn as the unit asks."""
    samples, key = unit.view.samples, unit.key
    learn, selection = parts_of(unit.protocol, samples, unit.view.folds[number], key)
    # Platt scaling wants rows that the scores were not fitted to; a published rule has no use for them.
    own = unit.protocol.draw.kind == "folds" and key.shots != 1
    moves = is_variant(key, MOVED)
    inner: Parts = []
    if own or moves:
        # Several parts are the inner folds already.
        several = len(selection) > 1
        inner = selection if several else splitting.inner_folds(samples, learn, folds=5, seed=key.seed)
    calibration, moving = inner if own else selection, inner if moves else []
    return Rows(learn, selection, calibration, moving, planned(key, samples, learn))


def work_of(unit: Unit, number: int, read: Callable[[Table], AnyArray]) -> Work:
    """Fold `number` of a unit; `read` gives a table's embeddings."""
    view, key = unit.view, unit.key
    fold, samples = view.folds[number], view.samples
    rows = rows_of(unit, number)
    learn = rows.learn
    labels = samples.label[learn]
    if key.mode == SHUFFLED:
        labels = shuffled(labels, samples.units()[learn], key.seed)
    embeddings = {}
    for table in unit.tables:
        if table.dense:  # read as stored: patches are large, and no image's are missing
            embeddings[table.pooling] = view.features(read(table)[unit.rows], unit.subject.samples.modality)
            continue
        X = np.asarray(read(table)[unit.rows], dtype=np.float64)
        X = cases.fill_missing(view.features(X, unit.subject.samples.modality), learn)
        embeddings[table.pooling] = X.astype(np.float32) if unit.protocol.head else X
    return Work(
        protocol=unit.protocol,
        fits=key.probe,
        X={name: X[learn] for name, X in embeddings.items()},
        y=labels,
        X_test={name: X[fold.test] for name, X in embeddings.items()},
        label_names=samples.label_names,
        task=samples.task,
        selection=rows.selection,
        calibration=rows.calibration,
        seed=key.seed,
        shots=key.shots,
        few=few_labels(key),
        groups=len(np.unique(samples.units()[learn])),
        balanced=is_variant(key, BALANCED),
        moving=rows.moving,
        recalibration=rows.recalibration,
    )


def few_labels(key: RunKey) -> bool:
    """Whether less than all labels are learnt from."""
    return key.fraction != 1 or bool(key.shots)


def parts_of(protocol: ProbeProtocol, samples: Samples, fold: Fold, key: RunKey) -> tuple[IntArray, Parts]:
    """(rows that are learnt from, positions in them to fit and to choose on), as the protocol draws them."""
    draw = protocol.draw
    whole = is_variant(key, WHOLE_GROUPS)
    amount: dict[str, Any] = {"fraction": key.fraction, "shots": key.shots, "whole_groups": whole}
    amount["seed"] = key.seed
    rows = fold.train if draw.given == "left out" else np.concatenate([fold.train, fold.val])
    given = fold.val if draw.given == "chooses" else np.empty(0, dtype=np.int64)
    few = few_labels(key)
    if few and draw.apart:
        apart = given if len(given) else rows[_drawn(protocol, samples, rows, key.seed, few=True)]
        learn = splitting.subset(samples, rows[~np.isin(rows, apart)], **amount)
        learn = np.concatenate([learn, apart])
        return learn, [_sides(np.isin(learn, apart))]
    learn = splitting.subset(samples, rows, **amount)
    held = np.isin(learn, given)
    # A few shots may leave next to nothing of the validation part: then it is as if there were none.
    if held.any() and (not few or _as_many_classes(samples, learn, learn[held])):
        return learn, [_sides(held)]
    if draw.kind == "folds" and key.shots != 1:
        return learn, splitting.inner_folds(samples, learn, folds=5, seed=key.seed)
    if draw.kind in {"none", "folds"}:  # one shot leaves nothing to choose on
        everything = np.arange(len(learn))
        return learn, [(everything, everything)]
    return learn, [_sides(_drawn(protocol, samples, learn, key.seed))]


def _drawn(
    protocol: ProbeProtocol, samples: Samples, rows: IntArray, seed: int, *, few: bool = False
) -> npt.NDArray[np.bool_]:
    """Which of `rows` are held out; rows of the split "extra" are only ever fitted to."""
    ordinary = np.flatnonzero(samples.split[rows] != "extra")
    held = np.zeros(len(rows), dtype=np.bool_)
    held[ordinary[protocol.draw.held(samples.label[rows[ordinary]], seed=seed, few=few)]] = True
    return held


def _sides(held: npt.NDArray[np.bool_]) -> tuple[IntArray, IntArray]:
    return np.flatnonzero(~held), np.flatnonzero(held)


def _as_many_classes(samples: Samples, whole: IntArray, part: IntArray) -> bool:
    """Whether every target of `whole` is met in `part` too, and not all of `whole` is in it."""
    texts = samples.label_texts()
    several = len(part) < len(whole)
    return several and set(texts[whole].tolist()) <= set(texts[part].tolist())


def shuffled(labels: AnyArray, groups: AnyArray, seed: int) -> AnyArray:
    """`labels` [N] or [N, L] of the rows of each group replaced by another group's, so that groups stay alike inside.

    Where groups have several rows the other group's labels are repeated or cut; where a class would get lost by
    that, rows are permuted instead.
    """
    generator = np.random.default_rng([seed, 0x5BFF1E])
    names, inverse = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(inverse == number) for number in range(len(names))]
    result = labels.copy()
    for own, other in zip(members, generator.permutation(len(names)), strict=True):
        result[own] = labels[np.resize(members[other], len(own))]
    if labels.dtype.kind in "iu" and len(np.unique(result, axis=0)) < len(np.unique(labels, axis=0)):
        return labels[generator.permutation(len(labels))]
    return result


def fit(work: Work) -> Outcome:
    """Fit, choose and judge one fold."""
    if work.protocol.head:
        return _head(work)
    return _trained(work) if work.protocol.trainer else _probe(work)


def rule_of(work: Work) -> probes.Rule:
    """What the protocol tells the probe on these rows."""
    (X,) = work.X.values()
    fitted = min(len(part) for part, _ in work.selection)
    classes = len(np.unique(work.y)) if work.y.ndim == 1 else work.y.shape[1]
    facts = Facts(rows=fitted, columns=X.shape[1], classes=classes, shots=work.shots)
    rule = probes.Rule(**work.protocol.rule(facts, few=work.few))
    if work.balanced:
        rule = dataclasses.replace(rule, options={**rule.options, "class_weight": "balanced"})
    value = alone(work.fits) if work.protocol.draw.kind == "folds" and work.shots == 1 else None
    return rule if value is None else dataclasses.replace(rule, grid=(value,))


def _kept(work: Work) -> int:
    """How many rows the kept model is fitted to."""
    several = len(work.selection) > 1 and not work.protocol.head  # a head learns on the first part alone
    if work.protocol.refits(few=work.few) or several:
        return len(work.y)
    return len(work.selection[0][0])


def fitted_probe(work: Work) -> probes.FittedProbe:
    """The probe fitted to the rows to learn from, its scores recalibrated where that is asked for."""
    ((_, X),) = work.X.items()
    fit = functools.partial(
        probes.fit_probe,
        work.fits,
        n_classes=len(work.label_names),
        seed=work.seed,
        task=work.task,
        label_names=work.label_names,
    )
    rule = rule_of(work)
    fitted = fit(X, work.y, selection=work.selection, calibration=work.calibration, rule=rule)
    if work.recalibration is None:
        return fitted
    return recalibrated(fitted, X, work.y, work.recalibration, fit, rule, work.label_names)


def _probe(work: Work) -> Outcome:
    fitted = fitted_probe(work)
    ((_, X_test),) = work.X_test.items()
    chosen = dict(fitted.chosen)
    cuts = moved_thresholds(work, rule_of(work), fitted.chosen) if work.moving else None
    if cuts is not None:
        chosen |= {
            f"threshold of {name}": cut for name, cut in zip(work.label_names, cuts.tolist(), strict=True)
        }
    trained = trained_parameters(fitted)
    notes = tuple(fitted.notes)
    return Outcome(fitted.predict(X_test), _kept(work), chosen, notes, work.groups, cuts, trained)


def _trained(work: Work) -> Outcome:
    """A protocol's own trainer, of the classes that training holds; the others get the probability 0."""
    ((key, X),) = work.X.items()
    classes, codes = np.unique(work.y, return_inverse=True)
    assert work.protocol.trainer is not None
    trained = work.protocol.trainer(X, codes.astype(np.int64), work.selection[0], work.few, work.seed)
    result = np.zeros((len(work.X_test[key]), len(work.label_names)))
    result[:, classes] = trained.model.predict(work.X_test[key])
    count = trained_parameters(trained.model)
    return Outcome(result, _kept(work), dict(trained.chosen), trained.notes, work.groups, trained=count)


def _head(work: Work) -> Outcome:
    """A head that torch trains, on one thread so that its numbers do not depend on how many folds run at a time."""
    import torch

    from featprobe.heads.cached.fitting import fit_head

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit_rows, held = work.selection[0]
        fitted = fit_head(
            find_recipe(work.protocol.head),
            work.X,
            work.y,
            train=fit_rows,
            val=held,
            n_classes=len(work.label_names),
            task=work.task,
            seed=work.seed,
        )
        y_score, notes = fitted.predict(work.X_test), tuple(fitted.notes)
        count = trained_parameters(fitted)
        return Outcome(y_score, _kept(work), dict(fitted.chosen), notes, work.groups, trained=count)
    finally:
        torch.set_num_threads(threads)
