"""The results folder gives back exactly what it was given, whatever was killed, edited or computed twice."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featprobe.errors import OutputError, ResultsError
from featprobe.records import ESTIMATE_COLUMNS, KEY_COLUMNS, Estimate, Predictions, RunKey, Samples
from featprobe.results import ResultsFolder, load_many, store, to_predictions
from featprobe.results.tables import to_parquet_bytes

KEY = RunKey(
    dataset="brain, MRI",
    backbone="vgg16",
    weights="pretrained",
    mode="frozen",
    pooling="gap",
    preprocessing="native",
    probe="logistic",
    fingerprint="ab" * 32,
)


def predictions(
    key: RunKey = KEY, names: tuple[str, ...] = ("μ-tumour", "<none>"), seed: int = 0
) -> Predictions:
    rng = np.random.default_rng(seed)
    ids = [f'{key.fold}/{i}, ü\r\n"{i}"' for i in range(7)]
    samples = Samples.build(
        id=ids,
        path=ids,
        label=[i % len(names) for i in range(6)] + [-1],
        label_names=names,
        group=[f"p{i // 2}" for i in range(7)],
        split=["test"] * 7,
        modality=["MR"] * 7,
    )
    return Predictions(key, samples, rng.dirichlet(np.ones(len(names)), size=7), n_train=40)


def estimate(key: RunKey = KEY, value: float = 0.1 + 0.2, metric: str = "accuracy") -> Estimate:
    return Estimate(
        key, 40, 7, 4, metric, value, np.nextafter(value, 0), float("nan"), 'group bootstrap, "95 %"\nline'
    )


def fold(number: object, **changes: object) -> RunKey:
    return dataclasses.replace(KEY, fold=str(number), **changes)  # type: ignore[arg-type]


def test_rows_come_back_exactly_as_they_went_in(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    given = [estimate(fold(i), float(rng.random())) for i in range(20)] + [estimate(fold("mean"), 1e-300)]
    said = [predictions(fold(i), seed=i) for i in range(3)]
    ResultsFolder(tmp_path / "out").add("u1", said, given, {"C": np.float64(0.1), "when": (1, float("nan"))})

    folder = ResultsFolder(tmp_path / "out")
    frame = folder.estimates()
    assert list(frame.columns) == list(ESTIMATE_COLUMNS)
    expected = pd.DataFrame([item.to_dict() for item in given]).sort_values("fold", ignore_index=True)
    pd.testing.assert_frame_equal(frame, expected, check_exact=True)
    assert folder.run()["units"]["u1"]["C"] == 0.1
    assert folder.run()["units"]["u1"]["when"] == [1, None]

    for before, after in zip(said, to_predictions(folder.predictions()), strict=True):
        assert after.key == before.key
        assert after.n_train == before.n_train
        np.testing.assert_array_equal(after.y_score, before.y_score)
        for name in ("id", "group", "case", "split", "modality", "label"):
            np.testing.assert_array_equal(getattr(after.samples, name), getattr(before.samples, name))
        assert after.samples.label_names == before.samples.label_names
        assert after.samples.groups_declared
        assert (
            after.samples.labels_sha256()
            == folder.predictions()["labels_sha256"].unique()[int(after.key.fold)]
        )


def test_each_data_set_keeps_its_own_classes_in_its_own_order(tmp_path: Path) -> None:
    orders = {"a": ("zebra", "ant", "bee"), "b": ("bee", "ant"), "c": ("10", "9")}
    folder = ResultsFolder(tmp_path)
    for name, classes in orders.items():
        key = dataclasses.replace(KEY, dataset=name)
        folder.add(name, [predictions(key, classes)], [estimate(key)], {})
    rebuilt = to_predictions(folder.predictions())
    assert {item.key.dataset: item.samples.label_names for item in rebuilt} == orders
    frame = folder.predictions()
    assert frame.loc[frame["dataset"] == "c", "y_score_ant"].isna().all()
    assert tuple(frame.columns[: len(KEY_COLUMNS)]) == KEY_COLUMNS


def test_a_later_unit_replaces_its_models_whole_and_leaves_the_others(tmp_path: Path) -> None:
    folder, other = ResultsFolder(tmp_path), fold(0, probe="svm")
    five = [fold(i) for i in range(5)]
    folder.add("old", [predictions(k) for k in five], [estimate(k) for k in five], {})
    folder.add("svm", [predictions(other)], [estimate(other)], {})
    assert folder.has("old")
    assert not folder.has("new")

    folder.add("new", [predictions(k, seed=9) for k in five[:2]], [estimate(k, 0.5) for k in five[:2]], {})
    assert (folder.has("old"), folder.has("svm"), folder.has("new")) == (False, True, True)
    frame = folder.estimates()
    assert sorted(frame.loc[frame["probe"] == "logistic", "fold"]) == ["0", "1"]
    assert set(frame.loc[frame["probe"] == "logistic", "value"]) == {0.5}
    assert len(folder.predictions()) == 3 * 7
    assert "old" not in folder.run()["units"]


def test_a_unit_that_lost_one_of_its_models_is_computed_again(tmp_path: Path) -> None:
    folder, svm = ResultsFolder(tmp_path), dataclasses.replace(KEY, probe="svm")
    folder.add("both", [predictions(), predictions(svm)], [estimate(), estimate(svm)], {})
    folder.add("svm only", [predictions(svm)], [estimate(svm)], {})
    assert not folder.has("both")
    assert len(folder.estimates()) == 2


def test_adding_the_same_unit_twice_changes_no_byte(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path)
    folder.record_run(seed=3, versions={"numpy": "2"})
    folder.add("u", [predictions()], [estimate()], {"n": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ResultsFolder(tmp_path).add("u", [predictions()], [estimate()], {"n": 1})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert folder.run()["seed"] == 3


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the code under test may run after it, so none catches it."""


