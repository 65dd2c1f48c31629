"""The joints between the rooms: names from the command line, names of systems, sentences, maps."""

from __future__ import annotations

import builtins
import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from featprobe.config import CompareConfig, ExtractConfig
from featprobe.errors import ConfigError, MissingExtraError, SplitError
from featprobe.imaging import THUMBNAIL_SIDE
from featprobe.records import KEY_COLUMNS, EmbeddingTable, Preprocessing, Recipe, RunKey, Samples
from featprobe.stages import evaluation, maps
from featprobe.stages.families import by_family
from featprobe.stages.findings import _contrasts, _order, findings
from featprobe.stages.leak_pairs import leak_pairs
from featprobe.stages.sources import BackboneRun, absolute_spec, backbone_runs
from featprobe.stages.systems import add_systems

KEY = RunKey(
    dataset="d",
    backbone="resnet18",
    weights="pretrained",
    mode="frozen",
    pooling="gap",
    preprocessing="p",
    probe="logistic",
    fingerprint="a" * 64,
)


class TestBackboneRuns:
    def test_the_default_is_pretrained(self):
        assert backbone_runs(ExtractConfig(backbone=("a", "b"))) == [
            BackboneRun("a", "pretrained"),
            BackboneRun("b", "pretrained"),
        ]

    def test_a_named_value_wins_over_a_plain_one_and_several_are_several_runs(self):
        config = ExtractConfig(backbone=("a", "b"), weights=("random", "b=pretrained", "b=random"))
        assert backbone_runs(config) == [
            BackboneRun("a", "random"),
            BackboneRun("b", "pretrained"),
            BackboneRun("b", "random"),
        ]

    def test_a_name_that_is_no_backbone_is_refused(self):
        with pytest.raises(ConfigError, match="resnet81"):
            backbone_runs(ExtractConfig(backbone=("resnet18",), weights=("resnet81=random",)))

    def test_a_file_that_is_not_there_is_refused(self):
        with pytest.raises(ConfigError, match=r"lost\.pth"):
            backbone_runs(ExtractConfig(backbone=("resnet18",), weights=("lost.pth",)))

    def test_a_file_with_an_equals_sign_is_a_file(self, tmp_path):
        file = tmp_path / "epoch=3.pth"
        file.touch()
        assert backbone_runs(ExtractConfig(backbone=("a",), weights=(str(file),))) == [
            BackboneRun("a", str(file))
        ]


def test_a_spec_opens_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "labels.csv").touch()
    assert absolute_spec("digits") == "digits"
    assert absolute_spec("medmnist:path") == "medmnist:path"
    assert absolute_spec("labels.csv") == str(tmp_path / "labels.csv")
    assert absolute_spec("A=labels.csv") == f"A={tmp_path / 'labels.csv'}"


class TestSystems:
    @staticmethod
    def names(*keys):
        (frame,) = add_systems(pd.DataFrame([key.to_dict() for key in keys]))
        return frame.system.tolist()

    def test_only_what_tells_apart_is_said(self):
        other = dataclasses.replace(KEY, weights="random", fingerprint="b" * 64)
        assert self.names(KEY, other) == ["resnet18 · frozen logistic", "resnet18 (random) · frozen logistic"]

    def test_poolings_are_named_where_there_are_two(self):
        assert self.names(KEY, dataclasses.replace(KEY, pooling="pre_logits"))[1].endswith("pre_logits")

    def test_a_clash_is_told_apart_by_the_fingerprint(self):
        names = self.names(KEY, dataclasses.replace(KEY, fingerprint="b" * 64))
        assert names == ["resnet18 · frozen logistic #aaaaaa", "resnet18 · frozen logistic #bbbbbb"]

    def test_what_travels_with_a_frame_stays(self):
        frame = pd.DataFrame([KEY.to_dict()])
        frame.attrs["classes"] = {"d": ("b", "a")}
        assert add_systems(frame)[0].attrs == {"classes": {"d": ("b", "a")}}

    def test_folds_of_one_model_are_one_system(self):
        assert len(set(self.names(KEY, dataclasses.replace(KEY, fold="0")))) == 1


def report_frames(p_adjusted):
    """Estimates, pairs and standings of a pretrained, a random and a trained system."""
    systems = {
        "given": dataclasses.replace(KEY, fold="test"),
        "control": dataclasses.replace(KEY, weights="random"),
        "trained": dataclasses.replace(KEY, mode="full", probe="linear-head"),
    }
    value = {"given": 0.9, "control": 0.7, "trained": 0.88}
    estimates = pd.DataFrame(
        [
            {
                **key.to_dict(),
                "system": name,
                "metric": "accuracy",
                "value": value[name],
                "ci_low": 0.6,
                "ci_high": 0.95,
            }
            for name, key in systems.items()
        ]
    )
    pairs = pd.DataFrame(
        [
            {
                "dataset": "d",
                "a": a,
                "b": b,
                "difference": value[a] - value[b],
                "ci_low": 0.01,
                "ci_high": 0.3,
                "p_adjusted": p,
            }
            for (a, b), p in p_adjusted.items()
        ]
    )
    best = pd.DataFrame(
        {
            "dataset": "d",
            "system": list(value),
            "value": list(value.values()),
            "in_best_set": [True, False, True],
        }
    )
    return estimates, pairs, best


