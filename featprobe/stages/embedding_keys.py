"""What names a system whose embedding of one table of the cache is judged as it comes."""

from __future__ import annotations

from featprobe.records import RunKey
from featprobe.stages.evaluation import Question
from featprobe.stages.tables import Table


def key_of(subject: Question, table: Table, *, probe: str, seed: int) -> RunKey:
    """`table` on the images of `subject`, all labels learnt from; `probe`: what asks it."""
    layer, _, pooling = table.pooling.rpartition("/")
    return RunKey(
        dataset=subject.name,
        backbone=table.recipe.backbone,
        weights=table.weights_label,
        mode="frozen",
        pooling=pooling,
        layer=layer,
        protocol=subject.protocol,
        preprocessing=table.recipe.preprocessing.label,
        probe=probe,
        seed=seed,
        fingerprint=table.fingerprint,
    )
