"""Controls speak up when a backbone does not beat them, and are ranked with nobody where they can't win."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from featprobe import health, significance
from featprobe.config import CompareConfig
from featprobe.errors import ResultsError
from featprobe.metrics import default_metrics
from featprobe.records import Predictions, RunKey, Samples
from featprobe.results import ResultsFolder
from featprobe.stages import canaries
from featprobe.stages.ailments import ailments
from featprobe.stages.compare import compare
from featprobe.stages.families import by_family
from featprobe.stages.systems import SHUFFLED, add_systems

GIVEN = RunKey(
    dataset="d",
    backbone="resnet18",
    weights="pretrained",
    mode="frozen",
    pooling="gap",
    preprocessing="p",
    probe="logistic",
    fingerprint="a" * 64,
)
KEYS = {
    "given": GIVEN,
    "random": dataclasses.replace(GIVEN, weights="random", fingerprint="b" * 64),
    "statistics": dataclasses.replace(
        GIVEN,
        backbone="image_stats",
        weights="none",
        pooling="mean",
        preprocessing="none",
        fingerprint="c" * 64,
    ),
    "shuffled": dataclasses.replace(GIVEN, mode=SHUFFLED),
}


def frames(values: dict[str, float], p: float = 0.001, metric: str = "balanced_accuracy", half: float = 0.05):
    """Estimates and pairs of the systems `values`, all pairs with the adjusted p-value `p`."""
    estimates = pd.DataFrame(
        [
            {
                **KEYS[name].to_dict(),
                "system": name,
                "metric": metric,
                "value": value,
                "ci_low": value - half,
                "ci_high": value + half,
            }
            for name, value in values.items()
        ]
    )
    names = [name for name in values if name != "shuffled"]
    pairs = pd.DataFrame(
        [
            {
                "metric": metric,
                "a": b,
                "b": a,
                "difference": values[b] - values[a],
                "ci_low": values[b] - values[a] - 0.02,
                "ci_high": values[b] - values[a] + 0.03,
                "p_adjusted": p,
                "method": "too few groups",
            }
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        ],
        columns=pd.Index(["metric", "a", "b", "difference", "ci_low", "ci_high", "p_adjusted", "method"]),
    )
    return estimates, pairs


class TestWhatACanaryIs:
    def test_random_twins_statistics_and_shuffled_labels(self):
        frame, _ = frames(dict.fromkeys(KEYS, 0.5))
        assert canaries.is_canary(frame).tolist() == [False, True, True, True]

    def test_random_weights_alone_are_a_system_like_any_other(self):
        frame, _ = frames({"random": 0.5, "statistics": 0.5, "shuffled": 0.5})
        assert canaries.is_canary(frame).tolist() == [False, True, True]
        other = frame.assign(dataset="e", weights="pretrained")
        assert canaries.is_canary(pd.concat([frame, other], ignore_index=True)).tolist()[0] is False

    @pytest.mark.parametrize("column", ["probe", "level", "protocol", "inputs", "fusion", "preprocessing"])
    def test_a_canary_stands_beside_its_own_backbone_only(self, column):
        frame, _ = frames({"given": 0.9, "random": 0.5})
        assert len(canaries.watches(frame)) == 1
        frame.loc[1, column] = "another"
        # Levels are looked at one at a time, so that column alone is no matter here.
        assert len(canaries.watches(frame)) == (column == "level")

    def test_statistics_have_poolings_and_preprocessing_of_their_own(self):
        frame, _ = frames(dict.fromkeys(KEYS, 0.5))
        assert [watch.kind for watch in canaries.watches(frame)] == [
            canaries.RANDOM_WEIGHTS,
            canaries.STATISTICS,
            canaries.LABELS,
        ]


class TestWarnings:
    def test_none_where_all_is_well(self):
        estimates, pairs = frames({"given": 0.9, "random": 0.7, "statistics": 0.6, "shuffled": 0.52})
        assert canaries.warnings(estimates, pairs, "balanced_accuracy", 2) == []

    def test_a_backbone_that_is_not_beyond_chance_or_behind(self):
        estimates, pairs = frames({"given": 0.71, "random": 0.7, "statistics": 0.8}, p=0.2)
        first, second = canaries.warnings(estimates, pairs, "balanced_accuracy", 2)
        assert first == (
            "given is not shown to beat random weights of the same architecture: Balanced accuracy +0.010 "
            "[-0.020, +0.030], p adjusted for all pairs = 0.200."
        )
        assert second.startswith("given is not shown to beat the image-statistics baseline (statistics): ")
        assert "-0.090 [-0.120, -0.070]" in second
        _, pairs = frames({"given": 0.71, "random": 0.7, "statistics": 0.8}, p=0.001)
        (only,) = canaries.warnings(estimates, pairs, "balanced_accuracy", 2)
        assert "does not beat the image-statistics" in only  # beyond chance, but on the wrong side

    def test_a_low_value_is_the_better_one_of_an_error(self):
        estimates, pairs = frames({"given": 3.0, "random": 5.0}, metric="mae")
        assert canaries.warnings(estimates, pairs, "mae") == []
        estimates, pairs = frames({"given": 5.0, "random": 3.0}, metric="mae")
        assert "does not beat random weights" in canaries.warnings(estimates, pairs, "mae")[0]

    def test_what_could_not_be_tested_is_said_to_be_so(self):
        estimates, pairs = frames({"given": 0.9, "random": 0.5}, p=float("nan"))
        (only,) = canaries.warnings(estimates, pairs, "balanced_accuracy", 2)
        assert "is not shown to beat random weights" in only
        assert only.endswith("not tested, too few groups.")

    @pytest.mark.parametrize(
        ("metric", "value", "classes", "leaks"),
        [
            ("balanced_accuracy", 0.62, 2, True),
            ("balanced_accuracy", 0.38, 2, False),
            ("balanced_accuracy", 0.56, 2, False),  # the draw of labels counts, too
            ("balanced_accuracy", 0.32, 4, True),
            ("balanced_accuracy", 0.62, 0, False),
            ("auroc", 0.62, 2, True),
            ("quadratic_kappa", 0.1, 5, True),
            ("r2", -0.2, 0, False),
            ("spearman", 0.1, 0, True),
            ("mae", 3.0, 0, False),
        ],
    )
    def test_shuffled_labels_above_chance(self, metric, value, classes, leaks):
        estimates, pairs = frames({"given": 0.9, "shuffled": value}, metric=metric)
        found = canaries.warnings(estimates, pairs, metric, classes)
        assert bool(found) is leaks
        assert all("shuffled scores above chance" in words and "leaks" in words for words in found)

    def test_an_error_without_a_chance_level_is_judged_by_r2(self):
        errors, pairs = frames({"given": 3.0, "shuffled": 4.0}, metric="mae")
        for value, leaks in ((0.2, True), (0.02, False), (-0.1, False)):
            explained, _ = frames({"given": 0.6, "shuffled": value}, metric="r2")
            found = canaries.warnings(pd.concat([errors, explained], ignore_index=True), pairs, "mae")
            assert len(found) == leaks
            assert all("R² 0.200 [0.150, 0.250], chance 0.000" in words for words in found)

    def test_many_shuffled_probes_do_not_cry_wolf(self):
        estimates, pairs = frames({"shuffled": 0.568})
        assert len(canaries.warnings(estimates, pairs, "balanced_accuracy", 2)) == 1
        many = pd.concat([estimates.assign(system=f"s{n}") for n in range(10)])
        assert canaries.warnings(many, pairs, "balanced_accuracy", 2) == []


def test_the_table_holds_what_stands_beside_a_value():
    estimates, _ = frames({"given": 0.9, "random": 0.7, "statistics": 0.6, "shuffled": 0.52})
    more = estimates[estimates.system == "statistics"].assign(system="better", pooling="gap", value=0.65)
    table = canaries.table(pd.concat([estimates, more]), "balanced_accuracy", 4)
    assert table.columns.tolist() == list(canaries.CANARY_COLUMNS)
    assert dict(zip(table.control, table.value, strict=True)) == {
        "Random weights": 0.7,
        "Image statistics": 0.65,
        "Shuffled labels": 0.52,
        "Chance": 0.25,
    }
    assert set(table.system) == {"given"}
    assert canaries.table(estimates[estimates.system == "random"], "balanced_accuracy").empty


def test_shuffled_labels_have_a_name_of_their_own_and_no_family():
    keys = [KEYS["shuffled"], dataclasses.replace(KEYS["shuffled"], probe="svm"), GIVEN]
    frame = pd.DataFrame([dataclasses.replace(key, seed=n).to_dict() for n, key in enumerate(keys)])
    named, _ = by_family(frame, frame)
    assert set(named.dataset) == {"d"}  # the seeds of shuffled labels make no family
    (systems,) = add_systems(named.assign(seed=0))
    assert systems.system.tolist() == [
        "resnet18 · shuffled labels logistic",
        "resnet18 · shuffled labels svm",
        "resnet18 · frozen logistic",
    ]


SKILL = {"given": 1.6, "random": 0.4, "statistics": 0.4, "shuffled": 0.0}


def results(folder, skill, info=None):
    """A results folder with predictions of the given skill for every key, judged as a stage does."""
    store = ResultsFolder(folder)
    for name, amount in skill.items():
        samples = Samples.build(
            path=[f"{n}" for n in range(200)],
            label=[n // 2 % 2 for n in range(200)],
            label_names=("benign", "malignant"),
            group=[f"patient {n // 2}" for n in range(200)],
        )
        rng = np.random.default_rng(sorted(SKILL).index(name))
        odds = 1 / (1 + np.exp(-(rng.normal(size=200) + amount * (2 * samples.label - 1))))
        predictions = [Predictions(KEYS[name], samples, np.column_stack([1 - odds, odds]), 100)]
        made = significance.estimates(predictions, default_metrics("classes"), resamples=200, seed=0)
        store.add(name, predictions, made, {"key": KEYS[name].to_dict(), **(info or {}).get(name, {})})
    return CompareConfig(results=(folder,), resamples=200, map="none")


def test_a_comparison_leaves_shuffled_labels_out_and_shows_them(tmp_path, capsys):
    X = np.random.default_rng(0).normal(size=(50, 8))
    info = {
        "given": {"health": ["the embeddings are collapsed"], "signature": health.signature(X)},
        "random": {"signature": health.signature(X)},
        "shuffled": {"notes": ["C lies at its bound"]},
    }
    compare(results(tmp_path, SKILL, info))
    page = (tmp_path / "report.html").read_text()
    said = capsys.readouterr().out
    assert "WARNING: d · resnet18 · gap: the embeddings are collapsed" in said
    assert "WARNING: d: resnet18 (gap) and resnet18 (random) (gap) give identical embeddings" in said
    assert "beat" not in said
    assert page.index("<h3>Warnings</h3>") < page.index('class="finding"') < page.index("<h3>Canaries</h3>")
    assert "C lies at its bound" not in page
    assert "image_<wbr>stats" in page, "long names break, so that the verdict beside them is seen"
    table = (tmp_path / "tables" / "d-canaries.md").read_text()
    (row,) = [line for line in table.splitlines() if line.startswith("| resnet18 · frozen logistic")]
    assert row.count("|") == 7
    assert row.endswith("0.500 |")
    for file in ("d-metrics.csv", "d-comparisons.csv"):
        written = (tmp_path / "tables" / file).read_text()
        assert SHUFFLED not in written
        assert "image_stats · frozen logistic" in written
    assert json.loads((tmp_path / "run.json").read_text())["units"]["given"]["health"]


def test_a_comparison_warns_of_a_backbone_that_beats_nothing(tmp_path, capsys):
    compare(results(tmp_path, {**SKILL, "given": 0.4, "shuffled": 0.8}))
    said = capsys.readouterr().out
    assert "WARNING: d: resnet18 · shuffled labels logistic scores above chance" in said
    assert "is not shown to beat random weights of the same architecture" in said
    assert "is not shown to beat the image-statistics baseline" in said


def test_without_canaries_there_is_neither_panel_nor_table(tmp_path):
    compare(results(tmp_path, {"given": 1.0}))
    page = (tmp_path / "report.html").read_text()
    assert "<h3>Warnings</h3>" not in page
    assert "<h3>Canaries</h3>" not in page
    assert not (tmp_path / "tables" / "d-canaries.md").exists()


def test_shuffled_labels_alone_are_nothing_to_compare(tmp_path):
    with pytest.raises(ResultsError, match="nothing to compare"):
        compare(results(tmp_path, {"shuffled": 0.0}))


class TestAilments:
    @staticmethod
    def run(**units):
        return {"units": {name: {"key": GIVEN.to_dict(), **info} for name, info in units.items()}}

    def test_a_finding_is_said_once_for_all_probes_on_it(self):
        svm = {"key": {**GIVEN.to_dict(), "probe": "svm", "level": "case"}, "health": ["bad"]}
        run = self.run(a={"health": ["bad"]}, b=svm, c={"health": ["old"], "superseded": True})
        assert ailments([run, run]) == ["d · resnet18 · gap: bad"]

    def test_a_layer_is_named(self):
        key = {**GIVEN.to_dict(), "layer": "last4@hflip", "weights": "random"}
        assert ailments([self.run(a={"key": key, "health": ["bad"]})]) == [
            "d · resnet18 (random) · last4@hflip/gap: bad"
        ]

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            ({"backbone": "resnet50"}, True),
            ({"weights": "file.pth"}, True),
            ({"pooling": "pre_logits"}, False),  # one backbone may give one thing under two names
            ({"backbone": "resnet50", "dataset": "e"}, False),
        ],
    )
    def test_two_backbones_with_the_same_embeddings(self, other, said):
        X = np.random.default_rng(0).normal(size=(20, 5))
        same = {"signature": health.signature(X)}
        key = {**GIVEN.to_dict(), **other}
        runs = [
            self.run(a=same),
            self.run(b={"key": key, **same}, c={**same, "key": {**key, "probe": "svm"}}),
        ]
        assert len(ailments(runs)) == said
        runs[1]["units"]["b"]["signature"] = runs[1]["units"]["c"]["signature"] = health.signature(X + 1)
        assert ailments(runs) == []


def test_a_report_says_that_an_error_has_no_chance_level(tmp_path):
    store = ResultsFolder(tmp_path)
    rng = np.random.default_rng(0)
    samples = Samples.build(
        path=[f"{n}" for n in range(100)],
        label=rng.normal(size=100).tolist(),
        label_names=("age",),
        task="continuous",
    )
    for name in ("given", "shuffled"):
        noise = rng.normal(size=(100, 1))
        scores = samples.label[:, None] + noise if name == "given" else noise / 10
        made = [Predictions(KEYS[name], samples, scores, 100)]
        judged = significance.estimates(made, default_metrics("continuous"), resamples=200, seed=0)
        store.add(name, made, judged, {"key": KEYS[name].to_dict()})
    compare(CompareConfig(results=(tmp_path,), resamples=200, map="none"))
    table = (tmp_path / "tables" / "d-canaries.md").read_text()
    assert (
        "No chance level exists for MAE; shuffled labels are held against 0, the chance level of R²." in table
    )
    assert "widens it for the one draw" in table
