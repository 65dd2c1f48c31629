"""Shows that every kind of target has the loss it should, missing labels count for nothing, and scores mean chances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn
from torch.nn import functional

from featprobe.errors import ConfigError, ProbeError
from featprobe.heads import TrainingRecipe
from featprobe.heads.inference import predict
from featprobe.heads.mixing import Mixer
from featprobe.heads.objective import Objective, objective_of
from featprobe.heads.training import train_fold

CLASSES = np.array([0, 1, 2, 2, 1, 0, 2, 2])
LABELS = np.array([[1, 0], [0, -1], [1, 1], [-1, 0], [0, 1]])
NUMBERS = np.array([3.0, 5.0, 9.0, 11.0, 2.0])


def of(task: str, labels: np.ndarray, n_classes: int, **settings: object) -> Objective:
    recipe = TrainingRecipe(**settings)
    return objective_of(recipe, labels, labels, n_classes=n_classes, task=task)


def mean(objective: Objective, scores: torch.Tensor, labels: np.ndarray) -> float:
    truth = objective.truth(labels)
    return (objective.total(scores, truth) / objective.amount(truth)).item()


def noise(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", ["none", "balanced"])
def test_the_loss_of_classes_is_torchs(smoothing: float, weighted: str) -> None:
    objective = of("classes", CLASSES, 3, label_smoothing=smoothing, class_weight=weighted)
    scores = noise(8, 3)
    expected = functional.cross_entropy(
        scores, torch.from_numpy(CLASSES), weight=objective.weights, label_smoothing=smoothing
    )
    assert mean(objective, scores, CLASSES) == pytest.approx(expected.item(), rel=1e-6)


def test_a_missing_label_counts_for_nothing_and_has_no_gradient() -> None:
    objective, scores = of("multilabel", LABELS, 2), noise(5, 2).requires_grad_()
    known = LABELS >= 0
    chances = torch.sigmoid(scores.detach()).numpy().astype(np.float64)
    expected = -np.where(LABELS == 1, np.log(chances), np.log1p(-chances))[known].mean()
    assert mean(objective, scores.detach(), LABELS) == pytest.approx(expected, rel=1e-5)
    (slope,) = torch.autograd.grad(objective.total(scores, objective.truth(LABELS)), scores)
    assert torch.equal(slope == 0, torch.from_numpy(~known))
    weighted = of("multilabel", LABELS, 2, class_weight="balanced")
    assert weighted.weights is not None
    assert weighted.weights.tolist() == [1.0, 1.0]
    rare = of("multilabel", np.array([[1], [0], [0], [0], [-1]]), 1, class_weight="balanced")
    assert rare.weights is not None
    assert rare.weights.tolist() == [3.0]


def test_a_number_is_standardised_for_the_loss_and_put_back() -> None:
    objective = of("continuous", NUMBERS, 1)
    perfect = torch.from_numpy((NUMBERS - NUMBERS.mean()) / NUMBERS.std()).float()[:, None]
    assert mean(objective, perfect, NUMBERS) == pytest.approx(0.0, abs=1e-12)
    assert np.allclose(objective.predictions(perfect)[:, 0], NUMBERS, atol=1e-5)
    assert mean(objective, torch.zeros(5, 1), NUMBERS) == pytest.approx(1.0, abs=1e-6)
    assert objective.metrics(torch.zeros(5, 1), NUMBERS)["val_mae"] == pytest.approx(
        np.abs(NUMBERS - NUMBERS.mean()).mean()
    )


def test_ordered_classes_by_corn_have_the_conditional_chances_of_its_paper() -> None:
    objective = of("ordinal", CLASSES, 3, ordinal="corn")
    assert objective.outputs == 2
    scores = noise(8, 2)
    chances = objective.predictions(scores)
    assert np.allclose(chances.sum(axis=1), 1)
    assert (chances >= 0).all()
    above = torch.sigmoid(scores.double()).numpy()
    assert np.allclose(chances[:, 2], above[:, 0] * above[:, 1])
    assert np.allclose(chances[:, 0], 1 - above[:, 0])
    first = -np.where(CLASSES > 0, np.log(above[:, 0]), np.log1p(-above[:, 0]))
    second = -np.where(CLASSES > 1, np.log(above[:, 1]), np.log1p(-above[:, 1]))[CLASSES >= 1]
    assert mean(objective, scores, CLASSES) == pytest.approx(np.concatenate([first, second]).mean(), rel=1e-5)


def test_what_is_said_of_validation_scores_is_scikit_learns() -> None:
    objective, scores = of("classes", CLASSES, 3), noise(8, 3)
    said, chances = objective.metrics(scores, CLASSES), objective.predictions(scores)
    assert said["val_loss"] == pytest.approx(log_loss(CLASSES, chances))
    assert said["val_accuracy"] == (chances.argmax(axis=1) == CLASSES).mean()
    assert said["val_auroc"] == pytest.approx(roc_auc_score(CLASSES, chances, multi_class="ovr"))
    several, both = of("multilabel", LABELS, 2), noise(5, 2)
    known = LABELS >= 0
    areas = [roc_auc_score(LABELS[known[:, k], k], both.numpy()[known[:, k], k]) for k in range(2)]
    assert several.metrics(both, LABELS)["val_auroc"] == pytest.approx(np.mean(areas))


@pytest.mark.parametrize(
    ("task", "labels", "settings", "says"),
    [
        ("continuous", NUMBERS, {"class_weight": "balanced"}, "--class-weight balanced does not fit a target of a number"),
        ("continuous", NUMBERS, {"monitor": "val_auroc"}, "type --monitor val_loss"),
        ("multilabel", LABELS, {"sampling": "balanced"}, "several labels at once"),
        ("classes", CLASSES, {"monitor": "val_mae"}, "--monitor val_mae does not fit"),
        ("multilabel", LABELS, {"mode": "head", "optimizer": "lbfgs"}, "type --optimizer adamw"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_target_are_refused(task, labels, settings, says) -> None:
    with pytest.raises(ConfigError, match=says):
        of(task, labels, 3 if task == "classes" else labels.shape[-1] if labels.ndim > 1 else 1, **settings)


def test_labels_that_can_not_be_trained_on_are_refused() -> None:
    for task, labels, says in (
        ("continuous", np.array([1.0, np.nan]), "without a label"),
        ("continuous", np.array([2.0, 2.0]), "holds one value only"),
        ("multilabel", np.array([[1, -1], [1, 0]]), "no label with both values"),
    ):
        with pytest.raises(ProbeError, match=says):
            of(task, labels, 2 if task == "multilabel" else 1)


def test_mixing_is_a_function_of_the_seed_and_mixes_labels_as_images() -> None:
    objective = of("classes", CLASSES, 3)
    images = torch.arange(7.0)[:, None, None, None].expand(7, 3, 8, 8).clone()
    truth = objective.truth(CLASSES)[:7]
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - what must not change
    mixer = Mixer(TrainingRecipe(mixup=0.8), objective)
    mixed, targets = mixer(images, truth, 5)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002 - see above
    assert torch.equal(images[1], torch.ones(3, 8, 8)), "the batch given is left alone"
    share = targets[0, 0].item() if CLASSES[0] != CLASSES[5] else 1.0
    again, _ = mixer(images, truth, 5)
    assert torch.equal(mixed, again)
    assert not torch.equal(mixed, mixer(images, truth, 6)[0])
    assert torch.equal(mixed[6], images[6]), "an odd one out stays as it is"
    assert torch.allclose(targets.sum(dim=1), torch.ones(7))
    shares = 1 - mixed[0, 0, 0, 0] / 5  # image 0 is mixed with image 5
    assert share == 1.0 or shares.item() == pytest.approx(share, abs=1e-6)
    cut, _ = Mixer(TrainingRecipe(cutmix=1.0), objective)(images, truth, 5)
    assert set(cut[0].unique().tolist()) <= {0.0, 5.0}
    numbers = of("continuous", NUMBERS, 1)
    blended, values = Mixer(TrainingRecipe(mixup=0.8), numbers)(images[:4], numbers.truth(NUMBERS)[:4], 5)
    weight = 1 - blended[0, 0, 0, 0].item() / 3
    pair = numbers.truth(NUMBERS)[[0, 3], 0].tolist()
    assert values[0, 0].item() == pytest.approx(weight * pair[0] + (1 - weight) * pair[1], abs=1e-5)


class Rows:
    """Images whose mean is a linear function of the labels."""

    def __init__(self, labels: np.ndarray, seed: int) -> None:
        self.labels = labels
        rng = np.random.default_rng(seed)
        columns = labels[:, None] if labels.ndim == 1 else np.maximum(labels, 0)
        values = rng.normal(0, 0.3, size=(len(labels), 3, 4, 4))
        for channel in range(columns.shape[1]):
            values[:, channel] += columns[:, channel, None, None]
        self.images = torch.from_numpy(values.astype(np.float32))

    def batches(self, order, batch_size, *, augment_seed):
        del augment_seed
        for start in range(0, len(order), batch_size):
            yield self.images[torch.from_numpy(order[start : start + batch_size])]


def test_every_kind_of_target_is_learnt(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    several = rng.integers(0, 2, size=(120, 2))
    several[rng.random((120, 2)) < 0.2] = -1
    targets = {
        "multilabel": several,
        "continuous": rng.normal(3, 2, size=120),
        "ordinal": rng.integers(0, 3, size=120),
    }
    for task, labels in targets.items():
        backbone = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
        fitted = train_fold(
            backbone, 3, {"multilabel": 2, "continuous": 1, "ordinal": 3}[task], task=task,
            train=Rows(labels[:90], 1), val=Rows(labels[90:], 2), device="cpu", checkpoint_dir=tmp_path / task,
            resume_key="key", recipe=TrainingRecipe(mode="head", lr=0.1, epochs=40, ordinal="corn", weight_decay=0.0),
        )  # fmt: skip
        found = predict(fitted, Rows(labels[90:], 3), device="cpu")
        wanted = labels[90:]
        if task == "multilabel":
            known = wanted >= 0
            assert ((found > 0.5) == (wanted == 1))[known].mean() > 0.95
        elif task == "continuous":
            assert np.corrcoef(found[:, 0], wanted)[0, 1] > 0.98
            assert fitted.history[-1]["val_mae"] < 0.3
        else:
            assert (found.argmax(axis=1) == wanted).mean() > 0.95
