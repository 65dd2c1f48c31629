"""Solves the linear head on a frozen backbone as the convex problem that a logistic-regression probe solves."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from featprobe.errors import ProbeError
from featprobe.heads.model import Head
from featprobe.heads.objective import Objective
from featprobe.records import AnyArray, FloatArray

STEPS: Final = 15_000
TOLERANCE: Final = 1e-9


def solve(head: Head, features: Tensor, labels: AnyArray, objective: Objective, *, l2: float) -> float:
    """Set `head` to the minimum of mean loss + l2 / 2 * sum of squared weights, the bias free; returns it.

    With l2 = 1 / (C n) this is scikit-learn's logistic regression divided by C n (its user guide, section 1.1.11).
    All rows at once, in float64, by scipy's L-BFGS from 0. ProbeError where it does not converge.
    """
    X = head.standardised(features.double().cpu())
    truth = objective.truth(labels)
    local = objective.to(torch.device("cpu"))
    amount = local.amount(truth).double()
    outputs, width = head.linear.weight.shape
    # Two classes have one score, as in scikit-learn: its halves are the two scores of the softmax.
    spread = torch.tensor([[-0.5], [0.5]]).double() if outputs == 2 else torch.eye(outputs).double()
    rows = spread.shape[1]

    def value(flat: FloatArray) -> tuple[float, FloatArray]:
        point = torch.from_numpy(flat).requires_grad_()
        weight, bias = point[: rows * width].view(rows, width), point[rows * width :]
        scores = (X @ weight.T + bias) @ spread.T
        loss = local.total(scores, truth) / amount + 0.5 * l2 * weight.square().sum()
        (slope,) = torch.autograd.grad(loss, point)
        return loss.item(), slope.numpy()

    start = np.zeros(rows * (width + 1))
    options: Any = {"maxiter": STEPS, "maxfun": 2 * STEPS, "ftol": 1e-15, "gtol": TOLERANCE, "maxcor": 20}
    solver: Any = minimize
    found = solver(value, start, jac=True, method="L-BFGS-B", options=options)
    if not found.success or not np.isfinite(found.fun):
        raise ProbeError(
            f"L-BFGS did not converge within {found.nit} steps",
            str(found.message),
            "type a larger --l2: without one, separable classes have no optimum",
        )
    with torch.no_grad():
        solution = torch.from_numpy(found.x)
        head.linear.weight.copy_(spread @ solution[: rows * width].view(rows, width))
        head.linear.bias.copy_(spread @ solution[rows * width :])
    return float(found.fun)
