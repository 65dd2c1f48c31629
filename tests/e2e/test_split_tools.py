"""Fractions, shots, repeats, hold-outs, sites and other hospitals, through the real command on one small cache."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.conftest import draw_image

QUICK = ("--backbone", "resnet18", "--weights", "random", "--image-size", "32")
PROBE = ("--probe", "logistic", "--resamples", "50", "--jobs", "1")


@pytest.fixture
def hospitals(quick_featprobe, tmp_path):
    """Two cached data sets, `near` and `far`: 2 classes x 12 patients x 2 images, two sites each."""
    rng = np.random.default_rng(1)
    for name in ("near", "far"):
        rows = []
        for patient in range(24):
            for view in range(2):
                path = f"{name}-{patient:02d}-{view}.png"
                draw_image(rng, patient % 2).save(tmp_path / path)
                rows.append(
                    [path, ("benign", "malignant")[patient % 2], f"p{patient}", f"s{patient // 2 % 2}"]
                )
        table = pd.DataFrame(rows, columns=["path", "label", "patient_id", "site"])
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    done = quick_featprobe("extract", "--data", "near.csv", "far.csv", *QUICK)
    assert done.returncode == 0, done.stderr
    return tmp_path


def results(folder, name):
    return pd.read_csv(folder / name / "results.csv", keep_default_na=False)


def test_amounts_seeds_sites_and_hospitals(quick_featprobe, hospitals):
    def probe(out, *flags):
        done = quick_featprobe("probe", *PROBE, "--out", out, *flags)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
        return results(hospitals, out)

    printed: list[str] = []
    less = probe("less", "--data", "near", "--fraction", "0.5", "1", "--repeats", "2", "--holdout", "0.25")
    assert set(zip(less.fraction, less.seed, strict=True)) == {(0.5, 0), (1.0, 0), (0.5, 1), (1.0, 1)}
    assert set(less.fold) == {"test"}
    sizes = less.groupby("fraction")["n_train"].first()
    assert sizes[0.5] == sizes[1.0] / 2
    again = quick_featprobe(
        *("probe", *PROBE, "--out", "less", "--data", "near", "--fraction", "0.5", "1", "--repeats", "2"),
        *("--holdout", "0.25"),
    )
    assert "0 computed, 4 there already" in again.stdout

    few = probe("few", "--data", "near", "--shots", "2", "5")
    assert set(zip(few.shots, few.n_train, strict=True)) == {(2, 4), (5, 10)}

    sites = probe("sites", "--data", "near", "--leave-out", "site")
    assert set(sites.fold) == {"site=s0", "site=s1", "mean"}
    rows = pd.read_parquet(hospitals / "sites" / "predictions.parquet")
    table = pd.read_csv(hospitals / "near.csv").set_index("path")
    assert (rows["fold"].str.removeprefix("site=") == table.loc[rows["id"], "site"].to_numpy()).all()

    other = probe("other", "--train-on", "near", "--test-on", "far")
    assert set(other.dataset) == {"near->far"}
    assert "trained on all of near, tested on all of far" in printed[-1]
    assert "user's split" not in printed[-1]
    assert set(other.n_test) == {48}
    assert set(other.n_groups) == {24}

    compared = quick_featprobe(
        "compare", "less", "few", "sites", "other", "--out", "report", "--resamples", "50"
    )
    assert compared.returncode == 0, compared.stderr
    page = (hospitals / "report" / "report.html").read_text(encoding="utf-8")
    for words in (
        "near, holdout 25 %, seed 0",
        "near, holdout 25 %: logistic, fractions of the labels",
        "50% (",
        "near: logistic, shots",
        "5 shots",
        "near-&gt;far",
        "leave-one-site-out",
    ):
        assert words in page

    for flags, words in (
        (("--train-on", "near"), "belong together"),
        (("--train-on", "near", "--test-on", "farr"), "did you mean"),
        (("--train-on", "near", "--test-on", "far", "--resplit"), "--resplit can't be used with --train-on"),
        (("--fusion", "concat"), "needs several modalities"),
    ):
        refused = quick_featprobe("probe", *PROBE, *flags)
        assert refused.returncode == 2, refused.stdout
        assert words in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
