"""featprobe's own rule, and the one that people follow without choosing one: scikit-learn's defaults."""

from __future__ import annotations

from featprobe.protocols.contract import Draw, ProbeProtocol
from featprobe.records import TASKS
from featprobe.registry import PROTOCOLS

PROTOCOLS.register("featprobe")(
    ProbeProtocol(
        name="featprobe",
        source="featprobe's own",
        describe=(
            "standardised embeddings; the value is chosen on the validation part, else by five grouped, stratified "
            "inner folds, and fitted to all training rows"
        ),
        tasks=TASKS,
        draw=Draw(kind="folds"),
    )
)

PROTOCOLS.register("featprobe-1se")(
    ProbeProtocol(
        name="featprobe-1se",
        source="featprobe's own, with the rule of Breiman et al. 1984, section 3.4.3",
        describe=(
            "as featprobe, but the simplest value within one standard error of the best over five grouped inner "
            "folds, which a validation part joins"
        ),
        tasks=TASKS,
        draw=Draw(kind="folds", given="joins"),
        pick="one standard error",
    )
)

PROTOCOLS.register("sklearn-default")(
    ProbeProtocol(
        name="sklearn-default",
        source="scikit-learn 1.x, sklearn.linear_model.LogisticRegression()",
        describe=(
            "logistic regression with C = 1 on embeddings as they come; nothing is chosen, and a validation part "
            "joins the training rows"
        ),
        tasks=("classes", "ordinal", "multilabel"),
        probe="logistic",
        draw=Draw(kind="none", given="joins"),
        scale="none",
        grid=(1.0,),
        differs=(
            "fitted to its optimum, where scikit-learn stops after 100 iterations",
            "several labels get one regression each",
        ),
    )
)
