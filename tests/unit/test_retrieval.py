"""Rankings against a plain rendering, measures against values worked out by hand, and what is kept of both."""

from __future__ import annotations

import csv
import sys
from collections import Counter

import numpy as np
import pytest

from featprobe import config, retrieval
from featprobe.errors import ConfigError, MissingExtraError, ResultsError
from featprobe.retrieval import Measure, RetrievalFolder, Unit, protocol, rank, scores, write_index
from featprobe.retrieval.store import ESTIMATE_COLUMNS, ESTIMATES, NEIGHBOUR_COLUMNS, RECORD

A, B, C = 0, 1, 2


def plain(index, queries, distance, k):
    """One query after the other in float64, equal distances in the order of the index."""
    X, Q = np.asarray(index, dtype=float), np.asarray(queries, dtype=float)
    rows, values = [], []
    for query in Q:
        if distance == "euclidean":
            d = np.array([np.sqrt(np.sum((x - query) ** 2)) for x in X])
        else:
            sizes = np.linalg.norm(X, axis=1) * np.linalg.norm(query)
            d = np.array([1 - x @ query / size if size else 1.0 for x, size in zip(X, sizes, strict=True)])
        order = sorted(range(len(X)), key=lambda row: (d[row], row))[:k]
        rows.append(order)
        values.append(d[order])
    return np.array(rows), np.array(values)


def worked_out(truth, found):
    measures = [Measure(kind, k) for kind in ("ACC", "precision", "mAP", "mMV") for k in (1, 3, 5)]
    values = scores(np.array([truth]), np.array([found]), measures)[0]
    return dict(zip([measure.name for measure in measures], values.tolist(), strict=True))


class TestScores:
    def test_hits_at_one_two_and_four(self):
        # Truth A, found A A B A C: hits at ranks 1, 2 and 4.
        # precision at the hits: 1/1, 2/2, 3/4, so AP@5 = (1 + 1 + 0.75) / 3 = 2.75 / 3 = 0.91667,
        # and of the top 3 (1 + 1) / 2 = 1. Votes: A 3, B 1, C 1: the majority is A.
        got = worked_out(A, [A, A, B, A, C])
        assert got["mAP@5"] == pytest.approx(2.75 / 3, abs=1e-15)
        assert got["mAP@3"] == 1
        assert (got["precision@1"], got["precision@3"], got["precision@5"]) == (1, 2 / 3, 3 / 5)
        assert (got["ACC@1"], got["ACC@3"], got["ACC@5"]) == (1, 1, 1)
        assert (got["mMV@1"], got["mMV@3"], got["mMV@5"]) == (1, 1, 1)

    def test_a_late_hit_alone(self):
        # Truth C, found A A B A C: the one hit at rank 5 has precision 1/5: AP@5 = 0.2 / 1 = 0.2. The majority is A.
        got = worked_out(C, [A, A, B, A, C])
        assert (got["mAP@5"], got["mAP@3"], got["precision@5"]) == (0.2, 0, 0.2)
        assert (got["ACC@1"], got["ACC@3"], got["ACC@5"]) == (0, 0, 1)
        assert got["mMV@5"] == 0

    def test_a_tied_majority_that_holds_the_truth_counts(self):
        # Found B A A B C: A and B have 2 votes each, C has 1. A and B are both majorities, C is none.
        for truth, vote, ap in ((A, 1, (1 / 2 + 2 / 3) / 2), (B, 1, (1 + 2 / 4) / 2), (C, 0, 1 / 5)):
            got = worked_out(truth, [B, A, A, B, C])
            assert got["mMV@5"] == vote
            assert got["mAP@5"] == pytest.approx(ap, abs=1e-15)
        # Top 3 of B A C: three classes with one vote each, so that every one of them is a majority.
        assert [worked_out(truth, [B, A, C, C, C])["mMV@3"] for truth in (A, B, C)] == [1, 1, 1]

    def test_no_hit_is_nothing(self):
        got = worked_out(C, [A, B, A, B, A])
        assert set(got.values()) == {0.0}

    def test_missing_neighbours_are_misses_without_a_vote(self):
        # Truth A, found B A and nothing more: hit at rank 2, AP@5 = 1/2; 1 of 5 is right; A and B have a vote each.
        got = worked_out(A, [B, A, -1, -1, -1])
        assert (got["mAP@5"], got["precision@5"], got["mMV@5"], got["mMV@1"]) == (0.5, 0.2, 1, 0)
        assert set(worked_out(A, [-1] * 5).values()) == {0.0}

    def test_each_query_has_its_own_value(self):
        found = np.array([[A, B], [B, B], [C, A]])
        got = scores(np.array([A, A, A]), found, [Measure("ACC", 1), Measure("mAP", 2)])
        assert got.tolist() == [[1, 1], [0, 0], [0, 0.5]]

    def test_too_few_neighbours_are_refused(self):
        with pytest.raises(ValueError, match="too few"):
            scores(np.array([A]), np.array([[A, B]]), [Measure("ACC", 3)])


