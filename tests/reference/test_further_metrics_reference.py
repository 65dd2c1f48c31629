"""The further metrics equal scikit-learn's, SciPy's or their published definition written plainly, weights and ties and all."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from featprobe.metrics import evaluate
from featprobe.significance import group_weights

EXAMPLES = settings(max_examples=25, deadline=None)


@st.composite
def cases(draw, kind):
    """(y, score, weights [3, N]): few levels of score make ties, weight 0 makes rows and classes vanish."""
    rows, levels = draw(st.integers(2, 40)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.integers(0, 4, (3, rows)).astype(float) * rng.choice([1.0, 0.37])
    weights[:, 0] += 1
    if kind == "number":
        return rng.integers(0, levels + 1, rows) + 1e4, rng.integers(0, levels + 1, (rows, 1)) + 1e4, weights
    columns = draw(st.integers(1 if kind == "label" else 2, 4))
    if kind == "label":
        return (
            rng.integers(-1, 2, (rows, columns)),
            rng.integers(0, levels + 1, (rows, columns)) / levels,
            weights,
        )
    score = rng.integers(0, levels + 1, (rows, columns)) + 1e-3
    return rng.integers(0, columns, rows), score / score.sum(axis=1, keepdims=True), weights


def agree(name, expected, case, *, task, atol=1e-12):
    """`expected(y, score, weight)` on the rows that weigh something equals each resample's value."""
    y, score, weights = case
    found = evaluate(name, y, score, weights, task=task)
    for value, weight in zip(found, weights, strict=True):
        held = weight > 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns where a class is absent
            wanted = expected(y[held], score[held], weight[held])
        np.testing.assert_allclose(value, wanted, rtol=1e-10, atol=atol)


def averaged(function, average):
    return lambda y, s, w: function(y, s.argmax(1), sample_weight=w, average=average, zero_division=0)


def kappa(y, s, w):
    if len({*y, *s.argmax(1)}) == 1:
        return np.nan
    return reference.cohen_kappa_score(y, s.argmax(1), sample_weight=w)


def correlation(y, said, w):
    return reference.matthews_corrcoef(y, said, sample_weight=w) if len(set(y)) > 1 else np.nan


CLASSES = {
    f"{average}_{what}": averaged(function, average)
    for average in ("macro", "weighted", "micro")
    for what, function in (
        ("precision", reference.precision_score),
        ("recall", reference.recall_score),
        ("f1", reference.f1_score),
    )
} | {
    "cohen_kappa": kappa,
    "mcc": lambda y, s, w: correlation(y, s.argmax(1), w),
    "log_loss": lambda y, s, w: reference.log_loss(y, s, sample_weight=w, labels=np.arange(s.shape[1])),
}


@pytest.mark.parametrize("name", CLASSES)
@EXAMPLES
@given(case=cases("class"))
def test_classes_equal_scikit_learn(name, case):
    agree(name, CLASSES[name], case, task="classes")


def cells(average, function):
    """scikit-learn's average over labels, which needs every cell; those that are not known weigh nothing here."""

    def value(y, s, w):
        known = y >= 0
        if average == "micro":
            weight = np.broadcast_to(w[:, None], y.shape)[known]
            truth, said = y[known], (s > 0.5)[known]
            return function(truth, said, sample_weight=weight, zero_division=0) if truth.any() else np.nan
        parts = [(y[k, i], s[k, i] > 0.5, w[k]) for i, k in enumerate(known.T) if k.any()]
        share = [weight[truth == 1].sum() for truth, _, weight in parts]
        values = [function(t, said, sample_weight=v, zero_division=0) for t, said, v in parts]
        return np.average(values, weights=share) if np.sum(share) else np.nan

    return value


def per_label(binary, *, both=True):
    def value(y, s, w):
        found = []
        for i, known in enumerate((y >= 0).T):
            if known.any() and (not both or len(set(y[known, i])) == 2):
                found.append(binary(y[known, i], s[known, i], w[known]))
        found = [one for one in found if np.isfinite(one)]
        return np.mean(found) if found else np.nan

    return value


