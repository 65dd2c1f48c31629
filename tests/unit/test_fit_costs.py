"""What a frozen probe cost: CPU time, memory, parameters, its share of the cache; honest where something is unknown."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from featprobe import probes, trust
from featprobe.report.costs import costs_table
from featprobe.stages import fit_costs
from featprobe.stages.fit_costs import FitCost, extraction, spending, trained_parameters
from featprobe.stages.fit_costs import fit_costs as spent_on
from featprobe.stages.spendings import COSTS


def fitted(name: str, classes: int, task: str = "classes") -> probes.FittedProbe:
    rng = np.random.default_rng(0)
    y = np.arange(60) % classes
    X = rng.normal(size=(60, 5)) + y[:, None]
    rows = np.arange(60)
    parts = [(rows[rows % 3 != k], rows[rows % 3 == k]) for k in range(3)]
    return probes.fit_probe(
        name, X, y, n_classes=classes, selection=parts, calibration=parts, seed=0, task=task
    )


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("logistic", 3, 3 * 5 + 3),
        ("logistic", 2, 5 + 1),
        ("lda", 3, 3 * 5 + 3),
        ("ridge_classifier", 3, 3 * 5 + 3),
        ("knn", 3, 0),
    ],
)
def test_weights_and_intercepts_are_counted_and_looked_up_rows_are_not(
    name: str, classes: int, expected: int
) -> None:
    probe = fitted(name, classes)
    assert trained_parameters(probe) == expected
    recalibrated = trust.Recalibrated(probe.model, trust.calibrate("temperature", probe.predict(np.eye(5)), np.arange(5) % 2, names=("a", "b"))[0])  # fmt: skip
    assert trained_parameters(recalibrated) == expected


def test_ordered_classes_have_one_direction_and_cuts() -> None:
    assert trained_parameters(fitted("ordinal", 4, "ordinal")) == 5 + 3


def test_a_model_that_does_not_show_its_numbers_is_unknown() -> None:
    assert trained_parameters(object()) is None


def test_cpu_time_is_spent_by_computing_and_not_by_waiting() -> None:
    with spending() as waited:
        time.sleep(0.2)
    with spending() as worked:
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
    assert waited.seconds < 0.1 <= worked.seconds
    assert worked.peak is None or worked.peak > 2**20


def test_a_peak_that_the_kernel_does_not_reset_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_costs, "_forget_peak", lambda: False)
    with spending() as spent:
        pass
    assert spent.peak is None
    costs = spent_on([FitCost(1.0, 7, 3), FitCost(2.0, spent.peak, 3)], [], None)
    assert costs["peak_memory_bytes"] is None


def table(path: str, key: str, images: int, **about: object) -> SimpleNamespace:
    entry = SimpleNamespace(path=path, n=images, environments={key: about})
    return SimpleNamespace(entries=(entry,), pooling=key)


def test_extraction_is_time_for_each_image_times_the_images() -> None:
    known = {"forward_seconds": 3.0, "forward_images": 60, "engine": "torch on cuda"}
    # A resumed pass saw 60 of 100 images.
    assert extraction([table("a", "cls", 100, **known)]) == (5.0, "cuda")
    # Poolings of one pass cost what one of them does; another file costs its own.
    both = [table("a", "cls", 100, **known), table("a", "mean", 100, **known)]
    assert extraction(both) == (5.0, "cuda")
    assert extraction([*both, table("b", "gap", 100, **{**known, "engine": "torch on cpu"})]) == (
        10.0,
        "cpu+cuda",
    )
    assert extraction([*both, table("b", "gap", 100)]) == (None, None)


def test_energy_and_parameters_say_what_they_rest_on() -> None:
    costs = spent_on([FitCost(1800.0, 5, 3), FitCost(1800.0, 9, 4)], [table("a", "cls", 10)], 20.0)
    assert (costs["seconds"], costs["clock"], costs["energy_wh"]) == (3600, "CPU", 20)
    assert (costs["peak_memory_bytes"], costs["trained_parameters"]) == (9, 3)
    assert costs["energy_basis"].endswith("20 W for each CPU thread as given with --watts")
    assert "10 W for each CPU thread (assumed)" in spent_on([FitCost(1.0, 5, 3)], [], None)["energy_basis"]


def test_frozen_and_trained_stand_in_one_table_with_the_same_columns() -> None:
    frozen = spent_on([FitCost(2.0, None, 195)], [table("a", "cls", 10)], None)
    trained = {**frozen, "seconds": 7.5, "clock": "wall", "peak_memory_bytes": 2**31, "parameters": 1000}
    rows = [{"system": name, **{c: one[c] for c in COSTS}} for name, one in (("f", frozen), ("t", trained))]
    panel = SimpleNamespace(costs=pd.DataFrame(rows), systems=("f", "t", "old"), title="set")
    found = costs_table(panel)
    texts = {row[0].text: [entry.text for entry in row[1:]] for row in found.rows}
    assert texts["f"] == ["2 CPU", "cpu", "not known", "not measured", "195", "0.00556 Wh"]
    assert texts["t"] == ["7.5 wall", "cpu", "in training", "2.00 GiB", "195 of 1,000", "0.00556 Wh"]
    assert texts["old"] == ["-"] * 6
    for words in ("CPU time of probes on a frozen backbone, wall time of trained systems", "is incomplete"):
        assert words in found.note
