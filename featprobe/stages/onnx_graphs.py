"""Fitted models as ONNX operators, each kind in the words of its own `predict`, in float64 throughout."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featprobe.probes import FittedProbe
from featprobe.probes.linear import SoftmaxModel
from featprobe.probes.logistic import LabelsModel, LogisticModel
from featprobe.probes.ordinal import OrdinalModel
from featprobe.probes.paths import ScaledModel
from featprobe.probes.ridge import LinearModel
from featprobe.probes.ridge_classifier import DecisionModel
from featprobe.protocols.adamw import Linear
from featprobe.protocols.clip_benchmark import Unit
from featprobe.stages.model_files import ModelError
from featprobe.trust import Recalibrated, Temperature
from featprobe.trust.calibration import LEAST


@dataclass(slots=True)
class Graph:
    """Nodes and constants while they are put together; values are named v0, v1, ..."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, value: Any, dtype: Any = np.float64) -> str:
        """The name of an array."""
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=dtype), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The name of what `operator` gives."""
        from onnx import helper

        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def linear(self, X: str, coef: Any, intercept: Any) -> str:
        """X coef + intercept: `coef` [D, K], `intercept` [K]."""
        product = self.add("MatMul", X, self.constant(coef))
        return self.add("Add", product, self.constant(np.atleast_1d(intercept)))

    def placed(self, scores: str, present: Any, classes: int) -> str:
        """[M, P] as columns `present` of [M, classes], 0 elsewhere."""
        if np.array_equal(present, np.arange(classes)):
            return scores
        return self.add("MatMul", scores, self.constant(np.eye(classes)[np.asarray(present)]))


def scores_of(fitted: FittedProbe, graph: Graph, X: str) -> str:
    """`FittedProbe.predict` of the rows `X`, double [M, n_classes]. ModelError for a model that has no such form."""
    return graph.placed(converted(fitted.model, graph, X), fitted.classes, fitted.n_classes)


@functools.singledispatch
def converted(model: Any, graph: Graph, X: str) -> str:
    """What `model.predict` gives of `X` (double [M, D])."""
    del graph, X
    raise ModelError(
        f"the model {type(model).__name__} can't be written as ONNX",
        "what is linear can: logistic, svm, lda, ridge and their like; neighbours would need the training images",
        "use the .skops file with featprobe predict",
    )


@converted.register
def _(model: ScaledModel, graph: Graph, X: str) -> str:
    scaling = model.scaling
    rows = graph.add("Sub", X, graph.constant(scaling.centre))
    rows = graph.add("Div", rows, graph.constant(scaling.scale))
    if scaling.unit:
        squares = graph.add("Mul", rows, rows)
        norm = graph.add("Sqrt", graph.add("ReduceSum", squares, graph.constant([1], np.int64), keepdims=1))
        some = graph.add("Greater", norm, graph.constant(0.0))
        rows = graph.add("Div", rows, graph.add("Where", some, norm, graph.constant(1.0)))
    return converted(model.inner, graph, rows)


@converted.register
def _(model: LogisticModel, graph: Graph, X: str) -> str:
    logits = graph.linear(X, model.coef.T, model.intercept)
    if len(model.coef) > 1:
        return graph.add("Softmax", logits, axis=1)
    sides = [graph.add("Sigmoid", graph.add("Neg", logits)), graph.add("Sigmoid", logits)]
    return graph.add("Concat", *sides, axis=1)


@converted.register
def _(model: LabelsModel, graph: Graph, X: str) -> str:
    return graph.add("Sigmoid", graph.linear(X, model.coef.T, model.intercept))


@converted.register
def _(model: LinearModel, graph: Graph, X: str) -> str:
    return graph.linear(X, model.coef[:, None], model.intercept)


@converted.register
def _(model: SoftmaxModel, graph: Graph, X: str) -> str:
    found = graph.add("Softmax", graph.linear(X, model.coef, model.intercept), axis=1)
    return graph.placed(found, model.present, model.classes)


@converted.register
def _(model: DecisionModel, graph: Graph, X: str) -> str:
    sharp = model.sharpness
    return graph.add("Softmax", graph.linear(X, sharp * model.coef, sharp * model.intercept), axis=1)


@converted.register
def _(model: Linear, graph: Graph, X: str) -> str:
    if not model.finite:
        return graph.add(
            "Softmax", graph.linear(X, np.zeros_like(model.weight), np.zeros_like(model.bias)), axis=1
        )
    return graph.add("Softmax", graph.linear(X, model.weight, model.bias), axis=1)


@converted.register
def _(model: Unit, graph: Graph, X: str) -> str:
    squares = graph.add("Mul", X, X)
    norm = graph.add("Sqrt", graph.add("ReduceSum", squares, graph.constant([1], np.int64), keepdims=1))
    return converted(model.inner, graph, graph.add("Div", X, graph.add("Max", norm, graph.constant(1e-12))))


@converted.register
def _(model: OrdinalModel, graph: Graph, X: str) -> str:
    # P(class = j) is below_j * above_j * room_j, normalised; the first class has no cut below it, the last none above.
    margin = graph.linear(X, np.repeat(-model.coef[:, None], len(model.cuts), axis=1), model.cuts)
    one = graph.constant([1.0])
    ends = graph.constant([0, 0, 0, 1], np.int64), graph.constant([0, 1, 0, 0], np.int64)
    below = graph.add("Pad", graph.add("Sigmoid", margin), ends[0], graph.add("Squeeze", one))
    above = graph.add(
        "Pad", graph.add("Sigmoid", graph.add("Neg", margin)), ends[1], graph.add("Squeeze", one)
    )
    room = np.pad(-np.expm1(-np.diff(model.cuts)), 1, constant_values=1.0)[: len(model.present)]
    found = graph.add("Mul", graph.add("Mul", below, above), graph.constant(room))
    total = graph.add("ReduceSum", found, graph.constant([1], np.int64), keepdims=1)
    return graph.placed(graph.add("Div", found, total), model.present, model.classes)


@converted.register
def _(model: Recalibrated, graph: Graph, X: str) -> str:
    found, calibrator = converted(model.inner, graph, X), model.calibrator
    if not isinstance(calibrator, Temperature):
        return converted(calibrator, graph, found)  # steps have no such form, which that says
    cool, least = graph.constant(calibrator.values), graph.constant(LEAST)
    logs = graph.add("Log", graph.add("Max", found, least))
    if calibrator.several:
        others = graph.add("Max", graph.add("Sub", graph.constant(1.0), found), least)
        odds = graph.add("Sub", logs, graph.add("Log", others))
        return graph.add("Sigmoid", graph.add("Div", odds, cool))
    some = graph.add("Greater", found, graph.constant(0.0))
    logits = graph.add("Where", some, graph.add("Div", logs, cool), graph.constant(-np.inf))
    return graph.add("Softmax", logits, axis=1)
