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

PROTOCOLS.register("featprobe-mlp")(
    ProbeProtocol(
        name="featprobe-mlp",
        source="featprobe's own; AdamW of Loshchilov and Hutter 2019",
        describe=(
            "standardised embeddings into 256 hidden units, ReLU, and the target; AdamW along a cosine, stopped early "
            "by the loss on the validation part, else on one grouped, stratified inner fold of five, which is not "
            "trained on"
        ),
        tasks=TASKS,
        head="mlp",
        draw=Draw(kind="folds"),
        refit=False,
    )
)

PROTOCOLS.register("featprobe-attentive")(
    ProbeProtocol(
        name="featprobe-attentive",
        source="featprobe's own; attentive pooling as in AIM, El-Nouby et al. 2024, arXiv 2401.08541",
        describe=(
            "one learnt query that attends to the patch tokens, then a linear layer; trained as featprobe-mlp is"
        ),
        tasks=TASKS,
        head="attentive",
        draw=Draw(kind="folds"),
        refit=False,
        inputs=("patches",),
        differs=("the tokens are scaled by fixed statistics of the training tokens instead of BatchNorm",),
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
