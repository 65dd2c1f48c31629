"""The unfrozen side through the real command: modes, amounts, targets, search, costs, export, a kill from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file

from featprobe.datasets import DatasetOptions, open_dataset
from featprobe.imaging import AUTO
from featprobe.loading import preprocess
from featprobe.records import Preprocessing

TINY = ("--backbone", "timm:test_vit", "--weights", "random", "--image-size", "32", "--batch-size", "12")
SMALL = ("--epochs", "1", "--holdout", "0.3", "--resamples", "50", "--no-augment")
FOLDS = ("--epochs", "1", "--folds", "2", "--resamples", "50", "--no-augment")


def units(out: Path) -> list[dict]:
    return list(json.loads((out / "run.json").read_text())["units"].values())


def test_modes_stand_side_by_side_with_their_costs(quick_featprobe, manifest: Path, tmp_path: Path) -> None:
    modes = ("head", "last:1", "lora:2", "lp-ft")
    done = quick_featprobe(
        "finetune", "--data", manifest, "--out", "out", *TINY, *SMALL, "--mode", *modes, "--watts", "50"
    )
    assert done.returncode == 0, done.stderr
    found = {info["key"]["mode"]: info for info in units(tmp_path / "out")}
    assert set(found) == set(modes)
    trained = {mode: found[mode]["costs"]["trained_parameters"] for mode in modes}
    assert trained["head"] == 2 * 64 + 2
    assert trained["head"] < trained["lora:2"] < trained["last:1"] < trained["lp-ft"]
    assert trained["lp-ft"] <= found["head"]["costs"]["parameters"] + trained["head"]
    for info in found.values():
        cost = info["costs"]
        assert cost["seconds"] > 0
        assert cost["peak_memory_bytes"] > 2**20
        assert cost["energy_wh"] == pytest.approx(cost["seconds"] * 50 / 3600, abs=1e-3)
        assert "estimate, no measurement" in cost["energy_basis"]
    scores_are_recalibrated_on_validation_rows(quick_featprobe, manifest, tmp_path)
    done = quick_featprobe("compare", "out", "--resamples", "50", "--map", "none")
    assert done.returncode == 0, done.stderr
    sets = pd.concat(map(pd.read_csv, (tmp_path / "out" / "tables").glob("*-sets.csv")))
    assert {name.rpartition(" · ")[2] for name in sets.system} >= {"temperature", "isotonic", "lp-ft"}
    assert "what every system cost" in done.stdout
    assert "Trained parameters" in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What it cost" in page
    assert f"{trained['last:1']:,}" in page


def scores_are_recalibrated_on_validation_rows(quick_featprobe, manifest: Path, folder: Path) -> None:
    command = ("finetune", "--data", manifest, "--out", "out", *TINY, *SMALL, "--mode", "head")
    for method in ("temperature", "isotonic"):
        done = quick_featprobe(*command, "--calibrate", method)
        assert done.returncode == 0, done.stderr
        assert "epoch 1/1" not in done.stdout, "the plain training is taken over"
        assert "1 computed" in done.stdout
        assert f"scores recalibrated ({method}" in done.stdout
    assert "0 computed, 1 there already" in quick_featprobe(*command, "--calibrate", "isotonic").stdout
    assert "0 computed, 1 there already" in quick_featprobe(*command).stdout, "the plain one is kept"
    rows = pd.read_parquet(folder / "out" / "predictions.parquet")
    heads = rows[rows["mode"].astype(str) == "head"].set_index(["variant", "id"])
    plain, cool, steps = (
        heads.loc[name].sort_index().y_score_malignant for name in ("", "temperature", "isotonic")
    )
    # One temperature: all log odds are divided by the same number.
    ratio = np.log(plain / (1 - plain)) / np.log(cool / (1 - cool))
    assert np.allclose(ratio, ratio.iloc[0], rtol=1e-6)
    assert not np.allclose(plain, cool)
    assert (np.diff(steps.to_numpy()[np.argsort(plain.to_numpy())]) >= -1e-12).all()
    refused = quick_featprobe(*command, "--calibrate", "isotonic", "--export")
    assert refused.returncode == 2
    assert "--calibrate isotonic can't be used with --export" in refused.stderr


def test_fractions_are_the_probes_own_rows(quick_featprobe, manifest: Path, tmp_path: Path) -> None:
    extract = ("extract", "--data", manifest, "--cache", "cache", *TINY)
    assert quick_featprobe(*extract).returncode == 0
    amounts = ("--fraction", "0.5", "1", "--folds", "2", "--resamples", "50", "--out", "out")
    probe = quick_featprobe("probe", "--cache", "cache", "--probe", "logistic", *amounts)
    assert probe.returncode == 0, probe.stderr
    tuned = quick_featprobe(
        "finetune", "--data", manifest, *TINY, "--mode", "head", "--epochs", "1", *amounts
    )
    assert tuned.returncode == 0, tuned.stderr
    rows = pd.read_csv(tmp_path / "out" / "results.csv")
    folds = rows[rows.fold != "mean"]
    sizes = folds.pivot_table(index=["fraction", "fold"], columns="mode", values="n_train", aggfunc="first")
    assert (sizes["head"] == sizes["frozen"]).all()
    assert len(sizes) == 4
    # What both cost stands in the same fields; a linear head and a logistic probe of two classes differ by one row.
    costs = {
        (info["key"]["mode"], info["key"]["fraction"]): info["costs"] for info in units(tmp_path / "out")
    }
    assert set(costs["frozen", 1]) == set(costs["head", 1]) | {"extraction_seconds", "extraction_device"}
    assert (costs["frozen", 0.5]["trained_parameters"], costs["head", 0.5]["trained_parameters"]) == (65, 130)
    assert costs["frozen", 1]["seconds"] > 0
    assert costs["frozen", 1]["extraction_seconds"] > 0
    assert costs["frozen", 1]["extraction_device"] == "cpu"
    done = quick_featprobe("finetune", "--data", manifest, *TINY, "--shots", "2", "--fraction", "0.5")
    assert done.returncode == 2
    assert "--shots and --fraction are both given" in done.stderr


def test_several_labels_and_numbers_are_trained_and_judged_as_in_probing(
    quick_featprobe, image_folder: Path, tmp_path: Path
) -> None:
    files = sorted(image_folder.glob("*/*.png"))
    rng = np.random.default_rng(0)
    bright = np.array([file.parent.name == "malignant" for file in files])
    table = pd.DataFrame(
        {
            "path": [f"images/{file.parent.name}/{file.name}" for file in files],
            "patient_id": [file.name.split("_")[0] for file in files],
            "bright": bright.astype(int),
            "other": rng.integers(0, 2, len(files)),
            "size": bright + rng.normal(0, 0.1, len(files)),
        }
    )
    table.loc[::7, "other"] = None
    table.to_csv(tmp_path / "several.csv", index=False)
    for name, columns, more in (
        ("labels", ("bright", "other"), ()),
        ("number", ("size",), ("--target", "continuous")),
    ):
        done = quick_featprobe(
            "finetune", "--data", f"{name}=several.csv", "--label-column", *columns, *more, "--out", "out", *TINY,
            *SMALL, "--mode", "last:1",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    rows = pd.read_csv(tmp_path / "out" / "results.csv")
    assert {"macro_auroc"} <= set(rows[rows.dataset == "labels"].metric)
    assert {"mae", "r2"} <= set(rows[rows.dataset == "number"].metric)
    done = quick_featprobe(
        "finetune", "--data", "number=several.csv", "--label-column", "size", "--target", "continuous", *TINY,
        "--mode", "lp-ft",
    )  # fmt: skip
    assert done.returncode == 2
    assert "--mode lp-ft does not fit the target of 'number', which is a number" in done.stderr


def test_a_search_spends_its_budget_inside_the_training_rows_and_stores_every_trial(
    quick_featprobe, manifest: Path, tmp_path: Path
) -> None:
    command = (
        "finetune",
        "--data",
        manifest,
        "--out",
        "out",
        *TINY,
        *FOLDS,
        "--mode",
        "head",
        "--trials",
        "3",
    )
    done = quick_featprobe(*command)
    assert done.returncode == 0, done.stderr
    (info,) = units(tmp_path / "out")
    assert set(info["search"]) == {"0", "1"}
    for fold in info["search"].values():
        assert (fold["budget"], fold["seed"], len(fold["trials"])) == ("3 trials", 0, 3)
        first = fold["trials"][0]["parameters"]
        assert (first["lr"], first["weight_decay"]) == (1e-3, 0.05), "the recipe as it stands comes first"
        values = [trial["value"] for trial in fold["trials"] if trial["state"] == "complete"]
        assert fold["trials"][fold["chosen"]]["value"] == min(values)
        assert "layer_decay" not in first
    assert any("of 3 trials (TPE, seed 0" in note for note in info["notes"])
    assert info["key"]["variant"] == "3 trials"
    predicted = (tmp_path / "out" / "predictions.parquet").read_bytes()
    # A search that was broken off after its first trial ends as the unbroken one did.
    whole = next((tmp_path / "out" / "checkpoints").rglob("fold-0/trials.json"))
    kept = json.loads(whole.read_text())
    again = tmp_path / "again"
    place = again / "checkpoints" / whole.parents[1].name / "fold-0"
    place.mkdir(parents=True)
    (place / "trials.json").write_text(json.dumps({**kept, "trials": kept["trials"][:1]}))
    assert quick_featprobe(*command, "--out", "again").returncode == 0
    assert (again / "predictions.parquet").read_bytes() == predicted


def test_the_studys_recipe_by_name(quick_featprobe, manifest: Path, tmp_path: Path) -> None:
    done = quick_featprobe(
        "finetune", "--data", manifest, "--out", "out", *TINY, "--folds", "2", "--resamples", "50", "--protocol",
        "huang2024", "--mode", "huang-frozen", "--epochs", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "recipe huang2024: Adam at 1e-4, batches of 32, 100 epochs" in done.stdout
    (info,) = units(tmp_path / "out")
    training = info["training"]
    assert training["optimizer"] == "adam"
    assert (training["lr"], training["epochs"], training["batch_size"]) == (1e-4, 2, 12), "flags win"
    assert (training["monitor"], training["augment"], training["schedule"]) == (
        "val_accuracy",
        False,
        "constant",
    )
    assert (info["key"]["protocol"], info["key"]["mode"]) == ("huang2024", "huang-frozen")
    assert info["key"]["pooling"] == "pre_logits"
    # The study's own metrics, without --metrics, in fine-tuning as in probing.
    published = {"accuracy", "weighted_precision", "weighted_recall", "weighted_f1"}
    assert quick_featprobe("extract", "--data", manifest, "--cache", "cache", *TINY).returncode == 0
    probe = ("probe", "--cache", "cache", "--out", "out", "--folds", "2", "--resamples", "50", "--jobs", "1")
    for protocol in ("huang2024", "medmnistplus-knn"):
        done = quick_featprobe(*probe, "--pooling", "cls", "--protocol", protocol)
        assert done.returncode == 0, done.stderr
    rows = pd.read_csv(tmp_path / "out" / "results.csv")
    found = rows.groupby(["protocol", "mode"]).metric.agg(set)
    assert published <= found["huang2024", "huang-frozen"]
    assert published <= found["huang2024", "frozen"]
    assert {"accuracy", "medmnist_acc", "medmnist_auc"} <= found["medmnistplus-knn", "frozen"]
    assert not found["medmnistplus-knn", "frozen"] & {"weighted_f1", "weighted_recall"}


def test_an_exported_model_is_plain_timms(quick_featprobe, manifest: Path, tmp_path: Path) -> None:
    command = (
        "finetune", "--data", manifest, "--out", "out", *TINY, "--epochs", "1", "--resamples", "50", "--mode", "lora:2",
        "--holdout", "0.3",
    )  # fmt: skip
    trained = quick_featprobe(*command, "--tensorboard")
    assert trained.returncode == 0, trained.stderr
    assert not (tmp_path / "out" / "models").exists()
    done = quick_featprobe(*command, "--export")
    assert done.returncode == 0, done.stderr
    assert "epoch 1/1" not in done.stdout, "what is trained is exported, and not trained again"
    (file,) = (tmp_path / "out" / "models").glob("*.safetensors")
    card = json.loads(file.with_suffix(".json").read_text())
    model = timm.create_model(card["architecture"], **card["create_model"])
    model.load_state_dict(load_file(file))
    rule = Preprocessing(
        **{name: tuple(v) if isinstance(v, list) else v for name, v in card["preprocessing"].items()}
    )
    predicted = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    data = open_dataset(str(manifest), DatasetOptions())
    rows = {str(name): row for row, name in enumerate(data.samples.id)}
    images = [
        preprocess(data.decode(data.read(rows[name])).rgb(AUTO), rule) for name in predicted["id"].astype(str)
    ]
    with torch.no_grad():
        chances = torch.softmax(model.eval()(torch.stack(images)).double(), dim=1).numpy()
    theirs = predicted[[f"y_score_{name}" for name in card["label_names"]]].to_numpy()
    assert np.abs(chances - theirs).max() < 1e-5
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (board,) = (tmp_path / "out" / "tensorboard").iterdir()
    events = EventAccumulator(str(board))
    events.Reload()
    assert len(events.Scalars("val_loss")) == 1


def test_the_command_killed_from_outside_goes_on_and_ends_alike(
    quick_featprobe, manifest: Path, tmp_path: Path
) -> None:
    arguments = (
        "finetune",
        "--data",
        str(manifest),
        *TINY,
        "--folds",
        "2",
        "--resamples",
        "50",
        "--epochs",
        "6",
    )
    environment = {**os.environ, "FEATPROBE_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "featprobe.cli", *arguments, "--out", "killed"]
    running = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("killed/checkpoints/*/*/last.safetensors")):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the process that was killed
    try:
        resumed = quick_featprobe(*arguments, "--out", "killed")
        assert resumed.returncode == 0, resumed.stderr
        assert "resumed after epoch" in resumed.stdout
        assert quick_featprobe(*arguments, "--out", "whole").returncode == 0
    finally:
        torch.set_num_threads(threads)
    one, other = (
        sorted((tmp_path / name / "checkpoints").rglob("best.safetensors")) for name in ("killed", "whole")
    )
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert len(one) == 2
