"""The configuration of every stage as one frozen record, filled alike by flags, TOML keys and Python.

A field's name is the Python argument; with hyphens it is the flag and the TOML key. Its help text, choices
and whether it may be repeated stand beside it, so the command line is generated and can't drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from featprobe.config_cases import CaseOptions
from featprobe.config_labels import LabelOptions
from featprobe.config_statistics import StatisticsOptions
from featprobe.config_training import TrainingOptions
from featprobe.options import Bounded, option
from featprobe.records import FITS, POOLINGS, PRECISIONS, PREPROCESSING_RULES, TASKS

LEAKS: Final = ("group", "case", "bytes", "pixels", "near", "label-conflict")
"""Kinds of leaks, as `featprobe.splitting.LEAK_KINDS` (a contract test compares them)."""

DISTANCES: Final = ("cosine", "euclidean")
"""Distances of retrieval, as `featprobe.retrieval.DISTANCES` (a test compares them)."""

RETRIEVAL_PROTOCOLS: Final = ("featprobe", "mahbod2024")
"""Rules of retrieval, as `featprobe.retrieval.PROTOCOLS` (a test compares them)."""

PROBE_PROTOCOLS: Final = (
    "baharoon-linear",
    "baharoon-mlknn",
    "clip-benchmark",
    "dinov2-knn",
    "dinov2-linear",
    "dinov2-logreg",
    "dinov3-logreg",
    "featprobe",
    "featprobe-1se",
    "featprobe-attentive",
    "featprobe-mlp",
    "huang2024",
    "medmnistplus-knn",
    "medmnistplus-linear",
    "patho-bench",
    "sklearn-default",
    "uni",
)
"""Rules of probing that come with featprobe, as `featprobe.registry.PROTOCOLS` (a test compares them)."""

FUSIONS: Final = (
    "average",
    "concat",
    "geometric-average",
    "group-pca",
    "multiview-ica",
    "plain-concat",
    "stack",
)
"""Ways of fusing embeddings that come with featprobe, as `featprobe.registry.FUSIONS` (a test compares them)."""

DEFAULT_BACKBONE: Final = "efficientnet_lite0"
"""Real ImageNet weights that come with the installation: works behind any firewall."""


@dataclass(frozen=True, kw_only=True)
class DataOptions(Bounded):
    """Which images, and how their table is read."""

    data: tuple[str, ...] = option(
        ("digits",),
        "images: a folder of class folders, a CSV/TSV/Parquet manifest, WebDataset shards, a Hugging Face folder, "
        "medmnist:NAME or digits",
        metavar="[NAME=]SPEC",
    )
    path_column: str | None = option(
        None, "manifest column with the image's path (shards: the image's suffix)", metavar="COLUMN"
    )
    label_column: tuple[str, ...] = option(
        (), "manifest column with the label; several are labels that may hold at once", metavar="COLUMN"
    )
    label: str | None = option(None, "'none' reads the images without labels", choices=("none",))
    target: str | None = option(
        None, "what the label is (default: detected, and said where it is not plain)", choices=TASKS
    )
    class_order: tuple[str, ...] = option(
        (), "the classes of an ordinal target from low to high", metavar="CLASS"
    )
    uncertain: str = option(
        "ignore",
        "what a label of -1 counts as (CheXpert's U-Ignore, U-Zeros, U-Ones)",
        choices=("ignore", "zero", "one"),
    )
    blank: str = option(
        "ignore", "what an empty cell counts as where several labels may hold", choices=("ignore", "zero")
    )
    id_column: str | None = option(None, "manifest column with the image's name", metavar="COLUMN")
    group_column: str | None = option(
        None, "manifest column with the patient, lesion or study", metavar="COLUMN"
    )
    case_column: str | None = option(
        None, "manifest column with the case: its images get one answer together", metavar="COLUMN"
    )
    site_column: str | None = option(None, "manifest column with the hospital or scanner", metavar="COLUMN")
    modality_column: str | None = option(
        None, "manifest column with the modality or sequence", metavar="COLUMN"
    )
    split_column: str | None = option(
        None, "manifest column with train, val, test or extra", metavar="COLUMN"
    )
    group_regex: str | None = option(
        None, "pattern whose first group, found in the path, is the patient", metavar="REGEX"
    )
    keep_column: tuple[str, ...] = option(
        (), "further manifest column to keep in the cache", metavar="COLUMN"
    )
    axis: str = option("axial", "how volumes are cut into images", choices=("axial", "coronal", "sagittal"))
    slices: str = option(
        "all",
        "which slices of a volume: all, every:K, central:N, foreground[:SHARE], or volume (one row, for 3-D backbones)",
        metavar="RULE",
    )
    pseudonymize: Path | None = option(
        None,
        "replace ids, paths, groups and cases by keyed hashes; FILE holds the secret, made where it is missing",
        metavar="FILE",
    )


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(Bounded):
    """Which backbones, with which weights, on which input."""

    backbone: tuple[str, ...] = option(
        (DEFAULT_BACKBONE,), "timm name, dinov2_*, or a registered name", metavar="NAME"
    )
    weights: tuple[str, ...] = option(
        (),
        "pretrained (default), random, or a .safetensors/.pth file; for all, or for one as NAME=VALUE",
        metavar="[NAME=]VALUE",
    )
    pooling: tuple[str, ...] = option(
        (),
        "how features become one vector: cls, mean, cls+mean, gap, gem, logits, pre_logits, or patches kept apart; for "
        "all, or for one as NAME=POOLING (default: cls for ViTs, gap for CNNs)",
        metavar="[NAME=]POOLING",
    )
    preprocessing: str | None = option(
        None,
        "whose evaluation protocol (default: the authors' where published, else native)",
        choices=PREPROCESSING_RULES,
    )
    fit: str | None = option(None, "how an image is brought to that size", choices=FITS)
    intensity: str = option(
        "auto",
        "how grey levels become 8 bits: auto, window:CENTRE:WIDTH, range:LOW:HIGH, percentile:LOW:HIGH, minmax, "
        "zscore[:SDS], zscore-nonzero[:SDS]; three windows with commas are three channels",
        metavar="RULE",
    )
    weights_dir: Path | None = option(
        None,
        "folder made by featprobe backbones fetch, asked for pretrained weights first (also FEATPROBE_WEIGHTS_DIR)",
        metavar="DIR",
    )
    remote_code: bool = option(False, "let code run that comes with a Hugging Face model")
    offline: bool = option(False, "never touch the network (also FEATPROBE_OFFLINE=1)")


@dataclass(frozen=True, kw_only=True)
class MachineOptions(Bounded):
    """Where it runs; none of it changes a result beyond floating-point noise."""

    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps", metavar="DEVICE")
    precision: str = option("fp32", "arithmetic of the forward pass; part of the recipe", choices=PRECISIONS)
    batch_size: int | None = option(
        None, "images per batch (default: chosen by device)", metavar="N", least=1
    )
    workers: int | None = option(
        None, "processes that decode images (default: chosen by cores)", metavar="N", least=0
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Bounded):
    """How models are judged: splits, the gate against leaks, intervals."""

    out: Path = option(
        Path("results"), "folder for results.csv, predictions.parquet and run.json", metavar="DIR"
    )
    folds: int = option(5, "outer folds where the data bring no split", metavar="K", least=2)
    holdout: float | None = option(
        None, "share of groups to test on, once, instead of folds", metavar="SHARE", least=0.01, most=0.9
    )
    leave_out: str | None = option(
        None, "test on one site at a time, trained on the others", choices=("site",)
    )
    resplit: bool = option(False, "ignore the split column and make grouped folds")
    allow_leaks: tuple[str, ...] = option(
        (), "go on in spite of leaks of these kinds; the report says so", choices=LEAKS
    )
    drop_leaks: bool = option(False, "remove the training copy of what leaks; the report says so")
    min_groups: int | None = option(None, "drop, and report, classes with fewer groups", metavar="N", least=1)
    metrics: tuple[str, ...] = option((), "metrics beside the usual ones, or all", metavar="NAME")
    resamples: int = option(2000, "bootstrap resamples of groups per interval", metavar="N", least=50)
    seed: int = option(0, "seed of splits, heads and resamples", metavar="N", least=0)
    repeats: int = option(
        1, "how often all is done, with the seeds SEED, SEED + 1, ...", metavar="N", least=1
    )


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(MachineOptions, BackboneOptions, DataOptions):
    """Run images through frozen backbones and cache the embeddings."""

    cache: Path = option(Path("cache"), "folder of the embedding files", metavar="DIR")
    storage: str = option("float32", "dtype of the cached embeddings", choices=("float32", "float16"))
    image_size: tuple[int, ...] = option(
        (), "side of the square input in pixels; each size is a file of its own", metavar="PIXELS", least=1
    )
    layer: tuple[str, ...] = option(
        (),
        "where features are taken: last (default), lastN (the last N blocks, each after the final norm) or a module's "
        "path such as blocks.5 or layer3",
        metavar="LAYER",
    )
    tta: tuple[str, ...] = option(
        (),
        "test-time augmentation: hflip, vflip, five-crops, scale:FACTOR; the embedding is the mean over the views",
        metavar="VIEW",
    )
    tta_keep: bool = option(False, "also keep the embedding of every view, as LAYER@VIEW")
    canaries: bool = option(
        False, "also extract what a backbone must beat: its random twin and image statistics"
    )
    seed: int = option(0, "seed of random weights", metavar="N", least=0)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(CaseOptions, LabelOptions, EvaluationOptions):
    """Fit probes on everything that the cache holds."""

    cache: Path = option(Path("cache"), "folder of the embedding files", metavar="DIR")
    data: tuple[str, ...] = option((), "only these data sets of the cache", metavar="NAME")
    backbone: tuple[str, ...] = option((), "only these backbones of the cache", metavar="NAME")
    pooling: tuple[str, ...] = option(
        (), "only these poolings (default: all that are cached)", choices=POOLINGS
    )
    layer: tuple[str, ...] = option((), "only these layers (default: all that are cached)", metavar="LAYER")
    protocol: tuple[str, ...] = option(
        ("featprobe",),
        f"whose rule of scaling, grid, choice and refit: {', '.join(PROBE_PROTOCOLS)}",
        metavar="NAME",
    )
    probe: tuple[str, ...] = option(
        (),
        "which probes, where the protocol is featprobe's (default: logistic and svm for classes, what fits for other targets)",
        metavar="NAME",
    )
    fuse: tuple[str, ...] = option(
        (), f"also fuse several embeddings of the same images: {', '.join(FUSIONS)}", metavar="METHOD"
    )
    over: str | None = option(
        None,
        "what is fused with --fuse [backbone]",
        choices=("backbone", "pooling", "layer", "view", "modality"),
    )
    calibrate: str = option(
        "none",
        "recalibrate scores, fitted out of fold by group inside the training data",
        choices=("none", "temperature", "isotonic"),
    )
    train_on: str | None = option(None, "a cached data set to learn from", metavar="NAME")
    test_on: tuple[str, ...] = option((), "cached data sets to judge on, with --train-on", metavar="NAME")
    canaries: bool = option(False, "also fit on shuffled labels: what scores above chance there is a leak")
    models: bool = option(
        False, "also save each probe, fitted on all labelled images, to OUT/models for featprobe predict"
    )
    watts: float | None = option(
        None, "power of one CPU thread for the energy estimate (default: 10 W)", metavar="W", least=0
    )
    jobs: int | None = option(None, "models fitted at a time (default: all cores)", metavar="N", least=1)


@dataclass(frozen=True, kw_only=True)
class RetrieveConfig(EvaluationOptions):
    """Search the training images for those most alike to each test image, on everything that the cache holds."""

    cache: Path = option(Path("cache"), "folder of the embedding files", metavar="DIR")
    data: tuple[str, ...] = option((), "only these data sets of the cache", metavar="NAME")
    backbone: tuple[str, ...] = option((), "only these backbones of the cache", metavar="NAME")
    pooling: tuple[str, ...] = option(
        (), "only these poolings (default: all that are cached)", choices=POOLINGS
    )
    layer: tuple[str, ...] = option((), "only these layers (default: all that are cached)", metavar="LAYER")
    distance: tuple[str, ...] = option(
        (), "between embeddings (default: both; mahbod2024: euclidean)", choices=DISTANCES
    )
    protocol: str = option(
        "featprobe", "whose rule: featprobe's, or a published study's", choices=RETRIEVAL_PROTOCOLS
    )
    top: int = option(5, "nearest images that are looked at", metavar="K", least=1)
    figures: int = option(
        6, "queries that are drawn with their neighbours, per backbone and distance", metavar="N", least=0
    )
    index: Path | None = option(
        None, "also write the training index as a FAISS file, with its ids and labels as .csv", metavar="FILE"
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(
    CaseOptions, TrainingOptions, EvaluationOptions, MachineOptions, BackboneOptions, DataOptions
):
    """Train the unfrozen opponent on the probe's own splits."""

    refused: ClassVar[Mapping[str, str]] = {
        "layer": "it trains the backbone's last features alone",
        "tta": "a trained model judges the plain view alone",
        "tta-keep": "a trained model judges the plain view alone",
        "canaries": "they are of frozen backbones, which extract and probe give",
    }


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Bounded):
    """Write embeddings to .npz or .parquet, of images or of cases."""

    out: Path = option(Path("embeddings"), "a .npz or .parquet file, or a folder", metavar="FILE|DIR")
    format: str = option("npz", "format where --out is a folder", choices=("npz", "parquet"))
    cache: Path = option(Path("cache"), "folder of the embedding files", metavar="DIR")
    data: tuple[str, ...] = option((), "only these data sets", metavar="NAME")
    backbone: tuple[str, ...] = option((), "only these backbones", metavar="NAME")
    pooling: str | None = option(None, "only this pooling", metavar="POOLING")
    level: str = option("image", "a row for each image, or for each case", choices=("image", "case"))
    case_pooling: str = option("mean", "how a case's embeddings become one", choices=("mean", "max"))
    fusion: str = option(
        "pool", "modalities of a case: all pooled together, or side by side", choices=("pool", "concat")
    )