class TestProtocols:
    def test_what_is_scored(self):
        def names(top):
            return [measure.name for measure in protocol("featprobe", top).measures]

        assert names(5) == ["ACC@1", "ACC@3", "ACC@5", "precision@3", "precision@5", "mAP@5", "mMV@5"]
        assert names(1) == ["ACC@1", "mAP@1", "mMV@1"]
        assert names(10)[-4:] == ["mAP@5", "mAP@10", "mMV@5", "mMV@10"]

    def test_mahbod2024_is_their_rule_on_small_data(self):
        """Written after the paper's description: sorted pairs of distance and row, a Counter for the vote."""
        rng = np.random.default_rng(3)
        X, y = rng.integers(0, 3, (40, 2)).astype(np.float32), rng.integers(0, 3, 40)
        Q, t = rng.integers(0, 3, (25, 2)).astype(np.float32), rng.integers(0, 3, 25)
        rule = protocol("mahbod2024")
        assert (rule.distances, rule.with_val, rule.own_split) == (("euclidean",), False, True)
        sums = Counter()
        for query, truth in zip(Q, t, strict=True):
            near = sorted((float(np.linalg.norm(query - x)), row) for row, x in enumerate(X))[:5]
            labels = [int(y[row]) for _, row in near]
            hits, score = 0, 0.0
            for place, label in enumerate(labels, start=1):
                if label == truth:
                    hits += 1
                    score += hits / place
            sums["mAP@5"] += score / hits if hits else 0
            votes = Counter(labels)
            sums["mMV@5"] += any(n == max(votes.values()) and c == truth for c, n in votes.items())
            for k in (1, 3, 5):
                sums[f"ACC@{k}"] += truth in labels[:k]
        ranking = rank(X, Q, distance="euclidean", k=5)
        got = scores(t, y[ranking.neighbour], rule.measures).mean(axis=0)
        expected = [sums[measure.name] / len(Q) for measure in rule.measures]
        assert [measure.name for measure in rule.measures] == ["mAP@5", "mMV@5", "ACC@1", "ACC@3", "ACC@5"]
        np.testing.assert_allclose(got, expected, rtol=1e-14)

    def test_what_does_not_go_is_refused(self):
        with pytest.raises(ConfigError, match="--top 3 does not go"):
            protocol("mahbod2024", 3)
        with pytest.raises(ConfigError, match="did you mean mahbod2024"):
            protocol("mahbod2023")

    def test_the_flags_know_the_rooms_names(self):
        assert config.DISTANCES == retrieval.DISTANCES
        assert config.RETRIEVAL_PROTOCOLS == retrieval.PROTOCOLS


