"""Baharoon et al. on radiographs: a linear search for transformers and convolutional networks, and ML-kNN."""

from __future__ import annotations

from typing import Final

from featprobe.errors import ProbeError
from featprobe.protocols.contract import Draw, Facts, ProbeProtocol, values
from featprobe.registry import PROTOCOLS

NEIGHBOURS: Final = (200, 100, 50, 20, 5)


def neighbours(facts: Facts) -> tuple[float, ...]:
    """Of k = 5, 20, 50, 100, 200 those below the number of rows, from many to few; ProbeError where none is."""
    wanted = [k for k in NEIGHBOURS if k < facts.rows]
    if not wanted:
        raise ProbeError(
            f"{facts.rows} rows are too few for --protocol baharoon-mlknn",
            f"its numbers of neighbours are {', '.join(map(str, sorted(NEIGHBOURS)))}",
            "give more labels, or type --protocol featprobe",
        )
    return values(wanted)


PROTOCOLS.register("baharoon-linear")(
    ProbeProtocol(
        name="baharoon-linear",
        source="Baharoon et al. 2023, arXiv 2312.02366; MohammedSB/DINOv2ForRadiology at cb91e01, dinov2/eval/classification/linear.py",
        describe=(
            "linear heads trained at once by SGD: 4 learning rates x the last 1 or 4 blocks x without and with the "
            "mean patch token; the one with the best AUROC on the validation part is trained again on all training "
            "rows"
        ),
        tasks=("classes", "ordinal", "multilabel"),
        head="baharoon-linear",
        draw=Draw(kind="random", share=0.1),
        inputs=("cls+mean", "cls", "last4/cls+mean", "last4/cls"),
        searched=True,
        instead=("gap",),
        metrics=("auroc", "macro_auroc"),
        differs=(
            "where the data bring no validation part, a random 10 % of the training rows (seed 0) takes its place",
            "as published, a convolutional network has one input and 4 heads, where a transformer has 16",
        ),
    )
)

PROTOCOLS.register("baharoon-mlknn")(
    ProbeProtocol(
        name="baharoon-mlknn",
        source="Baharoon et al. 2023, arXiv 2312.02366; MohammedSB/DINOv2ForRadiology at cb91e01, dinov2/eval/classification/mlknn.py",
        describe=(
            "ML-kNN by cosine similarity among L2-normalised class tokens, smoothing 1, k of 5, 20, 50, 100 and 200"
        ),
        tasks=("multilabel",),
        probe="knn",
        draw=Draw(kind="random", share=0.1),
        scale="l2",
        grid_of=neighbours,
        score="log_loss",
        pick="best",
        options={"metric": "cosine", "vote": "mlknn"},
        inputs=("cls", "gap"),
        metrics=("macro_auroc",),
        differs=(
            (
                "the publication reports every k on the test set; ours takes the one with the best log loss on the "
                "validation part, else on a random 10 % of the training rows, of equals the largest, and then "
                "searches all training rows"
            ),
            "a training row is left out of its own neighbours, as Zhang and Zhou 2007 have it; in that code it is not",
        ),
    )
)
