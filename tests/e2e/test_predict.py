"""From extraction to predictions on new images by a saved model, through the real command; refusals beside it."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pandas as pd
import pytest

from featprobe.cache import Cache
from featprobe.stages.model_files import read_model

MODEL = "results/models/set-resnet18-{weights}-gap-{probe}.skops"


@pytest.fixture
def weights(tmp_path):
    """A file of weights for resnet18, and a function that changes one number in it."""
    from safetensors.torch import load_file, save_file

    from featprobe import backbones

    path = tmp_path / "mine.safetensors"
    state = backbones.load("resnet18", weights="random", seed=5).model.state_dict()
    save_file({name: value.clone() for name, value in state.items()}, path)

    def change():
        tensors = load_file(path)
        tensors["layer4.1.conv2.weight"][0, 0, 0, 0] += 1
        save_file(tensors, path)

    return path, change


def cached(tmp_path):
    store = Cache(tmp_path / "cache")
    (entry,) = store.entries()
    return store.read(entry.path, "gap")


def test_extract_probe_predict_gives_the_models_own_probabilities(
    quick_featprobe, manifest, tmp_path, weights
):
    file, change = weights
    quick = ("--backbone", "resnet18", "--weights", str(file), "--image-size", "32", "--fit", "pad")
    assert quick_featprobe("extract", "--data", f"set={manifest}", *quick).returncode == 0
    probed = ("probe", "--models", "--resamples", "50", "--folds", "3", "--probe", "logistic", "knn")
    first = quick_featprobe(*probed)
    assert first.returncode == 0, first.stderr
    assert "models: 2 in results/models, 0 of them there already" in first.stdout
    path = tmp_path / MODEL.format(weights="mine", probe="logistic")
    saved, table = read_model(path), cached(tmp_path)
    assert saved.header["n_train"] == len(table.samples) == 48
    assert saved.header["n_groups"] == 24
    assert "No figure of a report is of this model" in saved.header["about"]

    # Labels are not needed: the new images come without a column of them.
    frame = pd.read_csv(manifest)
    frame.drop(columns="label").to_csv(tmp_path / "new.csv", index=False)
    done = quick_featprobe("predict", "--model", path, "--data", "new.csv", "--weights", file)
    assert done.returncode == 0, done.stderr
    scored = pd.read_csv(tmp_path / "predictions.csv")
    assert list(scored.columns) == ["id", "path", "predicted", "y_score_benign", "y_score_malignant"]
    assert scored["id"].tolist() == table.samples.id.tolist()
    found = scored[["y_score_benign", "y_score_malignant"]].to_numpy()
    np.testing.assert_array_equal(found, saved.fitted.predict(table.embeddings))
    assert (scored["predicted"] == frame["label"]).mean() > 0.9

    again = quick_featprobe(*probed)
    assert "models: 2 in results/models, 2 of them there already" in again.stdout

    # Nothing but the very weights will do.
    refused = quick_featprobe("predict", "--model", path, "--data", "new.csv", "--out", "x.csv")
    assert refused.returncode == 2
    assert "needs a file of weights" in refused.stderr
    assert "'mine'" in refused.stderr
    change()
    refused = quick_featprobe(
        "predict", "--model", path, "--data", "new.csv", "--weights", file, "--out", "x.csv"
    )
    assert refused.returncode == 2
    assert "are not those that" in refused.stderr
    assert not (tmp_path / "x.csv").exists()


@pytest.fixture
def model(quick_featprobe, manifest, tmp_path):
    """A model on random weights, which resolve again from their seed."""
    quick = ("--backbone", "resnet18", "--weights", "random", "--image-size", "32", "--seed", "3")
    assert quick_featprobe("extract", "--data", f"set={manifest}", *quick).returncode == 0
    probed = ("probe", "--models", "--resamples", "50", "--folds", "3", "--probe", "logistic", "knn", "svm")
    assert quick_featprobe(*probed).returncode == 0
    return tmp_path / MODEL.format(weights="random", probe="logistic")


def test_unreadable_images_are_listed_and_a_changed_recipe_is_refused(
    quick_featprobe, model, image_folder, tmp_path
):
    (image_folder / "benign" / "patient000_0.png").write_bytes(b"no image")
    done = quick_featprobe("predict", "--model", model, "--data", image_folder, "--out", "out/scores.csv")
    assert done.returncode == 0, done.stderr
    assert "1 images could not be read" in done.stdout
    lost = pd.read_csv(tmp_path / "out/scores.quarantine.csv")
    assert lost["path"].tolist() == ["benign/patient000_0.png"]
    scored = pd.read_csv(tmp_path / "out/scores.csv")
    assert len(scored) == 47
    assert not set(scored["id"]) & set(lost["id"])

    # A loader that gives other pixels for the same file is another recipe.
    with zipfile.ZipFile(model) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(members["featprobe.json"])
    assert header["weights"] == {**header["weights"], "given": "random", "seed": 3}
    shown = quick_featprobe("models", "show", model)
    assert json.loads(shown.stdout) == header

    for data in ("digits", image_folder):
        refused = quick_featprobe("predict", "--model", model, "--data", data, "--precision", "bf16")
        assert refused.returncode == 2
        assert "the model's file says it" in refused.stderr
    refused = quick_featprobe("predict", "--data", image_folder)
    assert "--model names no file" in refused.stderr
    refused = quick_featprobe("predict", "--model", model, "--data", "digits", "--out", image_folder)
    assert f"can't write {image_folder}; it is a folder; choose another file with --out" in refused.stderr
    assert "images, logistic on" not in refused.stdout, "nothing is embedded before that"
    refused = quick_featprobe("predict", "--model", model, "--data", "digits", "--weights", "lost.pth")
    assert "can't have --weights lost.pth, which is no file" in refused.stderr
    assert "extracted with its random weights" in refused.stderr
    assert refused.stderr.rstrip().endswith("leave --weights out")
    refused = quick_featprobe("predict", "--model", model, "--data", image_folder, "digits")
    assert "one is scored at a time" in refused.stderr


def test_numerics_that_changed_are_named(quick_featprobe, model, image_folder, monkeypatch, tmp_path):
    from featprobe import datasets

    monkeypatch.setattr(datasets, "DECODER_NUMERICS", 77)
    refused = quick_featprobe("predict", "--model", model, "--data", image_folder)
    assert refused.returncode == 2
    assert "can't be reproduced by this version; numerics decoder: " in refused.stderr
    assert "here 77" in refused.stderr
    assert not (tmp_path / "predictions.csv").exists()


def test_onnx_alone_and_with_its_backbone(quick_featprobe, model, image_folder, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    from PIL import Image

    from featprobe.loading.inputs import fitted as fitted_to
    from featprobe.records import Preprocessing

    saved, table = read_model(model), cached(tmp_path)
    alone = quick_featprobe("models", "export", "--model", model, "--onnx", "probe.onnx")
    assert alone.returncode == 0, alone.stderr
    session = onnxruntime.InferenceSession(tmp_path / "probe.onnx")
    (scores,) = session.run(None, {"embedding": table.embeddings})
    np.testing.assert_allclose(scores, saved.fitted.predict(table.embeddings), atol=1e-9)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["label_names"]) == ["benign", "malignant"]

    whole = quick_featprobe("models", "export", "--model", model, "--onnx", "whole.onnx", "--with-backbone")
    assert whole.returncode == 0, whole.stderr
    session = onnxruntime.InferenceSession(tmp_path / "whole.onnx")
    rule = Preprocessing.from_dict(json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"]))
    files = [image_folder.parent / path for path in table.samples.path[:5]]
    images = [np.asarray(fitted_to(Image.open(file).convert("RGB"), rule)) for file in files]
    (scores,) = session.run(None, {"pixels": np.stack(images).transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(scores, saved.fitted.predict(table.embeddings[:5]), atol=1e-5)

    other = tmp_path / str(model).replace("logistic", "svm")
    assert quick_featprobe("models", "export", "--model", other, "--onnx", "svm.onnx").returncode == 0
    (scores,) = onnxruntime.InferenceSession(tmp_path / "svm.onnx").run(None, {"embedding": table.embeddings})
    np.testing.assert_allclose(scores, read_model(other).fitted.predict(table.embeddings), atol=1e-9)

    knn = quick_featprobe(
        "models", "export", "--model", str(model).replace("logistic", "knn"), "--onnx", "knn.onnx"
    )
    assert knn.returncode == 2
    assert "can't be written as ONNX" in knn.stderr
    assert not (tmp_path / "knn.onnx").exists()


def test_views_layers_half_precision_and_a_modality_are_done_again(quick_featprobe, manifest, tmp_path):
    frame = pd.read_csv(manifest)
    frame["modality"] = np.where(np.arange(len(frame)) % 2, "T1", "T2")
    frame["age"] = 40 + 10.0 * (frame.pop("label") == "benign") + np.arange(len(frame)) % 5
    frame.to_csv(tmp_path / "ages.csv", index=False)
    flags = ("--backbone", "resnet18", "--weights", "random", "--image-size", "32", "--fit", "crop")
    flags = (*flags, "--layer", "layer3", "--tta", "hflip", "--storage", "float16", "--intensity", "minmax")
    done = quick_featprobe(
        "extract", "--data", "ages.csv", "--label-column", "age", "--target", "continuous", *flags
    )
    assert done.returncode == 0, done.stderr
    done = quick_featprobe("probe", "--models", "--level", "image", "--resamples", "50", "--folds", "3")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results/models").glob("*-T1-ridge.skops")
    assert path.name == "ages-resnet18-random-layer3-gap-T1-ridge.skops"
    done = quick_featprobe("predict", "--model", path, "--data", "ages.csv", "--path-column", "path")
    assert done.returncode == 0, done.stderr
    assert "24 images of other modalities than T1 are left out" in done.stdout
    scored = pd.read_csv(tmp_path / "predictions.csv")
    assert list(scored.columns) == ["id", "path", "predicted", "y_score_age"]
    store = Cache(tmp_path / "cache")
    (entry,) = store.entries()
    table = store.read(entry.path, "layer3/gap")
    own = table.samples.modality == "T1"
    assert scored["id"].tolist() == table.samples.id[own].tolist()
    wanted = read_model(path).fitted.predict(table.embeddings[own])[:, 0]
    np.testing.assert_allclose(
        scored["predicted"], wanted, rtol=1e-3
    )  # float16 rounds other batches otherwise
    refused = quick_featprobe("models", "export", "--model", path, "--onnx", "x.onnx", "--with-backbone")
    assert "one view of a flat image in fp32 can" in refused.stderr