class TestRank:
    @pytest.mark.parametrize("distance", retrieval.DISTANCES)
    @pytest.mark.parametrize(("block", "dtype"), [(2048, "f4"), (7, "f4"), (64, "f2"), (1, "f8")])
    def test_a_plain_rendering_gives_the_same(self, distance, block, dtype):
        rng = np.random.default_rng(0)
        X, Q = (rng.normal(3, 1, (n, 11)).astype(dtype) for n in (150, 20))
        X[4], Q[6] = 0, 0  # without a direction
        ranking = rank(X, Q, distance=distance, k=5, block=block)
        rows, values = plain(X, Q, distance, 5)
        np.testing.assert_array_equal(ranking.neighbour, rows)
        np.testing.assert_allclose(ranking.distance, values, atol=1e-12)

    def test_equal_distances_keep_the_order_of_the_index(self):
        X = np.array([[1, 0], [0, 1], [0, -1], [-1, 0], [0, 1], [3, 3]], dtype=np.float32)
        ranking = rank(X, np.zeros((1, 2), dtype=np.float32), distance="euclidean", k=5)
        assert ranking.neighbour.tolist() == [[0, 1, 2, 3, 4]]
        assert ranking.distance.tolist() == [[1, 1, 1, 1, 1]]

    @pytest.mark.parametrize("distance", retrieval.DISTANCES)
    def test_near_ties_are_ranked_in_double_precision(self, distance):
        """300 rows within 1e-6 of each other beside one far off: products in single precision see no difference."""
        rng = np.random.default_rng(1)
        query = rng.normal(10, 1, 16)
        X = query + 1e-9 * (1 + rng.permutation(300)[:, None]) * rng.normal(0, 1, 16)
        X[17] = -query
        ranking = rank(X, query[None], distance=distance, k=5, block=50)
        points, point = X.astype(np.longdouble), query.astype(np.longdouble)
        if distance == "cosine":
            points, point = (
                points / np.linalg.norm(points, axis=1, keepdims=True),
                point / np.linalg.norm(point),
            )
        exact = ((points - point) ** 2).sum(axis=1)
        assert ranking.neighbour[0].tolist() == np.argsort(exact)[:5].tolist()
        assert ranking.again == 1

    def test_copies_without_end_are_found_in_order(self):
        X = np.repeat(np.eye(3, dtype=np.float32), 200, axis=0)[np.random.default_rng(0).permutation(600)]
        ranking = rank(X, np.eye(3, dtype=np.float32), distance="cosine", k=5, block=128)
        for query, near in enumerate(ranking.neighbour):
            np.testing.assert_array_equal(near, np.flatnonzero(X[:, query])[:5])
        assert ranking.again == 3
        assert (ranking.distance == 0).all()

    def test_the_querys_own_group_is_left_out_and_counted(self):
        X = np.arange(6, dtype=np.float32)[:, None]
        group = np.array(["p", "p", "q", "q", "r", "r"])
        asked = {"distance": "euclidean", "k": 2, "index_group": group, "query_group": group}
        ranking = rank(X, X, **asked)  # the table itself is the index: every image's group is there
        # Image 2 of q: 1 is 1 away, 0 and 4 are 2 away, of which 0 comes first in the index.
        assert ranking.neighbour.tolist() == [[2, 3], [2, 3], [1, 0], [4, 1], [3, 2], [3, 2]]
        assert ranking.own_group.tolist() == [2] * 6
        kept = rank(X, X, **asked, exclude=False)
        assert kept.neighbour[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
        assert kept.own_group.tolist() == [2] * 6

    def test_what_is_not_there_is_said(self):
        X = np.arange(4, dtype=np.float32)[:, None]
        group = np.array(["p", "p", "p", "q"])
        one = {"query_group": np.array(["p"]), "index_group": group}
        ranking = rank(X, X[:1], distance="euclidean", k=3, **one)
        assert ranking.neighbour.tolist() == [[3, -1, -1]]
        assert np.isnan(ranking.distance[0, 1:]).all()
        assert rank(X, X[:1], distance="euclidean", k=6).neighbour.tolist() == [[0, 1, 2, 3, -1, -1]]

    def test_bad_values_name_their_rows(self):
        X = np.ones((5, 2), dtype=np.float32)
        X[3, 1] = np.nan
        with pytest.raises(ResultsError, match=r"1 of 5 index embeddings.*rows 3"):
            rank(X, X[:1], distance="cosine", k=1)
        with pytest.raises(ConfigError, match="did you mean cosine"):
            rank(X, X, distance="cosin", k=1)

    @pytest.mark.parametrize("distance", retrieval.DISTANCES)
    def test_faiss_finds_the_same_candidates(self, distance):
        pytest.importorskip("faiss")
        rng = np.random.default_rng(2)
        X, Q = (rng.normal(5, 1, (n, 24)).astype(np.float32) for n in (500, 60))
        one, two = (rank(X, Q, distance=distance, k=5, faiss=use) for use in (False, True))
        np.testing.assert_array_equal(one.neighbour, two.neighbour)
        np.testing.assert_array_equal(one.distance, two.distance)


class TestIndexFile:
    @pytest.mark.parametrize("distance", retrieval.DISTANCES)
    def test_others_find_the_same_in_it(self, tmp_path, distance):
        faiss = pytest.importorskip("faiss")
        rng = np.random.default_rng(0)
        X, Q = (rng.normal(1, 1, (n, 8)).astype(np.float32) for n in (80, 9))
        ids, labels = [f"image {row}, left" for row in range(80)], ["a", 'b"'] * 40
        path, table = write_index(tmp_path / "deep" / "x.faiss", X, distance=distance, ids=ids, labels=labels)
        index = faiss.read_index(str(path))
        asked = Q / np.linalg.norm(Q, axis=1, keepdims=True) if distance == "cosine" else Q
        _, found = index.search(asked, 3)
        np.testing.assert_array_equal(found, rank(X, Q, distance=distance, k=3).neighbour)
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(int(row["row"]), row["id"], row["label"]) for row in rows] == list(zip(range(80), ids, labels, strict=True))  # fmt: skip
        assert sorted(file.name for file in path.parent.iterdir()) == ["x.csv", "x.faiss"]

    def test_without_faiss_the_extra_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "faiss", None)
        with pytest.raises(MissingExtraError, match=r"faiss-cpu.*pip install 'featprobe\[faiss\]'"):
            write_index(tmp_path / "x", np.ones((2, 2)), distance="cosine", ids=["a", "b"], labels=["", ""])

    def test_a_name_that_its_own_table_would_take_is_refused(self, tmp_path):
        pytest.importorskip("faiss")
        with pytest.raises(ConfigError, match=r"ends in .csv"):
            write_index(tmp_path / "x.csv", np.ones((1, 2)), distance="cosine", ids=["a"], labels=[""])


