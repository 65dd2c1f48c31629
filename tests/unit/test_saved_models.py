"""A model file gives back what was saved, on any later day, or says in one line why it does not."""

from __future__ import annotations

import json
import pickle
import types
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest
import skops.io
from sklearn.preprocessing import FunctionTransformer

from featprobe.errors import OutputError
from featprobe.probes import FittedProbe
from featprobe.probes.logistic import LogisticModel
from featprobe.records import RunKey
from featprobe.stages import model_files
from featprobe.stages.model_files import HEADER, ModelError, read_header, read_model, write_model
from featprobe.stages.models import _deployable, _paths, holds_rows
from featprobe.stages.predict import _predicted, differences
from featprobe.stages.systems import SHUFFLED


def probe(model=None):
    rng = np.random.default_rng(0)
    model = model or LogisticModel(rng.standard_normal((3, 5)), rng.standard_normal(3))
    return FittedProbe(
        name="logistic",
        n_classes=4,
        n_features=5,
        classes=np.array([0, 1, 3]),
        model=model,
        chosen={"C": 0.1},
        scores={0.1: -0.5, 1.0: float("nan")},
        notes=("a note",),
    )


@pytest.fixture
def path(tmp_path):
    write_model(tmp_path / "models" / "m.skops", probe(), {"probe": "logistic", "label_names": list("abcd")})
    return tmp_path / "models" / "m.skops"


def with_header(path, **changes):
    """The same file with another header beside its content."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[HEADER] = json.dumps({**json.loads(members[HEADER]), **changes}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_all_of_a_probe_comes_back(path):
    saved, before = read_model(path), probe()
    X = np.random.default_rng(1).standard_normal((7, 5))
    np.testing.assert_array_equal(saved.fitted.predict(X), before.predict(X))
    assert saved.fitted.chosen == {"C": 0.1}
    assert list(saved.fitted.scores) == [0.1, 1.0]
    assert saved.fitted.notes == ("a note",)
    assert saved.header["label_names"] == list("abcd")
    assert saved.header["format"] == model_files.FORMAT
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read(HEADER))["probe"] == "logistic"
        assert not [name for name in archive.namelist() if name.endswith((".pkl", ".pickle"))]


def test_another_format_names_both_versions_and_what_to_type(path):
    with_header(path, format=99, featprobe="7.0.1")
    for read in (read_header, read_model):
        with pytest.raises(ModelError) as caught:
            read(path)
        for words in ("featprobe 7.0.1", "format 99", "reads format 1", "pip install featprobe==7.0.1"):
            assert words in str(caught.value)


def test_another_version_of_the_same_format_is_read(path, monkeypatch):
    monkeypatch.setattr(model_files, "__version__", "8.0.0")
    assert read_model(path).header["featprobe"] != "8.0.0"


def test_a_header_of_another_file_is_refused(path):
    with_header(path, label_names=list("dcba"))
    with pytest.raises(ModelError, match="do not belong together"):
        read_model(path)


def test_what_is_no_model_file_is_said(tmp_path, path):
    with pytest.raises(ModelError, match="there is no model"):
        read_model(tmp_path / "gone.skops")
    (tmp_path / "p.skops").write_bytes(pickle.dumps(probe().classes))
    with pytest.raises(ModelError, match="no model that featprobe saved"):
        read_model(tmp_path / "p.skops")
    (tmp_path / "other.skops").write_bytes(skops.io.dumps([1, 2]))
    with pytest.raises(ModelError, match="no model that featprobe saved"):
        read_model(tmp_path / "other.skops")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError):
        read_model(path)


def crafted(path, fitted):
    """A file of ours but for its content."""
    header = read_header(path)
    document = {"header": model_files.canonical_json(header), "fitted": fitted, "check": np.zeros((4, 4))}
    path.write_bytes(skops.io.dumps(document))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(HEADER, json.dumps(header))


def test_strange_types_are_named_and_never_built(path, monkeypatch):
    import os

    monkeypatch.setattr(skops.io, "loads", lambda *_, **__: pytest.fail("it was built"))
    crafted(path, {"kind": "estimator", "value": FunctionTransformer(func=os.system)})
    with pytest.raises(ModelError, match=r"not trusted: .*system"):
        read_model(path)
    crafted(path, types.SimpleNamespace())
    with pytest.raises(ModelError, match=r"not trusted: types\.SimpleNamespace"):
        read_model(path)


@pytest.mark.parametrize(
    ("of", "fields", "words"),
    [
        ("subprocess:Popen", {}, "does not know"),
        ("featprobe.config:ProbeConfig", {}, "does not know"),
        ("featprobe.probes.logistic:np", {}, "does not know"),
        ("featprobe.probes.logistic:LogisticModel", {"coef": 1, "intercept": 2, "more": 3}, "fields .*more"),
        ("featprobe.probes.logistic:LogisticModel", {"coef": 1}, "lacks intercept"),
    ],
)
def test_records_of_other_homes_and_other_fields_are_refused(path, of, fields, words):
    crafted(path, {"kind": "record", "of": of, "fields": fields})
    with pytest.raises(ModelError, match=words):
        read_model(path)


def test_a_probe_of_fields_that_can_not_be_computed_with_is_refused(path):
    fields = dict.fromkeys(("name", "classes", "model", "chosen", "scores", "notes"), "x")
    fields |= {"n_classes": 3, "n_features": 4}
    crafted(path, {"kind": "record", "of": "featprobe.probes.contract:FittedProbe", "fields": fields})
    with pytest.raises(ModelError, match="can't be read by featprobe"):
        read_model(path)


def test_a_model_that_computes_otherwise_here_is_refused(path, monkeypatch):
    monkeypatch.setattr(LogisticModel, "predict", lambda _, X: np.full((len(X), 3), 1 / 3))
    with pytest.raises(ModelError, match=r"other predictions here .* other versions are: none"):
        read_model(path)


@dataclass(frozen=True)
class Foreign:
    """A record that is no featprobe's."""

    coef: np.ndarray

    def predict(self, X):
        return np.tile(self.coef, (len(X), 1))


