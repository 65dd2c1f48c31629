"""Shows what heads on cached embeddings promise beside the contract: budgets, samples, choices, memory, notes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from featprobe.errors import ConfigError, ProbeError
from featprobe.heads.cached import RECIPES, EpochTraining, LinearSearch, find_recipe
from featprobe.heads.cached.epochs import _factor
from featprobe.heads.cached.fitting import fit_head
from featprobe.heads.cached.rows import Rows, endless_batches
from featprobe.heads.cached.sgd import first_weight
from featprobe.heads.cached.targets import accuracy, auroc, encode
from featprobe.heads.optimisation import lr_factor

CPU = torch.device("cpu")
FIT, VAL = np.arange(60), np.arange(60, 100)


def data(classes=3, width=10, rows=100, strength=1.5, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(rows) % classes)
    return (rng.standard_normal((rows, width)) + strength * np.eye(classes, width)[y]).astype(np.float32), y


def fit(recipe, X, y, n_classes=3, task="classes", **options):
    return fit_head(
        recipe, X, y, **{"train": FIT, "val": VAL, "n_classes": n_classes, "task": task, "seed": 0, **options}
    )


def quick(name, **changes):
    return dataclasses.replace(RECIPES[name], **changes)


def test_the_published_grids_and_budgets():
    dino, baharoon = RECIPES["dinov2-linear"], RECIPES["baharoon-linear"]
    assert dino.learning_rates == (
        1e-5,
        2e-5,
        5e-5,
        1e-4,
        2e-4,
        5e-4,
        1e-3,
        2e-3,
        5e-3,
        1e-2,
        2e-2,
        5e-2,
        0.1,
    )
    assert (dino.steps(10), dino.steps(10**6), dino.batch(10)) == (12_500, 12_500, 128)
    assert dino.peak(0.1, 5) == pytest.approx(0.05)
    assert baharoon.learning_rates == (1e-3, 5e-3, 1e-2, 5e-2)
    assert (baharoon.steps(1000), baharoon.batch(100), baharoon.peak(0.05, 9)) == (80, 100, 0.05)
    assert all(recipe.source for recipe in RECIPES.values())
    for name in ("dinov2-linear", "baharoon-linear"):
        assert any("augments" in remark for remark in RECIPES[name].remarks)


def test_the_rate_falls_along_a_cosine_to_nothing():
    # 0.5 (1 + cos(pi t / 4)): 1, 0.853553, 0.5, 0.146447; step 4 of 4 would be 0.
    found = [lr_factor(step, 4, 0.0) for step in range(4)]
    assert found == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)
    late = [_factor(quick("medmnistplus-linear", epochs=4), epoch, 0, 7) for epoch in range(4)]
    assert late == pytest.approx([1, 1, 0.853553, 0.5], abs=1e-6)
    assert _factor(RECIPES["huang2024"], 99, 3, 4) == 1.0


def test_heads_start_from_small_normal_weights_each_from_its_own():
    weights = [first_weight(7, 4000, std=0.01, seed=0, place=(place, 2)) for place in range(3)]
    for weight in weights:
        assert weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert abs(weight.mean().item()) < 3e-4
    assert (
        abs(np.corrcoef(np.stack([weight.flatten() for weight in weights]))[np.triu_indices(3, 1)]).max()
        < 0.03
    )


@pytest.mark.parametrize(("count", "size"), [(10, 4), (5, 12), (7, 7)])
def test_batches_come_from_whole_shuffled_passes_without_end(count, size):
    stream = np.concatenate(list(endless_batches(count, size, 3 * count, seed=0)))
    passes = stream[: len(stream) // count * count].reshape(-1, count)
    assert (np.sort(passes, axis=1) == np.arange(count)).all()
    assert len({tuple(one) for one in passes}) > 1


def test_a_search_gives_every_width_the_same_steps(monkeypatch):
    seen = []
    step = lr_factor
    monkeypatch.setattr(
        "featprobe.heads.cached.sgd.lr_factor", lambda *given: seen.append(given) or step(*given)
    )
    for width in (4, 64):
        X, y = data(width=width)
        fit(quick("baharoon-linear", refit=False), {"gap": X}, y)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
    assert len(seen) == 2 * 10


def test_a_search_takes_its_own_keys_else_what_there_is_and_says_so():
    X, y = data()
    recipe = quick("dinov2-linear", iterations=5)
    assert {name.split(",")[0] for name in fit(recipe, {"mean": X, "cls": X}, y).scores} == {"cls"}
    fitted = fit(recipe, {"gap": X}, y)
    assert {name.split(",")[0] for name in fitted.scores} == {"gap"}
    assert any("searched gap alone" in note for note in fitted.notes)
    with pytest.raises(ProbeError, match="takes one embedding; given: cls, gap"):
        fit(RECIPES["mlp"], {"cls": X, "gap": X}, y)
    with pytest.raises(ProbeError, match=r"patch tokens \[N, h, w, D\]; given: cls \(100, 10\)"):
        fit(RECIPES["attentive"], {"cls": X}, y)


def test_the_validation_part_chooses_and_the_first_of_equals_wins():
    X, y = data()
    blank = np.zeros_like(X)  # every head says what its bias says, and all biases went the same way
    recipe = quick("dinov2-linear", iterations=1, learning_rates=(1e-2, 1e-3))
    fitted = fit(recipe, {"cls": blank, "cls+mean": blank}, y)
    assert len(set(fitted.scores.values())) == 1
    assert fitted.chosen["candidate"] == "cls, learning rate 0.01"
    assert any("end of its grid" in note for note in fitted.notes)
    shuffled = y.copy()
    shuffled[VAL] = (
        y[VAL] + 1
    ) % 3  # a validation part that contradicts training prefers the least trained head
    contrary = fit(quick("dinov2-linear", iterations=60), {"cls": X}, shuffled)
    assert (
        contrary.chosen["learning_rate"]
        < fit(quick("dinov2-linear", iterations=60), {"cls": X}, y).chosen["learning_rate"]
    )


def test_heads_that_diverge_are_left_out_and_all_of_them_is_an_error():
    X, y = data()
    some = fit(quick("dinov2-linear", iterations=5, learning_rates=(1e-2, 1e38)), {"cls": X * 1e3}, y)
    assert list(some.scores) == ["cls, learning rate 0.01"]
    assert any("1 of 2 heads diverged" in note for note in some.notes)
    with pytest.raises(ProbeError, match=r"all 1 heads of dinov2-linear diverged"):
        fit(quick("dinov2-linear", iterations=5, learning_rates=(1e38,)), {"cls": X * 1e3}, y)
    for name in ("huang2024", "mlp"):
        with pytest.raises(ProbeError, match=r"loss became (nan|inf).* of " + name):
            fit(
                quick(name, lr=1e30, clip_norm=0.0, standardise=False, monitor="val_loss"),
                {"cls": X * 1e18},
                y,
            )


def test_an_auroc_that_no_class_allows_falls_back_to_accuracy():
    X, y = data(classes=2)
    y[VAL] = 0
    fitted = fit(quick("baharoon-linear", epochs=2), {"cls": X}, y, n_classes=2)
    assert any("chosen by accuracy" in note for note in fitted.notes)
    assert set(np.round(np.array(list(fitted.scores.values())) * 40, 9) % 1) == {0}


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(0)
    y, rows = rng.integers(0, 3, 50), np.arange(10, 50)
    scores = rng.integers(0, 4, (40, 3)).astype(float)  # many ties
    target = encode(y, train=np.arange(10), val=rows, n_classes=3, task="classes", binary_output=False)
    expected = np.mean([roc_auc_score(y[rows] == k, scores[:, k]) for k in range(3)])
    assert auroc(target, scores, rows) == pytest.approx(expected, abs=1e-12)
    assert accuracy(target, scores, rows) == (scores.argmax(axis=1) == y[rows]).mean()


def test_early_stopping_keeps_the_first_best_epoch():
    X, y = data(strength=0.0)
    fitted = fit(quick("mlp", lr=1e-2, patience=3), {"cls": X}, y)
    scores = list(fitted.scores.values())
    assert fitted.chosen["epoch"] == int(np.argmax(scores)) + 1 == len(scores) - 3
    assert "stopped early" in fitted.notes[0]
    truth = fitted.predict({"cls": X})[VAL, y[VAL]]
    assert -np.log(truth).mean() == pytest.approx(-max(scores), abs=1e-5)


def test_scale_and_constant_columns_do_not_matter_where_inputs_are_standardised():
    X, y = data()
    moved = np.hstack([X * 1000 - 7, np.full((100, 2), 3.0, dtype=np.float32)])
    recipe = quick("mlp", epochs=5)
    plain = fit(recipe, {"cls": np.hstack([X, np.zeros((100, 2), dtype=np.float32)])}, y)
    other = fit(recipe, {"cls": moved}, y)
    np.testing.assert_allclose(other.predict({"cls": moved})[:, 0], plain.predict({"cls": np.hstack([X, np.zeros((100, 2))])})[:, 0], atol=2e-3)  # fmt: skip


def test_patch_tokens_are_read_in_batches_from_a_memory_map(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(100) % 3
    tokens = rng.standard_normal((100, 4, 4, 12)).astype(np.float16)
    tokens[np.arange(100), rng.integers(0, 4, 100), rng.integers(0, 4, 100), y] += 6  # one patch tells
    np.save(tmp_path / "tokens.npy", tokens)
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    recipe = quick("attentive", epochs=25, lr=1e-2, batch_size=16)
    fitted, whole = (fit(recipe, {"patches": table}, y) for table in (mapped, tokens))
    np.testing.assert_array_equal(fitted.predict({"patches": mapped}), whole.predict({"patches": tokens}))
    found = fitted.predict({"patches": tokens})[VAL]
    assert (found.argmax(axis=1) == y[VAL]).mean() > 0.8
    # What numpy predicts is what torch was judged by.
    assert -np.log(found[np.arange(40), y[VAL]]).mean() == pytest.approx(
        -max(fitted.scores.values()), abs=1e-5
    )
    average = fit(quick("mlp", epochs=25, lr=1e-2, batch_size=16), {"mean": tokens.mean(axis=(1, 2))}, y)
    assert max(fitted.scores.values()) > max(average.scores.values())
    flat = fitted.predict({"patches": tokens.reshape(100, 16, 12)})
    np.testing.assert_array_equal(flat, fitted.predict({"patches": tokens}))


def test_moments_are_those_of_the_training_tokens_alone():
    rng = np.random.default_rng(0)
    table = rng.normal(5, 3, (40, 2, 2, 6)).astype(np.float32)
    table[..., 2] = 1000.0
    mean, scale = Rows(table, np.arange(30), CPU).moments()
    flat = table[:30].reshape(-1, 6).astype(np.float64)
    np.testing.assert_allclose(mean, flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(np.delete(scale, 2), 1 / np.delete(flat.std(axis=0), 2), rtol=1e-10)
    assert scale[2] == 1


def test_class_weights_lift_the_rare_class_and_need_classes():
    X, y = data(rows=400, strength=0.7)
    rare = np.flatnonzero((y == 2) & (np.arange(400) % 8 != 0))
    keep = np.setdiff1d(np.arange(400), rare)
    train, val = keep[::2], keep[1::2]
    recalls = {}
    for kind in ("none", "balanced"):
        fitted = fit(quick("mlp", class_weight=kind, epochs=10), {"cls": X}, y, train=train, val=val)
        recalls[kind] = (fitted.predict({"cls": X})[rare].argmax(axis=1) == 2).mean()
    assert recalls["balanced"] > recalls["none"] + 0.1
    with pytest.raises(ProbeError, match="class weights need a target of classes"):
        fit(
            quick("mlp", class_weight="balanced"),
            {"cls": X[:100]},
            X[:100, 0],
            n_classes=1,
            task="continuous",
        )


def test_labels_that_are_all_missing_teach_nothing_and_break_nothing():
    X, _ = data()
    y = (X[:, :2] > 0).astype(np.int64)
    y[:30, 1] = -1
    for name in ("mlp", "dinov2-linear"):
        changes = {"epochs": 3} if name == "mlp" else {"iterations": 20}
        one = fit(quick(name, **changes), {"cls": X}, y, n_classes=2, task="multilabel")
        assert np.isfinite(one.predict({"cls": X})).all()
    y[VAL] = -1
    with pytest.raises(ProbeError, match="no known label"):
        fit(RECIPES["mlp"], {"cls": X}, y, n_classes=2, task="multilabel")


def test_recipes_are_found_by_name_and_their_hash_is_what_decides():
    with pytest.raises(ConfigError, match="did you mean dinov2-linear"):
        find_recipe("dinov2-lineer")
    recipe = find_recipe("mlp")
    assert isinstance(recipe, EpochTraining)
    assert recipe.sha256 == dataclasses.replace(recipe, source="elsewhere", remarks=("x",)).sha256
    assert len({recipe.sha256 for recipe in RECIPES.values()}) == len(RECIPES)
    assert recipe.sha256 != dataclasses.replace(recipe, lr=2e-3).sha256
    assert isinstance(find_recipe("dinov2-linear"), LinearSearch)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("mlp", {"lr": 0.0}, "lr 0.0 can't be used"),
        ("mlp", {"epochs": 0}, "epochs 0 can't be used"),
        ("mlp", {"weight_decay": float("nan")}, "weight decay nan"),
        ("mlp", {"schedule": "linear"}, "unknown schedule 'linear'"),
        ("mlp", {"warmup": 1.0}, "a share of all steps"),
        ("mlp", {"tasks": ("ranks",)}, "unknown task 'ranks'"),
        ("dinov2-linear", {"learning_rates": ()}, "one at least"),
        ("dinov2-linear", {"iterations": 0}, "iterations 0"),
        ("dinov2-linear", {"monitor": "loss"}, "unknown monitor"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(name, changes, says):
    with pytest.raises(ConfigError, match=says):
        quick(name, **changes)
