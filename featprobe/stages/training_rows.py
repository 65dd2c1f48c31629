"""Which rows a fine-tuning learns from and which it watches: the probe's own nested draws, one part held out."""

from __future__ import annotations

import dataclasses

import numpy as np

from featprobe import splitting
from featprobe.protocols import ProbeProtocol
from featprobe.records import IntArray, RunKey, Samples
from featprobe.splitting import Fold
from featprobe.stages.fitting import parts_of


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
