"""What a training minimises and what its scores mean, for classes, ordered classes, several labels and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from featprobe.errors import ConfigError, ProbeError
from featprobe.heads.cached.targets import Target, auroc
from featprobe.heads.optimisation import class_weights
from featprobe.heads.recipe import TrainingRecipe
from featprobe.records import AnyArray, FloatArray

Link = Literal["softmax", "corn", "sigmoid", "number"]

_SEE: Final = "see the split with: featprobe inspect --data SPEC"


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """The loss of scores [B, K] against labels, and the predictions that scores stand for.

    `link`: "softmax", cross-entropy of C scores; "corn", C - 1 scores, the k-th the log odds of a class above k among
    those not below k (Shi et al. 2021, arXiv 2111.08851, equation 4); "sigmoid", a logistic loss for each of L labels,
    averaged over those that are known; "number", the squared error of the standardised number. `weights`: of classes
    [C], or of the positives of each label [L]. `smoothing`: of labels. `mean`, `scale`: of the training numbers.
    """

    link: Link
    outputs: int
    n_classes: int
    weights: Tensor | None = None
    smoothing: float = 0.0
    mean: float = 0.0
    scale: float = 1.0

    def to(self, device: torch.device) -> Objective:
        """The same on `device`."""
        weights = None if self.weights is None else self.weights.to(device)
        return Objective(
            self.link, self.outputs, self.n_classes, weights, self.smoothing, self.mean, self.scale
        )

    def truth(self, labels: AnyArray) -> Tensor:
        """`labels` as the loss takes them: int64 [N]; float32 [N, L], NaN where missing; float32 [N, 1]."""
        if self.link == "sigmoid":
            return torch.from_numpy(np.where(labels < 0, np.nan, labels).astype(np.float32))
        if self.link == "number":
            standardised = (np.asarray(labels, dtype=np.float64) - self.mean) / self.scale
            return torch.from_numpy(standardised.astype(np.float32)[:, None])
        return torch.from_numpy(np.asarray(labels, dtype=np.int64))

    def total(self, scores: Tensor, truth: Tensor, *, smooth: bool = True) -> Tensor:
        """The loss summed over rows (over known cells); `truth` as `truth` gives it, or shares of classes [B, C]."""
        smoothing = self.smoothing if smooth else 0.0
        weights = None if self.weights is None else self.weights.to(scores.dtype)
        if self.link == "softmax":
            return functional.cross_entropy(
                scores, truth, weight=weights, label_smoothing=smoothing, reduction="sum"
            )
        if self.link == "number":
            return functional.mse_loss(scores, truth.to(scores.dtype), reduction="sum")
        if self.link == "corn":
            truth = self._corn(truth)
        known = truth.isfinite()
        wanted = truth.nan_to_num().to(scores.dtype) * (1 - smoothing) + 0.5 * smoothing
        losses = functional.binary_cross_entropy_with_logits(
            scores, wanted, pos_weight=weights, reduction="none"
        )
        return (losses * known).sum()

    def amount(self, truth: Tensor) -> Tensor:
        """What `total` is divided by to be a mean: rows, by their classes' weights, or known cells."""
        if self.link == "softmax":
            if self.weights is None or truth.is_floating_point():
                return torch.tensor(float(len(truth)), device=truth.device)
            return self.weights[truth].sum()
        if self.link == "number":
            return torch.tensor(float(len(truth)), device=truth.device)
        cells = self._corn(truth) if self.link == "corn" else truth
        return cells.isfinite().sum().clamp(min=1).float()

    def _corn(self, truth: Tensor) -> Tensor:
        """float32 [B, C - 1]: whether the class is above k, NaN where it is below k."""
        steps = torch.arange(self.outputs, device=truth.device)
        above = (truth[:, None] > steps).float()
        return torch.where(truth[:, None] >= steps, above, torch.nan)

    def predictions(self, scores: Tensor) -> FloatArray:
        """float64: probabilities [N, C] whose rows sum to 1, of each label [N, L], or the number [N, 1]."""
        exact = scores.double()
        if self.link == "softmax":
            found = torch.softmax(exact, dim=1)
        elif self.link == "sigmoid":
            found = torch.sigmoid(exact)
        elif self.link == "number":
            found = exact * self.scale + self.mean
        else:
            above = torch.cumprod(torch.sigmoid(exact), dim=1)
            edges = torch.cat([torch.ones(len(exact), 1), above, torch.zeros(len(exact), 1)], dim=1)
            found = edges[:, :-1] - edges[:, 1:]
        result: FloatArray = found.numpy()
        return result

    def metrics(self, scores: Tensor, labels: AnyArray) -> dict[str, float]:
        """val_loss and what else can be said of validation scores float32 [N, K]; what is not defined is left out."""
        exact, truth = scores.double(), self.truth(labels)
        loss = self.to(torch.device("cpu")).total(exact, truth, smooth=False).item()
        weights = self.to(torch.device("cpu")).amount(truth).item()
        found = {"val_loss": loss / weights}
        if not np.isfinite(loss):
            return found
        predicted = self.predictions(scores)
        if self.link == "number":
            return found | {"val_mae": float(np.abs(predicted[:, 0] - labels).mean())}
        if self.link == "sigmoid":
            known = labels >= 0
            hit = (predicted > 0.5) == (labels == 1)
            sides = [hit[:, k][labels[:, k] == side] for k in range(labels.shape[1]) for side in (0, 1)]
            found |= {"val_accuracy": float(hit[known].mean()) if known.any() else 0.0}
            target = Target("sigmoid", truth.numpy(), self.outputs, np.arange(self.outputs))
        else:
            hit = predicted.argmax(axis=1) == labels
            sides = [hit[labels == label] for label in np.unique(labels)]
            found |= {"val_accuracy": float(hit.mean())}
            target = Target("softmax", labels, self.n_classes, np.arange(self.n_classes))
        met = [side.mean() for side in sides if len(side)]
        found |= {"val_balanced_accuracy": float(np.mean(met)) if met else 0.0}
        area = auroc(target, predicted, np.arange(len(labels)))
        return found | ({"val_auroc": area} if np.isfinite(area) else {})


