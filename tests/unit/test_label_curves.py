"""Curves over amounts of labels: like is compared with like, and a report of many amounts stays one report."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pandas as pd
import pytest

from featprobe.errors import ConfigError, ResultsError
from featprobe.records import LabelStudy, Predictions, RunKey, Samples
from featprobe.report import console_labels, ratio_interval
from featprobe.report.drawing import render
from featprobe.report.label_studies import _apart, curves_table, draw, savings_table
from featprobe.results.tables import prediction_frame
from featprobe.significance import Run, estimates, label_curves
from featprobe.stages.families import by_family, in_full
from featprobe.stages.label_studies import label_studies, sentences
from featprobe.stages.systems import SHUFFLED
from featprobe.stages.variants import need_possible, variants

KEY = RunKey(
    dataset="d", backbone="x", weights="pretrained", mode="frozen", pooling="gap", preprocessing="p",
    probe="knn", fingerprint="f",
)  # fmt: skip
AMOUNTS = (0.1, 0.3, 1.0)


def predicted(key, skill, *, seed=0, groups=60, folds=2, rare=False, fold_of=0):
    """Two classes by group with two images each; `skill` parts them. Folds of the seed's own."""
    rng = np.random.default_rng([seed, int(100 * skill), len(key.backbone)])
    group = np.repeat(np.arange(groups), 2)
    y = (group % (12 if rare else 2) == 0).astype(int)
    hard = np.random.default_rng(9).normal(size=groups)[group]
    logit = skill * (2 * y - 1) + hard + 0.3 * rng.normal(size=len(y))
    place = np.random.default_rng([fold_of, 4]).permutation(groups)[group] % folds
    result = []
    for fold in range(folds):
        rows = np.flatnonzero(place == fold)
        samples = Samples.build(
            id=[f"i{row:03d}" for row in rows],
            path=[""] * len(rows),
            label=y[rows],
            label_names=("a", "b"),
            group=[f"g{g:02d}" for g in group[rows]],
        )
        p = 1 / (1 + np.exp(-logit[rows]))
        score = np.stack([1 - p, p], axis=1)
        result.append(Predictions(dataclasses.replace(key, seed=seed, fold=str(fold)), samples, score, 100))
    return tuple(result)


def runs(systems=(("x", 0.0), ("yy", 0.4)), seeds=(0, 1, 2), **more):
    """A system's skill grows with the logarithm of its labels; `lag` moves its curve."""
    found = []
    for name, lag in systems:
        for fraction in AMOUNTS:
            for seed in seeds:
                key = dataclasses.replace(KEY, backbone=name, fraction=fraction)
                skill = 1.2 + 0.5 * np.log(fraction / 0.1) - lag
                own = predicted(key, skill, seed=seed, fold_of=seed, **more)
                found.append(Run(name, f"{100 * fraction:g} %", 60 * fraction, seed, own))
    return found


class TestCurves:
    def test_points_are_the_metric_within_folds_averaged_over_folds_and_seeds(self):
        given = runs()
        curves = label_curves(given, "balanced_accuracy", resamples=60)
        first = next(p for p in curves.points() if (p.system, p.amount) == ("x", "10 %"))
        own = [estimates(run.predictions, ["balanced_accuracy"], resamples=50)[-1].value
               for run in given if (run.system, run.amount) == ("x", "10 %")]  # fmt: skip
        assert np.isclose(first.value, np.mean(own))
        assert first.low < first.value < first.high
        assert first.labels == pytest.approx(6)
        assert curves.amounts == ("10 %", "30 %", "100 %")
        assert "mean over 3 seeds" in first.method
        assert "one draw of labels" in label_curves(runs(seeds=(0,)), "accuracy", resamples=60).estimand()

    def test_a_group_weighs_the_same_in_all_systems_amounts_and_folds(self):
        twin = [("x", 0.0), ("z", 0.0)]  # names of one length are given the same scores
        curves = label_curves(runs(twin), "auroc", resamples=60)
        assert np.array_equal(curves.draws[0], curves.draws[1])
        found = curves.saving("x", "z")
        assert (found.ratio, found.low, found.high) == (1.0, 1.0, 1.0)
        again = label_curves(runs(twin), "auroc", resamples=60)
        assert np.array_equal(again.draws, curves.draws)

    def test_a_band_of_one_seed_is_the_interval_of_its_fitted_model(self):
        # Folds are resampled together here and each by itself there: the same variance, by other draws.
        given = runs(seeds=(0,), folds=1)
        curves = label_curves(given, "accuracy", resamples=1000)
        point = curves.points()[0]
        run = next(run for run in given if (run.system, run.amount) == (point.system, point.amount))
        row = estimates(run.predictions, ["accuracy"], resamples=4000)[-1]
        assert point.value == row.value
        assert point.high - point.low == pytest.approx(row.ci_high - row.ci_low, rel=0.12)

    def test_a_rare_class_never_drops_out_of_a_resample(self):
        curves = label_curves(runs(seeds=(0, 1), rare=True), "balanced_accuracy", resamples=200)
        assert np.isfinite(curves.draws).all()

    def test_the_best_is_marked_within_an_amount_alone(self):
        points = label_curves(runs((("x", 0.0), ("yy", 1.1))), "auroc", resamples=200).points()
        marked = {(p.system, p.amount): p.best for p in points}
        for amount in ("10 %", "30 %", "100 %"):
            assert marked["x", amount]  # though behind its own value with more labels
        assert not marked["yy", "10 %"]

    def test_seeds_that_are_not_shared_are_left_out(self):
        given = [run for run in runs() if (run.system, run.seed) != ("yy", 2)]
        assert label_curves(given, "auroc", resamples=50).seeds == (0, 1)
        nothing = [run for run in given if run.seed == {"x": 0, "yy": 1}[run.system]]
        with pytest.raises(ResultsError, match="share no seed"):
            label_curves(nothing, "auroc", resamples=50)

    def test_other_test_rows_are_refused(self):
        given = runs(seeds=(0,))
        other = predicted(given[-1].predictions[0].key, 1.0, fold_of=5)
        with pytest.raises(ResultsError, match="unequal test ids"):
            label_curves([*given[:-1], dataclasses.replace(given[-1], predictions=other)], "auroc")

    def test_the_best_of_all_leads(self):
        assert label_curves(runs((("yy", 0.4), ("x", 0.0))), "auroc", resamples=50).order() == ["x", "yy"]
        assert label_curves(runs(), "brier", resamples=50).order()[0] == "x"


