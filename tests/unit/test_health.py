"""What is wrong with embeddings is said, and nothing is said of sound ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

from featprobe import health
from featprobe.health import Finding, alike, check, effective_rank, identical, signature


def gauss(rows: int = 300, dim: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype("f4")


def kinds(X: np.ndarray, storage: str = "float32") -> list[str]:
    return [finding.kind for finding in check(X.astype(storage), storage)]


class TestEffectiveRank:
    def test_by_hand(self):
        # Singular values 3 and 1, centred: exp of the entropy of 3/4 and 1/4.
        X = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
        expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
        assert effective_rank(X) == pytest.approx(expected, rel=1e-12)

    def test_equal_directions_count_fully_and_shifting_or_scaling_changes_nothing(self):
        X = np.concatenate([np.eye(6), -np.eye(6)])
        assert effective_rank(X) == pytest.approx(6)
        assert effective_rank(1e-30 * X + 0) == pytest.approx(6)
        assert effective_rank(X + 100) == pytest.approx(6)

    @pytest.mark.parametrize("shape", [(40, 200), (200, 40)])
    def test_it_is_that_of_the_singular_values(self, shape):
        X = gauss(*shape) * np.geomspace(1, 1e-3, shape[1])
        s = np.linalg.svd(X - X.mean(axis=0), compute_uv=False)
        p = s[s > 1e-12] / s.sum()
        assert effective_rank(X) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)

    def test_of_many_rows_the_same_ones_are_drawn_every_time(self):
        X = gauss(3 * health.MOST_ROWS, 8)
        assert effective_rank(X) == effective_rank(X)
        assert effective_rank(X) == pytest.approx(8, rel=0.01)

    def test_no_rank_where_nothing_differs(self):
        assert effective_rank(np.ones((5, 3))) == 0
        assert effective_rank(np.zeros((5, 3))) == 0
        assert effective_rank(np.ones((1, 3))) == 0
        with pytest.raises(ValueError, match="not finite"):
            effective_rank(np.array([[1.0, np.inf], [0, 0]]))


class TestSound:
    @pytest.mark.parametrize("storage", ["float32", "float16"])
    @pytest.mark.parametrize(
        "make",
        [
            gauss,
            lambda: np.maximum(gauss(), 0),
            lambda: gauss() / np.arange(1, 65),  # a spectrum that falls as 1/k
            lambda: gauss(4, 8),
            lambda: gauss(1, 8),
            lambda: gauss(500, 3) + 5,
            lambda: gauss()[:, :64] * (np.arange(64) < 40),  # some dead dimensions
        ],
    )
    def test_nothing_is_said(self, make, storage):
        assert kinds(make(), storage) == []

    def test_a_network_as_initialised_is_told_from_rounding_in_float32_alone(self):
        X = gauss(1, 384) + 6e-5 * gauss(100, 384, seed=1)  # DINOv2 before training
        assert kinds(X) == []
        assert kinds(X, "float16") == ["collapsed"]


class TestIll:
    def test_rows_that_are_all_the_same(self):
        X = np.repeat(gauss(1), 20, axis=0)
        assert check(X, "float32") == (Finding("equal", "the embeddings of all 20 images are the same"),)

    @pytest.mark.parametrize("storage", ["float32", "float16"])
    def test_a_constant_and_noise_of_the_arithmetic(self, storage):
        noise = {"float32": 1e-6, "float16": 3e-4}[storage]
        X = gauss(1) * (1 + noise * gauss(300, 64, seed=1))
        (finding,) = check(X.astype(storage), storage)
        assert finding.kind == "collapsed"
        assert "no more than rounding does" in finding.words

    @pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-3])
    def test_one_direction(self, noise):
        X = 5 + gauss(300, 1) @ gauss(1, 640, seed=1) + noise * gauss(300, 640, seed=2)
        (finding,) = check(X, "float32")
        assert finding.kind == "collapsed"
        assert "where 299 is possible" in finding.words

    def test_few_directions_where_many_are_possible(self):
        X = gauss(600, 20) @ gauss(20, 640, seed=1)
        assert kinds(X) == []
        X = gauss(600, 3) @ gauss(3, 640, seed=1)
        assert effective_rank(X) == pytest.approx(3, rel=0.01)
        assert kinds(X) == ["collapsed"]
        assert kinds(X[:100]) == []  # 3 of 99 is no collapse

    def test_values_that_are_not_finite_do_not_hide_the_rest(self):
        X = np.repeat(gauss(1), 20, axis=0)
        X[3, 5], X[4, 6] = np.nan, np.inf
        assert kinds(X) == ["nonfinite", "equal"]
        assert check(X, "float32")[0].words.startswith("2 of 20 embeddings hold")
        assert kinds(np.full((3, 2), np.nan)) == ["nonfinite"]

    def test_saturated_float16(self):
        X = gauss()
        X[7, 3] = -65504
        found = check(X.astype("f2"), "float16")
        assert found[0].kind == "saturated"
        assert found[0].words.startswith("1 of 300 embeddings hold ±65504")

    def test_values_too_small_for_float16(self):
        assert kinds(gauss() * 1e-5, "float16") == ["underflow"]
        assert kinds(gauss() * 1e-5, "float32") == []

    def test_most_dimensions_dead(self):
        X = np.where(np.arange(64) < 20, gauss(), 3.0)
        assert kinds(X) == ["dead"]
        assert "69% of the 64 dimensions" in check(X.astype("f4"), "float32")[0].words


class TestIdentical:
    @pytest.mark.parametrize(
        ("change", "same"),
        [
            (lambda X: X.copy(), True),
            (lambda X: X * (1 + 3e-7 * gauss(*X.shape, seed=1)), True),
            (lambda X: X.astype("f8"), True),
            (lambda X: X * (1 + 1e-4 * gauss(*X.shape, seed=1)), False),
            (lambda X: X.astype("f2"), False),
            (lambda X: X[::-1], False),
            (lambda X: X[:-1], False),
            (lambda X: -X, False),
        ],
    )
    def test_to_a_millionth_of_a_row(self, change, same):
        X = gauss() + 0.5
        Y = change(X)
        assert identical(X, Y) is same
        # What run.json keeps of a table answers as the tables themselves do.
        stored = json.loads(json.dumps([signature(X), signature(Y)]))
        assert alike(*stored) is same

    def test_zero_rows_and_values_that_are_not_finite(self):
        zero, broken = np.zeros((4, 3), "f4"), np.full((4, 3), np.nan, "f4")
        assert identical(zero, zero.copy())
        assert alike(signature(zero), signature(zero.astype("f8")))
        assert not identical(zero, broken)
        assert not alike(signature(zero), signature(broken))
        assert not alike(signature(broken), signature(broken.astype("f8")))
