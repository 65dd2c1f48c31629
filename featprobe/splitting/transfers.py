"""Train on one data set, test on another: two sets of samples as one, with a split between them."""

from __future__ import annotations

import numpy as np

from featprobe.errors import SplitError
from featprobe.records import AnyArray, Samples, TextArray, texts


def transfer(train: Samples, test: Samples, *, names: tuple[str, str], own_sides: bool = False) -> Samples:
    """`train` above `test`, with a split that trains on the one and tests on the other.

    All rows of A = `train` are trained on, whatever side they were on there ("extra" stays "extra"), and all of
    B = `test` are tested, but for its "extra", which is left out: it may only ever be trained on. With
    `own_sides` A keeps its train, val and extra, B its test rows, and the others are left out.

    `names` (A, B) stand before ids, groups and cases ("A/id"), which mean nothing in the other set; text that
    is "" stays so. Hashes stay as they are, so that the gate finds images that are in both; near copies
    (`twin`) have to be worked out again. Labels are numbered as in A. Raises SplitError where the task, the
    label names (for an ordinal target: their order) or the state of the images differ, or a side is empty.
    """
    _need_alike(train, test, names)
    test = test.replace(label=_as_in(train, test), label_names=train.label_names)
    if own_sides:
        train = train.take(np.isin(train.split, ["train", "val", "extra"]))
        test = test.take(test.split == "test")
    else:
        train = train.replace(split=texts(np.where(train.split == "extra", "extra", "train")))
        test = test.take(test.split != "extra")
    for side, part, name in (("train", train, names[0]), ("test", test, names[1])):
        if not len(part):
            raise SplitError(
                f"{name!r} has no images to {side} on",
                "only its own side is asked for" if own_sides else "it is empty, or holds 'extra' only",
                "see featprobe inspect --data SPEC",
            )
    test = test.replace(split=np.full(len(test), "test"))
    return _above(_named(train, names[0]), _named(test, names[1]))


def _need_alike(train: Samples, test: Samples, names: tuple[str, str]) -> None:
    a, b = names
    if a == b:
        raise SplitError(f"both data sets are called {a!r}", "", "name one of them anew: --data NAME=SPEC")
    if train.task != test.task:
        raise SplitError(
            f"the targets differ: {train.task} in {a!r}, {test.task} in {b!r}",
            "one probe answers one kind of question",
            "declare it at extraction with --target",
        )
    only = [
        f"only in {name!r}: {', '.join(repr(label) for label in labels)}"
        for name, labels in (
            (a, [n for n in train.label_names if n not in test.label_names]),
            (b, [n for n in test.label_names if n not in train.label_names]),
        )
        if labels
    ]
    if only:
        raise SplitError(
            f"the label names of {a!r} and {b!r} differ",
            "; ".join(only),
            "give equal labels equal names in both manifests",
        )
    if train.task == "ordinal" and train.label_names != test.label_names:
        raise SplitError(
            f"the classes of {a!r} and {b!r} are in another order",
            f"{' < '.join(train.label_names)} against {' < '.join(test.label_names)}",
            "declare one order at extraction with --class-order",
        )
    if train.thumbnail.shape[1] != test.thumbnail.shape[1]:
        raise SplitError(
            f"only one of {a!r} and {b!r} holds thumbnails, so copies between them can't be found",
            f"their widths are {train.thumbnail.shape[1]} and {test.thumbnail.shape[1]}",
            "type featprobe extract for both again",
        )


def _as_in(train: Samples, test: Samples) -> AnyArray:
    """The labels of `test`, numbered as in `train`."""
    if train.task == "continuous":
        return test.label
    if train.task == "multilabel":
        return test.label[:, [test.label_names.index(name) for name in train.label_names]]
    number = [train.label_names.index(name) for name in test.label_names]
    return np.array([*number, -1], dtype=np.int64)[test.label]


def _named(samples: Samples, name: str) -> Samples:
    """Ids, groups and cases with the data set's name before them."""

    def prefixed(column: TextArray) -> TextArray:
        return texts([f"{name}/{value}" if value else "" for value in column.tolist()])

    return samples.replace(
        id=prefixed(samples.id),
        group=prefixed(samples.group),
        case=prefixed(samples.case),
        twin=np.full(len(samples), "", dtype=np.str_),
    )


def _above(train: Samples, test: Samples) -> Samples:
    """One set of samples above the other; a column that one of them lacks is "" there."""
    names = (*Samples.TEXT_COLUMNS, "twin", "label", "thumbnail")
    joined = {name: np.concatenate([getattr(train, name), getattr(test, name)]) for name in names}
    columns = {
        name: np.concatenate(
            [part.columns.get(name, np.full(len(part), "", dtype=np.str_)) for part in (train, test)]
        )
        for name in dict.fromkeys([*train.columns, *test.columns])
    }
    return train.replace(
        **joined, columns=columns, groups_declared=train.groups_declared and test.groups_declared
    )
