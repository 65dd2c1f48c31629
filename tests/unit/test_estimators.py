"""featprobe's parts in scikit-learn's hands: probes with groups and labels, and images of every kind as embeddings."""

from __future__ import annotations

import doctest
import pickle

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from featprobe import LogisticPath, SVMPath
from featprobe.cache import Cache
from featprobe.config import ExtractConfig
from featprobe.errors import FeatprobeError
from featprobe.estimators import (
    FeatureExtractor,
    LinearProbe,
    ProbeClassifier,
    ProbeRegressor,
    classifiers,
    memo,
)
from featprobe.estimators.faults import EstimatorError
from featprobe.estimators.memo import MEMO, Memo
from featprobe.estimators.parts import inner_parts
from featprobe.probes import fit_probe
from featprobe.stages import embedding
from featprobe.stages.extract import extract


def data(rows=60, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.arange(rows) % classes
    return rng.standard_normal((rows, 6)) + 2.0 * np.eye(classes, 6)[codes], codes


class TestProbes:
    def test_is_the_probe_of_the_same_inner_folds(self):
        X, y = data()
        names = np.array(["ant", "bee", "cow"])[y]
        groups = np.repeat(np.arange(20), 3)
        fitted = LinearProbe(seed=3).fit(X, names, groups=groups)
        parts, _ = inner_parts(y, groups, task="classes", names=("ant", "bee", "cow"), folds=5, seed=3)
        for fit, held in parts:
            assert not set(groups[fit]) & set(groups[held])
        own = fit_probe("logistic", X, y, n_classes=3, selection=parts, calibration=parts, seed=3)
        np.testing.assert_array_equal(fitted.predict_proba(X), own.predict(X))
        assert fitted.chosen_ == dict(own.chosen)
        assert fitted.predict(X[:3]).tolist() == ["ant", "bee", "cow"]
        np.testing.assert_array_equal(
            fitted.decision_function(X).argmax(axis=1), own.predict(X).argmax(axis=1)
        )

    def test_few_members_make_few_folds_and_one_member_is_said(self):
        X, y = data(30)
        y[:] = 0
        y[10:20], y[20:23], y[29] = 1, 2, 3
        parts, notes = inner_parts(y, None, task="classes", names="0123", folds=5, seed=0)
        assert len(parts) == 3
        assert all(29 in fit and 29 not in held for fit, held in parts)
        assert "'3'" in notes[0]
        fitted = LinearProbe().fit(X, y)
        assert fitted.notes_[0] == notes[0]
        assert fitted.predict_proba(X).shape == (30, 4)

    @pytest.mark.parametrize(
        ("y", "words"),
        [
            ([0] * 9 + [1], "fewer than two classes have two members"),
            ([0] * 10, "one class"),
            ([0.5] * 5 + [0.25] * 5, "continuous"),
        ],
    )
    def test_refuses_what_c_cannot_be_chosen_on(self, y, words):
        X, _ = data(10)
        with pytest.raises(ValueError, match=words):
            LinearProbe().fit(X, y)

    def test_errors_are_scikit_learns_kind_and_our_words(self):
        X, y = data()
        for estimator, words in (
            (LinearProbe("knn"), "no linear probe"),
            (ProbeClassifier("logistik"), "did you mean logistic"),
            (ProbeClassifier("ridge"), "can't be fitted"),
            (ProbeClassifier(task="continuous"), "use ProbeRegressor"),
            (ProbeClassifier(calibrate="yes"), "calibrate is 'yes'"),
            (ProbeClassifier(inner_folds=1), "inner_folds is 1"),
        ):
            with pytest.raises(EstimatorError, match=words) as caught:
                estimator.fit(X, y)
            assert isinstance(caught.value, ValueError)
            assert isinstance(caught.value, FeatprobeError)
        with pytest.raises(EstimatorError, match=r"groups of shape \(3,\)"):
            LinearProbe().fit(X, y, groups=[1, 2, 3])

    def test_several_labels_with_missing_ones(self):
        X, _ = data()
        y = (X[:, :2] > 0.5).astype(float)
        y[3, 0] = np.nan
        fitted = ProbeClassifier().fit(X, y)
        assert fitted.predict_proba(X).shape == fitted.predict(X).shape == (60, 2)
        assert set(fitted.chosen_) == {"C of 0", "C of 1"}
        assert (fitted.predict(X) == y)[np.isfinite(y)].mean() > 0.9
        with pytest.raises(EstimatorError, match="other than 0, 1"):
            ProbeClassifier().fit(X, y + 2)

    @pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
    def test_calibration_is_out_of_fold_and_by_group(self, method):
        X, y = data(120)
        groups = np.repeat(np.arange(40), 3)
        plain = LinearProbe().fit(X, y, groups=groups)
        other = LinearProbe(calibrate=method).fit(X, y, groups=groups)
        found = other.predict_proba(X)
        np.testing.assert_allclose(found.sum(axis=1), 1)
        assert (found != plain.predict_proba(X)).any()
        assert other.score(X, y) > 0.8
        splits = other.calibrated_.cv
        assert all(not set(groups[fit]) & set(groups[held]) for fit, held in splits)

    def test_a_regressor_and_ordered_classes(self):
        X, y = data()
        values = X @ np.arange(6) + 1
        assert ProbeRegressor().fit(X, values).score(X, values) > 0.99
        assert ProbeClassifier("ordinal", task="ordinal").fit(X, y).fitted_.task == "ordinal"

    def test_the_example_of_the_docstring(self):
        assert doctest.testmod(classifiers).failed == 0


@pytest.fixture
def images(image_folder, monkeypatch):
    """Paths of 24 images, without downloads; nothing is known of them yet."""
    monkeypatch.setenv("FEATPROBE_OFFLINE", "1")
    MEMO.clear()
    return sorted(image_folder.glob("*/*.png"))[12:36]


@pytest.fixture
def extractor():
    return FeatureExtractor("efficientnet_lite0", image_size=32)


@pytest.fixture
def forwarded(monkeypatch):
    """How many images went through a backbone, call by call."""
    counts = []
    real = embedding.embedded

    def counted(images, rows, *rest, **options):
        counts.append(len(rows))
        return real(images, rows, *rest, **options)

    monkeypatch.setattr(embedding, "embedded", counted)
    return counts


class TestFeatureExtractor:
    @pytest.mark.usefixtures("images")
    def test_is_what_extract_caches_to_the_last_bit(self, image_folder, tmp_path):
        extract(
            ExtractConfig(
                data=(str(image_folder),),
                backbone=("resnet18",),
                weights=("random",),
                layer=("layer3",),
                image_size=(32,),
                cache=tmp_path / "cache",
                batch_size=16,
            )
        )
        (entry,) = Cache(tmp_path / "cache").entries()
        table = Cache(tmp_path / "cache").read(entry.path, entry.poolings[0])
        paths = [image_folder / path for path in table.samples.path]
        own = FeatureExtractor("resnet18", weights="random", layer="layer3", image_size=32, batch_size=16)
        found = own.fit_transform(paths)
        assert found.dtype == table.embeddings.dtype
        np.testing.assert_array_equal(found, table.embeddings)
        assert own.recipe_.images_free == entry.recipe.images_free
        assert own.key_ == entry.poolings[0]

    def test_paths_and_pixels_in_every_form_are_the_same(self, images, extractor):
        images = images[10:14]
        wanted = extractor.fit(images).transform(images)
        pixels = [np.asarray(Image.open(path)) for path in images]
        forms = [
            [str(path) for path in images],
            np.array([str(path) for path in images]),
            pd.Series([str(path) for path in images]),
            pd.DataFrame({"path": [str(path) for path in images]}),
            pixels,
            np.stack(pixels),
            [Image.open(path) for path in images],
        ]
        for form in forms:
            MEMO.clear()
            np.testing.assert_array_equal(extractor.transform(form), wanted)

    @pytest.mark.usefixtures("images")
    def test_grey_images_of_any_size(self, extractor):
        rng = np.random.default_rng(0)
        grey = [rng.integers(0, 256, sides).astype(np.uint8) for sides in ((8, 8), (40, 20), (9, 70))]
        found = extractor.fit(grey).transform(grey)
        colour = [np.repeat(image[:, :, None], 3, axis=2) for image in grey]
        MEMO.clear()
        np.testing.assert_array_equal(found, extractor.transform(colour))
        MEMO.clear()
        twice = extractor.transform(np.stack([grey[0], grey[0]]))
        np.testing.assert_array_equal(twice[0], twice[1])
        # A batch of another size is summed in another order: far below what any probe could tell apart.
        assert np.linalg.norm(twice[0] - found[0]) < 1e-4 * np.linalg.norm(found[0])

    def test_a_pipeline_runs_the_backbone_once_for_all_folds(self, images, extractor, forwarded):
        y = np.repeat([0, 1], 12)
        groups = np.repeat(np.arange(12), 2)
        pipeline = make_pipeline(extractor, LinearProbe(inner_folds=2))
        scores = cross_val_score(pipeline, np.array(images, dtype=object), y, cv=GroupKFold(3), groups=groups)
        assert len(scores) == 3
        assert sum(forwarded) == len(images)
        again = clone(pipeline).set_params(featureextractor__image_size=64)
        again.fit(images, y)
        assert sum(forwarded) == 2 * len(images)
        assert again.predict(images[:3]).shape == (3,)

    def test_the_folder_serves_another_process(self, images, extractor, forwarded, tmp_path):
        extractor.set_params(cache=tmp_path / "memo")
        first = extractor.fit(images).transform(images)
        MEMO.clear()
        again = pickle.loads(pickle.dumps(extractor))  # noqa: S301 - made on this line, as joblib does it
        np.testing.assert_array_equal(again.transform(images[::-1]), first[::-1])
        assert forwarded == [len(images)]
        MEMO.clear()
        (path,) = (tmp_path / "memo").rglob("*.npz")
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(EstimatorError, match="is damaged"):
            again.transform(images)

    def test_pandas_names_and_pickling_before_fit(self, images, extractor):
        whole = pickle.loads(pickle.dumps(extractor)).set_output(transform="pandas")  # noqa: S301 - see above
        frame = whole.fit_transform(pd.Series([str(path) for path in images[:3]], index=[5, 6, 7]))
        assert frame.shape == (3, 1280)
        assert frame.columns[1] == "efficientnet_lite0_1"
        assert frame.index.tolist() == [5, 6, 7]

    def test_refuses_what_is_no_image(self, images, extractor, tmp_path):
        extractor.fit(images)
        for X, words in (
            ("a.png", "X is one str"),
            ([], "there is no image"),
            (np.zeros((3, 64)), "flattened images"),
            ([np.zeros((4, 4))], "float64"),
            ([Image.new("I;16", (4, 4))], "more than 8 bits"),
            ([tmp_path / "gone.png"], "there is no image .*gone.png"),
        ):
            with pytest.raises(EstimatorError, match=words):
                extractor.transform(X)
        (tmp_path / "broken.png").write_bytes(b"no image")
        with pytest.raises(EstimatorError, match=r"1 of 2 images can't be read; the first is .*broken.png"):
            extractor.transform([images[0], tmp_path / "broken.png"])

    def test_refuses_parameters_as_extract_does(self, images):
        for parameters, words in (
            ({"backbone": "efficientnet_lite"}, "unknown backbone"),
            ({"weights": "gone.pth"}, "there are no weights"),
            ({"pooling": "patches"}, "patches"),
            ({"pooling": "clss"}, "did you mean cls"),
            ({"precision": "fp8"}, "precision is 'fp8'"),
            ({"preprocessing": "mine"}, "preprocessing is 'mine'"),
            ({"backbone": "dinov2_vits14"}, "offline|OFFLINE"),
        ):
            with pytest.raises(EstimatorError, match=words):
                FeatureExtractor(**({"backbone": "efficientnet_lite0"} | parameters)).fit(images)

    def test_weights_that_changed_since_fit_are_refused(self, images, tmp_path):
        import torch
        from safetensors.torch import save_file

        from featprobe import backbones

        state = backbones.load("resnet18", weights="random").model.state_dict()
        tensors = {name: value.clone() for name, value in state.items()}
        save_file(tensors, tmp_path / "w.safetensors")
        own = FeatureExtractor("resnet18", weights=str(tmp_path / "w.safetensors"), image_size=32)
        own.fit(images)
        tensors["conv1.weight"] += torch.ones(1)
        save_file(tensors, tmp_path / "w.safetensors")
        with pytest.raises(EstimatorError, match="have changed since fit"):
            own.transform(images)


def test_the_memo_forgets_the_longest_unused():
    rows = Memo(most_bytes=3 * 16)
    rows.put("k", {name: np.zeros(4, dtype=np.float32) for name in "abc"})
    rows.get("k", ["a"])
    rows.put("k", {"d": np.ones(4, dtype=np.float32)})
    assert set(rows.get("k", list("abcd"))) == {"a", "c", "d"}
    assert not rows.get("other", ["a"])
    rows.put("k", {"d": np.ones(4, dtype=np.float32)})
    assert set(rows.get("k", list("abcd"))) == {"a", "c", "d"}


def test_files_of_the_memo_are_whole_or_not_there(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(memo.Path, "replace", broken)
    with pytest.raises(FeatprobeError, match="No space left"):
        memo.write_rows(tmp_path, "key", {"a": np.zeros(2)})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(value):
    X, y = data()
    bad = X.copy()
    bad[[3, 9], 1] = value
    for model, target in (
        (LinearProbe(), y),
        (ProbeClassifier("knn"), y),
        (ProbeRegressor(), X[:, 0]),
        (LogisticPath(Cs=[1.0]), y),
        (SVMPath(Cs=[1.0]), y),
    ):
        with pytest.raises(ValueError, match=r"^2 of 60 .*(NaN|infinity).*; rows 3, 9; "):
            model.fit(bad, target)
        with pytest.raises(ValueError, match=r"^2 of 60 .*; rows 3, 9; "):
            model.fit(X, target).predict(bad)
