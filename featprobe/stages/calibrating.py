"""Scores recalibrated inside the training data: each row is scored by a probe that saw nothing of its group."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from featprobe import probes, splitting, trust
from featprobe.config import FinetuneConfig, ProbeConfig
from featprobe.errors import ConfigError, SplitError
from featprobe.probes import FittedProbe, Rule
from featprobe.protocols import ProbeProtocol
from featprobe.records import AnyArray, FloatArray, IntArray, RunKey, Samples

NONE: Final = "none"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Recalibration:
    """How scores are recalibrated: `method`, and (fit, held out, parts of fit to tune on) for each inner fold.

    Positions in the rows that are learnt from; those of the third in the rows of the first.
    """

    method: str
    folds: tuple[tuple[IntArray, IntArray, probes.Parts], ...]


def need_calibratable(config: ProbeConfig, wanted: Sequence[ProbeProtocol]) -> None:
    """ConfigError where --calibrate stands beside what can't be fitted out of fold here."""
    if config.calibrate == NONE:
        return
    strange = [protocol.name for protocol in wanted if protocol.head or protocol.trainer]
    if strange:
        raise ConfigError(
            f"--calibrate {config.calibrate} can't be used with --protocol {strange[0]}",
            "it trains by its own published rule, which fits nothing out of fold",
            "leave --calibrate out, or type --protocol featprobe",
        )
    if "moved" in config.thresholds:
        raise ConfigError(
            f"--calibrate {config.calibrate} can't be used with --thresholds moved",
            "thresholds are moved on scores as the probe gives them",
            "leave one of them out",
        )
    if config.fuse:
        raise ConfigError(
            f"--calibrate {config.calibrate} can't be used with --fuse {config.fuse[0]}",
            "fused embeddings are not recalibrated",
            "leave one of them out",
        )


def varied(key: RunKey, config: ProbeConfig | FinetuneConfig, task: str) -> RunKey:
    """`key` with the calibration in its `variant`; a number has no probabilities to calibrate."""
    if config.calibrate == NONE or task == "continuous":
        return key
    return dataclasses.replace(key, variant=", ".join(filter(None, [key.variant, config.calibrate])))


def method_of(key: RunKey) -> str:
    """The calibration in a key's `variant`; "" where there is none."""
    return next((word for word in key.variant.split(", ") if word in trust.METHODS), "")


def planned(key: RunKey, samples: Samples, learn: IntArray) -> Recalibration | None:
    """The folds in which the rows `learn` are scored without their own groups; None where nothing is recalibrated.

    Grouped and stratified, whatever the protocol chooses on. Raises SplitError where a class has under 3 groups:
    the probe that scores a fold is itself tuned inside the others.
    """
    method = method_of(key)
    if not method:
        return None
    try:
        outer = splitting.inner_folds(samples, learn, folds=5, seed=key.seed)
        folds = [
            (fit, held, splitting.inner_folds(samples, learn[fit], folds=5, seed=key.seed))
            for fit, held in outer
        ]
    except SplitError as error:
        raise SplitError(
            f"--calibrate {method}: {error.wrong}",
            "every class needs 3 groups: one to calibrate on, two to fit and to choose on",
            "leave rare classes out with --min-groups 3, or leave --calibrate out",
        ) from None
    return Recalibration(method, tuple(folds))


def recalibrated(
    fitted: FittedProbe,
    X: AnyArray,
    y: AnyArray,
    plan: Recalibration,
    fit: Callable[..., FittedProbe],
    rule: Rule,
    names: Sequence[str],
) -> FittedProbe:
    """`fitted` with its scores recalibrated by those that probes of the same kind give rows that they had not seen.

    `X` [N, D], `y`: the rows that it was fitted to. `fit(X, y, selection=, calibration=, rule=)`: another such probe;
    where one value was chosen it is not chosen again. `names`: of the classes or labels.
    """
    again = dataclasses.replace(rule, refit=True)
    if len(fitted.chosen) == 1:
        again = dataclasses.replace(again, grid=tuple(fitted.chosen.values()))
    scores: list[FloatArray] = []
    for rows, held, inner in plan.folds:
        other = fit(X[rows], y[rows], selection=inner, calibration=inner, rule=again)
        scores.append(other.predict(X[held])[:, fitted.classes])
    order = np.concatenate([held for _, held, _ in plan.folds])
    truth = y[order] if y.ndim == 2 else np.searchsorted(fitted.classes, y[order])
    own = [names[k] for k in fitted.classes]
    calibrator, chosen, notes = trust.calibrate(plan.method, np.concatenate(scores), truth, names=own)
    return dataclasses.replace(
        fitted,
        model=trust.Recalibrated(fitted.model, calibrator),
        chosen={**fitted.chosen, **chosen},
        notes=(*fitted.notes, *notes),
    )
