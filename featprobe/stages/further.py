"""A comparison may be about any metric: what results.csv does not hold is computed from the stored predictions."""

from __future__ import annotations

import pandas as pd

from featprobe import significance
from featprobe.config import CompareConfig
from featprobe.registry import METRICS
from featprobe.results import to_predictions
from featprobe.results.tables import estimate_frame


def completed(estimates: pd.DataFrame, predictions: pd.DataFrame, config: CompareConfig) -> pd.DataFrame:
    """`estimates` with the rows of `config.metric` that its systems lack; both frames with the column system.

    Targets that the metric does not judge are left as they are.
    """
    if config.metric is None:
        return estimates
    where = ["dataset", "level", "system"]
    known = set(estimates.loc[estimates["metric"] == config.metric, where].itertuples(index=False, name=None))
    parts = [estimates]
    for place, rows in predictions.groupby(where, sort=False):
        if tuple(place) in known:
            continue
        own = rows.drop(columns="system")
        own.attrs = predictions.attrs
        made = to_predictions(own)
        if made[0].samples.task not in METRICS.get(config.metric).tasks:
            continue
        found = significance.estimates(made, [config.metric], resamples=config.resamples, seed=config.seed)
        parts.append(estimate_frame(found).assign(system=str(place[2])))
    if len(parts) == 1:
        return estimates
    whole = pd.concat(parts, ignore_index=True)
    whole.attrs = estimates.attrs
    return whole
