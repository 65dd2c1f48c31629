"""Labels and definitions of the metrics that a report shows where it was asked for them."""

from __future__ import annotations

from typing import Final

_CALLED: Final = "labels are called at probabilities above 0.5, on the rows where they are known"
_WEIGHED: Final = "each class weighing as its test rows"

FURTHER: Final = {
    "medmnist_auc": (
        "MedMNIST AUC",
        "area under the ROC curve as MedMNIST's evaluator has it: of the second of two classes, else the unweighted mean over all classes or labels",
    ),
    "medmnist_acc": (
        "MedMNIST accuracy",
        "share of right decisions as MedMNIST's evaluator has it: two classes and labels at 0.5, labels averaged",
    ),
    "macro_precision": (
        "Macro precision",
        "mean over classes of the share of what is called the class that is of it; 0 for a class that is never called",
    ),
    "macro_recall": (
        "Macro recall",
        "mean over classes of the share that is found; a class that is called but true nowhere counts as 0",
    ),
    "weighted_precision": (
        "Weighted precision",
        f"mean over classes, {_WEIGHED}, of the share of what is called the class that is of it; {_CALLED}",
    ),
    "weighted_recall": (
        "Weighted recall",
        f"mean over classes, {_WEIGHED}, of the share that is found; for classes it is the accuracy; {_CALLED}",
    ),
    "weighted_f1": (
        "Weighted F1",
        f"mean over classes, {_WEIGHED}, of the harmonic mean of precision and recall; {_CALLED}",
    ),
    "micro_precision": (
        "Micro precision",
        f"share of all calls that are right; for classes it is the accuracy; {_CALLED}",
    ),
    "micro_recall": (
        "Micro recall",
        f"share of all true classes or labels that are called; for classes it is the accuracy; {_CALLED}",
    ),
    "micro_f1": (
        "Micro F1",
        f"harmonic mean of micro precision and recall; for classes it is the accuracy; {_CALLED}",
    ),
    "macro_label_precision": (
        "Macro precision of labels",
        f"mean over labels of the share of calls that are right, 0 for a label that is never called; {_CALLED}",
    ),
    "macro_label_recall": (
        "Macro recall of labels",
        f"mean over labels of the share of present labels that are called; {_CALLED}",
    ),
    **{
        f"{kind}_at_{level}_{other}": (
            f"{kind.capitalize()} at {level} % {other}",
            f"largest {kind} of a threshold whose {other} is at least 0.{level}, without interpolation; one class against the rest, averaged, where there are more than two; labels averaged",
        )
        for kind, other in (("sensitivity", "specificity"), ("specificity", "sensitivity"))
        for level in (95, 90)
    },
    "cohen_kappa": (
        "Cohen's kappa",
        "agreement of true and most probable class beyond chance; labels at 0.5, averaged",
    ),
    "mcc": (
        "MCC",
        "Matthews correlation of true and most probable class (Gorodkin's for more than two); labels at 0.5, averaged",
    ),
    "log_loss": (
        "Log loss",
        "mean of minus the natural logarithm of the probability given to the true class; labels averaged",
    ),
    "ece": (
        "ECE",
        "expected calibration error: mean distance of accuracy and probability of the most probable class, over 15 bins of equal width (Guo et al., 2017)",
    ),
    "mce": (
        "MCE",
        "maximum calibration error: the largest distance of accuracy and mean probability of the 15 bins of the ECE",
    ),
    "sce": (
        "Classwise ECE",
        "static calibration error: the ECE of each class's probability, in 15 bins of equal width, averaged over classes (Nixon et al., 2019)",
    ),
    "ace": (
        "Adaptive ECE",
        "adaptive calibration error: the ECE of each class's probability, in 15 bins of equal weight, averaged over classes (Nixon et al., 2019)",
    ),
    "macro_ece": (
        "Macro ECE of labels",
        "mean distance of a label's probability and frequency over 15 bins of equal width; averaged over labels, each on the rows where it is known",
    ),
    "macro_ace": (
        "Macro adaptive ECE of labels",
        "mean distance of a label's probability and frequency over 15 bins of equal weight; averaged over labels, each on the rows where it is known",
    ),
    "ccc": (
        "Lin's concordance",
        "concordance correlation of true and predicted values: 1 where they are equal, lowered by another mean or scale",
    ),
    "c_index": (
        "Concordance index",
        "share of pairs with different true values whose predictions (of grades: the expected grade) are in the same order",
    ),
}
"""Name -> (label, definition), in the order of tables, after those of `wording.METRICS`."""
