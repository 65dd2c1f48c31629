"""Shows that the report's curves hold the metrics' own areas, and that their bands are those of groups drawn again."""

from __future__ import annotations

import numpy as np
import pytest

from featprobe.report import bands, curves
from tests.unit.test_report import rows_of


def test_precision_recall_steps_hold_the_mean_average_precision() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    _, rows = rows_of("d", ("a", "b", "c"), ("0", "1"), {"s": 0.8}, 40)
    areas = [
        metrics.average_precision_score(fold["y_true"] == name, fold[f"y_score_{name}"])
        for _, fold in rows.groupby("fold")
        for name in ("a", "b", "c")
    ]
    curve = curves.pr_of_system(rows, ("a", "b", "c"))
    assert curve is not None
    recall, precision = curve
    assert np.diff(np.append(0.0, recall)) @ precision == pytest.approx(np.mean(areas), abs=1e-12)
    assert curves.pr(np.zeros(3, dtype=bool), np.arange(3.0)) is None


def test_a_band_is_that_of_the_rows_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows = rows_of("d", ("a", "b"), ("test",), {"s": 1.0}, 60)
    rows = rows.assign(group=[f"g{i // 3}" for i in range(60)])
    monkeypatch.setattr(bands, "RESAMPLES", 40)
    weights = bands._weights(rows["group"].to_numpy(dtype=str), np.random.default_rng(bands.SEED))
    assert (weights.reshape(40, 20, 3) == weights.reshape(40, 20, 3)[:, :, :1]).all()
    drawn = []
    for one in weights:
        again = rows.loc[rows.index.repeat(one.astype(int))]
        curve = curves.pr_of_system(again, ("a", "b"))
        assert curve is not None
        drawn.append(curves.at_recall(*curve, bands.GRID))
    band = bands.pr_band(rows, ("a", "b"), "classes")
    assert band is not None
    np.testing.assert_allclose(band[1:], np.quantile(drawn, [0.025, 0.975], axis=0), atol=1e-6)
    roc = bands.roc_band(rows, ("a", "b"), "classes")
    assert roc is not None
    assert (roc[1] <= roc[2]).all()
    single = rows[rows["y_true"] == "a"]
    assert bands.roc_band(single, ("a", "b"), "classes") is None