@functools.cache
def whole_frame(seeds):
    return prediction_frame([p for run in runs(seeds=seeds) for p in run.predictions])


def frame_of(seeds=(0, 1)):
    found = whole_frame(seeds).copy()
    found.attrs = whole_frame(seeds).attrs
    return found


def metric_of(task, family):
    del task, family
    return "auroc"


class TestStudies:
    def test_one_for_each_probe_with_groups_on_the_axis(self):
        frame = frame_of()
        units = {
            str(number): {"key": dict(key._asdict()), "train_groups": {"0": 6, "1": 8}}
            for number, key in enumerate(
                frame[list(KEY.to_dict())].drop(columns="fold").drop_duplicates().itertuples(index=False)
            )
        }
        (study,) = label_studies(frame, [{"units": units}], metric_of, resamples=60, seed=0)
        assert (study.dataset, study.probe, study.kind, study.unit) == (
            "d",
            "knn",
            "fractions",
            "training groups",
        )
        assert set(study.points["labels"]) == {7.0}
        (plain,) = label_studies(frame, [], metric_of, resamples=60, seed=0)
        assert plain.unit == "training images"
        assert set(plain.points["labels"]) == {100.0}
        assert plain.systems == ("x · frozen knn", "yy · frozen knn")  # no amount, no seed in a name

    def test_one_amount_is_no_curve(self):
        frame = frame_of()
        assert label_studies(frame[frame["fraction"] == 1], [], metric_of, resamples=60, seed=0) == []

    def test_shots_and_fractions_are_two_studies(self):
        frame = frame_of(seeds=(0,))
        shots = frame.assign(shots=(frame["fraction"] * 10).astype(int), fraction=1.0)
        groups = shots.assign(variant="whole groups")
        whole = pd.concat([frame, shots, groups], ignore_index=True)
        whole.attrs = frame.attrs
        found = label_studies(whole, [], metric_of, resamples=60, seed=0)
        assert [study.kind for study in found] == ["fractions", "shots", "shots of whole groups"]
        assert len({study.systems for study in found}) == 1


def full_names(keys):
    frame = pd.DataFrame([key.to_dict() for key in keys])
    kept, _ = in_full(frame, frame)
    return kept, by_family(kept, kept, frame)[0]["dataset"].tolist()


class TestFamilies:
    def test_many_amounts_and_seeds_are_one_comparison(self):
        keys = [
            dataclasses.replace(KEY, backbone=name, fraction=fraction, seed=seed)
            for name in "ab"
            for fraction in (0.01, 0.1, 1.0)
            for seed in range(5)
        ]
        kept, names = full_names(keys)
        assert set(kept["fraction"]) == {1.0}
        assert names == ["d, seed 0"] * 2

    def test_seeds_of_one_amount_are_all_reported(self):
        assert full_names([dataclasses.replace(KEY, seed=seed) for seed in range(3)])[1] == [
            "d, seed 0",
            "d, seed 1",
            "d, seed 2",
        ]

    def test_amounts_are_no_rivals(self):
        keys = [
            dataclasses.replace(KEY, shots=5),
            dataclasses.replace(KEY, shots=1),
            dataclasses.replace(KEY, shots=5, variant="whole groups, balanced weights"),
            KEY,
        ]
        assert full_names(keys)[1] == ["d, 5 shots", "d, 5 shots of whole groups", "d"]

    def test_shuffled_labels_stay_beside_what_learnt_from_most(self):
        keys = [dataclasses.replace(KEY, fraction=f) for f in (0.1, 0.5)]
        assert full_names([*keys, dataclasses.replace(KEY, mode=SHUFFLED)])[1] == ["d, 50% of labels"] * 2
        shots = [dataclasses.replace(KEY, shots=5), KEY, dataclasses.replace(KEY, mode=SHUFFLED)]
        assert full_names(shots)[1] == ["d, 5 shots", "d", "d"]


