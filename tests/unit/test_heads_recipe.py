"""Shows that a training recipe says all that decides a training, and refuses what can't be trained."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from featprobe.errors import ConfigError
from featprobe.heads import TrainingRecipe, parse_mode
from featprobe.heads.optimisation import (
    balanced_order,
    class_weights,
    derive_seed,
    epoch_order,
    lr_factor,
    steps_per_epoch,
)


def test_recipe_survives_json_and_hashes_what_it_resolves_to() -> None:
    recipe = TrainingRecipe(mode="head", epochs=3, dropout=0.25, seed=7)
    again = TrainingRecipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe.resolved()
    assert again.sha256 == recipe.sha256
    assert TrainingRecipe().sha256 == TrainingRecipe(epochs=10, lr=1e-4, augment=True).sha256


OTHER_VALUES = {
    "mode": "head",
    "epochs": 11,
    "batch_size": 33,
    "lr": 2e-4,
    "head_lr_factor": 2.0,
    "weight_decay": 0.0,
    "warmup": 0.0,
    "clip_norm": 0.0,
    "label_smoothing": 0.1,
    "class_weight": "balanced",
    "dropout": 0.5,
    "augment": False,
    "precision": "bf16",
    "monitor": "val_accuracy",
    "patience": 0,
    "freeze_norm_stats": True,
    "seed": 1,
    "head": "mlp:16",
    "head_start": "torch",
    "micro_batch": 8,
    "optimizer": "adam",
    "layer_decay": 0.75,
    "l2": 0.1,
    "schedule": "constant",
    "ema": 0.99,
    "sampling": "balanced",
    "ordinal": "corn",
    "mixup": 0.2,
    "cutmix": 1.0,
    "channels_last": True,
    "compile": True,
    "deterministic": True,
}

CONVEX = TrainingRecipe(mode="head", optimizer="lbfgs")


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainingRecipe)])
def test_every_field_changes_the_hash(name: str) -> None:
    base = CONVEX if name == "l2" else TrainingRecipe()  # a penalty is the convex problem's alone
    changed = dataclasses.replace(base, **{name: OTHER_VALUES[name]})
    assert changed.sha256 != base.sha256


def test_epochs_lr_and_augmentation_follow_the_mode_unless_given() -> None:
    assert (TrainingRecipe().max_epochs, TrainingRecipe().peak_lr, TrainingRecipe().augments) == (
        10,
        1e-4,
        True,
    )
    head = dataclasses.replace(TrainingRecipe(), mode="head")
    assert (head.max_epochs, head.peak_lr, head.augments) == (100, 1e-3, False)
    assert TrainingRecipe(mode="head", lr=0.5, augment=True).resolved().peak_lr == 0.5


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mode": "heads"}, "did you mean head"),
        ({"precision": "fp8"}, "--precision fp32"),
        ({"epochs": 0}, "whole number"),
        ({"epochs": 1.5}, "--epochs"),
        ({"lr": float("nan")}, "--lr"),
        ({"lr": 0.0}, "--lr"),
        ({"warmup": 1.0}, "below 1"),
        ({"seed": -1}, "--seed"),
        ({"epoch": 3}, "did you mean epochs"),
        ({"mode": "last"}, "lacks its number; it is how many blocks, from 1; type --mode last:2"),
        ({"mode": "lora:0"}, "lacks its number; it is a rank"),
        ({"mode": "full:3"}, "full takes no number; type --mode full"),
        ({"mode": "lara"}, "did you mean lora"),
        ({"head": "mlp"}, "known: linear, and mlp:H"),
        ({"optimizer": "lbfgs"}, "--mode head is the only one that is convex"),
        ({"optimizer": "lbfgs", "mode": "head", "dropout": 0.1}, "nothing is drawn"),
        ({"l2": 0.1}, "type --weight-decay"),
        ({"layer_decay": 1.5}, "from 0.001 to 1"),
    ],
)
def test_what_can_not_be_trained_is_refused_in_words(values: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TrainingRecipe.from_dict(values)


def test_modes_are_written_one_way_and_have_their_own_defaults() -> None:
    assert [str(parse_mode(text)) for text in ("lora", "lora:4", "last:2", "lp-ft")] == [
        "lora:8",
        "lora:4",
        "last:2",
        "lp-ft",
    ]
    assert TrainingRecipe(mode="lora").sha256 == TrainingRecipe(mode="lora:8").sha256
    rates = {mode: TrainingRecipe(mode=mode) for mode in ("last:1", "lora", "lp-ft", "huang-frozen")}
    assert {mode: (one.peak_lr, one.head_factor) for mode, one in rates.items()} == {
        "last:1": (1e-4, 10.0),
        "lora": (1e-3, 1.0),
        "lp-ft": (1e-4, 1.0),
        "huang-frozen": (1e-3, 1.0),
    }


def test_balanced_sampling_draws_every_class_equally_often_and_repeats_itself() -> None:
    labels = np.array([0] * 40 + [1] * 8 + [2] * 3)
    order = epoch_order(len(labels), 10, seed=1, epoch=2)
    drawn = balanced_order(order, labels, seed=1, epoch=2)
    counts = np.bincount(labels[drawn])
    assert len(drawn) == len(order)
    assert counts.max() - counts.min() <= 1
    assert len(set(drawn[labels[drawn] == 0].tolist())) == counts[0], "a large class is drawn without repeats"
    assert set(drawn[labels[drawn] == 2].tolist()) == {48, 49, 50}
    assert np.array_equal(drawn, balanced_order(order, labels, seed=1, epoch=2))
    assert not np.array_equal(drawn, balanced_order(order, labels, seed=1, epoch=3))


def test_a_constant_rate_stays_at_its_peak_after_the_warm_up() -> None:
    assert [lr_factor(step, 10, 0.2, "constant") for step in (0, 1, 2, 9)] == [1 / 3, 2 / 3, 1.0, 1.0]


def test_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    factors = [lr_factor(step, 100, 0.1) for step in range(100)]
    assert factors[10] == max(factors) == 1.0
    assert np.all(np.diff(factors[:11]) > 0)
    assert np.all(np.diff(factors[10:]) < 0)
    assert 0 < factors[-1] < 0.001
    assert lr_factor(0, 1, 0.99) > 0


@pytest.mark.parametrize(
    ("count", "batch_size"), [(1, 32), (32, 32), (48, 32), (49, 32), (65, 32), (3, 2), (5, 1)]
)
def test_an_epoch_is_a_shuffle_without_a_stump(count: int, batch_size: int) -> None:
    order = epoch_order(count, batch_size, seed=3, epoch=1)
    sizes = [len(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]
    assert len(set(order.tolist())) == len(order)
    assert len(sizes) == steps_per_epoch(count, batch_size)
    assert count - len(order) <= batch_size // 2
    assert len(sizes) == 1 or 2 * sizes[-1] > batch_size
    assert np.array_equal(order, epoch_order(count, batch_size, seed=3, epoch=1))


def test_seeds_of_other_uses_epochs_and_steps_differ() -> None:
    seeds = [derive_seed(0, "step", epoch, step) for epoch in range(5) for step in range(5)]
    seeds += [derive_seed(0, "order", epoch) for epoch in range(5)] + [derive_seed(1, "order", 0)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    weights = class_weights(np.array([0, 0, 0, 2]), 3, "balanced")
    assert weights is not None
    assert weights.tolist() == pytest.approx([4 / (2 * 3), 1.0, 4 / (2 * 1)])


def test_the_room_is_light_until_it_trains() -> None:
    code = "import sys, featprobe.heads; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
