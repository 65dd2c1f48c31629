from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from featprobe.cache import export
from featprobe.errors import ConfigError, OutputError


def test_export_is_read_without_featprobe_and_without_pickle(bench: Any, tmp_path: Path) -> None:
    samples = bench.samples(10).replace(label=np.arange(10) % 4 - 1)
    path = bench.write(samples)
    with np.load(export(path, "cls", tmp_path / "out" / "x.npz"), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["embeddings"], bench.values(samples, slice(None)).astype("f4"))
        assert arrays["label_names"].tolist() == ["one", "two", "drei"]
        assert str(arrays["task"]) == "classes"
        assert str(arrays["recipe"]) == bench.recipe(samples).to_json()
    frame = pd.read_parquet(export(path, "cls", tmp_path / "out" / "x.parquet"))
    assert frame.columns.tolist()[:8] == ["id", "path", "label", "label_name", "group", "case", "split", "e0"]
    assert frame.label_name.tolist()[:4] == ["", "one", "two", "drei"]
    assert np.array_equal(frame["e7"], bench.values(samples, slice(None)).astype("f4")[:, 7])
    assert bench.names_in(tmp_path / "out") == ["x.npz", "x.parquet"]
    with pytest.raises(ConfigError, match=r"\.npz or \.parquet"):
        export(path, "cls", tmp_path / "x.csv")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="can't be written"):
        export(path, "cls", tmp_path / "file" / "x.npz")


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("ordinal", ["label", "label_name"]),
        ("multilabel", ["label_edema", "label_a/ü"]),
        ("continuous", ["label"]),
    ],
)
def test_the_labels_of_every_task_are_exported(
    bench: Any, tmp_path: Path, task: str, columns: list[str]
) -> None:
    samples = bench.samples(10, task=task)
    path = bench.write(samples)
    with np.load(export(path, "cls", tmp_path / "x.npz"), allow_pickle=False) as arrays:
        assert str(arrays["task"]) == task
        assert arrays["label"].dtype == samples.label.dtype
        assert np.array_equal(arrays["label"], samples.label, equal_nan=task == "continuous")
        assert arrays["label_names"].tolist() == list(samples.label_names)
    frame = pd.read_parquet(export(path, "cls", tmp_path / "x.parquet"))
    assert [name for name in frame.columns if name.startswith("label")] == columns
    assert frame.columns.tolist()[2 : 2 + len(columns)] == columns
    labels = frame[[name for name in columns if name != "label_name"]].to_numpy()
    assert np.array_equal(labels, samples.label.reshape(10, -1), equal_nan=task == "continuous")
