"""The two frozen evaluations of the MedMNIST+ benchmark: nearest neighbours, and one linear layer."""

from __future__ import annotations

from typing import Final

from featprobe.protocols.contract import Draw, ProbeProtocol
from featprobe.registry import PROTOCOLS

SOURCE: Final = "Doerrich et al. 2025, arXiv 2404.15786; sdoerrich97/rethinking-model-prototyping-MedMNISTPlus at b67b772, "
PADDING: Final = (
    "images smaller than 224 stand there in their own size on zeros, padded after normalising; --fit pad enlarges them "
    "before it pads, so that the input is the published one at 224 alone"
)

METRICS: Final = ("accuracy", "medmnist_acc", "medmnist_auc")
"""Accuracy, and MedMNIST's own evaluator (the AUC is the unweighted mean over classes against the rest)."""

PROTOCOLS.register("medmnistplus-knn")(
    ProbeProtocol(
        name="medmnistplus-knn",
        source=f"{SOURCE}evaluate.py",
        describe=(
            "the majority of the 11 nearest training rows by Euclidean distance between pre-logits as they come, of "
            "equals the first class; a validation part is left out"
        ),
        tasks=("classes", "ordinal", "multilabel"),
        probe="knn",
        draw=Draw(kind="none", given="left out"),
        scale="none",
        grid=(11.0,),
        options={"metric": "euclidean"},
        inputs=("pre_logits",),
        metrics=METRICS,
        differs=(PADDING,),
    )
)

PROTOCOLS.register("medmnistplus-linear")(
    ProbeProtocol(
        name="medmnistplus-linear",
        source=f"{SOURCE}train.py",
        describe=(
            "one linear layer on pre-logits trained by AdamW for 100 epochs at most, stopped early by the loss on the "
            "validation part, else on a random 10 % of the training rows (seed 0)"
        ),
        tasks=("classes", "ordinal", "multilabel"),
        head="medmnistplus-linear",
        draw=Draw(kind="random", share=0.1),
        refit=False,
        inputs=("pre_logits",),
        metrics=METRICS,
        differs=(PADDING,),
    )
)
