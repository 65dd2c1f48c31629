"""Leaks on the report's page: pairs side by side, escaped, offline, equal bytes for equal content."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from featprobe.records import ESTIMATE_COLUMNS, LeakPair, ReportContent
from featprobe.report import write_leaks_page, write_report
from featprobe.report.leaks import KINDS, galleries
from featprobe.splitting import LEAK_KINDS


def pair(kind="near", dataset="scans", **changes):
    values = {
        "dataset": dataset,
        "kind": kind,
        "id_a": "a_1",
        "id_b": "<script>b</script>",
        "split_a": "train",
        "split_b": "test",
        "distance": 0.0125 if kind == "near" else 0.0,
        "thumb_a": np.arange(1024, dtype=np.uint32).astype(np.uint8).reshape(32, 32),
        "thumb_b": np.full((20, 30, 3), 7, dtype=np.uint8),
    }
    return LeakPair(**{**values, **changes})


def test_every_kind_of_leak_has_words():
    assert tuple(KINDS) == LEAK_KINDS


def test_pairs_are_gathered_by_data_set_and_kind():
    shown = galleries([pair(), pair("bytes"), pair(), pair(dataset="other")], {("scans", "near"): 40})
    assert [(one.dataset, one.title, one.total, len(one.pairs)) for one in shown] == [
        ("scans", "Near copies", 40, 2),
        ("scans", "Same file", 1, 1),
        ("other", "Near copies", 1, 1),
    ]
    assert [one.pairs[0].distance for one in shown] == ["0.013", "", "0.013"]


def test_pictures_are_the_thumbnails_themselves():
    (one,) = galleries([pair()])
    for source, expected in (
        (one.pairs[0].source_a, pair().thumb_a),
        (one.pairs[0].source_b, pair().thumb_b),
    ):
        assert source.startswith("data:image/png;base64,")
        read = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert np.array_equal(np.asarray(read), expected)


@pytest.mark.parametrize("split", ["", "train"])
def test_the_page_is_escaped_and_equal_for_equal_content(tmp_path, split):
    pairs = [pair(split_a=split), pair("group")]
    one = write_leaks_page(tmp_path / "one", pairs, {}, {"scans": "3 images"}).read_text(encoding="utf-8")
    two = write_leaks_page(tmp_path / "two", pairs, {}, {"scans": "3 images"}).read_text(encoding="utf-8")
    assert one == two
    assert "<script>b" not in one
    assert "&lt;script&gt;b" in one
    assert one.count("<img") == 4
    assert ("no split" in one) == (split == "")
    assert "http" not in one


def test_the_report_shows_leaks_where_there_are_any(tmp_path):
    empty = pd.DataFrame(columns=[*ESTIMATE_COLUMNS, "system"])
    content = ReportContent(
        title="A comparison",
        metric="auroc",
        estimates=empty,
        predictions=pd.DataFrame(),
        comparisons=pd.DataFrame(),
        best=pd.DataFrame(),
        classes={},
        maps=(),
        findings={},
        notes=(),
        provenance={},
    )
    without = write_report(content, tmp_path / "without").read_text(encoding="utf-8")
    assert "leaks" not in without.partition("</style>")[2]
    shown = dataclasses.replace(content, leaks=(pair(), pair("group", "other")))
    page = write_report(shown, tmp_path / "with").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == 4
    assert '<a href="#leaks">' in page
    assert "scans: Near copies" in page
    assert "other: Same group" in page
    assert "<script>b" not in page
