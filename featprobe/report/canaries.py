"""A value says little without its controls: each backbone beside random weights, image statistics and chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from featprobe.report.panels import Cell, Panel
from featprobe.report.tables import Entry, Table, better_arrow
from featprobe.report.wording import in_sentence, known_metric, metric_label

CONTROLS: Final[Mapping[str, str]] = {
    "Random weights": "the same architecture untrained",
    "Image statistics": "size, mean and histogram of the image, no network",
    "Shuffled labels": "a probe on the same embeddings, fitted on labels permuted among the training groups; it should "
    "find nothing, though one such interval in 40 lies above chance by luck, so a warning first widens it for the one "
    "draw of labels and for the number of such probes",
    "Chance": "what a model that knows nothing scores",
}
"""What may stand beside a backbone, in this order, and what it is."""

STAND_INS: Final[Mapping[str, str]] = {"mae": "r2", "ordinal_mae": "quadratic_kappa"}
"""Metrics without a known chance level -> the one of the same predictions whose chance level is 0."""


def canaries_table(panel: Panel) -> Table | None:
    """The systems that have controls (best first) by control, in the main metric; None where there are none."""
    rows = panel.canaries[panel.canaries["metric"] == panel.main] if len(panel.canaries) else panel.canaries
    values = {(row["system"], row["control"]): row for row in rows.to_dict("records")}
    systems = [name for name in panel.systems if any(name == system for system, _ in values)]
    if not systems:
        return None
    controls = [name for name in CONTROLS if name in set(rows["control"])]
    table = tuple(
        (
            Entry(system),
            _own(panel, system),
            *(_control(panel, values.get((system, control))) for control in controls),
        )
        for system in systems
    )
    caption = f"{panel.title}: canaries, in {in_sentence(panel.main)}"
    note = " ".join([*(f"{name}: {CONTROLS[name]}." for name in controls), *_without_chance(panel, controls)])
    return Table(caption, ("System", better_arrow(panel.main), *controls), table, note)


def _without_chance(panel: Panel, controls: Sequence[str]) -> list[str]:
    """The sentence that stands for the missing column, and says what shuffled labels are held against."""
    if "Chance" in controls:
        return []
    known = STAND_INS.get(known_metric(panel.main), "")
    instead = (
        f"; shuffled labels are held against 0, the chance level of {metric_label(known)}" if known else ""
    )
    held = "Shuffled labels" in controls and known in panel.metrics
    nobody = "; whether shuffled labels find anything is not judged" if "Shuffled labels" in controls else ""
    return [f"No chance level exists for {in_sentence(panel.main)}{instead if held else nobody}."]


def _own(panel: Panel, system: str) -> Entry:
    cell = panel.cells.get((system, panel.main))
    return Entry("") if cell is None else Entry(*panel.shown(panel.main, cell))


def _control(panel: Panel, row: Mapping[Any, Any] | None) -> Entry:
    """Value and interval; what is known exactly, as chance is, has none."""
    if row is None:
        return Entry("")
    value, below = panel.shown(panel.main, Cell(row["value"], row["ci_low"], row["ci_high"], best=False))
    return Entry(value, below if math.isfinite(row["ci_low"]) or row["control"] != "Chance" else "")
