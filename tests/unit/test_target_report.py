"""The report shows grades, labels and numbers as whole as classes, and no figure takes one for another."""

from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featprobe.metrics import default_metrics, main_metric
from featprobe.records import EmbeddingMap, Predictions, ReportContent, RunKey, Samples
from featprobe.report import console_table, curves, write_report
from featprobe.report.panels import panels
from featprobe.report.targets import target_fact
from featprobe.report.wording import decimals_for, in_sentence, interval, metric_label, number, tex
from featprobe.results import tables
from featprobe.significance import compare, estimates

NAMES = {
    "classes": ("no", "yes"),
    "ordinal": ("low", "mid", "high"),
    "multilabel": ("edema", "mass", "hernia & co"),
    "continuous": ("age",),
}
SYSTEMS = {"one · frozen": 0.6, "two · frozen": 1.5}


def predictions(
    task: str, noise: float, *, unit: float = 1.0, fold: str = "test", level: str = "image"
) -> Predictions:
    rng = np.random.default_rng(int(fold) if fold.isdigit() else 9)
    hidden = rng.standard_normal((48, 3))
    said = hidden + noise * rng.standard_normal(hidden.shape)
    ids = [f"{fold}-{i:03d}" for i in range(48)]
    if task == "continuous":
        label, score = unit * (5 + hidden[:, 0]), unit * (5 + said[:, :1])
        label[5] = np.nan
    elif task == "multilabel":
        label, score = (hidden > 0).astype(int), 1 / (1 + np.exp(-said))
        label[rng.random(label.shape) < 0.2] = -1
    elif task == "ordinal":
        label = np.digitize(hidden[:, 0], [-0.5, 0.5])
        odds = np.exp(-np.abs(said[:, :1] - np.array([-1, 0, 1])))
        score = odds / odds.sum(axis=1, keepdims=True)
    else:
        p = 1 / (1 + np.exp(-said[:, 0]))
        label, score = (hidden[:, 0] > 0).astype(int), np.stack([1 - p, p], axis=1)
    key = RunKey(task, "b", "pretrained", "frozen", "gap", "native", f"{noise}", "3f" * 32, inputs="T1+T2", fusion="mean", fold=fold, level=level)  # fmt: skip
    group = [f"g{i // 2}" for i in range(48)]
    return Predictions(key, Samples.build(path=ids, label=label, label_names=NAMES[task], group=group, task=task), score, 100)  # fmt: skip


def content(
    *tasks: str, folds: tuple[str, ...] = ("test",), unit: float = 1.0, asked: str = "balanced_accuracy"
):
    rows, said, pairs, best = [], [], [], []
    for task in tasks:
        systems = {
            name: [predictions(task, noise, unit=unit, fold=fold) for fold in folds]
            for name, noise in SYSTEMS.items()
        }
        for name, made in systems.items():
            found = tables.estimate_frame(estimates(made, default_metrics(task), resamples=50))
            rows.append(found.assign(system=name))
            said.append(tables.prediction_frame(made).assign(system=name))
        result = compare(systems, main_metric(task), resamples=50)
        pairs.append(result.pairs_frame())
        best.append(result.best_frame())
    leaders = pd.concat(best, ignore_index=True)
    rng = np.random.default_rng(0)
    points = np.arange(48) % 2
    maps = tuple(
        EmbeddingMap(t, "b, gap", "PCA", rng.normal(size=(48, 2)), points, ("x", "y")) for t in tasks
    )
    return ReportContent(
        title="T", metric=asked, estimates=pd.concat(rows, ignore_index=True),
        predictions=pd.concat(said, ignore_index=True), comparisons=pd.concat(pairs, ignore_index=True),
        best=leaders[leaders.in_best_set], classes={t: NAMES[t] for t in tasks}, maps=maps,
        findings=dict.fromkeys(tasks, ()), notes=(), provenance={}, tasks={t: t for t in tasks},
    )  # fmt: skip


@pytest.mark.parametrize("folds", [("test",), ("0", "1")])
@pytest.mark.parametrize("task", list(NAMES))
def test_every_target_has_its_whole_page(tmp_path: Path, task: str, folds: tuple[str, ...]) -> None:
    made = content(task, folds=folds)
    page = write_report(made, tmp_path).read_text(encoding="utf-8")
    drawn = {path.stem.removeprefix(f"{task}-") for path in (tmp_path / "figures").glob("*.svg")}
    expected = {"forest", "map-b-gap"}
    expected |= {"scatter"} if task == "continuous" else {"roc", "pr"}
    expected |= {"confusion"} if task in {"classes", "ordinal"} else set()
    assert drawn == expected
    assert (tmp_path / "tables" / f"{task}-confusion.csv").exists() == ("confusion" in drawn)
    assert not re.search(r"\bnan\b|no interval", page, re.IGNORECASE)
    (panel,) = panels(made)
    assert panel.main == main_metric(task)
    assert panel.metrics[1:] == tuple(m for m in default_metrics(task) if m != main_metric(task))
    assert panel.systems == tuple(SYSTEMS)
    assert panel.tested == {main_metric(task)}
    assert "T1+T2" in page
    for metric in default_metrics(task):
        assert f"<dt>{html.escape(metric_label(metric)).replace('&#x27;', '&#39;')}</dt>" in page
    assert console_table(made).splitlines()[2].startswith("*")


