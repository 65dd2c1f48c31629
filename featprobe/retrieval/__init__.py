"""Which images of an index are most alike to a query, and how often they are of its class.

The room takes plain arrays: embeddings, labels, groups. It ranks exactly (`rank`), scores rankings (`Measure`,
`protocol`), writes an index that others can search (`write_index`) and keeps what came out (`RetrievalFolder`).
"""

from __future__ import annotations

from featprobe.retrieval.indexing import need_index, write_index
from featprobe.retrieval.protocols import PROTOCOLS, Protocol, protocol
from featprobe.retrieval.ranking import FAISS_ROWS, Ranking, rank
from featprobe.retrieval.scoring import KINDS, Measure, scores
from featprobe.retrieval.space import DISTANCES
from featprobe.retrieval.store import RetrievalFolder, Unit

__all__ = [
    "DISTANCES",
    "FAISS_ROWS",
    "KINDS",
    "PROTOCOLS",
    "Measure",
    "Protocol",
    "Ranking",
    "RetrievalFolder",
    "Unit",
    "need_index",
    "protocol",
    "rank",
    "scores",
    "write_index",
]
