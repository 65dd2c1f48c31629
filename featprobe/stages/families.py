"""Which systems may stand in one comparison: only those that learnt from as much and were judged on the very same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from featprobe.stages.systems import SHUFFLED, amount, tested
from featprobe.stages.variants import WHOLE_GROUPS

AMOUNT: Final = ("fraction", "shots", "variant")
"""Columns that say how much was learnt from."""


def by_family(
    estimates: pd.DataFrame, predictions: pd.DataFrame, every: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Copies of both frames whose `dataset` names the family: the data set, what splits it, and how much was learnt from.

    Models that see other images (one modality of several) or were split by another seed or way of testing are judged
    on other rows of the same data set, and are no rivals. Neither are models that learnt from other amounts of labels.
    Cases are the same whatever a model sees of them, and rows are the same whatever protocol fits a model to them. `every`: the estimates of which these are a part (`in_full`);
    where it holds several seeds, the seed is named.
    """
    whole = estimates if every is None else every
    seeds = whole[whole["mode"] != SHUFFLED].groupby("dataset")["seed"].nunique()
    return _named(estimates, seeds), _named(predictions, seeds)


def in_full(estimates: pd.DataFrame, predictions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of both frames that are reported one by one, where others only stand in curves.

    Of a data set whose models learnt from several amounts of labels these are, of each kind of amount, the largest, with
    the first seed: a study of 8 fractions and 5 seeds is one comparison and its curves, not 40 comparisons. All rows of
    other data sets.
    """
    kept = _kept(estimates)
    return _only(estimates, kept), _only(predictions, kept)


def kind_of_amount(shots: int, variant: str) -> str:
    """What is varied: "fractions", "shots" or "shots of whole groups"."""
    if not shots:
        return "fractions"
    return f"shots of {WHOLE_GROUPS}" if WHOLE_GROUPS in variant.split(", ") else "shots"


def base_name(dataset: str, level: str, inputs: str, protocol: str) -> str:
    """The data set, and what splits it into rows that are no rivals, but for seeds and amounts."""
    words = [dataset]
    words += [f"{inputs} alone"] if level == "image" and inputs else []
    words += [tested(protocol)] if tested(protocol) else []
    return ", ".join(words)


_LOOKED: Final = ("dataset", "level", "inputs", "protocol", *AMOUNT, "seed")
"""Columns by which rows are kept or only stand in curves."""


def _kept(estimates: pd.DataFrame) -> set[tuple[Any, ...]]:
    """The values of _LOOKED that are reported in full."""
    rows = estimates[estimates["mode"] != SHUFFLED][list(_LOOKED)].drop_duplicates()
    named = rows.assign(
        base=[base_name(*row) for row in _zipped(rows, "dataset", "level", "inputs", "protocol")],
        kind=[kind_of_amount(*row) for row in _zipped(rows, "shots", "variant")],
    )
    kept: set[tuple[Any, ...]] = set()
    for _, part in named.groupby(["base", "level", "kind"], sort=False):
        sizes = part[["fraction", "shots"]].drop_duplicates()
        lead = sizes.sort_values(["fraction", "shots"]).iloc[-1]
        own = part[(part["fraction"] == lead["fraction"]) & (part["shots"] == lead["shots"])]
        shown = own[own["seed"] == own["seed"].min()] if len(sizes) > 1 else own
        kept |= set(_zipped(shown, *_LOOKED))
    return kept


def _zipped(frame: pd.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(frame[column] for column in columns), strict=True)


def _only(frame: pd.DataFrame, kept: set[tuple[Any, ...]]) -> pd.DataFrame:
    chosen = [row in kept for row in _zipped(frame, *_LOOKED)]
    found: pd.DataFrame = frame[np.array(chosen, dtype=bool) | (frame["mode"] == SHUFFLED)]
    found.attrs = frame.attrs
    return found


def _named(frame: pd.DataFrame, seeds: pd.Series[int]) -> pd.DataFrame:
    columns = ["dataset", "level", "inputs", "protocol", "seed", "mode", *AMOUNT]
    keys = frame[columns].drop_duplicates()
    # A probe on shuffled labels learns from all of them; it warns beside what was learnt from most.
    plain = keys[keys["mode"] != SHUFFLED].assign(few=lambda part: part["shots"] > 0)
    plain = plain.sort_values(["few", "fraction", "shots"], ascending=[False, True, True], kind="stable")
    most = {dataset: _words(part.iloc[-1]) for dataset, part in plain.groupby("dataset")}
    names = {}
    for key in keys.itertuples(index=False):
        row: Any = key
        words = [base_name(row.dataset, row.level, row.inputs, row.protocol)]
        learnt = most.get(row.dataset, "") if row.mode == SHUFFLED else _words(row)
        words += [learnt] if learnt else []
        words += [f"seed {row.seed}"] if seeds.get(row.dataset, 1) > 1 else []
        names[tuple(key)] = ", ".join(words)
    named = frame.assign(dataset=[names[row] for row in _zipped(frame, *columns)])
    named.attrs = _also_of(frame.attrs, dict(zip(named["dataset"], frame["dataset"], strict=True)))
    return named


def _also_of(attrs: Mapping[Any, Any], families: Mapping[str, str]) -> dict[Any, Any]:
    """What `attrs` say of data sets (order of classes, whether groups were declared), said of their families too."""
    told = dict(attrs)
    for what in {"classes", "groups_declared"} & set(attrs):
        own = attrs[what]
        told[what] = {**own, **{family: own[name] for family, name in families.items() if name in own}}
    return told


def _words(row: Any) -> str:
    """How much was learnt from, "" for all labels."""
    if row.fraction == 1 and not row.shots:
        return ""
    whole = f" of {WHOLE_GROUPS}" if row.shots and WHOLE_GROUPS in row.variant.split(", ") else ""
    return amount(float(row.fraction), int(row.shots)) + whole
