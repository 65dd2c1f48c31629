"""Every interval and test equals a reference: scipy, an O(n^2) form written from the paper, or a published value."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from featprobe.errors import ConfigError
from featprobe.metrics import evaluate
from featprobe.records import Predictions, RunKey, Samples
from featprobe.registry import METRICS
from featprobe.significance.as_reported import RESAMPLES, as_reported
from featprobe.significance.bca import acceleration, bca_interval, jackknife
from featprobe.significance.bootstrap import held_out, resampled
from featprobe.significance.datasets import across_datasets, bayesian_signed_rank, cliques
from featprobe.significance.delong import (
    clustered_delong,
    contributions,
    delong,
    difference_test,
    perfect_floor,
)
from featprobe.significance.freedom import freedom_of
from featprobe.significance.mcnemar import mcnemar, mcnemar_of_rows
from featprobe.significance.methods import intervals_by
from featprobe.significance.multiplicity import benjamini_hochberg, holm
from featprobe.significance.percentile import percentile_interval
from featprobe.significance.resampled_t import corrected_resampled_t
from featprobe.significance.sample_size import groups_needed
from featprobe.significance.sign_flip import sign_flip
from featprobe.significance.wilson import wilson_interval, wilson_of_rows

KEY = RunKey("d", "x", "random", "frozen", "cls", "p", "logistic", "f")


def made(y, score, group=None, key=KEY):
    ids = [f"{row:05d}" for row in range(len(y))]
    names = tuple("abcdefgh"[: max(2, int(np.max(y)) + 1)])
    samples = Samples.build(path=ids, label=y, label_names=names, group=group)
    values = np.asarray(score, dtype=float)
    values = np.stack([1 - values, values], axis=1) if values.ndim == 1 else values
    return Predictions(key, samples, values, 100)


def noise(n=80, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    return y, 1 / (1 + np.exp(-(1.2 * (2 * y - 1) + 1.5 * rng.standard_normal(n))))


@pytest.mark.parametrize("method", ["percentile", "BCa"])
@pytest.mark.parametrize("name", ["accuracy", "brier", "auroc"])
def test_bootstrap_intervals_equal_scipys_where_every_group_has_one_row(method, name):
    y, score = noise()
    own = made(y, score)

    def statistic(rows):
        return float(evaluate(name, y[rows.astype(int)], own.y_score[rows.astype(int)])[0])

    reference = stats.bootstrap(
        (np.arange(len(y)),), statistic, n_resamples=400, method=method, vectorized=False,
        rng=np.random.default_rng([7, 0]),
    )  # fmt: skip
    (row,) = intervals_by(method.lower(), [own], [name], resamples=400, seed=7)
    # Same generator, same draws: n of n, one row per group.
    part = held_out(own)
    draws = resampled(part, [METRICS.get(name)], [own.y_score], resamples=400, seed=[7, 0], whole=True)[0, 0]
    np.testing.assert_allclose(draws, reference.bootstrap_distribution, atol=1e-12)
    expected = reference.confidence_interval
    np.testing.assert_allclose([row.ci_low, row.ci_high], [expected.low, expected.high], atol=1e-10)
    assert "estimand: this fitted model on new images" in row.ci_method


def test_bca_of_two_samples_equals_scipys():
    rng = np.random.default_rng(1)
    a, b = rng.exponential(size=14), rng.exponential(size=9)

    def gap(x, y, axis=-1):
        return x.mean(axis=axis) - y.mean(axis=axis)

    reference = stats.bootstrap((a, b), gap, n_resamples=999, method="BCa", rng=np.random.default_rng(0))
    left = [
        (np.array([gap(np.delete(a, i), b) for i in range(14)]), 14),
        (np.array([gap(a, np.delete(b, i)) for i in range(9)]), 9),
    ]
    found = bca_interval(gap(a, b), reference.bootstrap_distribution, acceleration(left))
    np.testing.assert_allclose(found, reference.confidence_interval, atol=1e-12)


def test_the_jackknife_leaves_out_whole_groups_and_a_drawn_part_estimates_the_same_acceleration():
    y, score = noise(600)
    group = [f"g{row // 3:03d}" for row in range(600)]
    part = held_out(made(y, score, group))
    metric, own = METRICS.get("brier"), made(y, score).y_score
    ((values, size),) = jackknife(part, metric, own)
    by_hand = [np.mean(np.delete((score - y) ** 2, slice(3 * g, 3 * g + 3))) for g in range(200)]
    np.testing.assert_allclose(values, by_hand, atol=1e-12)
    assert size == 200
    drawn = [acceleration(jackknife(part, metric, own, seed=s, most=100)) for s in range(60)]
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert abs(np.mean(drawn) - acceleration([(values, size)])) < 4 * error + 2e-4


def kernel(positive, scores):
    """Placements in O(n^2), from DeLong's definition."""
    above, below = scores[:, positive, None], scores[:, None, ~positive]
    psi = (above > below) + 0.5 * (above == below)
    return psi.mean(axis=2), psi.mean(axis=1)


