"""Every recipe for cached embeddings keeps one contract for every target it declares; a new one needs no test."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from featprobe.errors import ProbeError
from featprobe.heads.cached import RECIPES, FittedCachedHead, LinearSearch
from featprobe.heads.cached.fitting import fit_head
from featprobe.records import TASKS

PAIRS = [(name, task) for name, recipe in RECIPES.items() for task in recipe.tasks]
FIT, VAL = np.arange(90), np.arange(90, 130)


def quick(name):
    """The recipe with a budget for tests: few steps, at a rate that still learns."""
    recipe = RECIPES[name]
    if isinstance(recipe, LinearSearch):
        return dataclasses.replace(recipe, iterations=40, learning_rates=(1e-3, 0.1))
    return dataclasses.replace(recipe, epochs=12, lr=1e-2, batch_size=16)


def data(task, seed=0, rows=130):
    """(X by key, y, n_classes), learnable from every key, with missing cells where the task has them."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(rows) % 3)
    base = rng.standard_normal((rows, 8)) + 2.5 * np.eye(3, 8)[y]
    X = {"cls": base.astype(np.float32)}
    X["patches"] = (base[:, None, None] + rng.standard_normal((rows, 2, 2, 8))).astype(np.float16)
    if task == "continuous":
        return X, 40 + 5 * base[:, :3].sum(axis=1), 1
    if task == "multilabel":
        y = (base[:, :3] > 0.7).astype(np.int64)
        y[rng.random(y.shape) < 0.1] = -1
        return X, y, 3
    return X, y, 3


def fit(name, task, X, y, n_classes, train=FIT, val=VAL, seed=0):
    return fit_head(quick(name), X, y, train=train, val=val, n_classes=n_classes, task=task, seed=seed)


@pytest.mark.parametrize(("name", "task"), PAIRS)
class TestEveryHead:
    def test_predicts_what_the_records_hold(self, name, task):
        X, y, n_classes = data(task)
        state = torch.get_rng_state()
        fitted = fit(name, task, X, y, n_classes)
        assert torch.equal(torch.get_rng_state(), state)
        new, truth, _ = data(task, seed=1)
        found = fitted.predict(new)
        assert found.shape == (130, n_classes)
        assert found.dtype == np.float64
        np.testing.assert_allclose(
            fitted.predict({key: table[[5]] for key, table in new.items()}), found[[5]], rtol=1e-9
        )
        assert fitted.predict({key: table[:0] for key, table in new.items()}).shape == (0, n_classes)
        assert fitted.chosen["candidate"] in fitted.scores
        assert fitted.scores[fitted.chosen["candidate"]] == max(fitted.scores.values())
        assert fitted.notes
        if task == "continuous":
            assert 1 - np.square(found[:, 0] - truth).mean() / truth.var() > 0.6
        elif task == "multilabel":
            known = truth >= 0
            assert ((found > 0.5) == truth)[known].mean() > 0.75
        else:
            np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)
            assert (found.argmax(axis=1) == truth).mean() > 0.7

    def test_is_a_function_of_its_arguments_bit_for_bit(self, name, task):
        X, y, n_classes = data(task)
        first, second, other = (fit(name, task, X, y, n_classes, seed=seed) for seed in (0, 0, 1))
        for key, value in first.state().items():
            np.testing.assert_array_equal(value, second.state()[key])
        assert not np.array_equal(first.tensors["out.weight"], other.tensors["out.weight"])

    def test_comes_back_from_plain_arrays(self, name, task, tmp_path):
        X, y, n_classes = data(task)
        fitted = fit(name, task, X, y, n_classes)
        np.savez(tmp_path / "head.npz", **fitted.state())
        with np.load(tmp_path / "head.npz", allow_pickle=False) as arrays:
            again = FittedCachedHead.from_state(quick(name), dict(arrays))
        np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
        assert (again.chosen, again.scores, again.notes) == (fitted.chosen, fitted.scores, fitted.notes)
        assert list(again.scores) == list(fitted.scores)
        tensors = load(save(fitted.state()))
        np.testing.assert_array_equal(
            FittedCachedHead.from_state(quick(name), tensors).predict(X), fitted.predict(X)
        )
        with pytest.raises(ProbeError, match="saved under the recipe"):
            FittedCachedHead.from_state(dataclasses.replace(quick(name), batch_size=7), fitted.state())
        with pytest.raises(ProbeError, match="no head"):
            FittedCachedHead.from_state(quick(name), {"out.weight": np.zeros(3)})

    def test_refuses_what_can_not_be_trained_on(self, name, task):
        X, y, n_classes = data(task)
        fitted = fit(name, task, X, y, n_classes)
        for value in (np.nan, np.inf):
            broken = {key: table.copy() for key, table in X.items()}
            for table in broken.values():
                table[[3, 8], ..., 1] = value
            with pytest.raises(ProbeError, match=r"2 of 90 training embeddings .* row 3"):
                fit(name, task, broken, y, n_classes)
            with pytest.raises(ProbeError, match=r"2 of 130 test embeddings"):
                fitted.predict(broken)
        with pytest.raises(ProbeError, match=r"one class only|one value only|no label with both values"):
            fit(name, task, X, np.zeros_like(y), n_classes)
        with pytest.raises(ProbeError, match="training part is empty"):
            fit(name, task, X, y, n_classes, train=FIT[:0])
        with pytest.raises(ProbeError, match="validation part is empty"):
            fit(name, task, X, y, n_classes, val=VAL[:0])
        with pytest.raises(ProbeError, match="share rows"):
            fit(name, task, X, y, n_classes, val=FIT[-3:])
        with pytest.raises(ProbeError, match="do not fit together"):
            fit(name, task, X, y[:-1], n_classes)
        with pytest.raises(ProbeError, match=r"outside|missing"):
            fit(name, task, X, y * np.nan if task == "continuous" else y - 5, n_classes)
        with pytest.raises(ProbeError, match="no embedding"):
            fit(name, task, {}, y, n_classes)
        with pytest.raises(ProbeError, match="needs the embedding"):
            fitted.predict({})
        with pytest.raises(ProbeError, match="trained on another embedding"):
            fitted.predict({key: table[..., :-1] for key, table in X.items()})

    def test_errors_are_one_line(self, name, task):
        X, y, n_classes = data(task)
        with pytest.raises(ProbeError) as caught:
            fit(name, task, X, np.zeros_like(y), n_classes)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", TASKS)
def test_an_unsuitable_head_names_those_that_fit(task):
    for name, recipe in RECIPES.items():
        if task not in recipe.tasks:
            with pytest.raises(ProbeError, match=r"heads that can: .*mlp, attentive"):
                fit(name, task, *data(task))


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if "classes" in recipe.tasks])
def test_a_class_that_training_lacks_gets_nothing_and_is_told(name):
    X, y, _ = data("classes")
    y = 2 * y  # 0, 2, 4 of six classes
    unseen = VAL[:2]
    y[unseen] = 5
    fitted = fit(name, "classes", X, y, 6)
    found = fitted.predict(X)
    assert (found[:, [1, 3, 5]] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)
    assert any("2 of 40 validation rows have a class that training lacks" in note for note in fitted.notes)


def test_predicting_and_reading_recipes_needs_no_torch():
    code = (
        "import sys, numpy as np, featprobe.heads.cached as c; c.find_recipe('mlp').sha256; "
        "assert not {'torch', 'timm', 'h5py'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
