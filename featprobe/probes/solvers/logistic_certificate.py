r"""How far a logistic regression can still be from its optimum, proved in double precision.

The primal is P(w, b) = C sum_i s_i l_i(z_i) + |w|^2 / 2 with the logits z_i = w x_i + b. Fenchel's dual asks for
residuals r_i in the domain of the conjugates l_i*, with sum_i s_i r_i = 0 because the intercept is free:
D(r) = -C sum_i s_i l_i*(r_i) - |v|^2 / 2, v = -C sum_i s_i r_i x_i'. At r_i = the gradient of l_i at z_i the
inequality of Fenchel and Young is an equality, l_i(z_i) + l_i*(r_i) = r_i . z_i, so that

    P - D = |w|^2 / 2 + |v|^2 / 2 + C sum_i s_i r_i . (w x_i + b) = |w|^2 / 2 + |v|^2 / 2 - w . v = |w - v|^2 / 2,

and w - v is P's gradient by w. So where the intercept is optimal (that is what makes r feasible) half the squared
gradient bounds P - P*. What rounding leaves of sum_i s_i r_i is added as C * |that sum| * |b|, its whole effect in
the equation above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from featprobe.probes.solvers.logistic_losses import Loss
from featprobe.records import FloatArray

NEWTON: Final = 50


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """One solution, judged: `w` [k, D], `b` [k] (optimal for w), `objective` and `gap` [1 or k], absolute."""

    w: FloatArray
    b: FloatArray
    objective: FloatArray
    gap: FloatArray

    @property
    def relative(self) -> float:
        """The largest gap of its parts, relative to the objective."""
        return float((self.gap / np.maximum(self.objective, np.finfo(float).tiny)).max())

    def parts(self) -> list[Certificate]:
        """One for each label of several, which are regressions of their own."""
        rows = zip(self.w, self.b, self.objective, self.gap, strict=True)
        return [Certificate(w[None], b[None], objective[None], gap[None]) for w, b, objective, gap in rows]

    @classmethod
    def joined(cls, parts: Sequence[Certificate]) -> Certificate:
        """The labels together again."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def best_intercept(loss: Loss, logits: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(shift [k], losses, residuals [k, n]): the intercept's own optimum for logits float64 [k, n], by Newton.

    It ends where the residuals sum to a part of 1e-14 of their own sizes.
    """
    shift = np.zeros(len(logits))
    losses, probabilities = loss.value(logits)
    residual = loss.residual(probabilities)
    left = residual.sum(axis=1)
    for _ in range(NEWTON):
        if np.abs(left).max() <= 1e-14 * np.abs(residual).sum():
            break
        bend = loss.curvature(probabilities)
        # Softmax does not feel a common shift; least squares takes the shift without one.
        step = -np.linalg.lstsq(bend, left, rcond=1e-12)[0]
        length, found = 1.0, None
        while length > 1e-4:
            new_losses, new_probabilities = loss.value(logits + (shift + length * step)[:, None])
            new_residual = loss.residual(new_probabilities)
            if np.abs(new_residual.sum(axis=1)).max() < np.abs(left).max():
                found = new_residual
                break
            length /= 2
        if found is None:
            break
        shift = shift + length * step
        losses, probabilities, residual = new_losses, new_probabilities, found
        left = residual.sum(axis=1)
    return shift, losses, np.asarray(residual, dtype=np.float64)


def certificate(
    loss: Loss,
    C: float,
    w: FloatArray,
    b: FloatArray,
    losses: FloatArray,
    left: FloatArray,
    slope: FloatArray,
) -> Certificate:
    """Judge (w, b): `losses` [1 or k] there, `left` [k] the residuals' sums, `slope` [k, D] the loss's gradient."""

    def per_part(values: FloatArray) -> FloatArray:
        rows = values.reshape(loss.width, -1).sum(axis=1)
        return np.array([rows.sum()]) if loss.coupled else rows

    if loss.coupled:
        b = b - b.mean()  # the logits' common shift is free; around 0 they have their digits
    gradient = C * slope + w
    gap = per_part(np.square(gradient)) / 2 + per_part(C * np.abs(left) * np.abs(b))
    return Certificate(w, b, C * losses + per_part(np.square(w)) / 2, gap)