def slow_delong(positive, scores):
    v10, v01 = kernel(positive, scores)
    theta = v10.mean(axis=1)
    s10 = sum(np.outer(c, c) for c in (v10 - theta[:, None]).T) / (v10.shape[1] - 1)
    s01 = sum(np.outer(c, c) for c in (v01 - theta[:, None]).T) / (v01.shape[1] - 1)
    return theta, s10 / v10.shape[1] + s01 / v01.shape[1]


def slow_obuchowski(positive, scores, unit):
    """Obuchowski 1997, sums over clusters written out."""
    v10, v01 = kernel(positive, scores)
    m, n = v10.shape[1], v01.shape[1]
    theta = v10.mean(axis=1)
    clusters = sorted(set(unit.tolist()))
    count = len(clusters)
    s10, s01, s11 = (np.zeros((len(scores), len(scores))) for _ in range(3))
    for cluster in clusters:
        inside_x, inside_y = unit[positive] == cluster, unit[~positive] == cluster
        x = v10[:, inside_x].sum(axis=1) - inside_x.sum() * theta
        y = v01[:, inside_y].sum(axis=1) - inside_y.sum() * theta
        s10, s01, s11 = s10 + np.outer(x, x), s01 + np.outer(y, y), s11 + np.outer(x, y)
    i10, i01 = len(set(unit[positive].tolist())), len(set(unit[~positive].tolist()))
    s10, s01, s11 = s10 * i10 / ((i10 - 1) * m), s01 * i01 / ((i01 - 1) * n), s11 * count / (count - 1)
    return theta, s10 / m + s01 / n + (s11 + s11.T) / (m * n)


@pytest.mark.parametrize("seed", range(5))
def test_delong_and_its_clustered_form_equal_slow_ones(seed):
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(40), rng.integers(1, 11, 40))
    positive = rng.random(len(unit)) < 0.3 + 0.4 * (unit % 2)
    scores = np.round(rng.standard_normal((3, len(unit))) + 0.8 * positive + rng.standard_normal(40)[unit], 1)
    for fast, slow in (
        (delong(positive, scores), slow_delong(positive, scores)),
        (clustered_delong(positive, scores, unit), slow_obuchowski(positive, scores, unit)),
    ):
        np.testing.assert_allclose(fast.value, slow[0], atol=1e-12, rtol=0)
        np.testing.assert_allclose(fast.covariance, slow[1], atol=1e-12, rtol=0)
    alone = clustered_delong(positive, scores, rng.permutation(len(unit)))
    np.testing.assert_allclose(alone.covariance, delong(positive, scores).covariance, atol=1e-15)
    assert contributions(positive, scores, unit).sum(axis=1) == pytest.approx(0, abs=1e-12)


def test_delong_gives_the_published_value_of_hanleys_ratings():
    # Hanley & McNeil, Radiology 143, 1982, table I (109 CT images, ratings 1 to 5); area, standard error and interval as
    # in Stata's manual, [R] roctab, example 1: 0.8932, 0.0307, 0.83295 to 0.95339.
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    score = np.concatenate([np.repeat(np.arange(1.0, 6), counts) for counts in (normal, abnormal)])
    areas = delong(np.arange(109) >= 58, score[None])
    value, error = areas.value[0], np.sqrt(areas.covariance[0, 0])
    assert round(value, 4) == 0.8932
    assert round(error, 4) == 0.0307
    interval = value + np.array([-1, 1]) * stats.norm.ppf(0.975) * error
    np.testing.assert_allclose(interval, [0.83295, 0.95339], atol=5e-6)


