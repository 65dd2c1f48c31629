"""The linear SVM as ONNX operators: its lines, scikit-learn's votes of pairs of classes, and Platt's sigmoids."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from featprobe.probes.svm import SVMModel
from featprobe.records import FloatArray
from featprobe.stages.model_files import ModelError
from featprobe.stages.onnx_graphs import Graph, converted


@converted.register
def _(model: SVMModel, graph: Graph, X: str) -> str:
    coef, intercept = lines_of(model)
    values = graph.linear(X, coef.T, intercept)
    classes = len(model.sigmoids.classes_)
    return calibrated(model.sigmoids, graph, values if classes == 2 else one_vs_rest(graph, values, classes))


def lines_of(model: SVMModel) -> tuple[FloatArray, FloatArray]:
    """(coef [P, D], intercept [P]) of each pair of classes, for embeddings as they come; above 0 is the first class.

    Of two classes, above 0 is the second, as in scikit-learn. The layout of `dual_coef_` is libsvm's.
    """
    svc, scaler = model.margin.model, model.margin.scaler
    assert svc is not None
    support = np.asarray(model.margin.rows[svc.support_])
    ends = np.cumsum([0, *svc.n_support_])
    if len(svc.classes_) == 2:
        weights = np.asarray(svc.dual_coef_ @ support)
    else:
        rows = []
        for i, j in combinations(range(len(svc.classes_)), 2):
            own, other = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
            rows.append(svc.dual_coef_[j - 1, own] @ support[own] + svc.dual_coef_[i, other] @ support[other])
        weights = np.array(rows)
    coef = weights / scaler.scale_
    return coef, svc.intercept_ - coef @ scaler.mean_


def one_vs_rest(graph: Graph, values: str, classes: int) -> str:
    """scikit-learn's decision values [M, K] of the pairs' [M, P]: votes plus t / (3 (|t| + 1)), t the sum of values."""
    from onnx import TensorProto

    pairs = list(combinations(range(classes), 2))
    signs = np.zeros((len(pairs), classes))
    for place, (first, second) in enumerate(pairs):
        signs[place, first], signs[place, second] = 1, -1
    zero, one, three = (graph.constant(number) for number in (0.0, 1.0, 3.0))
    second_wins = graph.add("Cast", graph.add("Less", values, zero), to=TensorProto.DOUBLE)
    first_wins = graph.add("Sub", one, second_wins)
    votes = graph.add(
        "Add",
        graph.add("MatMul", first_wins, graph.constant(signs > 0)),
        graph.add("MatMul", second_wins, graph.constant(signs < 0)),
    )
    total = graph.add("MatMul", values, graph.constant(signs))
    share = graph.add("Mul", three, graph.add("Add", graph.add("Abs", total), one))
    return graph.add("Add", votes, graph.add("Div", total, share))


def calibrated(sigmoids: Any, graph: Graph, decided: str) -> str:
    """`CalibratedClassifierCV.predict_proba` of decision values [M, 1] or [M, K]; ModelError unless it is Platt's."""
    found = sigmoids.calibrated_classifiers_[0].calibrators
    if not all(hasattr(one, "a_") and hasattr(one, "b_") for one in found):
        raise ModelError(
            "isotonic probabilities can't be written as ONNX",
            "Platt's sigmoids can",
            "use the .skops file with featprobe predict",
        )
    slope, offset = (np.array([getattr(one, name) for one in found]) for name in ("a_", "b_"))
    # expit(-(a f + b)) of each class against the rest, divided by the row's sum.
    shifted = graph.add("Sub", graph.add("Mul", decided, graph.constant(-slope)), graph.constant(offset))
    each = graph.add("Sigmoid", shifted)
    if len(found) == 1:
        return graph.add("Concat", graph.add("Sub", graph.constant(1.0), each), each, axis=1)
    total = graph.add("ReduceSum", each, graph.constant([1], np.int64), keepdims=1)
    return graph.add("Div", each, total)
