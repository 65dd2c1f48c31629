"""The logistic regression of DINOv3, which draws the rows to choose on class by class."""

from __future__ import annotations

from featprobe.protocols.contract import Draw, ProbeProtocol
from featprobe.protocols.dinov2 import C_GRID, CLASSES
from featprobe.registry import PROTOCOLS

PROTOCOLS.register("dinov3-logreg")(
    ProbeProtocol(
        name="dinov3-logreg",
        source="Siméoni et al. 2025, arXiv 2508.10104; facebookresearch/dinov3 at 6876159, dinov3/eval/log_regression.py",
        describe=(
            "logistic regression on class tokens that are neither scaled nor normalised; the first of 45 values of C "
            "from 1e-6 to 1e5 with the best accuracy on the validation part, else on 10 % of each class; fitted again "
            "with those rows; of few labels C is chosen on 1 % of each class set apart before, and they are not "
            "fitted to"
        ),
        tasks=CLASSES,
        probe="logistic",
        draw=Draw(kind="per class", share=0.1, few_share=0.01, apart=True),
        scale="none",
        grid=C_GRID,
        score="accuracy",
        pick="best",
        few_refit=False,
        inputs=("cls", "gap"),
        differs=(
            "fitted to a certified optimum, where the publication stops after 1,000 iterations",
            "backbones without a class token give their pooled features (gap), which the publication does not have",
        ),
    )
)