def test_findings_state_order_best_set_and_contrasts_with_their_sign():
    frames = report_frames(
        {("control", "given"): 0.001, ("given", "trained"): 0.6, ("control", "trained"): 0.01}
    )
    sentences = findings("accuracy", *frames)
    assert sentences[0].startswith("Accuracy, highest first: given 0.900 [0.600, 0.950]; trained 0.880")
    assert "given can't be told apart from trained" in sentences[1]
    canary = next(sentence for sentence in sentences if sentence.startswith("Given weights less random"))
    assert "given minus control: +0.200 [-0.300, -0.010]" in canary
    assert canary.endswith("a real difference.")
    unfrozen = next(sentence for sentence in sentences if sentence.startswith("Trained less frozen"))
    assert "trained minus given: -0.020" in unfrozen
    assert unfrozen.endswith("can't be told apart.")


def test_what_can_not_be_tested_is_no_tie():
    frames = report_frames(
        {("control", "given"): np.nan, ("given", "trained"): np.nan, ("control", "trained"): np.nan}
    )
    frames[1]["method"] = "undefined: 1 group in the test rows"
    sentences = findings("accuracy", *frames)
    assert sentences[1] == "No difference can be tested: undefined: 1 group in the test rows."
    assert all(
        sentence.endswith("not tested, undefined: 1 group in the test rows.") for sentence in sentences[2:]
    )


def test_only_systems_that_were_judged_on_the_same_rows_are_rivals():
    keys = [
        KEY,
        dataclasses.replace(KEY, inputs="T1"),
        dataclasses.replace(KEY, inputs="T1", level="case", fusion="mean"),
        dataclasses.replace(KEY, seed=1),
        dataclasses.replace(KEY, protocol="featprobe holdout 20 %"),
        dataclasses.replace(KEY, fraction=0.1),
    ]
    frame = pd.DataFrame([key.to_dict() for key in keys])
    named, _ = by_family(frame, frame)
    assert named["dataset"].tolist() == [
        "d, seed 0",
        "d, T1 alone, seed 0",
        "d, seed 0",
        "d, seed 1",
        "d, holdout 20 %, seed 0",
        "d, 10% of labels, seed 0",
    ]


def test_of_many_systems_the_first_sentence_names_the_first_and_the_last():
    names = [f"s{i}" for i in range(9)]
    rows = pd.DataFrame({"value": np.linspace(0.9, 0.1, 9), "ci_low": 0.0, "ci_high": 1.0}, index=names)
    sentence = _order("accuracy", rows, names)
    assert "s0 0.900" in sentence
    assert "5 others; last s8 0.100" in sentence
    assert "s4" not in sentence


def embedding_table(rows=12):
    rng = np.random.default_rng(0)
    samples = Samples.build(
        path=[f"{i}.png" for i in range(rows)], label=np.arange(rows) % 2, label_names=("a", "b")
    )
    rule = Preprocessing((32, 32), "squash", None, "bicubic", (0.5,) * 3, (0.5,) * 3)
    recipe = Recipe("0" * 64, "resnet18", "resnet18", "1" * 64, rule)
    return EmbeddingTable(
        "d", samples, rng.normal(size=(rows, 5)).astype(np.float32), "gap", recipe, "random"
    )


class TestMaps:
    def test_pca_is_the_projection_with_the_largest_variance(self):
        table = embedding_table()
        made = maps._map(table, CompareConfig())
        centred = table.embeddings - table.embeddings.mean(axis=0)
        singular = np.linalg.svd(centred, compute_uv=False)
        np.testing.assert_allclose((made.xy**2).sum(axis=0), singular[:2] ** 2, rtol=1e-4)
        assert "PCA" in made.method

    def test_umap_without_its_package_names_the_extra(self, monkeypatch):
        real = builtins.__import__

        def without_umap(name, *arguments, **options):
            if name == "umap":
                raise ImportError(name)
            return real(name, *arguments, **options)

        monkeypatch.setattr(builtins, "__import__", without_umap)
        with pytest.raises(MissingExtraError, match=r"featprobe\[umap\]"):
            maps._map(embedding_table(), CompareConfig(map="umap"))