def label_kappa(y, s, w):
    if len({*y, *(s > 0.5).astype(int)}) == 1:
        return np.nan
    return reference.cohen_kappa_score(y, s > 0.5, sample_weight=w)


LABELS = {
    f"{average}_{what}": cells(average, function)
    for average in ("weighted", "micro")
    for what, function in (
        ("precision", reference.precision_score),
        ("recall", reference.recall_score),
        ("f1", reference.f1_score),
    )
} | {
    "macro_label_precision": per_label(
        lambda y, s, w: reference.precision_score(y, s > 0.5, sample_weight=w, zero_division=0)
    ),
    "macro_label_recall": per_label(lambda y, s, w: reference.recall_score(y, s > 0.5, sample_weight=w)),
    "cohen_kappa": per_label(label_kappa, both=False),
    "mcc": per_label(lambda y, s, w: correlation(y, s > 0.5, w)),
    "log_loss": per_label(
        lambda y, s, w: reference.log_loss(y, s, sample_weight=w, labels=[0, 1]), both=False
    ),
    "medmnist_acc": per_label(
        lambda y, s, w: reference.accuracy_score(y, s > 0.5, sample_weight=w), both=False
    ),
}


@pytest.mark.parametrize("name", LABELS)
@EXAMPLES
@given(case=cases("label"))
def test_labels_equal_scikit_learn_on_their_known_cells(name, case):
    agree(name, LABELS[name], case, task="multilabel")


@pytest.mark.parametrize("average", ["weighted", "micro"])
def test_labels_without_gaps_are_scikit_learns_own_averages(average):
    rng = np.random.default_rng(3)
    y, s, w = rng.integers(0, 2, (50, 4)), rng.random((50, 4)), rng.integers(1, 4, 50).astype(float)
    for what, function in (
        ("precision", reference.precision_score),
        ("recall", reference.recall_score),
        ("f1", reference.f1_score),
    ):
        wanted = function(y, s > 0.5, average=average, sample_weight=w)
        found = evaluate(f"{average}_{what}", y, s, w[None], task="multilabel")
        np.testing.assert_allclose(found, wanted, atol=1e-12)


class TestOperatingPoints:
    """The points are those of scikit-learn's ROC curve, none between them."""

    @staticmethod
    def held(y, s, w, *, least, wanted):
        if len(set(y)) < 2:
            return np.nan
        fpr, tpr, _ = reference.roc_curve(y, s, sample_weight=w, drop_intermediate=False)
        given, read = (1 - fpr, tpr) if wanted == "sensitivity" else (tpr, 1 - fpr)
        return read[given >= least - 1e-9].max()

    @pytest.mark.parametrize("wanted", ["sensitivity", "specificity"])
    @pytest.mark.parametrize("level", [90, 95])
    @EXAMPLES
    @given(grades=cases("class"), labels=cases("label"))
    def test_equals_the_best_point_of_the_curve(self, wanted, level, grades, labels):
        other = {"sensitivity": "specificity", "specificity": "sensitivity"}[wanted]
        name = f"{wanted}_at_{level}_{other}"

        def binary(y, s, w):
            return self.held(y, s, w, least=level / 100, wanted=wanted)

        def classes(y, s, w):
            if s.shape[1] == 2:
                return binary(y, s[:, 1], w)
            found = [binary(y == c, s[:, c], w) for c in range(s.shape[1])]
            found = [value for value in found if np.isfinite(value)]
            return np.mean(found) if found else np.nan

        agree(name, classes, grades, task="classes")
        agree(name, per_label(binary), labels, task="multilabel")

    def test_by_hand(self):
        y = np.array([0] * 20 + [1] * 4)
        s = np.array([*np.linspace(0, 0.5, 19), 0.8, 0.45, 0.6, 0.7, 0.9])
        score = np.column_stack([1 - s, s])
        # One healthy row in twenty may be called: 0.8 and, below it, all ill rows above 0.5.
        np.testing.assert_allclose(evaluate("sensitivity_at_95_specificity", y, score), 3 / 4)
        # All four ill rows must be found: from 0.45 on, where 0.5, 0.47 and 0.8 are called too.
        np.testing.assert_allclose(evaluate("specificity_at_95_sensitivity", y, score), 17 / 20)
        tied = np.column_stack([np.full(24, 0.5)] * 2)
        np.testing.assert_array_equal(evaluate("sensitivity_at_95_specificity", y, tied), [0.0])
        np.testing.assert_array_equal(evaluate("specificity_at_95_sensitivity", y, tied), [0.0])
        for name in ("sensitivity_at_95_specificity", "specificity_at_90_sensitivity"):
            assert np.isnan(evaluate(name, np.ones(24, dtype=int), score)).all()


