"""A value says little without its controls: each backbone beside random weights, image statistics and chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from featprobe.report.panels import Cell, Panel
from featprobe.report.tables import Entry, Table, better_arrow
from featprobe.report.wording import in_sentence

CONTROLS: Final[Mapping[str, str]] = {
    "Random weights": "the same architecture untrained",
    "Image statistics": "size, mean and histogram of the image, no network",
    "Shuffled labels": "a probe on the same embeddings, fitted on labels permuted among the training groups; it should "
    "find nothing, though one such interval in 40 lies above chance by luck",
    "Chance": "what a model that knows nothing scores",
}
"""What may stand beside a backbone, in this order, and what it is."""


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
    note = " ".join(f"{name}: {CONTROLS[name]}." for name in controls)
    return Table(caption, ("System", better_arrow(panel.main), *controls), table, note)


def _own(panel: Panel, system: str) -> Entry:
    cell = panel.cells.get((system, panel.main))
    return Entry("") if cell is None else Entry(*panel.shown(panel.main, cell))


def _control(panel: Panel, row: Mapping[Any, Any] | None) -> Entry:
    """Value and interval; what is known exactly, as chance is, has none."""
    if row is None:
        return Entry("")
    value, below = panel.shown(panel.main, Cell(row["value"], row["ci_low"], row["ci_high"], best=False))
    return Entry(value, below if math.isfinite(row["ci_low"]) or row["control"] != "Chance" else "")