class TestQuestion:
    @staticmethod
    def samples(**changes):
        count = 60
        values = {
            "path": [f"{i:02d}.png" for i in range(count)],
            "label": np.arange(count) % 2,
            "label_names": ("a", "b"),
            "group": [f"p{i // 2}" for i in range(count)],
        }
        return Samples.build(**{**values, **changes})

    def test_copies_join_the_group_of_their_original(self):
        from featprobe.config import ProbeConfig
        from featprobe.records import texts

        made = self.samples()
        hashes = [f"{i:064x}" for i in range(60)]
        hashes[59] = hashes[0]
        asked = evaluation.question("d", made.replace(sha256=texts(hashes)), ProbeConfig())
        group = dict(zip(asked.samples.id.tolist(), asked.samples.group.tolist(), strict=True))
        assert group["00.png"] == group["59.png"] == group["58.png"]
        assert any("joined the group of a copy" in note for note in asked.notes)

    def test_the_unit_changes_with_everything_that_decides_it(self):
        from featprobe.config import ProbeConfig

        base = evaluation.question("d", self.samples(), ProbeConfig())
        relabelled = self.samples(label=(np.arange(60) + 1) % 2)
        regrouped = self.samples(group=[f"p{i // 4}" for i in range(60)])
        others = [
            evaluation.question("d", relabelled, ProbeConfig()).unit("f", probe="svm"),
            evaluation.question("d", regrouped, ProbeConfig()).unit("f", probe="svm"),
            evaluation.question("d", self.samples(), ProbeConfig(seed=1)).unit("f", probe="svm"),
            evaluation.question("d", self.samples(), ProbeConfig(folds=3)).unit("f", probe="svm"),
            evaluation.question("d", self.samples(), ProbeConfig(resamples=77)).unit("f", probe="svm"),
            base.unit("g", probe="svm"),
            base.unit("f", probe="logistic"),
        ]
        units = {base.unit("f", probe="svm"), *others}
        assert len(units) == len(others) + 1
        again = evaluation.question("d", self.samples(), ProbeConfig())
        assert again.unit("f", probe="svm") == base.unit("f", probe="svm")

    def test_unlabelled_samples_are_refused(self):
        from featprobe.config import ProbeConfig

        with pytest.raises(SplitError, match="no labels"):
            evaluation.question("d", self.samples(label=np.full(60, -1), label_names=()), ProbeConfig())


def test_key_columns_are_the_run_keys_fields():
    assert sorted(KEY_COLUMNS) == sorted(field.name for field in dataclasses.fields(RunKey))


class TestLeakPairs:
    class Shelf:
        """Two data sets of the same images and recipe, of which `judged` alone was evaluated."""

        def __init__(self, samples):
            self.samples = samples
            recipe = SimpleNamespace(fingerprint="f")
            self.entries = [
                SimpleNamespace(dataset=name, recipe=recipe, path=name) for name in ("other", "judged")
            ]

        def current(self):
            return self.entries

        def read_samples(self, path):
            assert path == "judged"
            return self.samples

    def test_the_pairs_are_of_the_data_sets_that_were_judged(self):
        side = THUMBNAIL_SIDE**2
        samples = Samples.build(
            path=["0.png", "1.png", "2.png"],
            label=[0, 1, 1],
            label_names=("a", "b"),
            group=["p", "q", "p"],
            split=["train", "train", "test"],
        ).replace(thumbnail=np.repeat(np.arange(3, dtype=np.uint8)[:, None], side, axis=1))
        estimates = pd.DataFrame({"dataset": ["judged"], "fingerprint": ["f"]})
        (pair,) = leak_pairs([self.Shelf(samples)], estimates)
        assert (pair.dataset, pair.kind, pair.id_a, pair.id_b) == ("judged", "group", "0.png", "2.png")
        assert (pair.thumb_a.shape, int(pair.thumb_a.max()), int(pair.thumb_b.min())) == (
            (THUMBNAIL_SIDE, THUMBNAIL_SIDE),
            0,
            2,
        )


def test_many_contrasts_that_can_not_be_told_apart_share_a_sentence():

    pairs = pd.DataFrame(
        {
            "a": ["probe", "full", "lora", "head"],
            "b": ["head", "probe", "probe", "probe2"],
            "difference": [0.02, 0.01, 0.2, -0.03],
            "ci_low": -0.1,
            "ci_high": 0.1,
            "p_adjusted": [0.5, 0.9, 0.01, 0.4],
        }
    )
    asked = [("Trained less frozen", a, "probe") for a in ("head", "full", "lora")]
    asked.append(("Trained less frozen", "head", "probe2"))
    real, many = _contrasts(asked, pairs, 3)
    assert real.startswith("Trained less frozen, lora minus probe: +0.200")
    assert many == (
        "Trained less frozen: 3 pairs can't be told apart, differences from -0.030 to +0.010, every p adjusted for all "
        "pairs at least 0.400."
    )
    assert len(_contrasts(asked[:2], pairs, 3)) == 2