class TestMedMNIST:
    """`getAUC` and `getACC` of its evaluator, by their definition."""

    @staticmethod
    def auc(y, s, w, *, task):
        columns = [(y[:, i], s[:, i]) for i in range(s.shape[1])] if task == "multilabel" else None
        if columns is None:
            columns = (
                [(y == 1, s[:, 1])] if s.shape[1] == 2 else [(y == i, s[:, i]) for i in range(s.shape[1])]
            )
        if any(len(set(truth)) < 2 for truth, _ in columns):
            return np.nan  # the evaluator fails
        return np.mean([reference.roc_auc_score(truth, said, sample_weight=w) for truth, said in columns])

    @pytest.mark.parametrize("task", ["classes", "ordinal"])
    @EXAMPLES
    @given(case=cases("class"))
    def test_classes_and_grades(self, task, case):
        def accuracy(y, s, w):
            said = s[:, -1] > 0.5 if s.shape[1] == 2 else s.argmax(1)
            return reference.accuracy_score(y, said, sample_weight=w)

        agree("medmnist_auc", lambda y, s, w: self.auc(y, s, w, task=task), case, task=task)
        agree("medmnist_acc", accuracy, case, task=task)

    @EXAMPLES
    @given(case=cases("label"))
    def test_labels(self, case):
        y, score, weights = case
        whole = (np.maximum(y, 0), score, weights)
        agree("medmnist_auc", lambda y, s, w: self.auc(y, s, w, task="multilabel"), whole, task="multilabel")

    def test_an_absent_class_has_no_auc_but_leaves_auroc_its_others(self):
        rng = np.random.default_rng(0)
        y, s = rng.integers(0, 2, 30), rng.dirichlet([1, 1, 1], 30)
        assert np.isnan(evaluate("medmnist_auc", y, s)).all()
        assert np.isfinite(evaluate("auroc", y, s)).all()
        y[:3] = 2
        np.testing.assert_allclose(evaluate("medmnist_auc", y, s), evaluate("auroc", y, s), atol=1e-15)


