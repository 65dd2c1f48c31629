"""Shows that training learns, keeps what must not move, chooses the best epoch and explains its failures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from featprobe.errors import ConfigError, OutputError, ProbeError
from featprobe.heads import Progress, TrainingRecipe
from featprobe.heads.inference import FittedHead, predict, run_batches
from featprobe.heads.loop import FeatureSource, State
from featprobe.heads.model import Classifier, Head
from featprobe.heads.optimisation import build_optimizer
from featprobe.heads.training import _too_sure, train_fold
from featprobe.records import IntArray

CPU = torch.device("cpu")


class Toy:
    """Noise images of 16 x 16 whose class is the place of a bright square; `strength` 0 is pure noise."""

    def __init__(self, count: int, *, strength: float = 1.5, classes: int = 3, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.labels: IntArray = np.arange(count, dtype=np.int64) % classes
        self.images = torch.from_numpy(rng.normal(size=(count, 3, 16, 16)).astype(np.float32))
        for row, label in enumerate(self.labels):
            self.images[row, :, 5 * label : 5 * label + 5, 4:12] += strength
        self.loaded = 0

    def batches(
        self, order: IntArray, batch_size: int, *, augment_seed: int | None
    ) -> Iterator[torch.Tensor]:
        for start in range(0, len(order), batch_size):
            positions = order[start : start + batch_size]
            self.loaded += len(positions)
            images = self.images[torch.from_numpy(positions)]
            if augment_seed is not None:
                flips = [np.random.default_rng([augment_seed, int(p)]).random() < 0.5 for p in positions]
                images = torch.where(torch.tensor(flips)[:, None, None, None], images.flip(3), images)
            yield images


class Net(nn.Sequential):
    """Two convolutions with BatchNorm, [B, 3, 16, 16] -> [B, 128]."""

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            super().__init__(
                nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 8, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
            )


def fit(
    folder: Path,
    *,
    train: Toy | None = None,
    val: Toy | None = None,
    backbone: nn.Module | None = None,
    key: str = "key",
    **settings: object,
) -> FittedHead:
    values: dict[str, object] = {"epochs": 3, "batch_size": 16, "lr": 3e-3, "augment": False, **settings}
    return train_fold(
        backbone or Net(),
        128,
        3,
        train=train or Toy(60),
        val=val or Toy(30, seed=1),
        recipe=TrainingRecipe.from_dict(values),
        device="cpu",
        checkpoint_dir=folder,
        resume_key=key,
    )


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("mode", "augment"), [("full", True), ("head", False), ("head", True)])
def test_training_learns_a_separable_problem(tmp_path: Path, mode: str, augment: bool) -> None:
    parts = {"train": Toy(60, strength=3), "val": Toy(30, strength=3, seed=1)}
    fitted = fit(tmp_path, **parts, mode=mode, epochs=6, lr=1e-2, head_lr_factor=1.0, augment=augment)
    test = Toy(30, strength=3, seed=2)
    scores = predict(fitted, test, device="cpu")
    assert (scores.argmax(axis=1) == test.labels).mean() > 0.9
    assert fitted.recipe == fitted.recipe.resolved()
    assert fitted.history[-1]["train_loss"] < fitted.history[0]["train_loss"]


def test_probabilities_are_float64_sum_to_one_and_ignore_the_batch_size(tmp_path: Path) -> None:
    fitted, test = fit(tmp_path, epochs=1), Toy(30, seed=2)
    scores = predict(fitted, test, device="cpu")
    assert scores.dtype == np.float64
    assert scores.shape == (30, 3)
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-12)
    for size in (1, 7, 30):
        assert np.abs(predict(fitted, test, device="cpu", batch_size=size) - scores).max() < 1e-5


@pytest.mark.parametrize("augment", [False, True])
def test_mode_head_leaves_the_backbone_bit_identical(tmp_path: Path, augment: bool) -> None:
    backbone = Net().train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    fitted = fit(tmp_path, mode="head", backbone=backbone, augment=augment)
    assert same(before, dict(fitted.model.backbone.state_dict()))
    assert all(name.startswith("head.") for name in load_file(fitted.checkpoint))
    fitted.model.train()
    assert not any(layer.training for layer in fitted.model.backbone.modules())


def test_mode_full_changes_a_copy_and_never_the_backbone_given(tmp_path: Path) -> None:
    backbone = Net()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    fitted = fit(tmp_path, backbone=backbone)
    after = fitted.model.backbone.state_dict()
    assert same(before, dict(backbone.state_dict()))
    assert not torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["1.running_mean"], after["1.running_mean"])


def test_norm_statistics_can_be_frozen_in_mode_full(tmp_path: Path) -> None:
    backbone = Net()
    after = fit(tmp_path, backbone=backbone, freeze_norm_stats=True).model.backbone.state_dict()
    assert torch.equal(backbone.state_dict()["1.running_mean"], after["1.running_mean"])
    assert not torch.equal(backbone.state_dict()["1.weight"], after["1.weight"])


def test_features_computed_once_train_the_same_head_as_images_every_epoch(tmp_path: Path) -> None:
    class Unchanged(Toy):
        def batches(
            self, order: IntArray, batch_size: int, *, augment_seed: int | None
        ) -> Iterator[torch.Tensor]:
            del augment_seed
            return super().batches(order, batch_size, augment_seed=None)

    fast_source, slow_source = Unchanged(60), Unchanged(60)
    fast = fit(tmp_path / "fast", train=fast_source, mode="head", dropout=0.2)
    slow = fit(tmp_path / "slow", train=slow_source, mode="head", dropout=0.2, augment=True)
    assert fast_source.loaded == 60
    assert slow_source.loaded > 3 * 48
    test = Toy(30, seed=2)
    difference = predict(fast, test, device="cpu") - predict(slow, test, device="cpu")
    assert np.abs(difference).max() < 1e-5


def test_mode_head_by_default_reaches_the_accuracy_of_logistic_regression(tmp_path: Path) -> None:
    train, val, test = (Toy(600, strength=1.0, seed=seed) for seed in (0, 1, 2))
    backbone = Net().eval()
    X, X_val, X_test = (
        run_batches(backbone, part, CPU, precision="fp32", batch_size=50).numpy()
        for part in (train, val, test)
    )
    fitted = fit(tmp_path, train=train, val=val, mode="head", epochs=None, lr=None, batch_size=32)
    grid = [make_pipeline(StandardScaler(), LogisticRegression(C=10.0**power)) for power in range(-4, 1)]
    best = max(
        (model.fit(X, train.labels) for model in grid), key=lambda model: model.score(X_val, val.labels)
    )
    reference = best.score(X_test, test.labels)
    ours = (predict(fitted, test, device="cpu").argmax(axis=1) == test.labels).mean()
    assert 0.6 < reference < 0.95, "the problem must be neither trivial nor hopeless"
    assert abs(ours - reference) < 0.025


def test_head_standardises_by_training_rows_and_leaves_constant_features_alone() -> None:
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 7 + 3
    features[:, 2] = 1000.0
    features[0, 2] += 1e-4
    head = Head(4, 2, dropout=0.0, seed=0)
    head.standardise_by(features)
    standardised = (features - head.mean) * head.scale
    assert standardised[:, [0, 1, 3]].std(dim=0, correction=0).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert standardised[:, 2].abs().max() < 1e-3


def test_early_stopping_keeps_the_best_epoch_and_not_the_last(tmp_path: Path) -> None:
    noise = Toy(60, strength=0.0)
    fitted = fit(tmp_path, train=noise, val=Toy(30, strength=0.0, seed=1), epochs=30, patience=3, lr=1e-2)
    losses = [row["val_loss"] for row in fitted.history]
    assert fitted.stopped_early
    assert not any("is the last" in note for note in fitted.notes)
    assert fitted.best_epoch == int(np.argmin(losses)) + 1 == len(losses) - 3
    logits = run_batches(fitted.model, Toy(30, strength=0.0, seed=1), CPU, precision="fp32", batch_size=16)
    loss = nn.functional.cross_entropy(logits.double(), torch.from_numpy(Toy(30).labels)).item()
    assert loss == pytest.approx(min(losses), abs=1e-9)
    record = json.loads((tmp_path / "best.json").read_text())
    assert (record["epoch"], record["metrics"]) == (fitted.best_epoch, fitted.history[fitted.best_epoch - 1])
    assert record["recipe"] == fitted.recipe.to_dict()


def test_monitor_chooses_the_epoch(tmp_path: Path) -> None:
    fitted = fit(tmp_path, mode="head", monitor="val_balanced_accuracy", epochs=8, lr=1e-2)
    values = [row["val_balanced_accuracy"] for row in fitted.history]
    assert fitted.best_epoch == int(np.argmax(values)) + 1


def test_epochs_that_ran_out_while_it_got_better_are_said(tmp_path: Path) -> None:
    fitted = fit(tmp_path, mode="head", epochs=2, lr=1e-4)
    assert fitted.best_epoch == 2
    assert "the best of 2 epochs is the last" in fitted.notes[0]
    assert fitted.notes[0].endswith("type --epochs 4")


@pytest.mark.parametrize(("highest", "said"), [(0.52, False), (0.6, True)])
def test_a_loss_that_chose_worse_answers_is_said(highest: float, said: bool) -> None:
    rows = [(1.0, 0.4), (0.8, 0.5), (0.9, highest)]
    state = State(epoch=3, best_epoch=2)
    state.history = [{"val_loss": loss, "val_balanced_accuracy": right} for loss, right in rows]
    notes = _too_sure(TrainingRecipe(mode="full"), state, 60)
    assert bool(notes) == said
    if said:
        assert (
            "val_loss was lowest at epoch 2, val_balanced_accuracy highest at epoch 3 (0.500 against 0.600)"
            in notes[0]
        )
        assert _too_sure(TrainingRecipe(mode="full", monitor="val_balanced_accuracy"), state, 60) == ()
        assert _too_sure(TrainingRecipe(mode="full"), state, 10) == (), "one image of ten"
        state.history.reverse()
        assert _too_sure(TrainingRecipe(mode="full"), state, 60) == (), "it was better before"


def test_same_seed_same_weights_whatever_the_global_generator_does(tmp_path: Path) -> None:
    torch.default_generator.manual_seed(1)
    state = torch.get_rng_state()
    one = fit(tmp_path / "1", dropout=0.3, augment=True)
    assert torch.equal(torch.get_rng_state(), state)
    torch.default_generator.manual_seed(2)
    two = fit(tmp_path / "2", dropout=0.3, augment=True)
    other = fit(tmp_path / "3", dropout=0.3, augment=True, seed=1)
    assert same(load_file(one.checkpoint), load_file(two.checkpoint))
    assert not same(load_file(one.checkpoint), load_file(other.checkpoint))


def test_every_step_draws_other_randomness(tmp_path: Path) -> None:
    class Drawing(Net):
        drawn: ClassVar[list[float]] = []

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.drawn.append(torch.rand(()).item())
            features: torch.Tensor = super().forward(images)
            return features

    fit(tmp_path / "0", backbone=Drawing())
    fit(tmp_path / "1", backbone=Drawing(), seed=1)
    assert len(set(Drawing.drawn)) == len(Drawing.drawn) == 2 * 3 * 4


def test_vectors_are_not_decayed_and_the_head_learns_faster() -> None:
    recipe = TrainingRecipe(lr=1e-3)
    model = Classifier(Net(), 128, 3, recipe)
    for group in build_optimizer(model, recipe, CPU).param_groups:
        assert all((parameter.ndim > 1) == (group["weight_decay"] > 0) for parameter in group["params"])
        in_head = any(parameter is group["params"][0] for parameter in model.head.parameters())
        assert group["peak_lr"] == pytest.approx(1e-2 if in_head else 1e-3)


def test_balanced_weights_find_the_rare_class(tmp_path: Path) -> None:
    rare, test = Toy(120), Toy(90, seed=2)
    keep = np.flatnonzero((rare.labels != 2) | (np.arange(120) < 18))
    rare.labels, rare.images = rare.labels[keep], rare.images[torch.from_numpy(keep)]
    recall = {}
    for kind in ("none", "balanced"):
        fitted = fit(tmp_path / kind, train=rare, mode="head", class_weight=kind, epochs=10)
        found = predict(fitted, test, device="cpu").argmax(axis=1)
        recall[kind] = (found[test.labels == 2] == 2).mean()
    assert recall["balanced"] > recall["none"] + 0.1


def test_bf16_trains_and_keeps_float32_weights(tmp_path: Path) -> None:
    fitted = fit(tmp_path, precision="bf16", epochs=6, lr=1e-2, head_lr_factor=1.0)
    assert all(value.dtype != torch.bfloat16 for value in load_file(fitted.checkpoint).values())
    test = Toy(30, seed=2)
    scores = predict(fitted, test, device="cpu")
    assert (scores.argmax(axis=1) == test.labels).mean() > 0.9
    exact = predict(fitted, test, device="cpu", precision="fp32")
    assert 0 < np.abs(scores - exact).max() < 0.05


class Broken(Net):
    """Fails from the fifth training batch on: with NaN features, or with `error`."""

    error: Exception | None = None
    seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = super().forward(images)
        self.seen += self.training
        if self.seen < 5:
            return features
        if self.error is not None:
            raise self.error
        return features * float("nan")


def test_a_loss_that_is_not_finite_names_the_step_and_the_way_out(tmp_path: Path) -> None:
    says = r"became nan at step 1 of epoch 2; peak learning rate 0\.003, precision fp32; type --lr 0\.0003"
    with pytest.raises(ProbeError, match=says):
        fit(tmp_path, backbone=Broken())
    assert json.loads((tmp_path / "best.json").read_text())["epoch"] == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_running_out_of_memory_with_the_smallest_part_says_what_would_help(
    tmp_path: Path, error: Exception
) -> None:
    backbone = Broken()
    backbone.error = error
    says = r"batch of 16 images, also in the smallest parts; .*; take a smaller --image-size"
    with pytest.raises(ProbeError, match=says):
        fit(tmp_path, backbone=backbone)


def test_parts_that_can_not_be_trained_on_are_refused(tmp_path: Path) -> None:
    one_class, unlabelled, empty = Toy(30), Toy(30), Toy(0)
    one_class.labels = np.zeros(30, dtype=np.int64)
    unlabelled.labels = np.where(np.arange(30) == 3, -1, unlabelled.labels)
    for train, says in ((one_class, "one class only"), (unlabelled, "without a label"), (empty, "is empty")):
        with pytest.raises(ProbeError, match=says):
            fit(tmp_path, train=train)
    with pytest.raises(ProbeError, match="validation part of this fold is empty"):
        train_fold(
            Net(), 128, 3, train=Toy(30), val=empty, recipe=TrainingRecipe(), device="cpu",
            checkpoint_dir=tmp_path, resume_key="key",
        )  # fmt: skip
    with pytest.raises(ConfigError, match="--batch-size 2 or --freeze-norm-stats"):
        fit(tmp_path, batch_size=1)
    with pytest.raises(ConfigError, match="--precision bf16"):
        fit(tmp_path, precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_vanishes_is_an_error_and_never_a_shorter_answer(tmp_path: Path) -> None:
    class Vanishing(Toy):
        def batches(
            self, order: IntArray, batch_size: int, *, augment_seed: int | None
        ) -> Iterator[torch.Tensor]:
            for number, images in enumerate(super().batches(order, batch_size, augment_seed=augment_seed)):
                yield images if number == 0 else images[1:]

    with pytest.raises(ProbeError, match="after the first 16 of 60"):
        fit(tmp_path, train=Vanishing(60))


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        fit(tmp_path / "file" / "fold")


def test_progress_counts_steps_and_ends_each_epoch_with_metrics(tmp_path: Path) -> None:
    seen: list[Progress] = []
    train_fold(
        Net(), 128, 3, train=Toy(60), val=Toy(30), recipe=TrainingRecipe(epochs=2, batch_size=16), device="cpu",
        checkpoint_dir=tmp_path, resume_key="key", on_progress=seen.append,
    )  # fmt: skip
    steps = [(one.epoch, one.step) for one in seen if one.metrics is None]
    assert steps == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3, 4)]
    ends = [one for one in seen if one.metrics is not None]
    assert [(one.epoch, one.epochs, one.steps) for one in ends] == [(1, 2, 4), (2, 2, 4)]


def test_a_feature_source_gives_rows_in_the_order_asked_for() -> None:
    source = FeatureSource(torch.arange(10.0)[:, None], np.zeros(10, dtype=np.int64))
    given = list(source.batches(np.array([4, 1, 9]), 2, augment_seed=3))
    assert [part[:, 0].tolist() for part in given] == [[4.0, 1.0], [9.0]]
