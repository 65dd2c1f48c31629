"""Further metrics and subgroups through the real command: from the manifest's columns to tables and page."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

QUICK = ("--backbone", "resnet18", "--weights", "random", "--image-size", "32")


@pytest.fixture
def wards(manifest):
    """The manifest with a site, an age and a sex for each patient; site C has two patients only."""
    table = pd.read_csv(manifest)
    patient = pd.factorize(table["patient_id"])[0]
    table["site"] = np.array(["A", "B"])[patient % 2]
    table.loc[patient == 0, "site"] = "C"
    table["age"] = 30 + 2 * patient
    table["sex"] = np.array(["f", "m", "f"])[patient % 3]
    table.to_csv(manifest, index=False)
    return manifest


def test_subgroups_and_further_metrics_from_manifest_to_page(quick_featprobe, wards, tmp_path):
    quick = (*QUICK, "--site-column", "site", "--keep-column", "age", "sex")
    done = quick_featprobe("extract", "--data", f"wards={wards}", *quick)
    assert done.returncode == 0, done.stderr
    refused = quick_featprobe("probe", "--metrics", "spearman")
    assert refused.returncode == 2
    assert "'spearman' does not judge a target of kind 'classes'" in refused.stderr
    assert not (tmp_path / "results" / "results.csv").exists()
    probe = (
        "probe",
        "--probe",
        "logistic",
        "--folds",
        "2",
        "--resamples",
        "100",
        "--metrics",
        "mcc",
        "weighted_f1",
    )
    done = quick_featprobe(*probe)
    assert done.returncode == 0, done.stderr
    results = pd.read_csv(tmp_path / "results" / "results.csv")
    assert {"balanced_accuracy", "mcc", "weighted_f1"} <= set(results.metric)
    assert "log_loss" not in set(results.metric)
    assert "0 computed, 1 there already" in quick_featprobe(*probe).stdout

    predictions = pd.read_parquet(tmp_path / "results" / "predictions.parquet")
    truth = pd.read_csv(wards).set_index("path")
    for stored, column in (("site", "site"), ("column_age", "age"), ("column_sex", "sex")):
        assert predictions[stored].tolist() == truth.loc[predictions.id, column].astype(str).tolist()

    by = ("--by", "site", "sex", "age=30,50,80", "--map", "none", "--resamples", "100")
    done = quick_featprobe("compare", "results", "--metric", "log_loss", *by)
    assert done.returncode == 0, done.stderr
    assert "site, resnet18 (random) · frozen logistic: Log loss differs by" in done.stdout
    assert "By site, too small to judge: C (1 group, fewer than 10)." in done.stdout
    tables = tmp_path / "results" / "tables"
    site = pd.read_csv(tables / "wards-by-site.csv").set_index("subgroup")
    assert site.index.tolist() == ["A", "B", "C"]
    counts = truth.groupby("site").patient_id.agg(["size", "nunique"])
    assert site.n_rows.tolist() == counts["size"].tolist()
    assert site.n_groups.tolist() == counts["nunique"].tolist()
    assert (site.metric == "log_loss").all()
    assert site.judged.tolist() == [True, True, False]
    ages = pd.read_csv(tables / "wards-by-age.csv")
    assert ages.subgroup.tolist() == ["30 to below 50", "50 to 80"]
    # The value by hand: minus the mean logarithm within the fold, then the mean over folds.
    chance = predictions[["y_score_benign", "y_score_malignant"]].to_numpy()
    given = np.where(predictions.y_true == "benign", chance[:, 0], chance[:, 1])
    own = predictions.assign(loss=-np.log(given))
    by_hand = own[own.site == "A"].groupby("fold").loss.mean().mean()
    assert site.loc["A", "value"] == pytest.approx(by_hand, abs=1e-9)
    assert site.loc["A", "ci_low"] < by_hand < site.loc["A", "ci_high"]
    for kind in ("md", "tex"):
        assert (tables / f"wards-by-sex.{kind}").stat().st_size > 200
        assert (tables / f"wards-by-sex-gaps.{kind}").stat().st_size > 100
    page = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    assert "<h3>By site</h3>" in page
    assert "largest gap in log loss by age" in page

    lost = quick_featprobe("compare", "results", "--by", "sax", "--map", "none")
    assert lost.returncode == 2
    assert "--keep-column sax" in lost.stderr
    assert "sex" in lost.stderr
    plain = quick_featprobe("compare", "results", "--map", "none", "--resamples", "100")
    assert plain.returncode == 0, plain.stderr
    assert "<h3>By site</h3>" not in (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
