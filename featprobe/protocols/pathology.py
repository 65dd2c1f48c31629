"""Linear probes of pathology: UNI's fixed penalty, and the sweep of Patho-Bench."""

from __future__ import annotations

import numpy as np

from featprobe.protocols.contract import Draw, Facts, ProbeProtocol, values
from featprobe.protocols.dinov2 import CLASSES
from featprobe.registry import PROTOCOLS


def uni_c(facts: Facts) -> tuple[float, ...]:
    """C = M K / 100, of M columns and the K classes that training holds."""
    return (facts.columns * facts.classes / 100,)


PROTOCOLS.register("uni")(
    ProbeProtocol(
        name="uni",
        source="Chen et al. 2024, Nature Medicine 30, 850; mahmoodlab/UNI at 42715ef, uni/downstream/eval_patch_features/linear_probe.py",
        describe=(
            "logistic regression with C = M K / 100 (M columns, K classes) on embeddings as they come; nothing is "
            "chosen, and a validation part joins the training rows"
        ),
        tasks=CLASSES,
        probe="logistic",
        draw=Draw(kind="none", given="joins"),
        scale="none",
        grid_of=uni_c,
        inputs=("cls", "gap", "pre_logits"),
        differs=(
            (
                "scikit-learn's objective with this C, as their code has it with use_sklearn: loss summed over rows, half "
                "the squared norm; their default class penalises the mean loss by half the norm itself, not squared, over C"
            ),
            "fitted to a certified optimum, where the publication stops after 1,000 iterations",
        ),
    )
)

PROTOCOLS.register("patho-bench")(
    ProbeProtocol(
        name="patho-bench",
        source="Zhang et al. 2025, arXiv 2502.06750; mahmoodlab/Patho-Bench at 660e770, patho_bench/ExperimentFactory.py (COST: auto)",
        describe=(
            "logistic regression on embeddings as they come, 45 values of C from 1e-5 to 1e6; a validation part is "
            "chosen on and not fitted to"
        ),
        tasks=CLASSES,
        probe="logistic",
        draw=Draw(kind="folds"),
        scale="none",
        grid=values(np.logspace(-5, 6, 45)),
        score="balanced_accuracy",
        pick="best",
        refit=False,
        differs=(
            (
                "their code sweeps the 45 values and reports each, and chooses none; ours takes the first with the best "
                "balanced accuracy on the validation part, else over featprobe's grouped inner folds, after which all "
                "training rows are fitted to"
            ),
            "classes are not weighted, as is their default",
            "intervals are featprobe's, not those of 100 resamples",
        ),
    )
)
