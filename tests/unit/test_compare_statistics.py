"""What `featprobe compare` says beyond pairs, through the real command on small results."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featprobe import config_statistics as config
from featprobe import significance
from featprobe.cli import main
from featprobe.errors import ConfigError
from featprobe.metrics import default_metrics
from featprobe.records import Predictions, RunKey, Samples
from featprobe.results import ResultsFolder
from featprobe.significance import compare as compare_systems
from featprobe.significance import estimates
from featprobe.stages.rarity import SIMULATED

SKILL = {"strong": 2.0, "good": 1.9, "weak": 0.4}


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """Figures take most of a report's time and have their own tests."""
    monkeypatch.setattr("featprobe.report.page.render", lambda _: {}, raising=False)


def predictions(dataset, name, skill, *, seed=0, fold="test", cases=60, per_group=1, part=""):
    """One system on rows that belong to data set, fold and seed alone, whichever system it is."""
    shared = np.random.default_rng([len(dataset), seed, len(fold) + ord(fold[0]), cases])
    own = np.random.default_rng([ord(name[0]), seed, ord(fold[0])])
    y = np.arange(cases) // per_group % 2
    logit = skill * (2 * y - 1) + shared.standard_normal(cases) + 0.3 * own.standard_normal(cases)
    score = 1 / (1 + np.exp(-logit))
    ids = [f"{dataset}{part}{fold}-{row:04d}" for row in range(cases)]
    group = [f"{dataset}{part}{fold}-p{row // per_group:04d}" for row in range(cases)]
    samples = Samples.build(path=ids, label=y, label_names=("no", "yes"), group=group)
    key = RunKey(
        dataset, name, "pretrained", "frozen", "cls", "p", "logistic", "f" * 64, seed=seed, fold=fold
    )
    return Predictions(key, samples, np.stack([1 - score, score], axis=1), 4 * cases)


def store(folder, datasets=("d",), seeds=(0,), folds=("test",), *, same_rows=False, per_group=1):
    every, found = [], []
    for dataset in datasets:
        for seed in seeds:
            for name, skill in SKILL.items():
                part = "" if same_rows else f"s{seed}"
                made = [
                    predictions(dataset, name, skill, seed=seed, fold=fold, per_group=per_group, part=part)
                    for fold in folds
                ]
                found += estimates(made, default_metrics("classes"), resamples=50)
                every += made
    ResultsFolder(folder).add("unit", every, found, {"key": every[0].key.to_dict()})
    return folder


