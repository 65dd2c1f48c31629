"""The bench of the cache's tests: a data set that follows from its rows' numbers, and how a file is filled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featprobe.cache import Cache, Writer
from featprobe.imaging import THUMBNAIL_SIDE
from featprobe.records import Preprocessing, Recipe, Samples, images_sha256, texts

TARGETS: dict[str, dict[str, Any]] = {
    "classes": {"label": lambda n: n % 3, "label_names": ("one", "two", "drei")},
    "ordinal": {"label": lambda n: n % 4 - 1, "label_names": ("I", "II", "III")},
    "multilabel": {"label": lambda n: [n % 2, n % 3 - 1], "label_names": ("edema", "a/ü")},
    "continuous": {"label": lambda n: n / 7 if n % 5 else float("nan"), "label_names": ("age",)},
}
"""Missing labels included: -1 or NaN."""


class Bench:
    DIMS = {"cls": 8}  # noqa: RUF012 - read only
    ENVIRONMENT = {"device": "cpu", "versions": {"torch": "2.15"}}  # noqa: RUF012 - read only

    def __init__(self, root: Path) -> None:
        self.cache = Cache(root)

    @staticmethod
    def samples(count: int, *, first: int = 0, task: str = "classes") -> Samples:
        numbers = range(first, first + count)
        samples = Samples.build(
            path=[f"a/{n}.png" for n in numbers],
            label=[TARGETS[task]["label"](n) for n in numbers],
            label_names=TARGETS[task]["label_names"],
            task=task,
            group=[f"patient {n // 2}" for n in numbers],
            split=[("train", "test")[n % 2] for n in numbers],
            columns={"age/years": [str(n) for n in numbers], ".": ["x"] * count},
        )
        return samples.replace(sha256=texts([f"{n:064x}" for n in numbers]))

    @staticmethod
    def recipe(samples: Samples, **changes: Any) -> Recipe:
        rule = Preprocessing((224, 224), "crop", 256, "bicubic", (0.5,) * 3, (0.5,) * 3)
        values = {"backbone": "resnet", "architecture": "resnet18", "weights": "w", "preprocessing": rule}
        return Recipe(images=images_sha256(samples.sha256), **{**values, **changes})

    @staticmethod
    def values(samples: Samples, rows: Any, dim: Any = 8) -> Any:
        """An embedding that follows from the image alone; `dim` is D or (h, w, D)."""
        seeds, shape = [int(value, 16) for value in samples.sha256[rows]], np.atleast_1d(dim).tolist()
        drawn = [np.random.default_rng([seed, *shape]).normal(size=shape) for seed in seeds]
        return np.array(drawn).reshape(-1, *shape)

    @staticmethod
    def thumbnails(samples: Samples, rows: Any) -> Any:
        """A thumbnail that follows from the image alone."""
        seeds = [int(value, 16) for value in samples.sha256[rows]]
        drawn = [np.random.default_rng(seed).integers(0, 256, THUMBNAIL_SIDE**2, "u1") for seed in seeds]
        return np.array(drawn, dtype=np.uint8).reshape(-1, THUMBNAIL_SIDE**2)

    def writer(self, samples: Samples, *, cache: Cache | None = None, **changes: Any) -> Writer:
        arguments = {
            "poolings": self.DIMS,
            "batch_size": 4,
            "weights_label": "pretrained",
            "environment": self.ENVIRONMENT,
            "recipe": self.recipe(samples),
            **changes,
        }
        recipe, poolings = arguments.pop("recipe"), arguments.pop("poolings")
        return (cache or self.cache).writer("digits", recipe, samples, poolings, **arguments)

    def fill(
        self,
        writer: Writer,
        samples: Samples,
        *,
        bad: Any = (),
        until: int | None = None,
        dims: Any = None,
    ) -> None:
        dims = {"mean": 9, **(dims or {})}
        until = len(samples) if until is None else until
        while writer.position < until:
            window = range(writer.position, min(len(samples), writer.position + writer.batch_size))
            rows = np.array([row for row in window if row not in bad], dtype=np.int64)
            writer.append(
                rows,
                {key: self.values(samples, rows, dims.get(key, 8)) for key in writer.poolings},
                texts([f"{row:064d}" for row in rows]),
                texts(["f" * 16 if row % 7 else "" for row in rows]),
                self.thumbnails(samples, rows),
                [(row, f"broken: {row}") for row in window if row in bad],
                window[-1] + 1,
            )

    def write(self, samples: Samples, *, bad: Any = (), **changes: Any) -> Path:
        with self.writer(samples, **changes) as writer:
            self.fill(writer, samples, bad=bad, dims=changes.get("poolings"))
            return writer.finish({**self.ENVIRONMENT, "seconds": 1.5})

    @staticmethod
    def names_in(folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "cache")


@pytest.fixture
def cache(bench: Bench) -> Cache:
    return bench.cache
