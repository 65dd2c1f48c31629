"""Which systems may stand in one comparison: only those that were judged on the very same rows."""

from __future__ import annotations

import pandas as pd

from featprobe.stages.systems import SHUFFLED, tested


def by_family(estimates: pd.DataFrame, predictions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Copies of both frames whose `dataset` names the family: the data set, and what splits it.

    Models that see other images (one modality of several) or were split by another seed or way of testing are judged
    on other rows of the same data set, and are no rivals. Cases are the same whatever a model sees of them, and rows
    are the same whatever protocol fits a model to them.
    """
    seeds = estimates[estimates["mode"] != SHUFFLED].groupby("dataset")["seed"].nunique()
    return _named(estimates, seeds), _named(predictions, seeds)


def _named(frame: pd.DataFrame, seeds: pd.Series[int]) -> pd.DataFrame:
    columns = ["dataset", "level", "inputs", "protocol", "seed"]
    names = {}
    for key in frame[columns].drop_duplicates().itertuples(index=False):
        dataset, level, inputs, protocol, seed = key
        words = [str(dataset)]
        words += [f"{inputs} alone"] if level == "image" and inputs else []
        words += [tested(protocol)] if tested(protocol) else []
        words += [f"seed {seed}"] if seeds.get(dataset, 1) > 1 else []
        names[tuple(key)] = ", ".join(words)
    keys = zip(*(frame[column] for column in columns), strict=True)
    named = frame.assign(dataset=[names[key] for key in keys])
    named.attrs = frame.attrs
    return named
