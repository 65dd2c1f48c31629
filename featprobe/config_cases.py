"""What is judged of images that belong together: the part of a configuration that probe and finetune share about cases."""

from __future__ import annotations

from dataclasses import dataclass

from featprobe.options import Bounded, option


@dataclass(frozen=True, kw_only=True)
class CaseOptions(Bounded):
    """Images or cases, one modality or several."""

    level: tuple[str, ...] = option(
        (),
        "what is judged: single images, cases, or both (default: images, and cases where one has several)",
        choices=("image", "case"),
    )
    case_pooling: tuple[str, ...] = option(
        ("mean",), "how a case's embeddings become one", choices=("mean", "max")
    )
    fusion: tuple[str, ...] = option(
        (),
        "with several modalities: each alone, all pooled together, one beside the other (default: alone, concat)",
        choices=("alone", "pool", "concat"),
    )
    missing: str = option(
        "mean",
        "a modality that a case lacks: the training cases' mean takes its place, or such cases are left out",
        choices=("mean", "drop"),
    )