def test_delongs_difference_has_the_variance_of_the_paired_placements():
    y, first = noise(60, 3)
    scores = np.stack([first, noise(60, 4)[1]])
    areas = delong(y == 1, scores)
    low, high, p = difference_test(areas, 0, 1)
    v10, v01 = kernel(y == 1, scores)
    error = np.sqrt(np.var(v10[0] - v10[1], ddof=1) / 30 + np.var(v01[0] - v01[1], ddof=1) / 30)
    gap = areas.value[0] - areas.value[1]
    # Satterthwaite's t in the place of the normal law.
    variances = [np.var(v[0] - v[1], ddof=1) / 30 for v in (v10, v01)]
    degrees = sum(variances) ** 2 / sum(v**2 / 29 for v in variances)
    t = stats.t.ppf(0.975, degrees)
    assert (low, high) == (pytest.approx(gap - t * error), pytest.approx(gap + t * error))
    assert p == pytest.approx(2 * stats.t.sf(abs(gap) / error, degrees))
    assert np.isnan(difference_test(areas, 0, 0)).all()


def test_degenerate_areas_have_a_stated_answer():
    positive = np.array([True, True, False, False, False])
    assert np.isnan(delong(np.ones(3, dtype=bool), np.ones((1, 3))).value[0])
    assert np.isnan(delong(positive[1:], np.ones((1, 4))).covariance[0, 0])
    assert np.isnan(clustered_delong(positive, np.ones((1, 5)), np.array([0, 0, 1, 2, 3])).covariance[0, 0])
    assert perfect_floor(positive, np.arange(5)) == pytest.approx(0.025**0.5)
    assert np.isnan(perfect_floor(positive, np.array([0, 1, 1, 2, 3])))
    (perfect,) = intervals_by("delong", [made(positive.astype(int), [0.9, 0.8, 0.1, 0.2, 0.3])], ["auroc"])
    assert (perfect.ci_low, perfect.ci_high) == (pytest.approx(0.025**0.5), 1.0)
    assert "perfect separation" in perfect.ci_method
    (constant,) = intervals_by("delong", [made(positive.astype(int), [0.5] * 5)], ["auroc"])
    assert np.isnan(constant.ci_low)
    assert constant.ci_method.startswith("undefined")


@pytest.mark.parametrize("method", ["percentile", "bca", "delong", "wilson"])
def test_five_rows_have_an_interval_or_a_reason(method):
    own = made(np.array([0, 1, 0, 1, 1]), [0.2, 0.7, 0.6, 0.4, 0.9])
    for row in intervals_by(method, [own], ["accuracy", "auroc"], resamples=200):
        if np.isfinite(row.ci_low):
            assert 0 <= row.ci_low <= row.value <= row.ci_high <= 1
        else:
            assert row.ci_method.startswith("undefined")


def test_macro_area_has_the_variance_of_the_groups_bootstrap():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 100)
    score = rng.dirichlet(np.ones(3), 300) + 0.35 * np.eye(3)[y]
    own = made(y, score / score.sum(axis=1, keepdims=True), [f"g{row // 2}" for row in range(300)])
    (row,) = intervals_by("delong", [own], ["auroc"])
    draws = resampled(held_out(own), [METRICS.get("auroc")], [own.y_score], resamples=4000, seed=[0])[0, 0]
    assert row.value == pytest.approx(evaluate("auroc", y, own.y_score)[0])
    assert (row.ci_high - row.ci_low) / 3.92 == pytest.approx(draws.std(), rel=0.06)