def run(folder, *flags):
    return main(["compare", str(folder), "--map", "none", "--resamples", "200", *flags])


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Results, and beside them the tables of a comparison without flags."""
    home = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featprobe.report.page.render", lambda _: {}, raising=False)
        assert run(store(home / "r"), "--out", str(home / "a")) == 0
    return home


def test_the_choices_are_the_statistics_own():
    assert config.INTERVALS == significance.INTERVALS
    assert config.TESTS == significance.TESTS
    assert config.ADJUSTMENTS == significance.ADJUSTMENTS


def test_ranks_sample_sizes_and_the_studys_interval_reach_page_tables_and_console(tmp_path, capsys):
    assert run(store(tmp_path), "--as-reported") == 0
    said = capsys.readouterr().out
    assert "d: ranks that are possible (all at once, 95 %): " in said
    rows = {row["system"].split()[0]: row for row in rows_of(tmp_path / "tables" / "d-standings.csv")}
    assert (rows["weak"]["rank_low"], rows["weak"]["rank_high"], rows["weak"]["behind_high"]) == (
        "3",
        "3",
        "0.0",
    )
    assert {rows[name]["in_best_set"] for name in ("strong", "good")} == {"True"}
    width = float(rows["weak"]["reported_high"]) - float(rows["weak"]["reported_low"])
    metrics = {
        row["system"].split()[0]: row
        for row in rows_of(tmp_path / "tables" / "d-metrics.csv")
        if row["metric"] == "balanced_accuracy"
    }
    sound = float(metrics["weak"]["ci_high"]) - float(metrics["weak"]["ci_low"])
    assert 50 < sound / width < 100
    (size,) = rows_of(tmp_path / "tables" / "d-sample-size.csv")
    assert float(size["groups_needed"]) > 60
    page = (tmp_path / "report.html").read_text()
    for words in ("Possible ranks", "As the study reported", "too narrow", "Groups needed"):
        assert words in page
    assert "\\begin{tabular}" in (tmp_path / "tables" / "d-standings.tex").read_text()
    assert (tmp_path / "tables" / "d-sample-size.md").exists()


def test_a_verdict_does_not_change_with_the_studys_interval(plain, tmp_path):
    run(plain / "r", "--out", str(tmp_path / "b"), "--as-reported")
    for name in ("d-comparisons.csv", "d-metrics.csv"):
        assert (plain / "a" / "tables" / name).read_bytes() == (tmp_path / "b" / "tables" / name).read_bytes()


@pytest.mark.parametrize("method", ["percentile", "bca", "delong", "wilson"])
def test_interval_changes_what_it_fits_and_nothing_else(plain, tmp_path, method):
    run(plain / "r", "--out", str(tmp_path / "b"), "--interval", method)
    one, two = (
        {(row["system"], row["metric"]): row for row in rows_of(out / "tables" / "d-metrics.csv")}
        for out in (plain / "a", tmp_path / "b")
    )
    for key, row in one.items():
        assert row["value"] == two[key]["value"]
        changed = (row["ci_low"], row["ci_high"]) != (two[key]["ci_low"], two[key]["ci_high"])
        assert changed == significance.fits(method, key[1])
    name = {"bca": "BCa", "delong": "DeLong", "wilson": "Wilson"}.get(method, method)
    assert name in (tmp_path / "b" / "report.html").read_text()


@pytest.mark.parametrize(
    ("test", "metric", "adjust", "words"),
    [
        ("delong", "auroc", "max-t", "DeLong, paired"),
        ("delong", "auroc", "holm", "Holm"),
        ("mcnemar", "accuracy", "", "McNemar&#39;s test, exact"),
        ("mcnemar-midp", "accuracy", "bh", "Benjamini"),
        ("sign-flip", "accuracy", "max-t", "sign-flip permutation by group"),
        ("sign-flip", "macro_f1", "", "sign-flip permutation by group"),
        ("bootstrap", "auroc", "bh", "false discovery rate"),
    ],
)  # fmt: skip
def test_every_test_finds_the_clear_difference_and_says_its_name(
    plain, tmp_path, test, metric, adjust, words
):
    flags = ["--adjust", adjust] if adjust else []
    assert run(plain / "r", "--out", str(tmp_path), "--test", test, "--metric", metric, *flags) == 0
    pairs = {
        frozenset((row["a"].split()[0], row["b"].split()[0])): row
        for row in rows_of(tmp_path / "tables" / "d-comparisons.csv")
    }
    clear = pairs[frozenset(("strong", "weak"))]
    assert float(clear["p_adjusted"]) < 0.01
    assert float(clear["p_value"]) <= float(clear["p_adjusted"])
    assert float(pairs[frozenset(("strong", "good"))]["p_adjusted"]) > 0.05
    assert words in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--test", "mcnemar", "--metric", "accuracy"), "several rows; its interval and p-value"),
        (("--interval", "wilson"), "type --interval t, which resamples groups"),
        (("--test", "delong"), "--test delong does not judge balanced_accuracy"),
        (("--test", "mcnemar", "--metric", "accuracy", "--adjust", "max-t"), "no joint law"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, capsys, flags, words):
    assert run(store(tmp_path, per_group=2), *flags) == 2
    said = capsys.readouterr().err
    assert said.startswith("featprobe: error: ")
    assert said.count("\n") == 1
    assert words in said
    assert not (tmp_path / "report.html").exists()


def test_flipped_signs_are_refused_where_a_class_is_rare():
    made = {name: [predictions("d", name, skill, cases=40)] for name, skill in SKILL.items()}
    rare = np.where(np.arange(40) < 6, 1, 0)
    systems = {
        name: [Predictions(own.key, own.samples.replace(label=rare), own.y_score, 1)]
        for name, (own,) in made.items()
    }
    with pytest.raises(ConfigError, match=r"fewer than 10 groups.*type --test bootstrap"):
        compare_systems(systems, "auroc", resamples=60, test="sign-flip")
    assert compare_systems(systems, "accuracy", resamples=60, test="sign-flip").pairs
    widened = compare_systems(systems, "auroc", resamples=60).pairs[0].method
    assert "within strata of label patterns" in widened
    assert "widened as t with" in widened


def test_delong_takes_its_clustered_form_where_groups_have_several_rows(tmp_path):
    assert (
        run(store(tmp_path, per_group=3), "--interval", "delong", "--test", "delong", "--metric", "auroc")
        == 0
    )
    assert "clustered DeLong (Obuchowski), 95 %" in (tmp_path / "report.html").read_text()


def test_folds_and_seeds_are_combined_for_the_procedure(tmp_path, capsys):
    assert run(store(tmp_path, seeds=(0, 1), folds=("0", "1", "2")), "--as-reported") == 0
    said = capsys.readouterr().out
    assert "d: over 6 trainings (folds and seeds; corrected resampled t, for the procedure) 2 of 3" in said
    assert "under cross-validation there is none" in said
    assert "As the study reported" not in (tmp_path / "report.html").read_text()
    rows = rows_of(tmp_path / "tables" / "d-combined.csv")
    assert all(0 < float(row["ci_low"]) < float(row["ci_high"]) < 1 for row in rows if not row["b"])
    pair = next(
        row for row in rows if row["b"] and "weak" in row["a"] + row["b"] and "strong" in row["a"] + row["b"]
    )
    single = pd.read_csv(tmp_path / "results.csv")
    single = single[(single.metric == "balanced_accuracy") & (single.fold.astype(str) != "mean")]
    table = single.pivot_table(index=["seed", "fold"], columns="backbone", values="value")
    first, second = (pair[side].split()[0] for side in "ab")
    gaps = (table[first] - table[second]).to_numpy()
    assert len(gaps) == 6
    expected = significance.corrected_resampled_t(gaps, 0.25)
    assert float(pair["value"]) == pytest.approx(expected.mean)
    assert float(pair["ci_low"]) == pytest.approx(expected.low)
    assert float(pair["p_adjusted"]) >= float(pair["p_value"]) == pytest.approx(expected.p_value)
    assert "estimand: the procedure" in pair["method"]


def test_seeds_on_the_same_test_rows_are_not_combined(tmp_path, capsys):
    assert run(store(tmp_path, seeds=(0, 1), same_rows=True)) == 0
    assert "d: the seeds were not combined: all were tested on the same rows" in capsys.readouterr().out
    assert not (tmp_path / "tables" / "d-combined.csv").exists()


def test_data_sets_together(tmp_path, capsys):
    assert run(store(tmp_path, datasets=("a", "bb", "ccc", "dddd"))) == 0
    assert "4 data sets: mean ranks in balanced accuracy: " in capsys.readouterr().out
    rows = rows_of(tmp_path / "tables" / "across-image-balanced_accuracy.csv")
    assert rows[-1]["system"].startswith("weak")
    assert float(rows[-1]["mean_rank"]) == 3.0
    # q(0.05; 3) = 2.343 (Demsar 2006, table 5), 4 data sets.
    assert float(rows[0]["critical_difference"]) == pytest.approx(2.343 * np.sqrt(12 / 24), abs=2e-3)
    chances = rows_of(tmp_path / "tables" / "across-image-balanced_accuracy-chances.csv")
    assert all(
        abs(sum(float(row[n]) for n in ("a_better", "equal", "b_better")) - 1) < 1e-9 for row in chances
    )
    assert "Friedman" in (tmp_path / "report.html").read_text()


def test_a_second_run_says_that_nothing_has_changed(tmp_path, capsys):
    run(store(tmp_path))
    before = json.loads((tmp_path / "run.json").read_text())["report"]
    capsys.readouterr()
    run(tmp_path)
    assert "nothing has changed" in capsys.readouterr().out
    run(tmp_path, "--adjust", "holm")
    assert json.loads((tmp_path / "run.json").read_text())["report"]["identity"] != before["identity"]


def test_ranks_hold_the_order_and_the_best_set_is_who_may_be_first():
    systems = {name: [predictions("d", name, skill, cases=200)] for name, skill in SKILL.items()}
    best = compare_systems(systems, "auroc", resamples=300).best_frame().set_index("system")
    assert (best.rank_low[best.in_best_set] == 1).all()
    assert (best.rank_low <= best.rank_high).all()
    assert best.loc["weak", ["rank_low", "rank_high"]].tolist() == [3, 3]
    assert best.behind_high["weak"] == 0
    assert best.behind_high[best.in_best_set].gt(0).all()
    lower = compare_systems(systems, "brier", resamples=300).best_frame().set_index("system")
    assert lower.rank_low["weak"] == 3
    alone = compare_systems({"one": systems["weak"]}, "auroc", resamples=50).best[0]
    assert (alone.rank_low, alone.rank_high, alone.in_best_set) == (1, 1, True)


@pytest.mark.parametrize("interval", ["bca", "percentile"])
def test_intervals_that_are_too_narrow_for_a_rare_class_come_with_a_warning(tmp_path, capsys, interval):
    words = f"--interval {interval} is too narrow where a class is rare: class 'no' has 4 test groups, class 'yes' has 4"
    rare, common = store(tmp_path / "rare", per_group=8), store(tmp_path / "common")
    for folder, method, said in ((rare, interval, True), (rare, "t", False), (common, interval, False)):
        arguments = [
            "--interval",
            method,
            "--resamples",
            "50",
            "--map",
            "none",
            "--out",
            str(tmp_path / method),
        ]
        assert main(["compare", str(folder), *arguments]) == 0
        printed = capsys.readouterr().out
        assert (f"WARNING: d: {words}" in printed) == said
        assert ("is too narrow where a class is rare" in printed) == said
    page = (tmp_path / interval / "report.html").read_text(encoding="utf-8")
    assert "is too narrow" not in page, "of the common classes, written last"


def test_groups_of_a_class_are_counted_over_folds():
    folds = [predictions("d", "good", 1.9, fold=fold, cases=12, per_group=2) for fold in "ab"]
    assert significance.rare_parts(folds) == [("class 'no'", 6), ("class 'yes'", 6)]
    more = [*folds, *(predictions("d", "good", 1.9, fold=fold, cases=12, per_group=2) for fold in "cd")]
    assert significance.rare_parts(more) == []


def test_what_the_warning_says_is_what_was_simulated():
    docs = Path(__file__).resolve().parents[2] / "docs" / "coverage.md"
    rows = [
        line.split("|")
        for line in docs.read_text(encoding="utf-8").splitlines()
        if line.startswith("| AUROC")
    ]
    names = {"bca": "BCa, by group", "percentile": "percentile, by group", "t": "t, by group"}
    for method, name in names.items():
        line = next(row for row in rows if row[1].strip() == f"AUROC: {name}")
        rare = [float(cell) for cell in line[-4:-1]]
        assert SIMULATED[method] == (min(rare), max(rare))


def test_without_declared_groups_pairs_are_of_images_as_their_values_are(tmp_path):
    undeclared = []
    for name, skill in SKILL.items():
        made = predictions("d", name, skill, seed=0)
        plain = dataclasses.replace(made, samples=made.samples.replace(groups_declared=False))
        undeclared.append(
            dataclasses.replace(plain, key=dataclasses.replace(plain.key, protocol="p holdout 30 %"))
        )
    found = [row for one in undeclared for row in estimates([one], default_metrics("classes"), resamples=50)]
    ResultsFolder(tmp_path).add("unit", undeclared, found, {"key": undeclared[0].key.to_dict()})
    assert run(tmp_path) == 0
    said = (tmp_path / "methods.md").read_text()
    assert "image bootstrap" in said
    assert "paired image bootstrap" in said
    assert "group bootstrap" not in said
