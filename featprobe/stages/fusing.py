"""Fused embeddings as units of a probe run: named, hashed, fitted and judged like any other system."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from featprobe import cases, fusion, probes
from featprobe.config import ProbeConfig
from featprobe.errors import CacheError, ConfigError
from featprobe.protocols import Facts
from featprobe.records import AnyArray, FloatArray, IntArray, RunKey, sha256_json
from featprobe.registry import PROBES
from featprobe.stages import fitting
from featprobe.stages.evaluation import Question
from featprobe.stages.fit_costs import FitCost, spending, trained_parameters
from featprobe.stages.fitting import Outcome, Unit, Work, few_labels, shuffled
from featprobe.stages.fusible import Group, candidates, groups
from featprobe.stages.protocols import Ask
from featprobe.stages.systems import FUSED, SHUFFLED
from featprobe.stages.tables import Material, Table
from featprobe.stages.variants import BALANCED, is_variant, variants
from featprobe.stages.views import View

OWN: Final = "featprobe"
"""The protocol whose probes are fused."""

_FINAL: Final[Mapping[str, str]] = {
    "classes": "logistic",
    "ordinal": "logistic",
    "multilabel": "logistic",
    "continuous": "ridge",
}
"""The probe on top of others' answers, by task."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class FusedUnit(Unit):
    """A unit whose `tables` are fused by `method`; `parts` names them. Over modalities: those of its one table."""

    method: str
    parts: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class FusedWork:
    """Plain arrays of one fold: `views` [N, D_v] to learn from, `tests` [M, D_v] to be judged on. Else as `Work`."""

    method: str
    probe: str
    parts: tuple[str, ...]
    views: tuple[FloatArray, ...]
    tests: tuple[FloatArray, ...]
    y: AnyArray
    label_names: tuple[str, ...]
    task: str
    selection: fitting.Parts
    calibration: fitting.Parts
    seed: int
    rule: probes.Rule
    groups: int


def fused_units(
    config: ProbeConfig,
    material: Material,
    wanted: Sequence[Ask],
    subject: Question,
    found: Sequence[View],
    rows: IntArray,
    seed: int,
) -> Iterator[FusedUnit]:
    """Everything that --fuse asks of one data set: views x groups of tables x methods x amounts of labels x probes.

    Raises ConfigError where nothing can be fused, ProbeError where a method does not fit the target.
    """
    if config.over is not None and not config.fuse:
        raise ConfigError(
            f"--over {config.over} without --fuse",
            "it says what is fused",
            "type --fuse stack, or leave it out",
        )
    if not config.fuse:
        return
    for method in config.fuse:
        fusion.need_suitable(method, material.samples.task)
    ask = _own(wanted)
    over = config.over or "backbone"
    for view, group in _pairs(config, material, found, over):
        for method in dict.fromkeys(config.fuse):
            plain = _key(subject, view, group, f"{method}{FUSED}{over}", ask.fits[0], seed)
            keys = list(variants(plain, ask.fits, config))
            if config.canaries and seed == config.seed:
                keys.append(dataclasses.replace(plain, mode=SHUFFLED))
            about = (f"{plain.fusion}: {fusion.describe(method)}; fused are {', '.join(group.parts)}",)
            for key in keys:
                digest = _hash(config, subject, view, group, method, ask, key)
                yield FusedUnit(
                    subject, view, ask.protocol, group.tables, rows, key, digest, about, method, group.parts
                )


def _own(wanted: Sequence[Ask]) -> Ask:
    for ask in wanted:
        if ask.protocol.name == OWN:
            return ask
    raise ConfigError(
        f"--fuse can't be used with --protocol {wanted[0].protocol.name}",
        "a published rule says nothing of fused embeddings",
        f"leave --fuse out, or type --protocol {OWN} too",
    )


def _pairs(
    config: ProbeConfig, material: Material, found: Sequence[View], over: str
) -> Iterator[tuple[View, Group]]:
    """What is judged with what is fused; ConfigError where there is nothing."""
    if over != "modality":
        own = groups(config, material, over)
        yield from ((view, group) for view in found for group in own)
        return
    several = [view for view in found if view.fusion.startswith("concat-") and len(view.modalities) > 1]
    if not several:
        raise ConfigError(
            f"data set {material.name!r}: there are no modalities to fuse",
            "modalities are fused by case, where --fusion is concat (which is the default)",
            "add the columns case and modality to the manifest, or leave --over modality out",
        )
    for view in several:
        for table in candidates(config, material):
            yield view, Group((table,), view.modalities)


def _joined(values: Sequence[str]) -> str:
    """One word where all are the same, else all in order with + between."""
    return values[0] if len(set(values)) == 1 else "+".join(values)


def _key(subject: Question, view: View, group: Group, how: str, name: str, seed: int) -> RunKey:
    tables = group.tables
    keys = [table.pooling.rpartition("/") for table in tables]
    prints = [[table.fingerprint, table.pooling] for table in tables]
    return RunKey(
        dataset=subject.name,
        backbone=_joined([table.recipe.backbone for table in tables]),
        weights=_joined([table.weights_label for table in tables]),
        mode="frozen",
        pooling=_joined([pooling for _, _, pooling in keys]),
        layer=_joined([layer or "last" for layer, _, _ in keys])
        if any(layer for layer, _, _ in keys)
        else "",
        protocol=subject.protocol,
        inputs=view.inputs,
        fusion=how + (f" ({view.fusion.removeprefix('concat-')} of case)" if view.fusion else ""),
        level=view.level,
        preprocessing=_joined([table.recipe.preprocessing.label for table in tables]),
        probe=name,
        seed=seed,
        fingerprint=prints[0][0] if len(tables) == 1 else sha256_json(prints),
    )