@pytest.mark.parametrize("survived", range(4))
def test_a_kill_between_two_renames_leaves_the_old_or_the_new_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    ResultsFolder(tmp_path).add("old", [predictions()], [estimate(value=0.25)], {})
    renames = iter(range(100))
    rename = Path.replace

    def dying(self: Path, target: Path) -> Path:
        if next(renames) >= survived:
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(Killed):
            ResultsFolder(tmp_path).add("new", [predictions(seed=5)], [estimate(value=0.75)], {})

    folder = ResultsFolder(tmp_path)
    value, unit, seed = (0.25, "old", 0) if survived == 0 else (0.75, "new", 5)
    assert folder.notes == ()
    assert (folder.has(unit), folder.estimates()["value"].tolist()) == (True, [value])
    np.testing.assert_array_equal(
        to_predictions(folder.predictions())[0].y_score, predictions(seed=seed).y_score
    )
    assert not list(tmp_path.glob("*.next"))


@pytest.mark.parametrize("name", ["results.csv", "predictions.parquet", "run.json"])
def test_tables_that_do_not_match_run_json_are_ignored_and_kept_aside(tmp_path: Path, name: str) -> None:
    folder = ResultsFolder(tmp_path)
    folder.add("u", [predictions()], [estimate()], {})
    edited = (tmp_path / name).read_bytes()[:-3]
    (tmp_path / name).write_bytes(edited)

    assert not folder.has("u")
    assert folder.estimates().empty
    assert folder.predictions().empty
    assert "not match run.json" in folder.notes[0]
    with pytest.raises(ResultsError, match=r"featprobe probe --out"):
        load_many([tmp_path])

    folder.add("v", [predictions(seed=2)], [estimate(value=0.5)], {})
    assert folder.notes == ()
    assert folder.estimates()["value"].tolist() == [0.5]
    assert edited in [path.read_bytes() for path in tmp_path.glob(f"{name}.*.old")]


def test_a_full_disk_is_one_error_and_the_old_rows_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ResultsFolder(tmp_path)
    folder.add("u", [predictions()], [estimate(value=0.25)], {})
    write = store._write_synced

    def full(path: Path, data: bytes) -> None:
        if path.name.startswith("run.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(store, "_write_synced", full)
        with pytest.raises(OutputError, match="disk is full"):
            folder.add("v", [predictions()], [estimate(value=0.5)], {})
    assert folder.has("u")
    assert folder.estimates()["value"].tolist() == [0.25]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock") == [
        "predictions.parquet",
        "results.csv",
        "run.json",
    ]


def test_a_place_that_is_no_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="can't write results"):
        ResultsFolder(tmp_path / "file").add("u", [predictions()], [estimate()], {})
    assert (tmp_path / "file").read_text() == "mine"


def test_scores_that_are_not_numbers_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    bad = dataclasses.replace(predictions(), y_score=np.full((7, 2), np.nan))
    with pytest.raises(ResultsError, match="NaN"):
        ResultsFolder(tmp_path / "out").add("u", [bad], [estimate()], {})
    assert not (tmp_path / "out").exists()


def test_several_folders_are_read_as_one_and_equal_models_count_once(tmp_path: Path) -> None:
    svm = dataclasses.replace(KEY, probe="svm", dataset="other")
    one, two = ResultsFolder(tmp_path / "one"), ResultsFolder(tmp_path / "two")
    one.add("u", [predictions()], [estimate()], {})
    two.add("u", [predictions()], [estimate()], {})
    two.add("v", [predictions(svm, ("x", "y", "z"))], [estimate(svm)], {})
    estimates, rows, runs = load_many([tmp_path / "one", tmp_path / "two"])
    assert estimates["probe"].tolist() == ["logistic", "svm"]
    assert [len(item.samples) for item in to_predictions(rows)] == [7, 7]
    assert to_predictions(rows)[1].samples.label_names == ("x", "y", "z")
    assert [set(run["units"]) for run in runs] == [{"u"}, {"u", "v"}]


