"""The linear support vector machine with squared hinge: smooth, each class against the rest, quicker than the hinge."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from featprobe.probes.margins import MarginProbe
from featprobe.registry import PROBES

GRID: Final = tuple(float(c) for c in 10.0 ** np.arange(-6, 1.5, 0.5))


class SquaredSVM(MarginProbe):
    """`LinearSVC`'s loss with an intercept that is not penalised, certified at every C."""

    name = "svm_squared"
    loss = "squared_hinge"
    grid: ClassVar[tuple[float, ...]] = GRID
    describe = (
        "linear SVM (squared hinge, one against the rest, certified by its duality gap) on standardised embeddings, C "
        "from 1e-6 to 10 in half decades by validation balanced accuracy, probabilities by Platt scaling fitted out of "
        "fold by group inside the training data; several labels: one machine per label, each with its own C"
    )


PROBES.register("svm_squared")(SquaredSVM())
