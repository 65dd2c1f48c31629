"""Short names for what is compared: only what tells two models of one data set apart is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pandas as pd

from featprobe.records import KEY_COLUMNS

SYSTEM_COLUMNS: Final = tuple(name for name in KEY_COLUMNS if name not in {"dataset", "fold", "level"})
"""What makes two models two systems; data set, fold and level are where they are compared."""

SHUFFLED: Final = "shuffled labels"
"""The mode of a probe that was fitted on labels permuted among the training groups: a control, no candidate."""

FUSED: Final = " over "
"""Stands in the column `fusion` of systems that are several embeddings at once, such as "stack over backbone"."""

ALWAYS: Final = ("backbone", "weights", "mode", "probe")


def add_systems(*frames: pd.DataFrame) -> list[pd.DataFrame]:
    """Each frame with a column `system`, the same name for the same model in all of them.

    A name holds backbone, weights, mode and probe, and of the other columns those in which two models of one
    backbone on one data set differ; the protocol too where two backbones differ in it, for then they were not
    fitted alike. Where names still clash, the fingerprint's first characters are added.
    """
    keys = pd.concat([frame[["dataset", *SYSTEM_COLUMNS]] for frame in frames]).drop_duplicates(
        ignore_index=True
    )
    extra = [
        column
        for column in SYSTEM_COLUMNS
        if column not in {*ALWAYS, "fingerprint"} and _tells_apart(keys, column)
    ]
    ways = keys.assign(way=keys["protocol"].map(tested))[["dataset", "way"]].drop_duplicates()
    tests = bool(ways["dataset"].duplicated().any())
    keys["system"] = [_name(row, extra, tests=tests) for _, row in keys.iterrows()]
    clash = keys.duplicated(["dataset", "system"], keep=False)
    keys.loc[clash, "system"] += " #" + keys.loc[clash, "fingerprint"].str[:6]
    named = []
    for frame in frames:
        positions = frame.reset_index(drop=True)
        merged = positions.merge(keys, on=["dataset", *SYSTEM_COLUMNS], how="left", validate="many_to_one")
        # What travels with a frame, such as the order of its classes, does not survive a merge.
        merged.attrs = frame.attrs
        named.append(merged)
    return named


def _tells_apart(keys: pd.DataFrame, column: str) -> bool:
    """Whether two models of one data set, backbone and mode differ in `column`."""
    within = ["dataset", "mode"] if column == "protocol" else ["dataset", "backbone", "mode"]
    among = keys.groupby(within, sort=False)[column].nunique(dropna=False)
    return bool((among > 1).any())


def fitted_by(protocol: str) -> str:
    """The rule of a value of the column `protocol`: its first word, a name of PROTOCOLS."""
    return protocol.partition(" ")[0]


def tested(protocol: str) -> str:
    """The way of testing in a value of the column `protocol`, such as "holdout 20 %"; "" for folds and given splits."""
    return protocol.partition(" ")[2]


def _name(row: pd.Series, extra: list[str], *, tests: bool) -> str:
    backbone = (
        row["backbone"]
        if row["weights"] in {"pretrained", "none"}
        else f"{row['backbone']} ({row['weights']})"
    )
    how = f"{row['mode']} {row['probe']}" if row["mode"] in {"frozen", SHUFFLED} else row["mode"]
    words = [str(backbone), str(how)]
    words += _protocol(str(row["protocol"]), str(row["probe"]), extra, tests=tests)
    # How embeddings were fused is part of the model's name, also where nothing else has that name.
    fused = FUSED in str(row["fusion"])
    for column in [*extra, *(["fusion"] if fused and "fusion" not in extra else [])]:
        value = row[column]
        if column not in {*_AMOUNT, "protocol"} and value != "":
            words.append(_WORDS.get(column, str)(value))
    if _AMOUNT & set(extra):
        words.append(amount(float(row["fraction"]), int(row["shots"])))
    return " · ".join(words)


def _protocol(protocol: str, probe: str, extra: list[str], *, tests: bool) -> list[str]:
    """The rule where rules differ and the probe's name does not say it; the way of testing where that differs."""
    rule = fitted_by(protocol)
    told = "protocol" in extra and rule not in {"featprobe", probe}
    return [*([rule] if told else []), *([tested(protocol)] if tests and tested(protocol) else [])]


_AMOUNT: Final = {"fraction", "shots"}


def amount(fraction: float, shots: int) -> str:
    """How much was learnt from."""
    if shots:
        return f"{shots} shot{'s' if shots > 1 else ''}"
    return "all labels" if fraction == 1 else f"{100 * fraction:.3g}% of labels"


_WORDS: Final[dict[str, Callable[[Any], str]]] = {
    "seed": lambda value: f"seed {value}",
    "fusion": lambda value: _fusion(str(value)),
}


def _fusion(value: str) -> str:
    """How embeddings, or the images of a case, became one answer."""
    if FUSED in value:
        return value
    if value.startswith("concat-"):
        return f"side by side ({value.removeprefix('concat-')})"
    return f"{value} of case"
