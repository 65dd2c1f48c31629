"""The nouns that travel between the rooms: Samples, Preprocessing, Recipe, EmbeddingTable, Predictions, Estimate.

Every record is frozen and says the shape and type of each array, so that a room can be read without the
one that filled it.
"""

from __future__ import annotations

from featprobe.records.outcome import ESTIMATE_COLUMNS, KEY_COLUMNS, Estimate, Predictions, RunKey
from featprobe.records.paper import BackboneFacts, DataFacts, FitFacts, MeanRanks, Study, Thumbnails
from featprobe.records.recipe import EmbeddingTable, Preprocessing, Recipe
from featprobe.records.reporting import (
    CriticalDifference,
    EmbeddingMap,
    LabelStudy,
    LeakPair,
    ReportContent,
    Statistics,
)
from featprobe.records.samples import Quarantine, Samples, images_sha256
from featprobe.records.trusting import ReliabilityCurve, SelectiveCurve, TrustPanel
from featprobe.records.values import (
    DENSE_POOLINGS,
    FITS,
    POOLINGS,
    PRECISIONS,
    PREPROCESSING_RULES,
    SPLITS,
    TASKS,
    AnyArray,
    FloatArray,
    IntArray,
    TextArray,
    canonical_json,
    sha256_json,
    texts,
)
from featprobe.records.views import PLAIN

__all__ = [
    "DENSE_POOLINGS",
    "ESTIMATE_COLUMNS",
    "FITS",
    "KEY_COLUMNS",
    "PLAIN",
    "POOLINGS",
    "PRECISIONS",
    "PREPROCESSING_RULES",
    "SPLITS",
    "TASKS",
    "AnyArray",
    "BackboneFacts",
    "CriticalDifference",
    "DataFacts",
    "EmbeddingMap",
    "EmbeddingTable",
    "Estimate",
    "FitFacts",
    "FloatArray",
    "IntArray",
    "LabelStudy",
    "LeakPair",
    "MeanRanks",
    "Predictions",
    "Preprocessing",
    "Quarantine",
    "Recipe",
    "ReliabilityCurve",
    "ReportContent",
    "RunKey",
    "Samples",
    "SelectiveCurve",
    "Statistics",
    "Study",
    "TextArray",
    "Thumbnails",
    "TrustPanel",
    "canonical_json",
    "images_sha256",
    "sha256_json",
    "texts",
]