class TestCalibration:
    """Bins filled one row at a time, as the papers define them."""

    @staticmethod
    def gaps(said, came, w):
        """Per bin that holds a row (weight, |share - mean probability|); bin m holds ((m - 1) / 15, m / 15]."""
        found = []
        for m in range(1, 16):
            inside = (said > (m - 1) / 15) & (said <= m / 15) | ((m == 1) & (said <= 0))
            if inside.any():
                share = np.average(came[inside], weights=w[inside])
                found.append((w[inside].sum(), abs(share - np.average(said[inside], weights=w[inside]))))
        return np.array(found).T

    def width(self, y, s, w):
        held, gap = self.gaps(s, y.astype(float), w)
        return np.average(gap, weights=held)

    @staticmethod
    def mass(y, s, w):
        """Rows sorted, equal scores mixed to one row; every cut goes through a row by its parts."""
        values = np.unique(s)
        held = np.array([w[s == v].sum() for v in values])
        off = np.array([(w * (y - s))[s == v].sum() for v in values])
        ends = np.cumsum(held)
        total, value = ends[-1], 0.0
        for m in range(15):
            low, high = total * m / 15, total * (m + 1) / 15
            part = np.clip(np.minimum(ends, high) - np.maximum(ends - held, low), 0, None) / held
            value += abs((part * off).sum()) / total
        return value

    @EXAMPLES
    @given(case=cases("class"))
    def test_the_most_probable_class(self, case):
        def top(y, s, w):
            return self.gaps(s.max(1), (s.argmax(1) == y).astype(float), w)

        agree(
            "ece", lambda y, s, w: np.average(top(y, s, w)[1], weights=top(y, s, w)[0]), case, task="classes"
        )
        agree("mce", lambda y, s, w: top(y, s, w)[1].max(), case, task="classes")

    @pytest.mark.parametrize(("name", "kind"), [("sce", "width"), ("ace", "mass")])
    @EXAMPLES
    @given(case=cases("class"))
    def test_every_class(self, name, kind, case):
        error = getattr(self, kind)
        agree(
            name,
            lambda y, s, w: np.mean([error(y == c, s[:, c], w) for c in range(s.shape[1])]),
            case,
            task="classes",
            atol=1e-10,
        )

    @pytest.mark.parametrize(("name", "kind"), [("macro_ece", "width"), ("macro_ace", "mass")])
    @EXAMPLES
    @given(case=cases("label"))
    def test_every_label(self, name, kind, case):
        agree(name, per_label(getattr(self, kind), both=False), case, task="multilabel", atol=1e-10)

    def test_ranges_of_whole_rows_are_the_plain_ones(self):
        rng = np.random.default_rng(2)
        s, y = rng.permutation(90) / 90, rng.integers(0, 2, 90)
        order = np.argsort(s)
        plain = np.mean([abs((y - s)[part].mean()) for part in np.split(order, 15)])
        found = evaluate("ace", y, np.column_stack([1 - s, s]))
        mirrored = np.mean([abs((s - y)[part].mean()) for part in np.split(order[::-1], 15)])
        np.testing.assert_allclose(found, (plain + mirrored) / 2, atol=1e-12)

    def test_calibrated_by_construction_and_overconfident_by_construction(self):
        s = np.repeat([0.1, 0.3, 0.9], 100)
        y = np.concatenate([np.arange(100) < round(100 * p) for p in (0.1, 0.3, 0.9)]).astype(int)
        score = np.column_stack([1 - s, s])
        for name in ("ece", "mce", "sce"):
            np.testing.assert_allclose(evaluate(name, y, score), 0, atol=1e-12)
        right = np.arange(100) < 60
        score = np.column_stack([np.where(right, 0.95, 0.05), np.where(right, 0.05, 0.95)])
        for name in ("ece", "mce"):
            np.testing.assert_allclose(evaluate(name, np.zeros(100, dtype=int), score), 0.35, atol=1e-12)


class TestConcordance:
    @EXAMPLES
    @given(case=cases("number"))
    def test_of_numbers_is_lins(self, case):
        def lin(y, s, w):
            s = s[:, 0]
            a, b = np.average(y, weights=w), np.average(s, weights=w)
            spread = np.average((y - a) ** 2, weights=w) + np.average((s - b) ** 2, weights=w) + (a - b) ** 2
            return 2 * np.average((y - a) * (s - b), weights=w) / spread if spread > 1e-9 else np.nan

        agree("ccc", lin, case, task="continuous", atol=1e-9)

    def test_lins_is_one_for_equal_values_alone(self):
        rng = np.random.default_rng(0)
        y = rng.normal(60, 10, 50)
        for said, wanted in ((y, 1.0), (120 - y, None), (y + 10, None), (2 * y - 60, None)):
            found = evaluate("ccc", y, said[:, None])[0]
            pearson, shift = stats.pearsonr(y, said).statistic, (y.mean() - said.mean()) ** 2
            expected = 2 * pearson * y.std() * said.std() / (y.var() + said.var() + shift)
            np.testing.assert_allclose(found, expected if wanted is None else wanted, atol=1e-12)

    @staticmethod
    def pairs(y, said, w):
        """Every pair of rows looked at."""
        larger = y[:, None] > y[None, :]
        weight = (w[:, None] * w[None, :])[larger]
        won = (np.sign(said[:, None] - said[None, :])[larger] + 1) / 2
        return np.average(won, weights=weight) if weight.size else np.nan

    @EXAMPLES
    @given(numbers=cases("number"), grades=cases("class"))
    def test_index_equals_every_pair_looked_at(self, numbers, grades):
        agree("c_index", lambda y, s, w: self.pairs(y, s[:, 0], w), numbers, task="continuous")

        def graded(y, s, w):
            return self.pairs(y, np.round(s @ np.arange(s.shape[1]), 12), w)

        agree("c_index", graded, grades, task="ordinal")

    def test_index_is_scipys_somers_d_and_for_two_grades_the_auroc(self):
        rng = np.random.default_rng(4)
        y, said = rng.integers(0, 9, 80).astype(float), rng.integers(0, 7, 80).astype(float)
        wanted = (stats.somersd(y, said).statistic + 1) / 2
        np.testing.assert_allclose(
            evaluate("c_index", y, said[:, None], task="continuous"), wanted, atol=1e-12
        )
        grades, score = rng.integers(0, 2, 80), rng.dirichlet([1, 1], 80)
        np.testing.assert_allclose(
            evaluate("c_index", grades, score, task="ordinal"), evaluate("auroc", grades, score), atol=1e-12
        )


