"""How long `featprobe compare` takes on a large study: `python -m tests.benchmarks.compare_size [BACKBONES CASES CLASSES [FLAG ...]]`.

Predictions of as many backbones are made through the results folder's own door, then the real command is run in a
process of its own. Printed: seconds, processor time, and the largest memory that the
process held. Flags go on to the command.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from featprobe.metrics import default_metrics
from featprobe.records import Predictions, RunKey, Samples
from featprobe.results import ResultsFolder
from featprobe.significance import estimates

SIZES = (10, 10_000, 14)
PER_GROUP = 2
"""Cases of one patient."""


def make(folder: Path, backbones: int, cases: int, classes: int) -> None:
    """Write predictions and estimates of models that share most of their errors, and differ a little."""
    rng = np.random.default_rng(0)
    names = tuple(f"finding {number:02d}" for number in range(classes))
    label = rng.integers(0, classes, cases)
    ids = [f"image-{row:06d}" for row in range(cases)]
    samples = Samples.build(
        path=ids,
        label=label,
        label_names=names,
        group=[f"patient-{row // PER_GROUP:06d}" for row in range(cases)],
    )
    shared = rng.standard_normal((cases, classes))
    store = ResultsFolder(folder)
    for number in range(backbones):
        logits = 0.7 * shared + 0.7 * rng.standard_normal((cases, classes))
        logits[np.arange(cases), label] += 1.5 + 0.03 * number
        score = np.exp(logits - logits.max(axis=1, keepdims=True))
        score /= score.sum(axis=1, keepdims=True)
        key = RunKey(
            "chest",
            f"backbone_{number}",
            "pretrained",
            "frozen",
            "cls",
            "native",
            "logistic",
            f"{number:064x}",
        )
        own = [Predictions(key, samples, score, 5 * cases)]
        found = estimates(own, default_metrics("classes"), resamples=50)
        store.add(f"unit-{number}", own, found, {"key": key.to_dict(), "scheme": "user's split"})


def main(words: list[str]) -> None:
    """Make, compare, print."""
    sizes = [int(word) for word in words[:3]] or list(SIZES)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "results"
        make(folder, *sizes)
        command = [sys.executable, "-m", "featprobe.cli", "compare", str(folder), *words[3:]]
        began = time.perf_counter()
        subprocess.run(command, check=True, cwd=home, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    backbones, cases, classes = sizes
    print(
        f"featprobe compare {' '.join(words[3:])}: {backbones} backbones x {cases:,} cases x {classes} classes: "
        f"{seconds:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of processor time), "
        f"peak memory {used.ru_maxrss / 2**20:.2f} GiB"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
