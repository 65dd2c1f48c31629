"""Speed as ratios against a rival measured in the same run: `make bench`.

Each benchmark alternates featprobe and its rival several times and prints the median ratio with its range; the
rival is what a user would otherwise write. Nothing here is a test: a busy machine must not turn a build red.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from featprobe import backbones, loading
from featprobe.config import ExtractConfig
from featprobe.datasets import open_dataset
from featprobe.metrics import evaluate
from featprobe.stages.extract import extract
from tests.benchmarks import metric_costs, near_copies, svm_path

ROUNDS = 3


def ratio(name: str, ours: Callable[[], object], rival: Callable[[], object], rounds: int = ROUNDS) -> None:
    """Print how many times faster `ours` is than `rival`, alternating so that both meet the same machine."""
    if rounds > 1:  # a single long round needs no warming up
        ours(), rival()
    times = [(_seconds(ours), _seconds(rival)) for _ in range(rounds)]
    ratios = sorted(slow / quick for quick, slow in times)
    quick, slow = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{name}: {statistics.median(ratios):.2f} times the rival's speed "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}; {quick:.2f} s against {slow:.2f} s)",
        flush=True,
    )


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def bootstrap_auroc() -> None:
    """Bootstrapped AUROC of 10,000 cases: all resamples at once, against a loop over scikit-learn."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 10_000)
    score = np.clip(rng.normal(0.5 + 0.2 * truth, 0.3), 0, 1)
    probabilities = np.column_stack([1 - score, score])
    weights = rng.multinomial(10_000, np.full(10_000, 1e-4), size=200)
    ratio(
        "bootstrap of AUROC, 10,000 cases x 200 resamples",
        lambda: evaluate("auroc", truth, probabilities, weights),
        lambda: [roc_auc_score(truth, score, sample_weight=row) for row in weights],
    )


def one_decode_for_many_backbones() -> None:
    """Two backbones in one call against two calls: what sharing the decode is worth."""

    def run(folder: str, *names: tuple[str, ...]) -> None:
        with tempfile.TemporaryDirectory() as home:
            for backbone in names:
                extract(
                    ExtractConfig(
                        backbone=backbone, weights=("random",), image_size=32, cache=Path(home) / folder
                    )
                )

    both = ("resnet18", "efficientnet_lite0")
    ratio(
        "two backbones in one pass", lambda: run("one", both), lambda: run("two", *((name,) for name in both))
    )


def extraction_against_a_bare_loop() -> None:
    """`featprobe extract` with hashes, cache and progress against a bare forward loop over the same batches."""
    dataset = open_dataset("digits")
    model = backbones.load("efficientnet_lite0", image_size=64)
    rule = model.preprocessing(image_size=64)

    def bare() -> None:
        with torch.inference_mode():
            for batch in loading.batches(
                dataset, np.arange(len(dataset.samples)), [rule], batch_size=32, workers=0
            ):
                model(batch.images[0], ["gap"])

    def ours() -> None:
        with tempfile.TemporaryDirectory() as home:
            extract(ExtractConfig(image_size=64, cache=Path(home)))

    ratio("extraction with cache, against a bare loop", ours, bare)


if __name__ == "__main__":
    for benchmark in (bootstrap_auroc, one_decode_for_many_backbones, extraction_against_a_bare_loop):
        benchmark()
    near_copies.hundred_thousand_hashes(ratio)
    svm_path.main(1000, 128, 5, 3)
    metric_costs.print_costs()
