"""What the test rows hold, in one line: how many of each class, how often each label, the range of a number."""

from __future__ import annotations

import numpy as np

from featprobe.report import curves
from featprobe.report.panels import Panel
from featprobe.report.wording import MINUS

MAX_NAMED = 12


def target_fact(panel: Panel) -> tuple[str, str] | None:
    """(label, text) for the panel's facts; None where there are no predictions to count in."""
    if not len(panel.predictions):
        return None
    first = panel.predictions[panel.predictions["system"] == panel.systems[0]]
    if panel.task == "continuous":
        return "Target", _range(panel, first["y_true"])
    if panel.task == "multilabel":
        marks = curves.label_marks(first["y_true"], len(panel.classes))
        present, known = (marks == 1).sum(axis=0), (marks >= 0).sum(axis=0)
        return "Labels", _listed(
            [f"{name} ({p:,} of {k:,})" for name, p, k in zip(panel.classes, present, known, strict=True)],
            "present in the test rows where known",
        )
    counts = first["y_true"].value_counts()
    names = [f"{name} ({int(counts.get(name, 0)):,})" for name in panel.classes]
    order = "in order, in the test rows" if panel.task == "ordinal" else "in the test rows"
    return "Classes", _listed(names, order)


def _listed(names: list[str], what: str) -> str:
    more = f", and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{len(names)}, {what}: {', '.join(names[:MAX_NAMED])}{more}"


def _range(panel: Panel, y_true: curves.Column) -> str:
    values = curves.values(y_true)
    values = values[np.isfinite(values)]
    name = panel.classes[0] if panel.classes else "value"
    if not len(values):
        return f"{name}, not known in any test row"
    low, middle, high = (f"{value:.6g}".replace("-", MINUS) for value in np.quantile(values, [0, 0.5, 1]))
    spread = f"median {middle}, standard deviation {values.std():.3g}"
    return f"{name}, {low} to {high} in the test rows, {spread}"
