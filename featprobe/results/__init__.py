"""Results outlive the run that made them: the store of a results folder, and how several are read as one."""

from __future__ import annotations

from featprobe.results.batching import Batch
from featprobe.results.reading import load_many, to_predictions
from featprobe.results.store import ResultsFolder

__all__ = ["Batch", "ResultsFolder", "load_many", "to_predictions"]
