"""What must stay together: rows that share a group or the same bytes, directly or through others."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from featprobe.records import IntArray, Samples


def components(samples: Samples) -> IntArray:
    """Number of the unit of each row, int64 [N]: connected through equal `group` or equal `sha256`.

    Text that is "" connects nothing. Units are numbered in the order of their smallest id, so the numbers
    belong to the ids and not to the order of the rows.
    """
    count = len(samples)
    order = np.argsort(samples.id, kind="stable")
    edges = [edge for key in (samples.group, samples.sha256) for edge in [_chain(key[order])]]
    left = np.concatenate([edge[0] for edge in edges])
    right = np.concatenate([edge[1] for edge in edges])
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(count, count))
    _, unit = connected_components(graph, directed=False)
    result = np.empty(count, dtype=np.int64)
    result[order] = pd.factorize(unit)[0]
    return result


def _chain(key: np.ndarray) -> tuple[IntArray, IntArray]:
    """Edges from each row to the first row with the same text, so that N rows give at most N edges."""
    codes, names = pd.factorize(key)
    first = np.unique(codes, return_index=True)[1]
    linked = np.asarray(names)[codes] != ""
    return np.flatnonzero(linked), first[codes][linked]


def groups_per_class(labels: IntArray, units: IntArray, n_classes: int) -> IntArray:
    """Units that hold at least one row of each class, int64 [C]."""
    pairs = pd.DataFrame({"label": labels, "unit": units}).drop_duplicates()
    return np.bincount(pairs["label"].to_numpy(), minlength=n_classes).astype(np.int64)
