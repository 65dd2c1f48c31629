"""Every registered probe is a sound scikit-learn estimator, can be saved, and is ONNX or says that it can't."""

from __future__ import annotations

from unittest import SkipTest

import numpy as np
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from featprobe.estimators import LINEAR, LinearProbe, ProbeClassifier, ProbeRegressor
from featprobe.probes import fit_probe
from featprobe.registry import PROBES
from featprobe.stages.model_files import ModelError, read_model, write_model

PAIRS = [(name, task) for name, probe in PROBES.items() for task in probe.tasks]
NO_ONNX = {"knn"}
"""Probes whose model is the training images: neither linear nor small."""


def estimators():
    for name, probe in PROBES.items():
        if "classes" in probe.tasks:
            kind = LinearProbe if name in LINEAR else ProbeClassifier
            yield kind(name, inner_folds=2)
        elif "ordinal" in probe.tasks:
            yield ProbeClassifier(name, task="ordinal", inner_folds=2)
        if "continuous" in probe.tasks:
            yield ProbeRegressor(name, inner_folds=2)


def described(estimator):
    return f"{type(estimator).__name__}-{estimator.probe}"


@pytest.mark.slow
@pytest.mark.parametrize("estimator", list(estimators()), ids=described)
def test_scikit_learns_own_checks_pass(estimator):
    passed, skipped = 0, []
    for one, check in estimator_checks_generator(estimator):
        try:
            check(one)
        except SkipTest as reason:
            skipped.append(str(reason))
        else:
            passed += 1
    assert all("SCIPY_ARRAY_API" in reason for reason in skipped), skipped
    assert passed > 45


def test_every_probe_is_reached():
    reached = {estimator.probe for estimator in estimators()}
    assert reached == set(PROBES.names())
    assert set(LINEAR) <= set(PROBES.names())


def target(task, seed=0):
    """(X [60, 8], y, columns of the prediction) with a class that training lacks, where there are classes."""
    rng = np.random.default_rng(seed)
    codes = np.arange(60) % 3
    X = (rng.standard_normal((60, 8)) + 2.0 * np.eye(3, 8)[codes]).astype(np.float32)
    if task == "continuous":
        return X, X[:, :3].sum(axis=1).astype(np.float64), 1
    if task == "multilabel":
        labels = (X[:, :3] > 0.7).astype(np.int64)
        labels[rng.random(labels.shape) < 0.1] = -1
        return X, labels, 3
    return X, codes * 2, 6


@pytest.fixture(scope="module")
def fitted():
    fold = np.arange(60) // 3 % 3
    parts = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(3)]
    cache = {}

    def of(name, task):
        if (name, task) not in cache:
            X, y, columns = target(task)
            names = tuple(f"label {k}" for k in range(columns))
            cache[name, task] = fit_probe(
                name,
                X,
                y,
                n_classes=columns,
                selection=parts,
                calibration=parts,
                seed=0,
                task=task,
                label_names=names,
            )
        return cache[name, task]

    return of


def saved(tmp_path, fitted, name, task):
    found = fitted(name, task)
    header = {"probe": name, "task": task, "label_names": ["?"] * found.n_classes}
    write_model(tmp_path / "model.skops", found, {**header, "recipe": {"storage": "float32"}})
    return read_model(tmp_path / "model.skops")


@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_a_saved_probe_predicts_the_same_to_the_last_bit(tmp_path, fitted, name, task):
    before, after = fitted(name, task), saved(tmp_path, fitted, name, task).fitted
    for X in (target(task)[0], target(task, seed=1)[0], target(task)[0][:1]):
        np.testing.assert_array_equal(before.predict(X), after.predict(X))
    assert dict(after.chosen) == dict(before.chosen)
    assert dict(after.scores) == dict(before.scores)
    assert (after.notes, after.task, after.name) == (before.notes, before.task, before.name)


@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_onnx_gives_the_models_own_scores(tmp_path, fitted, name, task):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from featprobe.stages.onnx_files import _probe_proto

    model = saved(tmp_path, fitted, name, task)
    if name in NO_ONNX:
        with pytest.raises(ModelError, match="can't be written as ONNX"):
            _probe_proto(model)
        return
    session = onnxruntime.InferenceSession(_probe_proto(model).SerializeToString())
    for X in (target(task, seed=1)[0], target(task)[0][:1]):
        (scores,) = session.run(None, {"embedding": X})
        np.testing.assert_allclose(scores, model.fitted.predict(X), atol=1e-9)
