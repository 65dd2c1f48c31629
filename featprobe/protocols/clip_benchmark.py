"""The linear probe of CLIP_benchmark: AdamW on normalised features, its weight decay searched from coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from featprobe.protocols.adamw import Linear, train
from featprobe.protocols.contract import Draw, ProbeProtocol, Trained, values
from featprobe.protocols.dinov2 import CLASSES
from featprobe.records import FloatArray, IntArray
from featprobe.registry import PROTOCOLS

DECAYS: Final = values(np.logspace(-6, 2, 97))
COARSE: Final = tuple(range(0, 97, 16))
SPANS: Final = (8, 4, 2, 1)


def peak(places: Sequence[int], accuracy: Callable[[Sequence[int]], Sequence[float]]) -> int:
    """The first of `places` whose accuracy nothing before it reaches; 0 where all accuracies are 0."""
    best, most = 0, 0.0
    for place, value in zip(places, accuracy(places), strict=True):
        if value > most:
            best, most = place, value
    return best


def coarse_to_fine(accuracy: Callable[[Sequence[int]], Sequence[float]]) -> int:
    """The place in DECAYS that the search ends at: of every 16th, then among neighbours 8, 4, 2 and 1 places away."""
    place = peak(COARSE, accuracy)
    for span in SPANS:
        around = (max(place - span, 0), place, min(place + span, len(DECAYS) - 1))
        place = peak(around, accuracy)
    return place


def fit(X: FloatArray, y: IntArray, parts: tuple[IntArray, IntArray], few: bool, seed: int) -> Trained:
    """See `contract.Trainer`. Trainings that overflow score 0; of all labels the held rows are trained on at last."""
    fitted, held = parts
    rows = _unit(X)
    classes = int(y.max()) + 1
    known: dict[int, float] = {}

    def accuracy(places: Sequence[int]) -> list[float]:
        new = [place for place in dict.fromkeys(places) if place not in known]
        if new:
            models = train(rows[fitted], y[fitted], classes, [DECAYS[place] for place in new], seed)
            for place, model in zip(new, models, strict=True):
                right = model.scores(rows[held]).argmax(axis=1) == y[held]
                known[place] = float(right.mean()) if model.finite else 0.0
        return [known[place] for place in places]

    place = coarse_to_fine(accuracy)
    last = fitted if few else np.arange(len(X))
    (final,) = train(rows[last], y[last], classes, [DECAYS[place]], seed)
    scores = {DECAYS[at]: known[at] for at in sorted(known)}
    notes = () if final.finite else ("the last training overflowed: all classes get the same probability",)
    return Trained(Unit(final), {"weight decay": DECAYS[place]}, scores, notes)


class Unit:
    """A linear model of rows of length 1, for rows as they come."""

    def __init__(self, inner: Linear) -> None:
        self.inner = inner

    def predict(self, X: FloatArray) -> FloatArray:
        """Softmax, [M, K]."""
        return self.inner.predict(_unit(X))


def _unit(X: FloatArray) -> FloatArray:
    rows: FloatArray = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)
    return rows


PROTOCOLS.register("clip-benchmark")(
    ProbeProtocol(
        name="clip-benchmark",
        source="LAION-AI/CLIP_benchmark at 48de38c, clip_benchmark/metrics/linear_probe.py",
        describe=(
            "a linear layer on L2-normalised features, trained by AdamW (rate 0.1 along a cosine, 10 epochs, batch 64); "
            "weight decay from 97 values of 1e-6 to 1e2, coarse to fine, by accuracy on the validation part, else on a "
            "random 10 % of the training rows; trained again with those rows unless few labels are learnt from"
        ),
        tasks=CLASSES,
        trainer=fit,
        trained="adamw",
        draw=Draw(kind="random", share=0.1, apart=True),
        few_refit=False,
        scale="l2",
        grid=DECAYS,
        score="accuracy",
        pick="best",
        differs=(
            "in double precision, where the publication trains in mixed precision on a GPU",
            (
                "without a validation part and without a proportion to draw, the publication does not search and decays "
                "nothing; ours draws 10 %, as its manual's example does"
            ),
        ),
    )
)
