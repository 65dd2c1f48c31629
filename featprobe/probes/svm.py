"""The linear support vector machine: a margin instead of a likelihood, with probabilities by Platt scaling."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from featprobe.probes.margins import MarginProbe
from featprobe.registry import PROBES

GRID: Final = tuple(float(c) for c in 10.0 ** np.arange(-5, 1.5, 0.5))


class SVM(MarginProbe):
    """The hinge loss, one class against one: scikit-learn's `SVC(kernel="linear")`, certified at every C."""

    name = "svm"
    loss = "hinge"
    grid: ClassVar[tuple[float, ...]] = GRID
    describe = (
        "linear SVM (hinge, one against one, certified by its duality gap) on standardised embeddings, C from 1e-5 "
        "to 10 in half decades by validation balanced accuracy, probabilities by Platt scaling fitted out of fold by "
        "group inside the training data; several labels: one machine per label, each with its own C"
    )


PROBES.register("svm")(SVM())
