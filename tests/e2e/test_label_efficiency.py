"""Few labels, unequal classes: shots, weights and thresholds through the real command, curves and savings in the report."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

KNN = ("--probe", "knn", "--holdout", "0.4", "--resamples", "100", "--jobs", "1")


@pytest.fixture
def digits(quick_featprobe, tmp_path):
    """Handwritten 0, 1 and, rarely, 8, cached for real EfficientNet weights and a random network; two images a patient."""
    images, labels = load_digits(return_X_y=True)
    rows = []
    for digit, count in ((0, 70), (1, 70), (8, 50)):
        for number, pixels in enumerate(images[labels == digit][:count]):
            name = f"{digit}-{number:03d}.png"
            Image.fromarray((pixels.reshape(8, 8) * 15.9).astype(np.uint8)).save(tmp_path / name)
            rows.append((name, f"digit {digit}", f"p{digit}-{number // 2}"))
    pd.DataFrame(rows, columns=["path", "label", "patient_id"]).to_csv(tmp_path / "digits.csv", index=False)
    both = ("--backbone", "efficientnet_lite0", "resnet10t", "--weights", "resnet10t=random")
    done = quick_featprobe("extract", "--data", "digits.csv", *both, "--image-size", "32", "--offline")
    assert done.returncode == 0, done.stderr
    return tmp_path


def results(folder, out):
    return pd.read_csv(folder / out / "results.csv", keep_default_na=False)


def probe(command, *words):
    done = command("probe", *words)
    assert done.returncode == 0, done.stderr
    return done


def shots_are_what_they_say(quick_featprobe, digits):
    # Shots, from one on, with two seeds.
    words = (*KNN, "--shots", "1", "4", "12", "--repeats", "2")
    probe(quick_featprobe, *words)
    rows = results(digits, "results")
    assert set(zip(rows.shots, rows.n_train, strict=True)) == {(1, 3), (4, 12), (12, 36)}
    assert "0 computed, 12 there already" in probe(quick_featprobe, *words).stdout
    run = json.loads((digits / "results" / "run.json").read_text())
    assert {tuple(unit["train_groups"].values()) for unit in run["units"].values()} == {(3,), (12,), (36,)}

    # A shot that is a whole group has both its images, and is another model.
    probe(
        quick_featprobe,
        *KNN,
        "--shots",
        "4",
        "--shots-of",
        "image",
        "group",
        "--backbone",
        "resnet10t",
        "--out",
        "groups",
    )
    rows = results(digits, "groups")
    assert set(zip(rows.variant, rows.n_train, strict=True)) == {("", 12), ("whole groups", 24)}


def curves_and_savings_are_reported(quick_featprobe, digits):
    compared = quick_featprobe("compare", "results", "--resamples", "200", "--map", "none")
    assert compared.returncode == 0, compared.stderr
    # One comparison, of the largest amount, and one study: not one for each amount and seed.
    out = digits / "results"
    assert sorted(path.name for path in (out / "tables").glob("*.csv") if "labels" not in path.name) == [
        "digits-holdout-40-12-shots-seed-0-areas.csv",
        "digits-holdout-40-12-shots-seed-0-comparisons.csv",
        "digits-holdout-40-12-shots-seed-0-confusion.csv",
        "digits-holdout-40-12-shots-seed-0-metrics.csv",
        "digits-holdout-40-12-shots-seed-0-sample-size.csv",
        "digits-holdout-40-12-shots-seed-0-sets.csv",
        "digits-holdout-40-12-shots-seed-0-standings.csv",
        "digits-holdout-40-knn-shots-savings.csv",
    ]
    curves = pd.read_csv(out / "tables" / "digits-holdout-40-knn-shots-labels.csv")
    assert curves.groupby("system")["labels"].apply(list).tolist() == [[3, 12, 36]] * 2
    assert curves["method"].str.contains("mean over 2 seeds").all()
    assert (curves.ci_low < curves.value).all()
    wide = results(digits, "results").query("metric == 'balanced_accuracy' and shots == 12")
    means = wide.groupby("backbone")["value"].mean()
    last = curves[curves.labels == 36].set_index("system")["value"]
    assert np.isclose(last["efficientnet_lite0 · frozen knn"], means["efficientnet_lite0"])
    assert np.isclose(last["resnet10t (random) · frozen knn"], means["resnet10t"])
    savings = pd.read_csv(out / "tables" / "digits-holdout-40-knn-shots-savings.csv")
    assert len(savings) == 1
    for name in ("curves.svg", "curves.png"):
        assert (out / "figures" / f"digits-holdout-40-knn-shots-{name}").stat().st_size > 5000
    page = (out / "report.html").read_text(encoding="utf-8")
    for text in (
        "With fewer labels",
        "12 shots (36)",
        "training groups",
        "labels that the best system saves",
    ):
        assert text in page
    assert (
        "digits, holdout 40 %: knn, shots: balanced accuracy by amount (training groups)" in compared.stdout
    )
    told = [
        line for line in compared.stdout.splitlines() if line.startswith("digits, holdout 40 %: knn, shots: ")
    ]
    assert any("training groups that" in line or "no number of labels saved" in line for line in told)


def rare_classes_are_weighed_and_decisions_moved(quick_featprobe, digits):
    # Unequal classes: the rare one is found more often, and nothing but decisions moves with thresholds.
    probe(
        quick_featprobe,
        *("--probe", "lda", "--holdout", "0.4", "--resamples", "100", "--jobs", "1", "--out", "unequal"),
        *("--backbone", "resnet10t", "--class-weight", "none", "balanced", "--thresholds", "plain", "moved"),
    )
    rows = results(digits, "unequal")
    values = rows.pivot_table(index="variant", columns="metric", values="value")
    assert set(values.index) == {
        "",
        "balanced weights",
        "moved thresholds",
        "balanced weights, moved thresholds",
    }
    assert values.loc["", "auroc"] == values.loc["moved thresholds", "auroc"]
    assert values.loc["", "brier"] == values.loc["moved thresholds", "brier"]
    assert values.loc["", "brier"] != values.loc["balanced weights", "brier"]
    kept = pd.read_parquet(digits / "unequal" / "predictions.parquet")
    cuts = kept.groupby("variant")["thresholds"].unique()
    assert cuts[""].tolist() == [""]
    (moved,) = cuts["moved thresholds"]
    assert np.isclose(sum(map(float, moved.split("|"))), 1)


def what_can_not_be_is_refused(quick_featprobe, digits):
    for flags, words in (
        (("--shots", "1"), "--shots 1 can't be used with the logistic probe of --protocol featprobe"),
        (("--shots", "1"), "--probe centroid, knn, simpleshot and --protocol clip-benchmark"),
        (("--shots", "1", "--probe", "knn", "--fuse", "concat"), "--shots 1 can't be used with --fuse"),
        (("--shots", "2", "--thresholds", "moved"), "it takes 3 groups of every class"),
        (("--shots-of", "group"), "--shots-of group without --shots"),
        (("--class-weight", "balanced", "--probe", "knn"), "can't be used with the knn probe"),
        (("--class-weight", "even"), "unknown --class-weight 'even'"),
        (
            ("--thresholds", "moved", "--protocol", "medmnistplus-linear", "--pooling", "gap"),
            "it trains",
        ),
        (("--shots", "500", "--probe", "knn"), "class 'digit 8' has"),
    ):
        refused = quick_featprobe("probe", "--holdout", "0.4", "--out", "no", *flags)
        assert refused.returncode == 2, refused.stdout
        assert words in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    assert not (digits / "no" / "results.csv").exists()


def test_label_efficiency(quick_featprobe, digits):
    shots_are_what_they_say(quick_featprobe, digits)
    curves_and_savings_are_reported(quick_featprobe, digits)
    rare_classes_are_weighed_and_decisions_moved(quick_featprobe, digits)
    what_can_not_be_is_refused(quick_featprobe, digits)