def test_one_class_alone_has_no_agreement_beyond_chance():
    y, constant = np.zeros(6, dtype=int), np.tile([0.9, 0.1], (6, 1))
    for name in ("mcc", "cohen_kappa"):
        assert np.isnan(evaluate(name, y, constant)).all()
    mixed = np.array([0, 0, 1, 1, 0, 1])
    for name in ("mcc", "cohen_kappa"):
        np.testing.assert_allclose(evaluate(name, mixed, constant), 0, atol=1e-12)
    assert np.isnan(evaluate("c_index", np.ones(6), np.arange(6.0)[:, None], task="continuous")).all()
    assert np.isnan(evaluate("ccc", np.ones(6), np.ones((6, 1)))).all()
    np.testing.assert_allclose(evaluate("ccc", np.ones(6), np.arange(6.0)[:, None]), 0, atol=1e-12)


def test_a_class_that_is_never_called_counts_as_zero_precision():
    y, score = np.array([0, 0, 1, 2]), np.eye(3)[[0, 0, 0, 2]]
    np.testing.assert_allclose(evaluate("macro_precision", y, score), (2 / 3 + 0 + 1) / 3)
    np.testing.assert_allclose(evaluate("weighted_precision", y, score), (2 * 2 / 3 + 0 + 1) / 4)
    absent = np.array([0, 0, 0, 2])
    np.testing.assert_allclose(evaluate("macro_recall", absent, np.eye(3)[[0, 0, 1, 2]]), (2 / 3 + 0 + 1) / 3)


@pytest.mark.parametrize("name", ["weighted_f1", "micro_f1", "micro_recall", "weighted_precision"])
def test_no_finding_anywhere_is_no_score(name):
    y, score = np.zeros((5, 2), dtype=int), np.full((5, 2), 0.7)
    assert np.isnan(evaluate(name, y, score, task="multilabel")).all()


@pytest.mark.parametrize("classes", [2, 5])
def test_resampled_auroc_is_scikit_learns_under_the_same_group_weights(classes):
    rng = np.random.default_rng(1)
    y, group = rng.integers(0, classes, 400), rng.integers(0, 150, 400)
    score = np.round(rng.dirichlet(np.ones(classes), 400), 2) + 0.01  # two decimals make ties
    score /= score.sum(axis=1, keepdims=True)
    weights = group_weights(group, resamples=20, seed=0)
    for value, weight in zip(evaluate("auroc", y, score, weights), weights, strict=True):
        parts = [(y == c, score[:, c]) for c in range(classes)] if classes > 2 else [(y == 1, score[:, 1])]
        wanted = np.mean([reference.roc_auc_score(*part, sample_weight=weight) for part in parts])
        np.testing.assert_allclose(value, wanted, atol=1e-12)
