"""Trust through the real command on one small cache: scores recalibrated, reported, saved; strange images told apart."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from featprobe.cli import main
from featprobe.results import ResultsFolder
from featprobe.stages.model_files import read_model
from tests.conftest import draw_image

QUICK = ("--backbone", "resnet18", "--weights", "random", "--image-size", "32")
CLASSES = ("benign", "malignant", "other")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """`scans`: 3 classes x 12 patients x 2 images; `marks`: the same with two labels; `flat`: other images, and 4 of scans."""
    folder = tmp_path_factory.mktemp("trust")
    rng = np.random.default_rng(1)
    rows, flat = [], []
    for patient in range(36):
        for view in range(2):
            path = f"{patient:02d}-{view}.png"
            draw_image(rng, patient % 3).save(folder / path)
            rows.append([path, CLASSES[patient % 3], f"p{patient}", patient % 2, patient // 2 % 2])
    for number in range(16):
        path = f"flat{number}.png"
        noise = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(noise).resize((40, 32), Image.Resampling.BILINEAR).save(folder / path)
        flat.append([path, "xy"[number % 4 // 2], f"q{number // 2}"])
    table = pd.DataFrame(rows, columns=["path", "label", "patient_id", "left", "right"])
    table.drop(columns=["left", "right"]).to_csv(folder / "scans.csv", index=False)
    table.drop(columns="label").to_csv(folder / "marks.csv", index=False)
    flat += [[row[0], "x", row[2]] for row in rows[:4]]
    pd.DataFrame(flat, columns=["path", "label", "patient_id"]).to_csv(folder / "flat.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FEATPROBE_OFFLINE", "1")
        for data in (("scans.csv", "flat.csv"), ("marks.csv", "--label-column", "left", "right")):
            assert main(["extract", "--data", *data, *QUICK]) == 0
    return folder


@pytest.fixture
def cached(prepared, tmp_path):
    """A copy of what was prepared, in which the command runs."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path


