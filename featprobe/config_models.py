"""The configuration of what is done with saved models, filled alike by flags and Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from featprobe.config import DataOptions
from featprobe.options import Bounded, option


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Bounded):
    """Which saved model, and where the weights of its backbone are."""

    model: Path | None = option(
        None, "a .skops file that featprobe probe --models wrote", metavar="FILE.skops"
    )
    weights: str | None = option(
        None,
        "pretrained, random or a .safetensors/.pth file (default: as at the extraction)",
        metavar="VALUE",
    )
    weights_dir: Path | None = option(
        None,
        "folder made by featprobe backbones fetch, asked for pretrained weights first (also FEATPROBE_WEIGHTS_DIR)",
        metavar="DIR",
    )
    remote_code: bool = option(False, "let code run that comes with a Hugging Face model")
    offline: bool = option(False, "never touch the network (also FEATPROBE_OFFLINE=1)")


@dataclass(frozen=True, kw_only=True)
class PredictConfig(ModelOptions, DataOptions):
    """Score new images with a saved model; labels are not needed."""

    refused: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            *("backbone", "pooling", "layer", "preprocessing", "image-size", "fit", "intensity", "tta"),
            *("precision", "storage", "probe", "seed"),
        ),
        "the model's file says it",
    )

    out: Path = option(Path("predictions.csv"), "table of the scores, one row per image", metavar="FILE.csv")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps", metavar="DEVICE")
    batch_size: int | None = option(
        None, "images per batch (default: chosen by device)", metavar="N", least=1
    )
    workers: int | None = option(
        None, "processes that decode images (default: chosen by cores)", metavar="N", least=0
    )


@dataclass(frozen=True, kw_only=True)
class ModelExportConfig(ModelOptions):
    """Write a saved model as ONNX: embeddings to scores, or with its backbone pixels to scores."""

    onnx: Path | None = option(None, "the file to write", metavar="FILE.onnx")
    with_backbone: bool = option(False, "the backbone too, in the same file")