@dataclass(frozen=True, kw_only=True)
class CompareConfig(StatisticsOptions):
    """Compare what was evaluated, with paired statistics, and write the report."""

    results: tuple[Path, ...] = option(
        (Path("results"),), "folders that probe and finetune wrote", metavar="DIR", positional=True
    )
    out: Path | None = option(None, "folder of the report (default: the first results folder)", metavar="DIR")
    cache: Path = option(
        Path("cache"), "folder of the embedding files, for the embedding maps", metavar="DIR"
    )
    metric: str | None = option(
        None,
        "the metric that the comparison is about (default: balanced_accuracy, for classes)",
        metavar="NAME",
    )
    by: tuple[str, ...] = option(
        (),
        "compare subgroups: site, modality, a kept column; age=0,40,80 or age=q4 in bands",
        metavar="COLUMN",
    )
    title: str = option("Which backbone?", "title of the report", metavar="TEXT")
    map: str = option("pca", "embedding map", choices=("pca", "umap", "none"))
    images: bool = option(
        True, "show small grey pictures of examples and errors (never of pseudonymized data)"
    )
    resamples: int = option(2000, "bootstrap resamples of groups", metavar="N", least=50)
    seed: int = option(0, "seed of the resamples", metavar="N", least=0)


@dataclass(frozen=True, kw_only=True)
class InspectConfig(DataOptions):
    """Say what is in the data: classes, groups, splits, unreadable files, duplicates, leaks."""

    out: Path | None = option(None, "folder for leaks.csv and leaks.html", metavar="DIR")
    workers: int | None = option(None, "threads that read images", metavar="N", least=1)