def probed(command, *flags):
    done = command("probe", "--resamples", "50", "--folds", "2", "--probe", "logistic", "--jobs", "1", *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


def written_as_onnx(command, model):
    """The model as ONNX gives its own scores; steps have no such form."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    assert command("models", "export", "--model", model, "--onnx", "probe.onnx").returncode == 0
    fitted = read_model(model).fitted
    X = np.random.default_rng(0).normal(0, 1, (5, fitted.n_features)).astype(np.float32)
    session = onnxruntime.InferenceSession("probe.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: X})[-1:]
    np.testing.assert_allclose(found, fitted.predict(X), atol=1e-6)


def test_scores_are_recalibrated_kept_apart_and_reported(quick_featprobe, cached):
    probed(quick_featprobe, "--data", "scans")
    printed = probed(quick_featprobe, "--data", "scans", "--calibrate", "temperature", "--models")
    assert "probe: 1 computed, 0 there already" in printed
    assert "0 computed, 1 there already" in probed(
        quick_featprobe, "--data", "scans", "--calibrate", "temperature"
    )
    probed(quick_featprobe, "--data", "scans", "--calibrate", "isotonic")
    folder = ResultsFolder(cached / "results")
    table = folder.predictions()
    scores = {
        variant: rows.sort_values(["fold", "id"]).filter(like="y_score_").to_numpy()
        for variant, rows in table.groupby("variant")
    }
    assert set(scores) == {"", "temperature", "isotonic"}
    assert (scores[""].argmax(axis=1) == scores["temperature"].argmax(axis=1)).all()
    units = {unit["key"]["variant"]: unit for unit in folder.run()["units"].values()}
    warm = [chosen["temperature"] for chosen in units["temperature"]["chosen"].values()]
    cool = table[table["variant"] == ""].sort_values(["fold", "id"])
    for fold, value in zip(units["temperature"]["chosen"], warm, strict=True):
        rows = (cool["fold"] == fold).to_numpy()
        powers = scores[""][rows] ** (1 / value)
        wanted = powers / powers.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(scores["temperature"][rows], wanted, atol=1e-9)
    assert not np.allclose(scores[""], scores["isotonic"])

    (model,) = (cached / "results" / "models").glob("*temperature*.skops")
    done = quick_featprobe("predict", "--model", model, "--data", "scans.csv")
    assert done.returncode == 0, done.stderr
    said = pd.read_csv(cached / "predictions.csv").filter(like="benign").to_numpy(dtype=float)
    assert ((said > 0) & (said < 1)).all()
    written_as_onnx(quick_featprobe, model)

    assert quick_featprobe("compare", "results", "--resamples", "60", "--map", "none").returncode == 0
    page = (cached / "results" / "report.html").read_text(encoding="utf-8")
    assert "Can the scores be believed?" in page
    assert "frozen logistic · temperature" in page
    for name in ("reliability", "risk-coverage"):
        with Image.open(cached / "results" / "figures" / f"scans-{name}.png") as picture:
            assert picture.size[0] > 500
    sets = pd.read_csv(cached / "results" / "tables" / "scans-sets.csv")
    cover = sets[sets["what"] == "coverage"]
    assert len(cover) == 3 * 2 * 3
    assert (cover["n_groups"] == 36).all()


def test_labels_are_recalibrated_one_by_one(quick_featprobe, cached):
    probed(quick_featprobe, "--data", "marks", "--calibrate", "temperature")
    (unit,) = ResultsFolder(cached / "results").run()["units"].values()
    assert {"temperature of left", "temperature of right"} <= set(unit["chosen"]["0"])


def test_strange_images_are_told_apart(quick_featprobe, cached):
    flags = ("ood", "--inside", "scans", "--outside", "flat", "--folds", "3", "--resamples", "60")
    done = quick_featprobe(*flags, "--neighbours", "3")
    assert done.returncode == 0, done.stderr
    assert "flat: 4 images that are in 'scans' too are left out" in done.stdout
    assert (
        "flat against scans: 16 strange images of 8 groups, 72 known test images of 36 groups" in done.stdout
    )
    table = pd.read_csv(cached / "results" / "ood.csv")
    assert set(table["detector"]) == {"mahalanobis", "relative-mahalanobis", "knn", "max-softmax", "energy"}
    assert set(table["fold"]) == {"0", "1", "2", "mean"}
    mean = table[table["fold"] == "mean"].set_index(["detector", "metric"])
    assert mean.loc[("knn", "AUROC"), "value"] > 0.75
    for (detector, metric), row in mean.iterrows():
        own = table[(table["detector"] == detector) & (table["metric"] == metric) & (table["fold"] != "mean")]
        assert row["value"] == pytest.approx(own["value"].mean())
        assert row["n_inside"] == 72
    assert (table["ci_low"].isna() | (table["ci_low"] <= table["value"])).all()
    again = quick_featprobe(*flags, "--neighbours", "3")
    assert "ood: 0 computed, 5 there already" in again.stdout
    # Another neighbour is another knn, and the others stay; a touched table is not trusted.
    assert "ood: 1 computed, 4 there already" in quick_featprobe(*flags, "--neighbours", "2").stdout
    assert len(pd.read_csv(cached / "results" / "ood.csv")) == len(table)
    with (cached / "results" / "ood.csv").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert "ood: 1 computed" in quick_featprobe(*flags, "--detector", "knn").stdout
    assert len(pd.read_csv(cached / "results" / "ood.csv")) == 8
    assert list((cached / "results").glob("ood.csv.*.old"))
    assert json.loads((cached / "results" / "ood.json").read_text())["run"]["stage"] == "ood"

    strange_images_stand_in_the_report(quick_featprobe, cached)

    labels = quick_featprobe(
        "ood", "--inside", "marks", "--outside", "flat", "--folds", "3", "--resamples", "60"
    )
    assert labels.returncode == 0, labels.stderr
    assert "ood: 2 computed" in labels.stdout


def strange_images_stand_in_the_report(command, folder):
    """Of the results folder, or of another one that holds nothing else; anew where the table has changed."""
    probed(command, "--data", "scans")
    compare = ("compare", "results", "--resamples", "60", "--map", "none")
    assert command(*compare).returncode == 0
    page = (folder / "results" / "report.html").read_text(encoding="utf-8")
    assert '<h2 id="strange">Known or strange?</h2>' in page
    assert "flat against scans: 16 strange images of 8 groups, 72 known test images of 36 groups" in page
    shown = pd.read_csv(folder / "results" / "tables" / "flat-against-scans-strange.csv")
    stored = pd.read_csv(folder / "results" / "ood.csv").query("fold == 'mean' and detector == 'knn'")
    assert set(shown.detector) == {"knn"}
    assert shown.set_index("metric").value.to_dict() == stored.set_index("metric").value.to_dict()
    assert "nothing has changed" in command(*compare).stdout

    aside = (
        "--folds",
        "3",
        "--resamples",
        "60",
        "--detector",
        "knn",
        "energy",
        "--neighbours",
        "2",
        "--out",
        "aside",
    )
    assert command("ood", "--inside", "scans", "--outside", "flat", *aside).returncode == 0
    assert command("compare", "results", "aside", *compare[2:]).returncode == 0
    assert set(pd.read_csv(folder / "results" / "tables" / "flat-against-scans-strange.csv").detector) == {
        "energy",
        "knn",
    }
    with (folder / "aside" / "ood.csv").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert command("compare", "results", "aside", *compare[2:]).returncode == 0
    page = (folder / "results" / "report.html").read_text(encoding="utf-8")
    assert "ood.csv is not what ood.json vouches for and is left out" in page
    alone = command("compare", "aside")
    assert (alone.returncode, "aside holds no results" in alone.stderr) == (2, True)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("ood", "--inside", "scans"), "--inside and --outside belong together"),
        (("ood", "--inside", "scans", "--outside", "scans"), "are both 'scans'"),
        (("ood", "--inside", "scans", "--outside", "flatt"), "did you mean flat"),
        (("ood", "--inside", "scans", "--outside", "marks"), "no image of 'marks' is strange to 'scans'"),
        (("ood", "--inside", "marks", "--outside", "flat", "--detector", "energy"), "whose target is multilabel"),
        (("ood", "--inside", "scans", "--outside", "flat", "--detector", "knm"), "did you mean knn"),
        (("probe", "--calibrate", "platt"), "known: none, temperature, isotonic"),
        (("probe", "--calibrate", "isotonic", "--thresholds", "moved"), "can't be used with --thresholds moved"),
        (("probe", "--calibrate", "isotonic", "--fuse", "stack"), "can't be used with --fuse stack"),
        (("probe", "--calibrate", "isotonic", "--protocol", "huang2024"), "can't be used with --protocol huang2024"),
        (
            ("probe", "--data", "scans", "--calibrate", "isotonic", "--shots", "2"),
            "every class needs 3 groups: one to calibrate on",
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_done_is_said(quick_featprobe, cached, flags, words):
    done = quick_featprobe(*flags)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (cached / "results" / "ood.csv").exists()
