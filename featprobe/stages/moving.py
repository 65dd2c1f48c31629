"""Thresholds of one fold's model, moved on training rows that a fit with the same values had not seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from featprobe import probes
from featprobe.errors import ProbeError
from featprobe.records import FloatArray, IntArray

if TYPE_CHECKING:
    from featprobe.stages.fitting import Work


def moved_thresholds(work: Work, rule: probes.Rule, chosen: Mapping[str, float]) -> FloatArray:
    """Thresholds [C] (see `probes.moved_thresholds`) of the probe that was fitted with the values `chosen`.

    In each part of `work.moving` the probe is fitted with these values to the other parts, calibrated within them, and
    asked about the part: no row is judged by a fit that saw its group, and no test row is looked at. Raises ProbeError
    where there are fewer than three parts.
    """
    if len(work.moving) < 3:
        raise ProbeError(
            "thresholds can't be moved on so few training rows",
            f"it takes three grouped folds: to fit, to calibrate and to cut on; the rarest class has "
            f"{len(work.moving)} groups",
            "leave --thresholds out, or rare classes with --min-groups 4",
        )
    ((_, X),) = work.X.items()
    said = np.full((len(X), len(work.label_names)), np.nan)
    for number, (fit, held) in enumerate(work.moving):
        inner = _inside(work.moving, number)
        for labels, own in _settled(rule, chosen, work.label_names, work.task):
            y = work.y[fit] if labels is None else work.y[fit][:, labels]
            columns = np.arange(len(work.label_names)) if labels is None else labels
            if work.task == "multilabel" and not ((y == 0).any(axis=0) & (y == 1).any(axis=0)).any():
                continue  # nothing can be fitted to labels of one value: their thresholds stay
            fitted = probes.fit_probe(
                work.fits,
                X[fit],
                y,
                n_classes=len(columns),
                selection=inner,
                calibration=inner,
                seed=work.seed,
                task=work.task,
                label_names=[work.label_names[column] for column in columns.tolist()],
                rule=own,
            )
            said[np.ix_(held, columns)] = fitted.predict(X[held])
    if work.task == "multilabel":
        truth = np.where(np.isfinite(said), work.y, -1)
        return probes.moved_thresholds(truth, np.nan_to_num(said), work.task)
    asked = np.isfinite(said).all(axis=1)
    return probes.moved_thresholds(work.y[asked], said[asked], work.task)


def _inside(parts: Sequence[tuple[IntArray, IntArray]], number: int) -> list[tuple[IntArray, IntArray]]:
    """The other parts without the rows that part `number` holds out, as positions in its rows to fit."""
    fit, held = parts[number]
    place = np.full(int(max(fit.max(), held.max())) + 1, -1, dtype=np.int64)
    place[fit] = np.arange(len(fit))
    found = []
    for other, (rows, judged) in enumerate(parts):
        if other != number:
            inside = [place[part[part < len(place)]] for part in (rows, judged)]
            found.append((inside[0][inside[0] >= 0], inside[1][inside[1] >= 0]))
    return [(rows, judged) for rows, judged in found if len(rows) and len(judged)]


def _settled(
    rule: probes.Rule, chosen: Mapping[str, float], names: Sequence[str], task: str
) -> Iterator[tuple[IntArray | None, probes.Rule]]:
    """(labels that are fitted together, None for all; the rule with the one value that was chosen for them)."""
    whole = dataclasses.replace(rule, refit=True)
    values: dict[float, list[int]] = {}
    if task == "multilabel":
        for label, name in enumerate(names):
            own = [value for what, value in chosen.items() if what.endswith(f" of {name}")]
            if own:
                values.setdefault(own[0], []).append(label)
    if values:
        for value, labels in values.items():
            yield np.array(labels), dataclasses.replace(whole, grid=(value,))
        return
    found = [float(value) for value in chosen.values()]
    yield None, dataclasses.replace(whole, grid=tuple(found[:1])) if found else whole
