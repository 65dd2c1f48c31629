"""Subgroups of a column: nobody drops out unseen, and a band holds what its name says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featprobe.errors import ConfigError
from featprobe.records import texts
from featprobe.significance import Division, divide


def divided(values, text):
    names, code = divide(texts(values), Division.parse(text))
    return ["" if k < 0 else names[k] for k in code.tolist()]


def test_values_are_subgroups_in_their_order_and_empty_cells_are_none():
    assert divided(["B", "A", "", "B"], "site=".rstrip("=")) == ["B", "A", "", "B"]
    names, _ = divide(texts(["10", "9", "1.5"]), Division.parse("grade"))
    assert names == ("1.5", "9", "10")
    names, code = divide(texts(["", ""]), Division.parse("site"))
    assert names == ()
    assert code.tolist() == [-1, -1]


def test_given_bands_are_half_open_and_what_lies_outside_is_shown():
    ages = ["-1", "0", "39.9", "40", "60", "80", "81", ""]
    wanted = [
        "below 0",
        "0 to below 40",
        "0 to below 40",
        "40 to below 60",
        "60 to 80",
        "60 to 80",
        "above 80",
        "",
    ]
    assert divided(ages, "age=0,40,60,80") == wanted
    names, _ = divide(texts(["50", "70"]), Division.parse("age=0,40,60,80"))
    assert names == ("40 to below 60", "60 to 80")  # bands without rows are left out


def test_many_numbers_come_in_quarters_of_equal_size():
    rng = np.random.default_rng(0)
    ages = [f"{age:.3f}" for age in rng.normal(60, 10, 200)]
    for text, parts in (("age", 4), ("age=q4", 4), ("age=q5", 5)):
        names, code = divide(texts(ages), Division.parse(text))
        assert len(names) == parts
        assert np.bincount(code).tolist() == [200 // parts] * parts
    assert divided(["7"] * 20, "age=q4") == ["7"] * 20


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from(["x", "x=q3", "x=-10,0,10", "x=0,1"]))
def test_every_known_row_is_in_one_subgroup_and_no_subgroup_is_empty(seed, count, text):
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(count) < rng.random(), "", rng.integers(-50, 51, count).astype(str)).tolist()
    names, code = divide(texts(values), Division.parse(text))
    assert ((code < 0) == (np.array(values) == "")).all()
    assert len(set(names)) == len(names)
    assert set(code[code >= 0].tolist()) == set(range(len(names)))
    # Bands keep the order of the numbers.
    known = [(float(value), k) for value, k in zip(values, code.tolist(), strict=True) if value]
    assert [k for _, k in sorted(known)] == sorted(k for _, k in known)


@pytest.mark.parametrize(
    "text", ["age=", "age=40", "age=60,40", "age=40,40", "age=q1", "age=q99", "age=old,young"]
)
def test_what_is_no_division_is_refused(text):
    with pytest.raises(ConfigError, match="q2 to q12"):
        Division.parse(text)


def test_bands_of_words_and_too_many_words_are_refused():
    with pytest.raises(ConfigError, match="'old' is no number"):
        divide(texts(["1", "old"]), Division.parse("age=0,40"))
    with pytest.raises(ConfigError, match="13 different values"):
        divide(texts([f"w{k}" for k in range(13)]), Division.parse("ward"))
