"""The three evaluations of DINOv2 on frozen features: logistic regression, nearest neighbours, a linear search."""

from __future__ import annotations

from typing import Final

import numpy as np

from featprobe.errors import ProbeError
from featprobe.protocols.contract import Draw, Facts, ProbeProtocol, values
from featprobe.registry import PROTOCOLS

CLASSES: Final = ("classes", "ordinal")
PAPER: Final = "Oquab et al. 2023, arXiv 2304.07193; facebookresearch/dinov2 at b8931f7, dinov2/eval/"
C_GRID: Final = values(10.0 ** np.linspace(-6, 5, 45))
NEIGHBOURS: Final = (200, 100, 20, 10)
BLOCKS: Final = ("cls", "cls+mean", "last4/cls", "last4/cls+mean")
"""Class tokens of the last block or the last four, without and with the mean of the last patch tokens."""

PROTOCOLS.register("dinov2-logreg")(
    ProbeProtocol(
        name="dinov2-logreg",
        source=f"{PAPER}log_regression.py",
        describe=(
            "logistic regression on class tokens that are neither scaled nor normalised; the first of 45 values of C "
            "from 1e-6 to 1e5 with the best accuracy on the validation part, else on a random 10 % of the training "
            "rows (seed 0); fitted again with those rows"
        ),
        tasks=CLASSES,
        probe="logistic",
        draw=Draw(kind="random", share=0.1),
        scale="none",
        grid=C_GRID,
        score="accuracy",
        pick="best",
        inputs=("cls", "gap"),
        differs=(
            "fitted to a certified optimum, where the publication stops after 1,000 iterations",
            "backbones without a class token give their pooled features (gap), which the publication does not have",
        ),
    )
)


def neighbours(facts: Facts) -> tuple[float, ...]:
    """Of k = 10, 20, 100, 200 those that the rows suffice for; with n shots those up to n, and n itself.

    From many to few neighbours: more are the simpler model. Raises ProbeError where none is left.
    """
    wanted = [k for k in NEIGHBOURS if k <= facts.rows]
    if facts.shots:
        wanted = sorted({facts.shots, *(k for k in NEIGHBOURS if k <= facts.shots)}, reverse=True)
    if not wanted:
        raise ProbeError(
            f"{facts.rows} rows are too few for --protocol dinov2-knn",
            f"its numbers of neighbours are {', '.join(map(str, sorted(NEIGHBOURS)))}",
            "give more labels, or type --protocol dinov2-logreg",
        )
    return values(wanted)


PROTOCOLS.register("dinov2-knn")(
    ProbeProtocol(
        name="dinov2-knn",
        source=f"{PAPER}knn.py",
        describe=(
            "nearest neighbours among L2-normalised class tokens, votes weighted by the softmax of the similarity "
            "over a temperature of 0.07, k of 10, 20, 100 and 200"
        ),
        tasks=CLASSES,
        probe="knn",
        draw=Draw(kind="random", share=0.1),
        scale="l2",
        grid_of=neighbours,
        score="accuracy",
        pick="best",
        options={"metric": "cosine", "temperature": 0.07},
        inputs=("cls", "gap"),
        differs=(
            (
                "the publication reports all four k on the test set; ours takes the one with the best accuracy on the "
                "validation part, else on a random 10 % of the training rows, of equals the largest, and then searches "
                "all training rows"
            ),
            "probabilities are the votes over their sum, which changes no decision",
        ),
    )
)

PROTOCOLS.register("dinov2-linear")(
    ProbeProtocol(
        name="dinov2-linear",
        source=f"{PAPER}linear.py",
        describe=(
            "52 linear heads trained at once by SGD: 13 learning rates x the last 1 or 4 blocks x without and with "
            "the mean patch token; the most accurate on the validation part is judged on the test set"
        ),
        tasks=(*CLASSES, "multilabel"),
        head="dinov2-linear",
        draw=Draw(kind="random", share=0.1),
        refit=False,
        inputs=BLOCKS,
        searched=True,
        differs=(
            (
                "where the data bring no validation part, a random 10 % of the training rows (seed 0) takes its place, "
                "and is not trained on"
            ),
        ),
    )
)
