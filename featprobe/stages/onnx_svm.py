"""Linear SVMs as ONNX operators: their lines, scikit-learn's votes of pairs of classes, and Platt's sigmoids."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from featprobe.probes.margins import MarginLabels, MarginModel
from featprobe.stages.model_files import ModelError
from featprobe.stages.onnx_graphs import Graph, converted


@converted.register
def _(model: MarginModel, graph: Graph, X: str) -> str:
    values = graph.linear(X, model.coef.T, model.intercept)
    if model.pairs and model.classes > 2:
        values = one_vs_rest(graph, values, model.classes)
    return calibrated(model.scores.calibrated_, graph, values)


@converted.register
def _(model: MarginLabels, graph: Graph, X: str) -> str:
    # Of [M, 2] the second column; a label without a machine has its share in every row.
    second = graph.constant([[0.0], [1.0]])
    rows = graph.add("ReduceSum", X, graph.constant([1], np.int64), keepdims=1)
    none = graph.add("Mul", rows, graph.constant(0.0))
    columns = [
        graph.add("Add", none, graph.constant(share))
        if one is None
        else graph.add("MatMul", converted(one, graph, X), second)
        for one, share in zip(model.models, model.share, strict=True)
    ]
    return graph.add("Concat", *columns, axis=1)


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