@pytest.fixture(scope="module")
def study() -> LabelStudy:
    (found,) = label_studies(frame_of(), [], metric_of, resamples=100, seed=0)
    counts = dict(zip(("10% of labels", "30% of labels", "all labels"), (6.0, 18.0, 60.0), strict=True))
    found.points["labels"] = found.points["amount"].map(counts)
    return found


class TestReport:
    def test_table_has_amounts_as_columns(self, study):
        table = curves_table(study)
        assert table.header == ("System", "10% (6)", "30% (18)", "all labels (60)")
        assert [row[0].text for row in table.rows] == list(study.systems)
        assert all(entry.below.startswith("[0.") for row in table.rows for entry in row[1:])
        assert table.rows[0][1].marked
        lines = console_labels(study).splitlines()
        assert lines[0] == "d: knn, fractions of the labels: AUROC by amount (training images)"
        assert "*" in lines[2]

    def test_savings_in_table_and_words(self, study):
        (row,) = savings_table(study).rows
        assert [entry.text for entry in row[:2]] == list(study.systems)
        first, second = sentences(study)
        assert first.startswith("AUROC of x · frozen knn, the best on average over the amounts")
        assert "yy · frozen knn needs" in second or "no number of labels saved" in second

    def test_no_common_level_is_said_with_names(self, study):
        lost = study.savings.assign(
            ratio=np.nan, method="undefined: the first is better with its fewest labels (6) than the second"
        )
        words = sentences(dataclasses.replace(study, savings=lost))[1]
        assert "no number of labels saved can be given; x · frozen knn is better" in words
        assert "than yy · frozen knn" in words
        (row,) = savings_table(dataclasses.replace(study, savings=lost)).rows
        assert row[-1].text == "no common level"

    def test_an_open_end_is_said(self):
        assert ratio_interval(1.5, np.inf) == "[1.50, or more]"
        assert ratio_interval(0.0, 0.8) == "[or less, 0.80]"
        assert ratio_interval(0.0, np.inf) == "[open at both ends]"
        assert ratio_interval(np.nan, np.nan) == "[no interval]"

    def test_figure_draws_every_curve_with_its_band(self, study):
        figure = draw(study)
        (axes,) = figure.axes
        assert axes.get_xscale() == "log"
        assert len(axes.lines) == len(axes.collections) == 2
        assert axes.lines[0].get_xdata().tolist() == [6, 18, 60]
        files = render(lambda: draw(study))
        assert files["svg"].startswith(b"<?xml")
        assert files["png"][:4] == b"\x89PNG"

    def test_ticks_do_not_run_into_each_other(self):
        assert _apart([10, 10.2, 20, 1000]) == [10, 20, 1000]
        assert _apart([5]) == [5]


class TestFlags:
    def config(self, **more):
        from featprobe.config import ProbeConfig

        return ProbeConfig(**more)

    def test_every_choice_is_named_in_the_key(self):
        config = self.config(
            shots=(1, 4),
            shots_of=("image", "group"),
            class_weight=("none", "balanced"),
            thresholds=("moved",),
        )
        found = [(key.shots, key.variant, key.fraction) for key in variants(KEY, ["lda"], config)]
        assert (1, "moved thresholds", 1.0) in found
        assert (4, "whole groups, balanced weights, moved thresholds", 1.0) in found
        assert len(found) == len(set(found)) == 8
        plain = list(variants(KEY, ["lda", "knn"], self.config(fraction=(0.1, 1.0))))
        assert [(key.probe, key.fraction, key.variant) for key in plain] == [
            ("lda", 0.1, ""),
            ("knn", 0.1, ""),
            ("lda", 1.0, ""),
            ("knn", 1.0, ""),
        ]

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"shots": (2,), "fraction": (0.1,)}, "both given"),
            ({"shots_of": ("group",)}, "without --shots"),
            ({"shots": (2, 4), "thresholds": ("moved",)}, "--shots 2"),
            ({"fuse": ("concat",), "thresholds": ("moved",)}, "--fuse"),
            ({"models": True, "thresholds": ("moved",)}, "--models"),
        ],
    )
    def test_contradictions_end_early(self, more, words):
        with pytest.raises(ConfigError, match=words):
            need_possible(self.config(**more))
        need_possible(self.config(models=True, thresholds=("plain", "moved")))
