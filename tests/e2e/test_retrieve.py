"""Retrieval through the real command on one small cache: found, judged, drawn, kept, exported, refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from featprobe.cache import Cache
from featprobe.cli import main
from featprobe.records import KEY_COLUMNS
from featprobe.retrieval.store import ESTIMATE_COLUMNS
from tests.conftest import draw_image

QUICK = ("--backbone", "resnet18", "resnet34", "--weights", "random", "--image-size", "32")
CLASSES = ("benign", "malignant", "other")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """`scans`: 3 classes x 8 patients x 2 images in train, val, test; `marks`: the same with two labels, no split."""
    folder = tmp_path_factory.mktemp("retrieve")
    rng = np.random.default_rng(1)
    rows = []
    for patient in range(24):
        for view in range(2):
            path = f"{patient:02d}-{view}.png"
            draw_image(rng, patient % 3).save(folder / path)
            side = ("train", "train", "val", "test")[patient // 3 % 4]
            rows.append([path, CLASSES[patient % 3], f"p{patient}", side, patient % 2, patient // 2 % 2])
    table = pd.DataFrame(rows, columns=["path", "label", "patient_id", "split", "left", "right"])
    table.to_csv(folder / "scans.csv", index=False)
    table.drop(columns=["split", "label"]).to_csv(folder / "marks.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FEATPROBE_OFFLINE", "1")
        for data in (("scans.csv",), ("marks.csv", "--label-column", "left", "right")):
            assert main(["extract", "--data", *data, *QUICK]) == 0
    return folder


@pytest.fixture
def cached(prepared, tmp_path):
    """A copy of what was prepared, in which the command runs."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run(command, *flags):
    done = command("retrieve", "--resamples", "50", *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


def estimates(folder):
    return pd.read_csv(folder / "retrieval.csv", keep_default_na=False)


def written(out):
    """When each file was written."""
    return {
        file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file() and file.suffix != ".lock"
    }


def first_hits(folder, own):
    """Whether each query's nearest image is a hit, worked out again from the embeddings, and every neighbour with it."""
    entry = next(e for e in Cache(folder / "cache").entries("scans") if e.recipe.backbone == "resnet18")
    stored = Cache(folder / "cache").read(entry.path, "gap")
    X, samples = stored.embeddings.astype(float), stored.samples
    index = np.flatnonzero(samples.split != "test")
    assert len(own) == 12 * 5
    first = []
    for row in np.flatnonzero(samples.split == "test"):
        far = np.sqrt(((X[index] - X[row]) ** 2).sum(axis=1))
        near = np.argsort(far, kind="stable")[:5]
        mine = own[own["query"] == samples.id[row]].sort_values("rank")
        assert mine["neighbour"].tolist() == samples.id[index[near]].tolist()
        np.testing.assert_allclose(mine["distance"], far[near], rtol=1e-12)
        hits = samples.label[index[near]] == samples.label[row]
        assert mine["hit"].tolist() == hits.tolist()
        first.append(hits[0])
    return first


def test_what_is_found_is_judged_drawn_and_kept(quick_featprobe, cached):
    printed = run(quick_featprobe, "--figures", "3")
    assert "scans: 48 images, 24 groups, 3 classes, user's split" in printed
    assert "marks: left out: retrieval can't be judged on 'marks', whose target is multilabel" in printed
    assert "retrieve: 4 computed, 0 there already" in printed
    out = cached / "results"
    table = estimates(out)
    assert tuple(table.columns) == ESTIMATE_COLUMNS
    assert set(table["distance"]) == {"cosine", "euclidean"}
    assert set(table["metric"]) == {"ACC@1", "ACC@3", "ACC@5", "precision@3", "precision@5", "mAP@5", "mMV@5"}
    assert (table["fold"] == "test").all()
    sizes = table[["n_queries", "n_groups", "n_index"]].drop_duplicates()
    assert sizes.to_numpy().tolist() == [[12, 6, 36]]  # val images can be found too
    assert (table["ci_low"].astype(float) <= table["value"]).all()
    assert table["ci_method"].str.contains("this index on new groups").all()

    found = pd.read_parquet(out / "retrieval.parquet")
    assert list(KEY_COLUMNS) == found.columns[: len(KEY_COLUMNS)].tolist()
    first = first_hits(
        cached, found[(found["backbone"] == "resnet18") & (found["distance_kind"] == "euclidean")]
    )
    said = table.query("backbone == 'resnet18' and distance == 'euclidean' and metric == 'ACC@1'")
    assert said["value"].item() == pytest.approx(np.mean(first))

    pictures = sorted(file.name for file in (out / "figures").iterdir())
    assert len(pictures) == 4
    assert all(name.startswith("retrieval_scans_resnet") for name in pictures)
    with Image.open(out / "figures" / pictures[0]) as picture:
        assert picture.size[0] > 500
    page = (out / "retrieval.html").read_text(encoding="utf-8")
    assert page.count("<img") == 2
    assert "paired differences to the best in mAP@5" in page
    pairs = pd.read_csv(out / "retrieval_differences.csv")
    assert len(pairs) == 2 * 7
    assert (pairs["ci_low"] <= pairs["difference"]).all()

    before = written(out)
    assert "0 computed, 4 there already" in run(quick_featprobe, "--figures", "3")
    assert written(out) == before
    # Without figures the page is made again and the old ones go; a table that was touched is not trusted.
    assert "0 computed, 4 there already" in run(quick_featprobe, "--figures", "0")
    assert not list((out / "figures").iterdir())
    (out / "retrieval.csv").write_bytes((out / "retrieval.csv").read_bytes()[:-5])
    assert "4 computed" in run(quick_featprobe, "--figures", "0")
    pd.testing.assert_frame_equal(estimates(out), table)


def test_folds_seeds_and_the_published_rule(quick_featprobe, cached):
    one = ("--data", "scans", "--backbone", "resnet18", "--figures", "0")
    run(quick_featprobe, *one, "--resplit", "--folds", "4", "--repeats", "2", "--top", "3", "--out", "folds")
    table = estimates(cached / "folds")
    assert set(table["fold"].astype(str)) == {"0", "1", "2", "3", "mean"}
    assert set(table["metric"]) == {"ACC@1", "ACC@3", "precision@3", "mAP@3", "mMV@3"}
    for _, rows in table.groupby(["seed", "distance", "metric"]):
        mean = rows["fold"].astype(str) == "mean"
        assert rows.loc[mean, "value"].item() == pytest.approx(rows.loc[~mean, "value"].mean())
        assert rows.loc[mean, "n_queries"].item() == 48
    assert "scans, seed 1" in (cached / "folds" / "retrieval.html").read_text(encoding="utf-8")

    run(quick_featprobe, *one, "--protocol", "mahbod2024", "--out", "study")
    study = estimates(cached / "study")
    assert set(study["metric"]) == {"mAP@5", "mMV@5", "ACC@1", "ACC@3", "ACC@5"}
    assert set(study["distance"]) == {"euclidean"}
    assert set(study["protocol"]) == {"mahbod2024"}
    assert set(study["n_index"]) == {24}  # the official training images alone
    assert "arXiv 2409.09430" in (cached / "study" / "retrieval.html").read_text(encoding="utf-8")


def test_an_image_never_finds_its_own_group(quick_featprobe, cached):
    """The split puts one view of patients 0, 3, 6 ... in train, the other in test."""
    table = pd.read_csv(cached / "scans.csv")
    table["split"] = np.where(table["path"].str.contains("-1"), "test", "train")
    table.to_csv(cached / "leaky.csv", index=False)
    assert quick_featprobe("extract", "--data", "leaky.csv", *QUICK).returncode == 0
    one = ("--data", "leaky", "--backbone", "resnet18", "--figures", "0")
    stopped = quick_featprobe("retrieve", *one)
    assert stopped.returncode == 2
    assert "the split leaks" in stopped.stderr
    printed = run(quick_featprobe, *one, "--allow-leaks", "group", "--out", "apart")
    assert "24 queries do not get to see the 24 images of their own group" in printed
    group = table.set_index("path")["patient_id"]
    found = pd.read_parquet(cached / "apart" / "retrieval.parquet")
    assert (group[found["query"]].to_numpy() != group[found["neighbour"]].to_numpy()).all()
    printed = run(
        quick_featprobe, *one, "--allow-leaks", "group", "--protocol", "mahbod2024", "--out", "rule"
    )
    assert "24 queries have images of their own group in the index (24), which mahbod2024 does not" in printed
    assert "24 queries do not get" in (cached / "apart" / "retrieval.html").read_text(encoding="utf-8")


def test_the_index_goes_out(quick_featprobe, cached):
    faiss = pytest.importorskip("faiss")
    one = ("--data", "scans", "--backbone", "resnet18", "--distance", "cosine", "--figures", "0")
    printed = run(quick_featprobe, *one, "--index", "archive/scans.faiss")
    assert "index: 36 images" in printed
    index = faiss.read_index(str(cached / "archive" / "scans.faiss"))
    rows = pd.read_csv(cached / "archive" / "scans.csv")
    assert index.ntotal == len(rows) == 36
    assert set(rows["label"]) == set(CLASSES)
    table = pd.read_csv(cached / "scans.csv").set_index("path")
    assert (table.loc[rows["id"], "label"].to_numpy() == rows["label"].to_numpy()).all()
    assert (table.loc[rows["id"], "split"] != "test").all()
    for flags, words in (
        (("--backbone", "resnet18"), "there are 2 distances; each would be an index of its own"),
        (("--distance", "cosine"), "there are 2 tables of embeddings"),
        (("--distance", "cosine", "--backbone", "resnet18", "--resplit"), "there are 5 folds"),
    ):
        refused(quick_featprobe("retrieve", "--data", "scans", *flags, "--index", "x.faiss"), words)


def refused(done, *words):
    assert done.returncode == 2, done.stdout
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_what_can_not_be_judged_is_refused_in_one_line(quick_featprobe, cached):
    def asked(*flags):
        return quick_featprobe("retrieve", "--out", "no", *flags)

    refused(asked("--data", "marks"), "whose target is multilabel", "classes or ordered classes work")
    refused(asked("--data", "scans", "--top", "40"), "36 images can be found", "--top 40", "type --top 36")
    refused(asked("--data", "scans", "--protocol", "mahbod2024", "--resplit"), "needs the official split")
    refused(asked("--data", "scans", "--protocol", "mahbod2024", "--top", "3"), "--top 3 does not go")
    refused(asked("--data", "scans", "--distance", "cosin"), "did you mean cosine")
    refused(asked("--data", "scan"), "did you mean scans")
    refused(asked("--data", "scans", "--pooling", "patches"), "patches")
    table = pd.read_csv(cached / "scans.csv")
    rare = table["patient_id"].isin(["p0", "p1"])
    table.assign(label=np.where(rare, "rare", "benign")).drop(columns="split").to_csv(
        cached / "single.csv", index=False
    )
    assert quick_featprobe("extract", "--data", "single.csv", *QUICK).returncode == 0
    refused(asked("--data", "single", "--min-groups", "5"), "at least two classes, and there is 1, 'benign'")
    hidden = table.assign(split=np.where(table["label"] == "other", "test", "train"))
    hidden.to_csv(cached / "hidden.csv", index=False)
    assert quick_featprobe("extract", "--data", "hidden.csv", *QUICK).returncode == 0
    refused(asked("--data", "hidden"), "no train image has the class 'other'")
    assert quick_featprobe("extract", "--data", "bare=scans.csv", "--label", "none", *QUICK).returncode == 0
    refused(asked("--data", "bare"), "has no labels")
    assert not (cached / "no" / "retrieval.csv").exists()


def test_python_gives_the_same_as_the_command(quick_featprobe, cached):
    import featprobe

    run(quick_featprobe, "--data", "scans", "--backbone", "resnet18", "--figures", "0")
    config = featprobe.RetrieveConfig(data=("scans",), backbone=("resnet18",), figures=0, resamples=50)
    summary = featprobe.retrieve(config)
    assert (summary.computed, summary.reused) == (0, 2)
    assert summary.paths[0].name == "retrieval.csv"
    record = json.loads((cached / "results" / "retrieval.json").read_text(encoding="utf-8"))
    assert len(record["units"]) == 2
    assert record["retrieve"]["configuration"]["resamples"] == 50