def _hash(
    config: ProbeConfig,
    subject: Question,
    view: View,
    group: Group,
    method: str,
    ask: Ask,
    key: RunKey,
) -> str:
    what = {name: getattr(key, name) for name in ("mode", "probe", "fraction", "shots")}
    what |= {"fuse": method, "parts": group.parts, "protocol": ask.rule}
    what |= {"variant": key.variant} if key.variant else {}
    what |= {"tables": [[table.fingerprint, table.pooling] for table in group.tables]}
    looked = {"level": view.level, "inputs": view.inputs, "fusion": view.fusion, "missing": config.missing}
    return subject.unit(key.fingerprint, stage="probe", **what, **looked)


def work_of(unit: Unit, number: int, read: Callable[[Table], AnyArray]) -> Work | FusedWork:
    """Fold `number` of a unit, fused or not; `read` gives a table's embeddings.

    CacheError where two tables that are to be fused have different rows.
    """
    if not isinstance(unit, FusedUnit):
        return fitting.work_of(unit, number, read)
    view, key = unit.view, unit.key
    fold, samples = view.folds[number], view.samples
    rows = fitting.rows_of(unit, number)
    learn = rows.learn
    tables = _tables(unit, learn, read)
    labels = samples.label[learn]
    if key.mode == SHUFFLED:
        labels = shuffled(labels, samples.units()[learn], key.seed)
    facts = Facts(
        rows=len(learn),
        columns=sum(X.shape[1] for X in tables),
        classes=len(samples.label_names),
        shots=key.shots,
    )
    rule = probes.Rule(**unit.protocol.rule(facts, few=few_labels(key)))
    if is_variant(key, BALANCED):
        rule = dataclasses.replace(rule, options={**rule.options, "class_weight": "balanced"})
    return FusedWork(
        method=unit.method,
        probe=key.probe,
        parts=unit.parts,
        views=tuple(X[learn] for X in tables),
        tests=tuple(X[fold.test] for X in tables),
        y=labels,
        label_names=samples.label_names,
        task=samples.task,
        selection=rows.selection,
        calibration=rows.calibration,
        seed=key.seed,
        rule=rule,
        groups=len(np.unique(samples.units()[learn])),
    )


def _tables(unit: FusedUnit, learn: IntArray, read: Callable[[Table], AnyArray]) -> list[FloatArray]:
    """What is fused, [M, D_v] each; what a case lacks is filled with the mean of the rows `learn`."""
    found: list[FloatArray] = []
    embeddings = [read(table) for table in unit.tables]
    for table, X in zip(unit.tables, embeddings, strict=True):
        if len(X) != len(embeddings[0]):
            raise CacheError(
                f"{unit.parts[0]} and {unit.parts[len(found)]} have different images",
                f"{len(embeddings[0])} rows of {unit.tables[0].pooling} against {len(X)} of {table.pooling}",
                "type featprobe extract for both again: what is cached is only refreshed",
            )
        rows = np.asarray(X[unit.rows], dtype=np.float64)
        looked = unit.view.features(rows, unit.subject.samples.modality)
        found.append(cases.fill_missing(looked, learn))
    if len(unit.tables) == 1:  # the modalities of one table, side by side
        return np.split(found[0], len(unit.parts), axis=1)
    return found


def fit(work: Work | FusedWork) -> Outcome:
    """Fit, choose and judge one fold, fused or not, and measure what that takes."""
    if isinstance(work, Work) and work.protocol.head:
        import featprobe.heads.cached.fitting  # noqa: F401 - the time that torch takes to load is none of the fit's
    with spending() as spent:
        outcome = _fit(work)
    return dataclasses.replace(outcome, cost=FitCost(spent.seconds, spent.peak, outcome.trained))


def _fit(work: Work | FusedWork) -> Outcome:
    if not isinstance(work, FusedWork):
        return fitting.fit(work)
    training = fusion.Training(
        y=work.y,
        task=work.task,
        names=work.parts,
        selection=work.selection,
        calibration=work.calibration,
        seed=work.seed,
        learn=Learn(work.probe, work.rule, work.task, work.label_names, work.seed),
    )
    fused = fusion.fuse(work.method, work.views, training)
    y_score, notes = fused.predict(work.tests), tuple(fused.notes)
    count = trained_parameters(fused)
    return Outcome(y_score, len(work.y), dict(fused.chosen), notes, work.groups, trained=count)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Learn:
    """The door of `featprobe.fusion` to `featprobe.probes`: see `fusion.Learner`. Pickles."""

    probe: str
    rule: probes.Rule
    task: str
    label_names: tuple[str, ...]
    seed: int

    def __call__(
        self,
        X: FloatArray,
        y: AnyArray,
        *,
        selection: fusion.Parts,
        calibration: fusion.Parts,
        scaled: bool = False,
        value: float | None = None,
        refit: bool = True,
        final: bool = False,
    ) -> probes.FittedProbe:
        """The probe, by the rule; scales that mean something are not standardised away."""
        # What is weighed below is weighed on top too.
        weights = {name: value for name, value in self.rule.options.items() if name == "class_weight"}
        name, rule = (_FINAL[self.task], probes.Rule(options=weights)) if final else (self.probe, self.rule)
        if scaled and getattr(PROBES.get(name), "scale", "standard") == "standard":
            rule = dataclasses.replace(rule, scale="none")
        if value is not None:
            rule = dataclasses.replace(rule, grid=(value,))
        if not refit:
            rule = dataclasses.replace(rule, refit=False)
        return probes.fit_probe(
            name,
            X,
            y,
            n_classes=len(self.label_names),
            selection=selection,
            calibration=calibration,
            seed=self.seed,
            task=self.task,
            label_names=self.label_names,
            rule=rule,
        )
