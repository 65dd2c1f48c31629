"""Which rows a fine-tuning learns from and which it watches: the probe's own nested draws, one part held out."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from featprobe import splitting
from featprobe.config import FinetuneConfig
from featprobe.protocols import ProbeProtocol
from featprobe.records import IntArray, RunKey, Samples
from featprobe.registry import PROTOCOLS
from featprobe.splitting import Fold
from featprobe.stages.calibrating import method_of, varied
from featprobe.stages.evaluation import Question
from featprobe.stages.feasible import Draw, need_draws, need_two_classes
from featprobe.stages.fitting import parts_of
from featprobe.stages.training_calibrating import need_every_class
from featprobe.stages.views import views


def rows_of(protocol: ProbeProtocol, samples: Samples, fold: Fold, key: RunKey) -> tuple[IntArray, IntArray]:
    """(rows to learn from, rows to choose the best epoch on), positions in `samples`.

    Together they are the rows that a probe under `protocol` learns from with this fraction, shots and seed. The
    part to choose on is the user's validation part where it still holds all that is learnt, else what a
    published protocol draws, else a grouped 20 % (featprobe's own rule has folds there, and a training has no
    use for folds).
    """
    if protocol.draw.kind == "folds":
        protocol = dataclasses.replace(protocol, draw=dataclasses.replace(protocol.draw, kind="none"))
    learn, parts = parts_of(protocol, samples, fold, key)
    ((fit, held),) = parts
    if not np.array_equal(fit, held):
        return learn[fit], learn[held]
    return splitting.holdout(samples, learn, fraction=0.2, seed=key.seed)


def amounts_of(config: FinetuneConfig) -> list[tuple[float, int]]:
    """(fraction, shots) of every amount of labels that is asked for."""
    return [(1.0, shots) for shots in config.shots] or [(fraction, 0) for fraction in config.fraction]


def need_trainable(config: FinetuneConfig, asked: Sequence[tuple[int, Question]]) -> None:
    """Refuse amounts of labels that can't be drawn in a fold of `asked`, (seed, question) of one data set each.

    Nothing is trained. Raises SplitError or ProbeError that names data set, fold, amount, seed, class and groups.
    """
    protocol = PROTOCOLS.get(config.protocol)
    draws = []
    for seed, subject in asked:
        plain = RunKey(subject.name, "", "", "", "", "", "", "", seed=seed)  # of no backbone yet
        plain = varied(plain, config, subject.samples.task)
        for view, (fraction, shots) in itertools.product(views(subject, config), amounts_of(config)):
            key = dataclasses.replace(plain, fraction=fraction, shots=shots)
            for fold in view.folds:
                attempt = functools.partial(_attempt, protocol, view.samples, fold, key)
                pool = np.concatenate([fold.train, fold.val])
                draws.append(Draw(view.samples, pool, fold.name, key, 1, attempt))
    need_draws(draws)


def _attempt(protocol: ProbeProtocol, samples: Samples, fold: Fold, key: RunKey) -> None:
    learn, watch = rows_of(protocol, samples, fold, key)
    need_two_classes(samples, learn)
    need_every_class(method_of(key), samples, learn, watch)
