"""What a probe says about its own fit."""

from __future__ import annotations

import numpy as np
import pytest

from featprobe.errors import ConfigError, ProbeError
from featprobe.probes import fit_probe, logistic
from featprobe.probes.solvers import logistic_descent, logistic_newton


def data(rows=90, columns=10, signal=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 3
    return rng.standard_normal((rows, columns)) + signal * np.eye(3, columns)[y], y


def parts(rows):
    fold = np.arange(rows) // 3 % 3
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(3)]


def fit(name, X, y, **changes):
    cut = parts(len(y))
    return fit_probe(
        name, X, y, **({"n_classes": 3, "selection": cut, "calibration": cut, "seed": 0} | changes)
    )


def test_an_embedding_without_signal_is_noted_at_the_strong_end():
    X, y = data(signal=0.0, columns=40)
    fitted = fit("logistic", X, y)
    assert fitted.chosen["C"] == logistic.GRID[0]
    assert "strong end" in fitted.notes[0]


def test_a_flat_start_of_the_path_is_not_its_end():
    X, y = data(rows=36)
    assert fit("logistic", X, y).chosen["C"] > 1e-3


def test_usual_data_stay_off_the_edge():
    X, y = data(rows=300)
    assert fit("logistic", X, y).notes == ()


def test_a_fit_that_does_not_converge_is_said(monkeypatch):
    X, y = data(rows=60, columns=30)
    monkeypatch.setattr(logistic_descent, "STEPS", 0)
    monkeypatch.setattr(logistic_newton, "NEWTONS", 0)
    notes = fit("logistic", X, y).notes
    assert any("while choosing C the fit did not converge" in note for note in notes)
    assert any("final fit" in note and "did not converge" in note for note in notes)


def test_the_scaler_never_sees_the_validation_rows():
    X, y = data()
    spoiled = X.copy()
    held = np.flatnonzero(np.arange(len(y)) >= 60)
    spoiled[held] *= 1e6
    only = [(np.arange(60), np.arange(30))]
    plain, beside = (fit("logistic", table, y, selection=only).scores for table in (X, spoiled))
    # Equal to the solver's certified gap: a scaler that had seen those rows would move them by whole nats.
    assert plain.keys() == beside.keys()
    assert list(plain.values()) == pytest.approx(list(beside.values()), abs=2e-5)


def test_near_ties_go_to_the_stronger_penalty():
    X, y = data(signal=8.0)
    fitted = fit("logistic", X, y)
    best = max(fitted.scores.values())
    assert all(score < best - logistic.TIE for C, score in fitted.scores.items() if fitted.chosen["C"] > C)


def test_platt_scaling_needs_every_class_in_every_fold():
    X, y = data()
    lacking = [(np.flatnonzero(y != 2), np.flatnonzero(y == 2))]
    with pytest.raises(ProbeError, match="Platt"):
        fit("svm", X, y, calibration=lacking)


def test_platt_scaling_may_leave_rows_out():
    X, y = data()
    some = [(fit_rows, held[:-3]) for fit_rows, held in parts(len(y))]
    np.testing.assert_allclose(fit("svm", X, y, calibration=some).predict_proba(X).sum(axis=1), 1)


def test_an_unknown_probe_names_the_nearest():
    X, y = data()
    with pytest.raises(ConfigError, match="logistic"):
        fit("logistc", X, y)
