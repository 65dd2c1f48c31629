"""scikit-learn's real handwritten digits: the data set that is always there, for demos, tests and first steps."""

from __future__ import annotations

from featprobe.datasets.base import NO_GROUPS, ArrayDataset, Dataset, DatasetOptions, refuse_columns
from featprobe.registry import DATASETS


@DATASETS.register("digits")
class Digits:
    """1,797 grey images of 8 x 8 pixels, ten classes, with a fixed split by blocks of the file.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, as shipped with scikit-learn. Grey levels 0 to 16 become 0 to 255.

    The file lists one writer's digits after another's, but does not say who wrote what, so no groups can be
    declared. The split is therefore by contiguous blocks in file order: the first 60 % train, the next 20 %
    validate, the last 20 % test. Most writers are then on one side only, where a shuffled split would put
    nearly all of them on both.
    """

    @classmethod
    def accepts(cls, location: str) -> bool:
        """Only the word itself; a folder of that name is `./digits`."""
        return location == "digits"

    @classmethod
    def default_name(cls, location: str) -> str:
        """`digits`."""
        return location

    @classmethod
    def open(cls, location: str, name: str, options: DatasetOptions) -> Dataset:
        """The digits in file order. ConfigError for options about columns."""
        import numpy as np
        from sklearn.datasets import load_digits

        from featprobe.datasets.targets import named_target
        from featprobe.records import Samples

        refuse_columns(options, location, paths=False)
        bunch = load_digits()
        count = len(bunch.target)
        ends = (count * 60 // 100, count * 80 // 100)
        split = np.repeat(["train", "val", "test"], [ends[0], ends[1] - ends[0], count - ends[1]])
        ids = [f"digits-{row:04d}" for row in range(count)]
        target = named_target([str(number) for number in bunch.target], location, ids, options)
        samples = Samples.build(
            path=ids,
            label=target.label,
            label_names=target.names,
            task=target.task,
            split=None if options.split_column == "none" else split,
        )
        images = ((bunch.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
        notes = (
            f"{NO_GROUPS} (who wrote which digit is not published)",
            "fixed split by blocks in file order (60/20/20 %), which keeps most writers on one side",
            *target.notes,
        )
        return ArrayDataset(name, "digits", samples, notes, images)
