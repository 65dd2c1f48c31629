"""Cases, modalities and volumes are trained on the rows that probes are fitted to, and stand beside them in the end."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from tests.conftest import draw_image

TINY = ("--backbone", "timm:test_vit", "--weights", "random", "--image-size", "32")
QUICK = ("--resamples", "50", "--no-augment", "--epochs", "1")
JUDGED = ["level", "inputs", "fusion", "fold", "fraction", "shots", "seed"]


@pytest.fixture
def examinations(tmp_path: Path) -> Path:
    """`cases.csv`: 2 classes x 10 patients, a case each with two images of A and one of B; two cases lack B."""
    rng = np.random.default_rng(0)
    rows = []
    (tmp_path / "images").mkdir()
    for patient in range(20):
        label = patient % 2
        for view, modality in enumerate(("A", "A", "B")):
            if modality == "B" and patient in {4, 9}:
                continue
            path = f"images/p{patient:02d}_{view}.png"
            draw_image(rng, label).save(tmp_path / path)
            grade, size = ("low", "mid", "high")[label + (patient % 4 > 1)], label + rng.normal(0, 0.1)
            rows.append(
                [path, "ab"[label], f"p{patient}", f"exam{patient}", modality, "xy"[patient // 2 % 2],
                 label, patient // 2 % 2, grade, size]
            )  # fmt: skip
    names = ["path", "label", "patient", "case", "modality", "site", "bright", "other", "grade", "size"]
    table = pd.DataFrame(rows, columns=names)
    for column in ("size", "grade"):  # a case has one answer
        table[column] = table.groupby("case")[column].transform("first")
    table.to_csv(tmp_path / "cases.csv", index=False)
    return tmp_path / "cases.csv"


def told(done) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows_of(out: Path) -> dict[str, dict[tuple, list[tuple]]]:
    """Mode -> what was judged -> its test rows: (id, group, truth)."""
    frame = pd.read_parquet(out / "predictions.parquet")
    truth = [name for name in frame.columns if name.startswith("y_true")]
    return {
        mode: {
            key: sorted(part[["id", "group", *truth]].astype(str).itertuples(index=False, name=None))
            for key, part in own.groupby(JUDGED, observed=True)
        }
        for mode, own in frame.groupby("mode", observed=True)
    }


def learnt(out: Path) -> pd.DataFrame:
    """n_train by what was judged, a column for each mode."""
    rows = pd.read_csv(out / "results.csv", keep_default_na=False)
    return rows[rows.fold != "mean"].pivot_table(
        index=JUDGED, columns="mode", values="n_train", aggfunc="first"
    )


def test_modalities_and_cases_are_trained_on_the_probes_own_rows(
    quick_featprobe, examinations: Path, tmp_path: Path
) -> None:
    told(quick_featprobe("extract", "--data", examinations, *TINY))
    judged = ("--holdout", "0.3", "--resamples", "50")
    told(quick_featprobe("probe", "--jobs", "1", "--probe", "logistic", *judged))
    trained = ("finetune", "--data", examinations, *TINY, *QUICK, *judged, "--mode", "head")
    said = told(quick_featprobe(*trained))
    assert (
        "each mode is trained 6 times on each fold: by image A, by image B, by image, by case A mean" in said
    )
    assert "2 of 20 cases lack a modality: it adds nothing to the scores there" in said
    rows = rows_of(tmp_path / "results")
    assert rows["head"] == rows["frozen"]
    assert {key[:3] for key in rows["head"]} == {
        ("image", "", ""), ("image", "A", ""), ("image", "B", ""), ("case", "A", "mean"), ("case", "B", "mean"),
        ("case", "A+B", "concat-mean"),
    }  # fmt: skip
    sizes = learnt(tmp_path / "results")
    assert len(sizes) == 6
    assert (sizes["head"] == sizes["frozen"]).all(), "those to choose on included"
    assert "0 computed, 6 there already" in told(quick_featprobe(*trained))


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        (("--shots", "3", "--folds", "2"), 2 * 2),
        (("--leave-out", "site"), 2 * 2),
        (("--fraction", "0.6", "1", "--repeats", "2", "--holdout", "0.3"), 2 * 4),
    ],
)
def test_every_amount_and_way_of_testing_is_the_probes_own_by_case(
    flags: tuple[str, ...], count: int, quick_featprobe, examinations: Path, tmp_path: Path
) -> None:
    told(quick_featprobe("extract", "--data", examinations, *TINY))
    judged = ("--level", "case", "--fusion", "pool", "--case-pooling", "mean", "max", *flags)
    judged += ("--resamples", "50")
    told(quick_featprobe("probe", "--jobs", "1", "--probe", "logistic", *judged))
    steps = ("--case-images", "2", "--batch-size", "6")
    trained = ("finetune", "--data", examinations, *TINY, *QUICK, *judged, "--mode", "last:1", *steps)
    assert "by case A+B mean, by case A+B max (fewer" in told(quick_featprobe(*trained))
    rows = rows_of(tmp_path / "results")
    assert rows["last:1"] == rows["frozen"]
    sizes = learnt(tmp_path / "results")
    assert len(sizes) == count
    assert (sizes["last:1"] == sizes["frozen"]).all()
    if "--shots" in flags:
        assert set(sizes["last:1"]) == {6}, "three cases of each class, with all their images"
        page = told(
            quick_featprobe("compare", "results", "--resamples", "50", "--map", "none", "--no-images")
        )
        table, _, _ = page.partition("* can't be told apart")
        for how in ("mean of case", "max of case"):
            named = [line for line in table.splitlines() if how in line]
            assert sorted("frozen" in line for line in named) == [False, True], "side by side"
        assert "last:1 · max of case minus test_vit (random) · frozen logistic · max of case" in page
    if "--repeats" in flags:
        stored = pd.read_csv(tmp_path / "results" / "results.csv")
        assert stored.groupby("mode")["fingerprint"].nunique().to_dict() == {"frozen": 1, "last:1": 1}
        page = told(
            quick_featprobe("compare", "results", "--resamples", "50", "--map", "none", "--no-images")
        )
        assert "last:1, fractions of the labels" in page, "random weights are one backbone in all repeats"
    units = json.loads((tmp_path / "results" / "run.json").read_text())["units"].values()
    notes = [note for unit in units for note in unit["notes"]]
    assert "a training step sees 8 cases with up to 2 images each, drawn anew every epoch" in notes


@pytest.mark.parametrize(
    ("columns", "more", "metric"),
    [
        (("bright", "other"), (), "macro_auroc"),
        (("grade",), ("--target", "ordinal", "--class-order", "low", "mid", "high"), "ordinal_mae"),
        (("grade",), ("--target", "ordinal", "--class-order", "low", "mid", "high", "--ordinal", "corn"), "ordinal_mae"),
        (("size",), ("--target", "continuous"), "mae"),
    ],
)  # fmt: skip
def test_every_kind_of_target_is_judged_by_case(
    columns: tuple[str, ...], more: tuple[str, ...], metric: str, quick_featprobe, examinations, tmp_path
) -> None:
    target = ("--data", examinations, "--label-column", *columns, *more)
    judged = ("--level", "case", "--fusion", "concat", "--holdout", "0.3", "--mode", "norm", "--out", "out")
    told(quick_featprobe("finetune", *target, *TINY, *QUICK, *judged))
    rows = pd.read_csv(tmp_path / "out" / "results.csv")
    found = rows[rows.metric == metric]
    assert (set(found.level), set(found.fusion)) == ({"case"}, {"concat-mean"})
    assert np.isfinite(found.value).all()


def test_what_cases_do_not_do_is_named_before_an_image_is_decoded(
    quick_featprobe, examinations: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(examinations)

    def refused(*flags: str, **changed: object) -> str:
        table.assign(**changed).to_csv(tmp_path / "other.csv", index=False)
        done = quick_featprobe("finetune", "--data", "other.csv", *TINY, *QUICK, *flags)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "decode" not in done.stdout
        assert not list(tmp_path.rglob("checkpoints"))
        return done.stderr

    assert "--mixup mixes two images" in refused("--mixup", "0.2")
    assert "--fusion pool needs several modalities" in refused("--fusion", "pool", modality="")
    label = np.where(np.arange(len(table)) == 0, "b", table["label"])
    assert "its case has another label above" in refused(label=label)
    split = np.where(np.arange(len(table)) % 3 == 0, "test", "train")
    table = table.drop(columns="patient")  # the case alone says what belongs together
    leaks = refused(split=split)
    assert "the split leaks" in leaks
    assert "[case]" in leaks
    told(quick_featprobe("extract", "--data", "other.csv", *TINY))
    probed = quick_featprobe("probe", "--jobs", "1", "--probe", "logistic")
    assert probed.returncode == 2
    assert probed.stderr.partition(";")[0] == leaks.partition(";")[0], "the same gate as in probing"


@pytest.mark.skipif(find_spec("monai") is None, reason="the extra monai is not installed")
def test_whole_volumes_are_trained_on_by_backbones_that_take_them(quick_featprobe, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for patient in range(12):
        values = rng.normal(100 + 60 * (patient % 2), 20, (14, 12, 10)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"p{patient}.nii.gz")
        rows.append([f"p{patient}.nii.gz", "ab"[patient % 2], f"p{patient}"])
    pd.DataFrame(rows, columns=["path", "label", "patient"]).to_csv(tmp_path / "volumes.csv", index=False)
    whole = ("--slices", "volume", "--backbone", "medicalnet_resnet10", "--weights", "random")
    whole += ("--preprocessing", "common", "--image-size", "16", "--data", "volumes.csv")
    told(quick_featprobe("extract", *whole))
    judged = ("--holdout", "0.34", "--resamples", "50")
    told(quick_featprobe("probe", "--jobs", "1", "--probe", "logistic", *judged))
    trained = (
        "finetune",
        *whole,
        *judged,
        "--epochs",
        "2",
        "--rotate",
        "10",
        "--flip",
        "--mode",
        "head",
        "last:1",
    )
    told(quick_featprobe(*trained, "--export"))
    rows_by_mode = rows_of(tmp_path / "results")
    assert rows_by_mode["last:1"] == rows_by_mode["frozen"]
    assert not (tmp_path / "results" / "models").exists()
    units = json.loads((tmp_path / "results" / "run.json").read_text())["units"].values()
    notes = [note for unit in units for note in unit["notes"]]
    assert any("not exported: a model of volumes" in note for note in notes)
    for flags, words in (
        (("--channels-last",), "--channels-last is of flat images; medicalnet_resnet10 takes volumes"),
        (("--cutmix", "1"), "--cutmix is of flat images"),
        (("--mode", "lora:2"), "--mode lora finds no layer to adapt"),
        (("--backbone", "medicalnet_resnet10", "efficientnet_lite0"), "efficientnet_lite0 takes flat images"),
        (("--slices", "all"), "medicalnet_resnet10 takes whole volumes"),
    ):
        done = quick_featprobe("finetune", *whole, *judged, *flags)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert words in done.stderr