def objective_of(
    recipe: TrainingRecipe, train: AnyArray, val: AnyArray, *, n_classes: int, task: str
) -> Objective:
    """The objective for labels of `task`, learnt on the training labels where it depends on them.

    ProbeError for labels that can't be trained on, ConfigError for a setting that does not fit the target.
    """
    _check_parts(train, val, n_classes, task)
    _check_fit(recipe, task)
    smoothing = recipe.label_smoothing
    if task == "continuous":
        values = np.asarray(train, dtype=np.float64)
        return Objective("number", 1, 1, mean=float(values.mean()), scale=float(values.std()))
    if task == "multilabel":
        weights = _positive_weights(train) if recipe.class_weight == "balanced" else None
        return Objective("sigmoid", n_classes, n_classes, weights, smoothing)
    if task == "ordinal" and recipe.ordinal == "corn":
        return Objective("corn", n_classes - 1, n_classes, None, smoothing)
    weights = class_weights(train, n_classes, recipe.class_weight)
    return Objective("softmax", n_classes, n_classes, weights, smoothing)


def _positive_weights(labels: AnyArray) -> Tensor:
    """Known negatives over known positives of each label, float32 [L], 1 where one of them is missing."""
    yes, no = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    weights = np.where((yes > 0) & (no > 0), no / np.maximum(yes, 1), 1.0)
    return torch.from_numpy(weights.astype(np.float32))


def _check_fit(recipe: TrainingRecipe, task: str) -> None:
    numbers = task == "continuous"
    rules = (
        (numbers and recipe.class_weight != "none", "--class-weight balanced", "--class-weight none"),
        (task == "ordinal" and recipe.ordinal == "corn" and recipe.class_weight != "none",
         "--class-weight balanced with --ordinal corn", "--ordinal cross-entropy"),
        (task == "ordinal" and recipe.ordinal == "corn" and recipe.mixes,
         "--mixup with --ordinal corn", "--ordinal cross-entropy"),
        (numbers and recipe.label_smoothing > 0, "--label-smoothing", "--label-smoothing 0"),
        (task in {"multilabel", "continuous"} and recipe.sampling != "shuffle", "--sampling balanced", "--sampling shuffle"),
        (numbers and recipe.monitor not in {"val_loss", "val_mae"}, f"--monitor {recipe.monitor}", "--monitor val_loss"),
        (not numbers and recipe.monitor == "val_mae", "--monitor val_mae", "--monitor val_loss"),
        (recipe.optimizer == "lbfgs" and (task in {"multilabel", "continuous"} or recipe.ordinal == "corn"),
         "--optimizer lbfgs", "--optimizer adamw"),
    )  # fmt: skip
    for met, flag, instead in rules:
        if met:
            kind = {"continuous": "a number", "multilabel": "several labels at once"}.get(task, task)
            raise ConfigError(
                f"{flag} does not fit a target of {kind}", "it has no meaning there", f"type {instead}"
            )


def _check_parts(train: AnyArray, val: AnyArray, n_classes: int, task: str) -> None:
    for name, labels in (("training", train), ("validation", val)):
        if len(labels) == 0:
            raise ProbeError(
                f"the {name} part of this fold is empty",
                "training needs rows to learn from and rows to choose the best epoch on",
                _SEE,
            )
        if task == "continuous":
            bad, known = not np.isfinite(labels).all(), "a number is finite"
        elif task == "multilabel":
            bad, known = bool(((labels < -1) | (labels > 1)).any()), "labels are 0, 1, or -1 where missing"
        else:
            bad = bool(labels.min() < 0 or labels.max() >= n_classes)
            known = f"labels lie between 0 and {n_classes - 1}"
        if bad:
            raise ProbeError(
                f"the {name} part holds rows without a label",
                known,
                "leave those rows out, or name the label column with --label-column",
            )
    _check_varies(train, val, task)


def _check_varies(train: AnyArray, val: AnyArray, task: str) -> None:
    if task == "multilabel":
        both = (train == 0).any(axis=0) & (train == 1).any(axis=0)
        if not both.any():
            raise ProbeError("the training part holds no label with both values", "", _SEE)
        if not (val >= 0).any():
            raise ProbeError("the validation part holds no known label", "all its labels are missing", _SEE)
    elif len(np.unique(train)) < 2:
        what, value = ("value", "value") if task == "continuous" else ("class", "label")
        raise ProbeError(
            f"the training part holds one {what} only",
            f"all {len(train)} rows have the {value} {train[0]}",
            _SEE,
        )