@pytest.mark.parametrize("change", ["value", "score"])
def test_one_model_with_different_rows_in_two_folders_is_refused(tmp_path: Path, change: str) -> None:
    ResultsFolder(tmp_path / "one").add("u", [predictions()], [estimate()], {})
    value, seed = (0.3, 0) if change == "value" else (0.1 + 0.2, 1)
    ResultsFolder(tmp_path / "two").add("v", [predictions(seed=seed)], [estimate(value=value)], {})
    with pytest.raises(ResultsError, match="different rows of the same model"):
        load_many([tmp_path / "one", tmp_path / "two"])


def test_missing_and_empty_folders_name_the_next_command(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with pytest.raises(ResultsError, match=r"did you mean results\?.*featprobe probe"):
        load_many([tmp_path / "resluts"])
    with pytest.raises(ResultsError, match=r"holds no results.*featprobe probe"):
        load_many([tmp_path / "results"])
    assert list((tmp_path / "results").iterdir()) == []


def test_the_tables_are_what_other_programs_expect(tmp_path: Path) -> None:
    ResultsFolder(tmp_path).add("u", [predictions()], [estimate()], {})
    assert pd.read_csv(tmp_path / "results.csv")["value"].tolist() == [0.1 + 0.2]
    assert len(pd.read_parquet(tmp_path / "predictions.parquet")) == 7
    assert set(json.loads((tmp_path / "run.json").read_text())["files"]) == {
        "results.csv",
        "predictions.parquet",
    }


def test_the_same_weights_under_another_name_are_renamed_and_replace_their_namesake(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "out")
    key, other = dataclasses.replace(KEY, weights="mine"), dataclasses.replace(KEY, backbone="resnet50")
    for unit, one, value in (("u1", key, 0.25), ("u2", KEY, 0.5), ("u3", other, 0.75)):
        about = {"key": one.to_dict(), "identity": unit, "note": "kept"}
        folder.add(unit, [predictions(one)], [estimate(one, value)], about)
    folder.relabel("u3", "pretrained", "u3")
    assert folder.estimates()["value"].tolist() == [0.75, 0.25, 0.5]

    folder.relabel("u1", "pretrained", "new")
    for reader in (folder, ResultsFolder(tmp_path / "out")):
        frame = reader.estimates()
        assert frame[["backbone", "weights", "value"]].to_numpy().tolist() == [
            ["resnet50", "pretrained", 0.75],
            ["vgg16", "pretrained", 0.25],
        ]
        assert set(reader.predictions()["weights"]) == {"pretrained"}
        assert len(reader.predictions()) == 14
        assert [reader.has(unit) for unit in ("u1", "u2", "u3")] == [True, False, True]
        about = reader.run()["units"]["u1"]
        assert (about["key"]["weights"], about["identity"], about["note"]) == ("pretrained", "new", "kept")
    np.testing.assert_array_equal(
        next(item for item in to_predictions(folder.predictions()) if item.key == KEY).y_score,
        predictions(key).y_score,
    )
    folder.add("u4", [predictions(KEY, seed=4)], [estimate(KEY, 1.0)], {})
    assert not folder.has("u1")


FIRST = "y_score_<none>"


def filled(root: Path) -> Path:
    ResultsFolder(root).add("u", [predictions()], [estimate()], {})
    return root


def rewritten(folder: Path, *, rows=None, table=None) -> Path:
    """The folder with other tables than it was given, and a run.json that vouches for them."""
    if rows is not None:
        frame = rows(ResultsFolder(folder).predictions())
        (folder / "predictions.parquet").write_bytes(to_parquet_bytes(frame))
    if table is not None:
        path = folder / "results.csv"
        path.write_text(table(path.read_text()))
    run = json.loads((folder / "run.json").read_text())
    run["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in run["files"]}
    (folder / "run.json").write_text(json.dumps(run))
    return folder


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (lambda frame: frame.assign(y_true="maybe"), "true class 'maybe' has no column of scores"),
        (lambda frame: frame.assign(**{FIRST: [np.nan, *[0.5] * (len(frame) - 1)]}), "no number"),
        (lambda frame: frame.assign(**{FIRST: 7.0}), "reach from .* to 7: no probabilities"),
    ],
)
def test_predictions_that_no_stage_writes_are_refused(tmp_path: Path, rows, words: str) -> None:
    folder = rewritten(filled(tmp_path), rows=rows)
    with pytest.raises(ResultsError, match=words):
        to_predictions(load_many([folder])[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": lambda frame: frame.drop(columns="backbone")},
        {"table": lambda text: text.replace("value", "worth", 1)},
        {"table": lambda text: text.replace(",0.3", ",x.3", 1)},
    ],
)
def test_tables_of_another_hand_are_said_to_be_unreadable(tmp_path: Path, changes) -> None:
    folder = rewritten(filled(tmp_path), **changes)
    with pytest.raises(ResultsError, match=r"the tables in .* can't be read .*featprobe probe --out"):
        load_many([folder])


def test_tables_without_their_run_are_said_to_be(tmp_path: Path) -> None:
    (filled(tmp_path) / "run.json").unlink()
    with pytest.raises(ResultsError, match=r"results.csv in .* stand without a run.json and are ignored"):
        load_many([tmp_path])
