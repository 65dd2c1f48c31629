"""Grades, labels and numbers come back from a results folder as what they were; so does what earlier versions wrote."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from featprobe.records import KEY_COLUMNS, Estimate, Predictions, RunKey, Samples
from featprobe.results import ResultsFolder, load_many, tables, to_predictions

KEY = RunKey("d", "vgg16", "pretrained", "frozen", "gap", "native", "logistic", "ab" * 32)
LATER = ["inputs", "fusion", "variant"]


def built(task: str, key: RunKey = KEY, names: tuple[str, ...] | None = None, seed: int = 0) -> Predictions:
    """Seven rows with something missing in each kind of target."""
    rng = np.random.default_rng(seed)
    names = names or {"continuous": ("age, years",)}.get(task, ("low", "μ|x", "high"))
    if task == "continuous":
        label, score = np.append(rng.standard_normal(6) / 3, np.nan), rng.standard_normal((7, 1)) * 1e6
    elif task == "multilabel":
        label, score = rng.integers(-1, 2, (7, len(names))), rng.random((7, len(names)))
        label[3] = -1
    else:
        label, score = np.append(np.arange(6) % len(names), -1), rng.dirichlet(np.ones(len(names)), size=7)
    ids = [f"{key.fold}-{i}" for i in range(7)]
    samples = Samples.build(
        path=ids, label=label, label_names=names, group=[f"p{i // 2}" for i in range(7)], split=["test"] * 7, task=task
    )  # fmt: skip
    return Predictions(key, samples, score, 40)


def estimate(key: RunKey = KEY, metric: str = "mae") -> Estimate:
    return Estimate(key, 40, 7, 4, metric, 0.5, 0.4, 0.6, "group bootstrap")


def same(after: Predictions, before: Predictions) -> None:
    assert after.key == before.key
    assert after.samples.task == before.samples.task
    assert after.samples.label_names == before.samples.label_names
    assert after.samples.label.dtype == before.samples.label.dtype
    np.testing.assert_array_equal(after.samples.label, before.samples.label)
    np.testing.assert_array_equal(after.y_score, before.y_score)
    np.testing.assert_array_equal(after.samples.group, before.samples.group)
    assert after.samples.labels_sha256() == before.samples.labels_sha256()


@pytest.mark.parametrize("task", ["classes", "ordinal", "multilabel", "continuous"])
def test_every_target_comes_back_exactly(tmp_path: Path, task: str) -> None:
    said = [built(task, dataclasses.replace(KEY, fold=str(i)), seed=i) for i in range(3)]
    ResultsFolder(tmp_path / "out").add("u", said, [estimate()], {})
    frame = ResultsFolder(tmp_path / "out").predictions()
    for before, after in zip(said, to_predictions(frame), strict=True):
        same(after, before)
    some = frame[frame["id"].str.endswith("2")]
    assert [item.samples.task for item in to_predictions(some)] == [task] * 3
    assert to_predictions(some)[1].samples.label_texts() == said[1].samples.label_texts()[2]


def test_data_sets_of_different_targets_share_a_folder(tmp_path: Path) -> None:
    said = [built(t, dataclasses.replace(KEY, dataset=t)) for t in ("continuous", "multilabel", "ordinal")]
    folder = ResultsFolder(tmp_path)
    for item in said:
        folder.add(item.key.dataset, [item], [estimate(item.key)], {})
    for after, before in zip(to_predictions(folder.predictions()), said, strict=True):
        same(after, before)
    _, frame, _ = load_many([tmp_path])
    assert [item.samples.task for item in to_predictions(frame)] == ["continuous", "multilabel", "ordinal"]


def test_one_name_with_two_targets_is_read_as_what_each_row_was(tmp_path: Path) -> None:
    # The same data set judged as classes, as labels in two orders and as a number: no row takes another's meaning.
    said = [
        built("classes", names=("1", "2")),
        built("multilabel", dataclasses.replace(KEY, probe="a"), names=("x", "y", "z")),
        built("multilabel", dataclasses.replace(KEY, probe="b"), names=("z", "x", "y"), seed=1),
        built("continuous", dataclasses.replace(KEY, probe="ridge")),
    ]
    folder = ResultsFolder(tmp_path)
    for number, item in enumerate(said):
        folder.add(str(number), [item], [estimate(item.key)], {})
    found = {item.key.probe: item for item in to_predictions(folder.predictions())}
    for item in said:
        same(found[item.key.probe], item)


def test_what_is_replaced_takes_its_target_along(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path)
    folder.add("u", [built("continuous")], [estimate()], {})
    folder.add("v", [built("classes")], [estimate()], {})
    assert "targets" not in folder.predictions().attrs or not folder.predictions().attrs["targets"]
    same(to_predictions(folder.predictions())[0], built("classes"))


def test_classes_carry_no_more_than_before(tmp_path: Path) -> None:
    ResultsFolder(tmp_path).add("u", [built("classes")], [estimate()], {})
    assert set(ResultsFolder(tmp_path).predictions().attrs) == {"classes", "groups_declared"}


def test_groups_joined_by_copies_come_back_where_none_were_declared(tmp_path: Path) -> None:
    made = built("classes")
    joined = dataclasses.replace(made, samples=made.samples.replace(groups_declared=False))
    ResultsFolder(tmp_path).add("u", [joined], [estimate()], {})
    (after,) = to_predictions(ResultsFolder(tmp_path).predictions())
    assert not after.samples.groups_declared
    np.testing.assert_array_equal(after.samples.group, joined.samples.group)


class TestColumns:
    def test_inputs_and_fusion_stand_after_the_layer_and_tell_models_apart(self, tmp_path: Path) -> None:
        place = KEY_COLUMNS.index("layer")
        assert KEY_COLUMNS[place : place + 4] == ("layer", "inputs", "fusion", "preprocessing")
        keys = [
            KEY,
            dataclasses.replace(KEY, inputs="T1+T2", fusion="concat-mean"),
            dataclasses.replace(KEY, inputs="T1"),
        ]
        folder = ResultsFolder(tmp_path)
        for key in keys:
            folder.add(f"{key.inputs}", [built("classes", key)], [estimate(key)], {})
        found = to_predictions(folder.predictions())
        assert {item.key for item in found} == set(keys)
        assert len(set(tables.model_ids(folder.estimates()))) == 3
        assert folder.estimates()["inputs"].tolist() == ["", "T1", "T1+T2"]

    def test_a_table_of_an_earlier_version_is_read_with_both_empty(self) -> None:
        key = dataclasses.replace(KEY, inputs="")
        csv = tables.estimate_frame([estimate(key)])
        old = tables.to_csv_bytes(csv.drop(columns=LATER))
        pd.testing.assert_frame_equal(tables.from_csv(old), csv)
        frame = tables.prediction_frame([built("classes", key)])
        before = frame.drop(columns=LATER)
        before.attrs = frame.attrs
        read = tables.from_parquet(tables.to_parquet_bytes(before))
        pd.testing.assert_frame_equal(read, frame)
        same(to_predictions(read)[0], built("classes", key))

    def test_a_model_of_an_earlier_version_keeps_its_name(self) -> None:
        # run.json of earlier versions names models by this hash: a later run must find what it replaces.
        values = [
            str(v) if n not in {"fraction", "shots", "seed"} else v
            for n, v in KEY.to_dict().items()
            if n not in {"fold", *LATER}
        ]
        from featprobe.records import sha256_json

        frame = tables.estimate_frame([estimate()])
        assert tables.model_ids(frame).tolist() == [sha256_json(values)[:16]]
        swapped = [dataclasses.replace(KEY, inputs="mean"), dataclasses.replace(KEY, fusion="mean")]
        assert tables.model_ids(tables.estimate_frame([estimate(k) for k in swapped])).nunique() == 2

    def test_the_target_stands_in_the_file_for_other_programs(self) -> None:
        frame = tables.prediction_frame([built("continuous")])
        table = pq.read_table(io.BytesIO(tables.to_parquet_bytes(frame)))
        about = table.schema.metadata[b"featprobe"].decode()
        assert '"task": "continuous"' in about
        assert '"age, years"' in about


class TestPredictions:
    @pytest.mark.parametrize(
        ("task", "change", "match"),
        [
            ("classes", lambda s: s * 0.9, "sum to 1"),
            ("ordinal", lambda s: s[:, :2], "shape"),
            ("classes", lambda s: s * np.array([-1, 1, 1]), "no probabilities"),
            ("multilabel", lambda s: s + 0.5, "no probabilities"),
            ("multilabel", lambda s: s[:, :1], "shape"),
            ("continuous", lambda s: np.hstack([s, s]), "shape"),
        ],
    )
    def test_scores_that_are_not_of_the_target_are_refused(self, task, change, match) -> None:
        made = built(task)
        with pytest.raises(ValueError, match=match):
            Predictions(KEY, made.samples, change(made.y_score), 1)

    def test_rounding_of_single_precision_is_no_error(self) -> None:
        made = built("classes")
        Predictions(KEY, made.samples, made.y_score.astype(np.float32).astype(np.float64), 1)
        assert made.y_true.shape == (7,)
        assert built("multilabel").y_true.shape == (7, 3)
