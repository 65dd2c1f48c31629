"""Means of rows have the intervals and comparisons of any metric, and the page of retrieval shows what it is given."""

from __future__ import annotations

import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from featprobe.errors import ResultsError
from featprobe.records import Predictions, RunKey, Samples
from featprobe.report.retrieval import Gallery, Neighbour, Part, Query, describe, png, write_retrieval
from featprobe.significance import compare, estimates
from featprobe.significance.means import RowValues, compare_means, mean_estimates


def judged(seed=0, rows=60, fold="test"):
    """(predictions, the same as values of rows): a row is worth 1 where its highest score is the true class."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 2
    samples = Samples.build(
        path=[f"{fold}-{row:03d}" for row in range(rows)],
        label=y,
        label_names=("a", "b"),
        group=[f"{fold}g{row // 4}" for row in range(rows)],
    )  # fmt: skip
    p = np.clip(0.5 + 0.3 * (2 * y - 1) + rng.normal(0, 0.35, rows), 0.01, 0.99)
    score = np.stack([1 - p, p], axis=1)
    key = RunKey("d", "x", "random", "frozen", "gap", "p", "logistic", "f", fold=fold)
    right = (score.argmax(axis=1) == y).astype(float)
    return Predictions(key, samples, score, 10), RowValues(fold, samples, right[:, None])


def test_a_mean_of_right_rows_is_accuracy_to_the_last_digit():
    folds = [judged(seed, fold=f"{seed}") for seed in range(3)]
    known = estimates([prediction for prediction, _ in folds], ["accuracy"], resamples=200, seed=4)
    got = mean_estimates([rows for _, rows in folds], ["hits"], resamples=200, seed=4)
    assert [row.fold for row in got] == ["0", "1", "2", "mean"]
    for ours, theirs in zip(got, known, strict=True):
        assert (ours.value, ours.n_rows, ours.n_groups) == (theirs.value, theirs.n_test, theirs.n_groups)
        np.testing.assert_allclose((ours.ci_low, ours.ci_high), (theirs.ci_low, theirs.ci_high), rtol=1e-12)
        assert ours.ci_method == theirs.ci_method.replace("models", "indexes").replace("model", "index").replace("fitted ", "")  # fmt: skip


def test_pairs_are_those_of_accuracy():
    sides = {name: judged(seed) for name, seed in (("x", 0), ("y", 1), ("z", 2))}
    known = compare({name: [side[0]] for name, side in sides.items()}, "accuracy", resamples=300)
    (got,) = compare_means(
        {name: [side[1]] for name, side in sides.items()}, ["accuracy"], dataset="d", resamples=300
    )
    columns = ["difference", "ci_low", "ci_high", "p_value", "p_adjusted"]
    np.testing.assert_allclose(got.pairs_frame()[columns], known.pairs_frame()[columns], rtol=1e-12)
    assert got.best_frame()["in_best_set"].tolist() == known.best_frame()["in_best_set"].tolist()
    assert all("these indexes on new groups" in pair.method for pair in got.pairs)


def test_several_measures_keep_their_columns_and_the_order_of_rows_is_nothing():
    _, rows = judged()
    both = RowValues("test", rows.samples, np.hstack([rows.worth, rows.worth / 2]))
    order = np.random.default_rng(1).permutation(len(rows.samples))
    moved = RowValues("test", rows.samples.take(order), both.worth[order])
    one, two = mean_estimates([both], ["whole", "half"], resamples=100)
    assert (one.measure, two.measure) == ("whole", "half")
    assert two.value == one.value / 2
    again = mean_estimates([moved], ["whole", "half"], resamples=100)
    np.testing.assert_allclose([again[0].ci_low, again[1].ci_high], [one.ci_low, two.ci_high], rtol=1e-12)
    found = compare_means({"x": [both], "y": [moved]}, ["whole", "half"], dataset="d", resamples=100)
    assert [pair.difference for one in found for pair in one.pairs] == [0, 0]


def test_what_can_not_be_said_is_not():
    _, rows = judged()
    sure = RowValues("test", rows.samples, np.ones((len(rows.samples), 1)))
    (row,) = mean_estimates([sure], ["hits"], resamples=100)
    assert (row.value, row.ci_high) == (1, 1)
    assert row.ci_low == pytest.approx(0.025 ** (1 / 15))  # Clopper and Pearson's bound for 15 of 15 groups
    alone = RowValues("test", rows.samples.take(np.arange(4)), rows.worth[:4])
    (row,) = mean_estimates([alone], ["hits"], resamples=100)
    assert np.isnan(row.ci_low)
    assert "1 group" in row.ci_method
    with pytest.raises(ResultsError, match="no test rows"):
        mean_estimates([RowValues("test", rows.samples.take([]), rows.worth[:0])], ["hits"])
    with pytest.raises(ResultsError, match="test ids"):
        compare_means({"x": [rows], "y": [judged(rows=56)[1]]}, ["hits"], dataset="d")


def picture(value):
    return np.full((32, 32), value, dtype=np.uint8)


def gallery(label="a <b> class", system="<i>net</i>"):
    near = tuple(Neighbour(picture(40 * k), label if k % 2 else "other", 0.1 * k, bool(k % 2)) for k in range(1, 4))  # fmt: skip
    return Gallery(system, "cosine", "One query.", (Query("q<1>", label, picture(200), near),))


def part(system="<i>net</i>"):
    frame = pd.DataFrame(
        [
            {"system": name, "distance": "cosine", "metric": metric, "value": value, "ci_low": 0.2, "ci_high": 0.9}
            for name, value in ((system, 0.4), ("second", 0.6))
            for metric in ("ACC@1", "mAP@5")
        ]
    )  # fmt: skip
    pairs = pd.DataFrame([{"distance": "cosine", "metric": "mAP@5", "a": system, "b": "second", "difference": -0.2, "ci_low": -0.3, "ci_high": -0.1, "p_value": 0.02, "p_adjusted": 0.04}])  # fmt: skip
    best = frozenset({("cosine", "mAP@5", "second")})
    return Part("data & set", {"Split": "ours"}, ("a <note>",), "mAP@5", frame, pairs, best, (gallery(), gallery(system="second")))  # fmt: skip


def write(out):
    return write_retrieval(
        [part()],
        out,
        lead="lead",
        glossary={"mAP": "words"},
        methods=["how"],
        differences=pd.DataFrame({"a": [1]}),
        provenance={},
    )


def test_the_page_is_escaped_offline_and_the_same_again(tmp_path):
    names = write(tmp_path / "one")
    assert set(write(tmp_path / "two")) == set(names)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    page = (tmp_path / "one" / "retrieval.html").read_text(encoding="utf-8")
    assert "<i>" not in page
    assert "<note>" not in page
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page)
    # The best system's pictures are on the page, the other's beside it; the difference is the best less the other.
    assert page.count("<img") == 1
    assert "second, cosine distance. One query." in page
    (link,) = re.findall(r'href="(figures/[^"]+)"', page)
    assert (tmp_path / "one" / link).is_file()
    assert "second \N{MINUS SIGN} system" in page
    assert "[0.100, 0.300]" in page
    assert 'class="best"><span class="value"><span class="mark"' in page


def test_hits_and_misses_differ_by_more_than_colour():
    drawn = Image.open(io.BytesIO(png(gallery()))).convert("L")
    assert drawn.size[0] > drawn.size[1]  # a query and three neighbours in one row
    assert png(gallery()) == png(gallery())
    assert describe(gallery()) == (
        "Queries with their nearest images. q<1>, a <b> class: a <b> class (hit), other (miss), a <b> class (hit)."
    )
    plain = Gallery("s", "cosine", "", (Query("q", "x", picture(0), ()),))
    assert png(plain)