@pytest.mark.parametrize("model", [Foreign(np.ones(3) / 3), LogisticModel(np.zeros((3, 5)), lambda: None)])
def test_what_cannot_be_saved_leaves_no_file(tmp_path, model, monkeypatch):
    monkeypatch.setattr(FittedProbe, "predict", lambda _, X: np.zeros((len(X), 4)))
    with pytest.raises(ModelError, match="can't be saved"):
        write_model(tmp_path / "m.skops", probe(model), {})
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_whole_or_not_at_all(path, monkeypatch):
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_files.Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_model(path, probe(), {"probe": "other"})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_models_that_hold_a_row_of_each_training_image_are_known():
    inside = types.SimpleNamespace(support=np.zeros((60, 5)))
    assert holds_rows(probe(LogisticModel(np.zeros((60, 5)), np.zeros(3))).model, 60)
    assert holds_rows([inside], 60)
    assert not holds_rows(probe().model, 60)


def unit(**changes):
    key = RunKey(
        dataset="d", backbone="b", weights="pretrained", mode="frozen", pooling="cls", preprocessing="p",
        probe="logistic", fingerprint="f" * 64,
    )  # fmt: skip
    key = RunKey(**{**key.to_dict(), **changes})
    table = types.SimpleNamespace(entries=(1,), fingerprint=key.fingerprint)
    protocol = types.SimpleNamespace(head="")
    return types.SimpleNamespace(key=key, table=table, tables=(table,), protocol=protocol)


def test_names_say_what_differs_and_never_clash(tmp_path):
    units = [
        unit(),
        unit(weights="random", layer="blocks.5"),
        unit(backbone="hf:a/b", inputs="T1"),
        unit(protocol="dinov2-knn", probe="knn"),
        unit(pooling="mean", fingerprint="a" * 64),
        unit(pooling="mean", fingerprint="c" * 64),
    ]
    names = [path.name.removesuffix(".skops") for path in _paths(tmp_path, units)]
    assert names == [
        "d-b-cls-logistic",
        "d-b-random-blocks.5-cls-logistic",
        "d-hf_a_b-cls-T1-logistic",
        "d-b-cls-knn-dinov2-knn",
        "d-b-mean-logistic-aaaaaaaaaaaa",
        "d-b-mean-logistic-cccccccccccc",
    ]


def test_only_whole_frozen_images_have_a_model():
    assert _deployable(unit(), 0)
    for other in ({"fraction": 0.5}, {"shots": 4}, {"level": "case"}, {"seed": 1}, {"mode": SHUFFLED}):
        assert not _deployable(unit(**other), 0)


def test_differences_are_named_field_by_field():
    wanted = {
        "images": "1",
        "storage": "float32",
        "numerics": {"decoder": 2, "prints": 1},
        "preprocessing": {"fit": "crop"},
    }
    now = {
        "images": "2",
        "storage": "float32",
        "numerics": {"decoder": 3, "prints": 2},
        "preprocessing": {"fit": "pad"},
    }
    assert differences(wanted, now) == ["numerics decoder: 2, here 3", "preprocessing fit: crop, here pad"]
    assert not differences(wanted, {**wanted, "images": "3"})


def test_predictions_in_words_by_target():
    scores = np.array([[0.2, 0.8], [0.6, 0.6]])
    assert _predicted("classes", ["a", "b"], scores) == ["b", "a"]
    assert _predicted("multilabel", ["a", "b"], scores) == ["b", "a|b"]
    assert _predicted("continuous", ["age"], scores[:, :1]) == [0.2, 0.6]