def test_targets_stand_side_by_side_each_in_its_own_metric(tmp_path: Path) -> None:
    made = content(*NAMES)
    write_report(made, tmp_path)
    overview = (tmp_path / "tables" / "overview.md").read_text(encoding="utf-8")
    assert "The main metric of every data set" in overview
    for words in (
        "continuous: MAE (low is good)",
        "multilabel: Macro AUROC",
        "ordinal: Quadratic weighted kappa",
    ):
        assert words in overview
    assert "²" not in (tmp_path / "tables" / "continuous-metrics.tex").read_text(encoding="utf-8")


def test_the_facts_tell_what_is_predicted() -> None:
    facts = {panel.task: target_fact(panel) for panel in panels(content(*NAMES))}
    made = predictions("multilabel", 1.0).samples.label
    assert facts["multilabel"] == (
        "Labels",
        "3, present in the test rows where known: "
        + ", ".join(
            f"{name} ({(made[:, i] == 1).sum()} of {(made[:, i] >= 0).sum()})"
            for i, name in enumerate(NAMES["multilabel"])
        ),
    )
    assert facts["continuous"][0] == "Target"
    assert re.match(
        r"age, [\d.]+ to [\d.]+ in the test rows, median [\d.]+, standard deviation", facts["continuous"][1]
    )
    assert facts["ordinal"][1].startswith("3, in order, in the test rows: low (")
    assert facts["classes"][1].startswith("2, in the test rows: no (")


@pytest.mark.parametrize(
    ("unit", "shown"), [(1e-6, r"0\.000000\d\d\d"), (1e4, r"\d\d\d\d+ \[\d+, \d+\]"), (1.0, r"0\.\d\d\d ")]
)
def test_digits_follow_the_unit_of_the_target(tmp_path: Path, unit: float, shown: str) -> None:
    made = content("continuous", unit=unit)
    text = console_table(made)
    assert re.search(shown, text.splitlines()[2]), text
    write_report(made, tmp_path)
    assert re.search(
        shown.split(" ", maxsplit=1)[0], (tmp_path / "tables" / "continuous-comparisons.md").read_text()
    )


def test_the_area_under_the_macro_curve_is_the_metric() -> None:
    folds = [predictions("multilabel", 1.0, fold=str(k)) for k in range(3)]
    rows = tables.prediction_frame(folds)
    curve = curves.roc_of_system(rows, NAMES["multilabel"], "multilabel")
    value = estimates(folds, ["macro_auroc"], resamples=10)[-1].value
    assert curve is not None
    assert np.trapezoid(curve[1], curve[0]) == pytest.approx(value, abs=1e-12)


def test_columns_of_text_are_read_back() -> None:
    np.testing.assert_array_equal(
        curves.label_marks(pd.Series(["0|1|", "||", "1|0|1"]), 3), [[0, 1, -1], [-1, -1, -1], [1, 0, 1]]
    )
    np.testing.assert_array_equal(curves.values(pd.Series(["1.5", "", "-2e-09"])), [1.5, np.nan, -2e-9])


def test_cases_of_a_data_set_share_its_target() -> None:
    made = content("continuous")
    twice = dataclasses.replace(
        made,
        estimates=pd.concat([made.estimates, made.estimates.assign(level="case")], ignore_index=True),
        predictions=pd.concat([made.predictions, made.predictions.assign(level="case")], ignore_index=True),
    )
    assert [panel.task for panel in panels(twice)] == ["continuous", "continuous"]
    assert "continuous, by case" in console_table(twice)


def test_numbers_in_other_decimals() -> None:
    assert (decimals_for([12345.6, 2e5]), decimals_for([0.0123, np.nan, 5.0, 0.0]), decimals_for([])) == (
        0,
        4,
        3,
    )
    assert (number(-0.00001), number(-3.25, 1), number(0.4, 0)) == ("0.000", "\N{MINUS SIGN}3.2", "0")
    assert interval(-1.0, 2.0, 1) == "[\N{MINUS SIGN}1.0, 2.0]"
    assert (in_sentence("r2"), in_sentence("spearman"), in_sentence("macro_auroc")) == (
        "R²",
        "Spearman's rho",
        "macro AUROC",
    )
    assert tex("R²") == "R$^{2}$"
