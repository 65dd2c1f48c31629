"""A retrieval figure means something only with its rule: who is the index, how many are looked at, what is scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from featprobe.errors import ConfigError, nearest
from featprobe.retrieval.scoring import Measure, measures

STUDY_TOP: Final = 5
"""Neighbours that Mahbod et al. look at."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """One rule.

    `distances`: the ones used where none is asked for. `with_val`: whether validation images are in the index too.
    `own_split`: whether the data's own split is needed. `excludes_own_group`: whether images of the query's own
    group are left out of what it may find.
    """

    name: str
    source: str
    distances: tuple[str, ...]
    with_val: bool
    own_split: bool
    excludes_own_group: bool
    measures: tuple[Measure, ...]


def _mahbod2024() -> Protocol:
    """Mahbod et al. 2024, arXiv 2409.09430, as their code at github.com/masih4/MedImageRetrieval has it.

    Test images against the official train images alone (validation takes no part), the 5 nearest, equal
    distances in the order of the index (`main_2D_CNN_memory_safe.py` sorts pairs of distance and row). The README says
    cosine; the code uses the Euclidean distance (a cosine call was removed on 2024-07-03): Euclidean here, cosine
    with --distance cosine. `metric.py`: AP@5 is the sum of the precision at the hits over the number of hits in the
    top 5, 0 without a hit; mMV@5 is a hit where any of the tied majority classes is the truth; ACC@k where any of the
    top k is. Nobody's group is left out there, so a leak that was let through counts; it is said how often.
    """
    kinds = (("mAP", STUDY_TOP), ("mMV", STUDY_TOP), ("ACC", 1), ("ACC", 3), ("ACC", 5))
    return Protocol(
        name="mahbod2024",
        source="Mahbod et al. 2024, arXiv 2409.09430",
        distances=("euclidean",),
        with_val=False,
        own_split=True,
        excludes_own_group=False,
        measures=tuple(Measure(kind, k) for kind, k in kinds),
    )


PROTOCOLS: Final = ("featprobe", "mahbod2024")


def protocol(name: str, top: int = STUDY_TOP) -> Protocol:
    """The rule called `name`, for the `top` nearest; ConfigError where it is unknown or fixes another number.

    "featprobe": the test images of each fold against its training and validation images, cosine and Euclidean,
    images of the query's own group left out; ACC and precision at 1, 3, 5 and `top`, mAP and mMV at 5 and `top`.
    "mahbod2024": see its own words in this file.
    """
    if name == "mahbod2024":
        if top != STUDY_TOP:
            raise ConfigError(
                f"--top {top} does not go with --protocol mahbod2024",
                f"the study looks at the {STUDY_TOP} nearest",
                f"type --top {STUDY_TOP}, or --protocol featprobe",
            )
        return _mahbod2024()
    if name != "featprobe":
        raise ConfigError(
            f"unknown protocol {name!r}",
            nearest(name, PROTOCOLS) or f"known: {', '.join(PROTOCOLS)}",
            f"type --protocol {PROTOCOLS[0]}",
        )
    return Protocol(
        name="featprobe",
        source="",
        distances=("cosine", "euclidean"),
        with_val=True,
        own_split=False,
        excludes_own_group=True,
        measures=measures(top),
    )