def test_wilson_and_mcnemar_equal_published_values():
    # Newcombe, Statistics in Medicine 17, 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29 (method 3).
    expected = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (right, total), interval in expected.items():
        np.testing.assert_allclose(wilson_interval(right, total), interval, atol=5e-5)
        exact = stats.binomtest(right, total).proportion_ci(method="wilson")
        np.testing.assert_allclose(wilson_interval(right, total), exact, atol=1e-12)
    assert np.isnan(wilson_interval(0, 0)).all()
    # Fagerland, Lydersen & Laake 2013, table 1 (1 and 7 discordant pairs): exact 0.070, mid-p 0.039.
    assert mcnemar(1, 7) == pytest.approx(0.0703125)
    assert mcnemar(1, 7, mid=True) == pytest.approx(0.0390625)
    assert mcnemar(7, 1) == stats.binomtest(1, 8).pvalue
    assert mcnemar(0, 0) == mcnemar(4, 4) == mcnemar(4, 4, mid=True) == 1.0


def test_methods_for_single_rows_refuse_groups_and_name_what_fits():
    unit = np.array([0, 0, 1, 2])
    right = np.array([True, False, True, True])
    with pytest.raises(ConfigError, match=r"Wilson's interval counts rows .* 1 of 3 groups .*--interval t"):
        wilson_of_rows(right.astype(float), unit)
    with pytest.raises(ConfigError, match=r"McNemar's test .*--test sign-flip"):
        mcnemar_of_rows(right, ~right, unit)
    with pytest.raises(ConfigError, match=r"DeLong's unclustered form .*clustered_delong"):
        delong(right, np.arange(4.0)[None], unit)
    own = made(np.array([0, 1, 0, 1]), [0.2, 0.7, 0.6, 0.9], list("ppqr"))
    with pytest.raises(ConfigError, match="Wilson"):
        intervals_by("wilson", [own], ["accuracy"])
    (row,) = intervals_by("delong", [own], ["accuracy", "auroc"])
    assert row.metric == "auroc"
    with pytest.raises(ConfigError, match="--interval delong fits none"):
        intervals_by("delong", [own], ["accuracy"])


def test_corrected_resampled_t_equals_its_formula():
    values = np.array([0.02, 0.05, -0.01, 0.03, 0.04, 0.01])
    found = corrected_resampled_t(values, 0.25)
    error = np.sqrt((1 / 6 + 0.25) * values.var(ddof=1))
    assert found.p_value == pytest.approx(2 * stats.t.sf(values.mean() / error, 5))
    assert (found.low + found.high) / 2 == pytest.approx(values.mean())
    # Without the correction it is the one-sample t-test.
    plain = stats.ttest_1samp(values, 0)
    assert corrected_resampled_t(values, 0.0).p_value == pytest.approx(plain.pvalue)
    np.testing.assert_allclose(
        [corrected_resampled_t(values, 0.0).low, corrected_resampled_t(values, 0.0).high],
        plain.confidence_interval(),
    )
    assert np.isnan(corrected_resampled_t(values[:1], 0.25).low)
    assert np.isnan(corrected_resampled_t(np.full(4, 0.1), 0.25).p_value)


def test_adjustments_equal_references():
    p = np.array([0.01, 0.04, 0.03, 0.005, np.nan, 0.6])
    known = np.isfinite(p)
    np.testing.assert_allclose(holm(p)[known], [0.04, 0.09, 0.09, 0.025, 0.6])  # by hand
    np.testing.assert_allclose(benjamini_hochberg(p)[known], stats.false_discovery_control(p[known]))
    assert np.isnan(holm(p)[4])
    assert np.isnan(benjamini_hochberg(p)[4])


def test_sign_flips_of_few_groups_equal_scipys_exact_permutation_test():
    rng = np.random.default_rng(2)
    parts = rng.standard_normal((2, 9)) + 0.4
    found, sums = sign_flip(parts)
    for p, row in zip(found, parts, strict=True):
        reference = stats.permutation_test(
            (row, np.zeros(9)), lambda x, y: abs(np.sum(x - y)), permutation_type="samples",
            vectorized=False, alternative="greater", n_resamples=np.inf,
        )  # fmt: skip
        assert p == pytest.approx(reference.pvalue)
    assert sums.shape == (2, 512)
    many, _ = sign_flip(rng.standard_normal((1, 60)) + 1.5, flips=999, seed=1)
    assert many[0] == 1 / 1000


