"""Which rows may never be parted: whatever joins them, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from featprobe.records import Samples, texts


def four(**columns):
    base = Samples.build(path=[f"{row}.png" for row in range(4)], label=[0, 1, 0, 1], label_names=("a", "b"))
    return base.replace(phash=texts(["x"] * 4), **{name: texts(values) for name, values in columns.items()})


@pytest.mark.parametrize("column", ["group", "case", "sha256", "pixel_sha256", "twin"])
def test_equal_values_join_rows_and_nothing_joins_the_empty(column):
    joined = four(**{column: ["u", "v", "u", "w"]}).units()
    assert joined[0] == joined[2]
    assert len(set(joined.tolist())) == 3
    if column in {"sha256", "pixel_sha256", "twin"}:
        assert len(set(four(**{column: [""] * 4}).units().tolist())) == 4


def test_pixels_of_one_grey_level_join_nothing():
    blank = four(pixel_sha256=["u"] * 4).replace(phash=texts(["", "", "x", "x"]))
    np.testing.assert_array_equal(blank.units(), [0, 1, 2, 2])
