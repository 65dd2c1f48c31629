"""Scores of a trained model recalibrated on the validation rows of its fold; test rows are never looked at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from featprobe import trust
from featprobe.config import FinetuneConfig
from featprobe.errors import ConfigError, SplitError
from featprobe.records import AnyArray, FloatArray, IntArray, RunKey, Samples, sha256_json
from featprobe.stages.calibrating import NONE, method_of


def need_recalibratable(config: FinetuneConfig) -> None:
    """ConfigError where --calibrate stands beside what has no use for it."""
    if config.calibrate != NONE and config.export:
        raise ConfigError(
            f"--calibrate {config.calibrate} can't be used with --export",
            "an exported model gives its scores as they are",
            "leave one of them out: both share one training",
        )


def stored_as(training: str, key: RunKey) -> str:
    """The hash of a result from that of its training, which a calibrated and a plain one share."""
    method = method_of(key)
    return sha256_json([training, method]) if method else training


def need_every_class(method: str, samples: Samples, learn: IntArray, watch: IntArray) -> None:
    """SplitError where isotonic scores have no validation row of a class: it would never be said of any image."""
    if method != "isotonic" or samples.task not in {"classes", "ordinal"}:
        return
    lost = np.setdiff1d(samples.label[learn], samples.label[watch])
    if len(lost):
        groups = len(np.unique(samples.units()[learn][samples.label[learn] == lost[0]]))
        noun = "group" if groups == 1 else "groups"
        raise SplitError(
            f"--calibrate isotonic: class {samples.label_names[lost[0]]!r} has {groups} {noun} to learn from and none in "
            f"the {len(watch)} validation rows",
            "each class needs some there",
            "type --calibrate temperature, or leave rare classes out with --min-groups N",
        )


def recalibrated(
    scores: FloatArray, key: RunKey, samples: Samples, labels: AnyArray, held: Callable[[], FloatArray]
) -> tuple[FloatArray, tuple[str, ...]]:
    """(`scores` [N, K] as the key's `variant` asks, notes); `held()`: those of the validation rows, `labels` theirs.

    The rows that a temperature or steps are fitted to have chosen the epoch (and the trial) too: probabilities on them
    are a little too good, which a note says.
    """
    method = method_of(key)
    if not method:
        return scores, ()
    calibrator, chosen, notes = trust.calibrate(method, held(), labels, names=samples.label_names)
    words = ", ".join(f"{name} {value:.3g}" for name, value in chosen.items()) or method
    first = f"scores recalibrated ({words}) on {len(labels)} validation rows, which chose the epoch too"
    return calibrator(scores), (first, *notes)
