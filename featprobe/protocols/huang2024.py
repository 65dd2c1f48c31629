"""The head of Huang et al. 2024, the study that this package repeats."""

from __future__ import annotations

from featprobe.protocols.contract import Draw, ProbeProtocol
from featprobe.protocols.dinov2 import CLASSES
from featprobe.registry import PROTOCOLS

PROTOCOLS.register("huang2024")(
    ProbeProtocol(
        name="huang2024",
        source="Huang et al. 2024, arXiv 2402.07595; GuanghuiFU/medical_dino_eval at f2b17be, utils.py",
        describe=(
            "a head of 256 hidden units trained by Adam for 100 epochs on the ImageNet logits; the epoch with the "
            "best accuracy on the validation part, else on a random 20 % of the training rows (seed 1)"
        ),
        tasks=CLASSES,
        head="huang2024",
        draw=Draw(kind="random", share=0.2, seed=1, largest=True),
        refit=False,
        inputs=("logits", "pre_logits", "gap"),
        metrics=("accuracy", "weighted_precision", "weighted_recall", "weighted_f1"),
        differs=(
            (
                "every backbone gets this head; in the publication convolutional networks get one linear layer on their "
                "penultimate features, and VGG16 and DenseNet121 train more than that"
            ),
            (
                "the publication shuffles the list of images before it draws, in an order that can't be repeated: here "
                "rows are drawn in the order of the data set"
            ),
        ),
    )
)