def unit(name, identity="system", value=0.25):
    key = dict.fromkeys(ESTIMATE_COLUMNS, "x") | {"fraction": 1.0, "shots": 0, "seed": 0}
    estimate = {**key, "value": value, "ci_low": float("nan")}
    columns = dict.fromkeys(NEIGHBOUR_COLUMNS, "x") | {"fraction": 1.0, "shots": 0, "seed": 0}
    columns |= {"query": ["q", "q"], "rank": [1, 2], "neighbour": ["n", ""], "fold": ["test", "test"]}
    columns |= {"distance": [0.1, float("nan")], "hit": [True, False]}
    return Unit(name * 64, [estimate], columns, {"identity": identity})


class TestStore:
    def test_units_come_back_and_replace_their_like(self, tmp_path):
        folder = RetrievalFolder(tmp_path / "out")
        assert folder.record()["units"] == {}
        folder.add([unit("a"), unit("b", "other", 1 / 3)])
        folder.add([unit("c", value=0.5)])
        assert set(folder.record()["units"]) == {"b" * 64, "c" * 64}
        rows = folder.estimates(["b" * 64, "c" * 64])
        assert sorted((row["unit"][0], float(row["value"]), row["ci_low"]) for row in rows) == [
            ("b", 1 / 3, ""),
            ("c", 0.5, ""),
        ]
        near = folder.neighbours("c" * 64)
        assert near["neighbour"].tolist() == ["n", ""]
        assert near["hit"].tolist() == [True, False]
        assert len(folder.neighbours("a" * 64)) == 0

    def test_tables_that_the_record_does_not_vouch_for_are_set_aside(self, tmp_path):
        folder = RetrievalFolder(tmp_path)
        folder.add([unit("a")])
        with (tmp_path / ESTIMATES).open("a") as file:
            file.write("mine\n")
        assert folder.record() == {"units": {}, "files": {}}
        folder.add([unit("b")])
        assert set(folder.record()["units"]) == {"b" * 64}
        assert len([file for file in tmp_path.iterdir() if file.suffix == ".old"]) == 2
        (tmp_path / RECORD).write_text("{")
        assert folder.record()["units"] == {}