def test_across_data_sets_equals_scipy_and_demsars_example():
    # Demsar, JMLR 7, 2006, table 6: AUC of four versions of C4.5 on 14 data sets; F_F = 9.28, CD = 1.25.
    table = np.array([
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
    ])  # fmt: skip
    found = across_datasets(table)
    np.testing.assert_allclose(found.mean_rank, [3.143, 2.000, 2.893, 1.964], atol=5e-4)
    assert found.critical == pytest.approx(2.569 * np.sqrt(20 / 84), abs=1e-3)
    rest = 14 * 3
    chi_square = found.statistic * rest / (13 + found.statistic)
    assert chi_square == pytest.approx(stats.friedmanchisquare(*table.T).statistic)
    assert cliques(np.array([3.0, 1.0, 1.9, 3.2]), 1.0) == ((1, 2), (0, 3))
    same = across_datasets(np.tile([0.9, 0.8, 0.7], (4, 1)))
    assert same.statistic == np.inf
    assert same.p_value == pytest.approx((1 / 6) ** 3)
    with pytest.raises(ValueError, match="2 data sets"):
        across_datasets(np.ones((2, 3)))


def test_the_bayesian_signed_rank_equals_a_plain_simulation():
    gaps = np.array([0.03, 0.02, -0.005, 0.04, 0.0, 0.012])
    found = bayesian_signed_rank(gaps, rope=0.01, seed=1)
    rng = np.random.default_rng(5)
    z = np.concatenate([[0.0], gaps])
    wins = np.zeros(3)
    for _ in range(4000):
        w = rng.gamma([0.5, *[1.0] * len(gaps)])
        both, sums = np.outer(w, w) / w.sum() ** 2, z[:, None] + z
        wins[
            np.argmax([both[sums > 0.02].sum(), both[abs(sums) <= 0.02].sum(), both[sums < -0.02].sum()])
        ] += 1
    np.testing.assert_allclose(found, wins / 4000, atol=0.03)
    left, rope, right = bayesian_signed_rank(-gaps, rope=0.01, seed=1)
    np.testing.assert_allclose((right, rope, left), found)


def test_the_groups_needed_have_the_power_that_is_said():
    rng = np.random.default_rng(0)
    needed = int(groups_needed(0.3, 1 / 50, 50))
    assert needed == np.ceil((1.959964 + 0.841621) ** 2 / 0.09)
    values = rng.standard_normal((4000, needed)) + 0.3
    assert (stats.ttest_1samp(values, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.03)
    assert groups_needed(0.0, 0.1, 50) == np.inf
    assert np.isnan(groups_needed(0.1, 0.0, 50))


def test_the_studys_interval_is_seventy_times_too_narrow():
    y, score = noise(624)
    own = made(y, score)
    low, high = as_reported(held_out(own), METRICS.get("accuracy"), own.y_score)
    draws = resampled(
        held_out(own), [METRICS.get("accuracy")], [own.y_score], resamples=4000, seed=[0], whole=True
    )[0, 0]
    sound = np.diff(percentile_interval(draws))[0]
    assert sound / (high - low) == pytest.approx(np.sqrt(RESAMPLES), rel=0.1)


def test_degrees_of_freedom_of_a_rare_class_are_those_of_the_rare_class():
    rng = np.random.default_rng(3)
    y = (np.arange(300) < 8).astype(int)
    own = made(y, 1 / (1 + np.exp(-(1.5 * y + rng.standard_normal(300)))))
    found = freedom_of([held_out(own)], METRICS.get("auroc"), [[own.y_score]], seed=0)
    influence = contributions(y == 1, own.y_score[:, 1][None], np.arange(300))[0]
    v = [np.sum(influence[:8] ** 2), np.sum(influence[8:] ** 2)]
    # By placements, whose shares the resamples of one stratum at a time estimate.
    assert found == pytest.approx(sum(v) ** 2 / (v[0] ** 2 / 7 + v[1] ** 2 / 291), rel=0.1)
    assert found < 10
    assert freedom_of([held_out(own)], METRICS.get("accuracy"), [[own.y_score]], seed=0) == 299
