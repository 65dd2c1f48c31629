"""What a model could learn instead of the disease: the class from a file's metadata, the site from an embedding.

Each question is put to a small model under grouped cross-validation; its balanced accuracy is set against chance,
with an uncertainty over groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from featprobe.records import AnyArray, FloatArray, IntArray, Samples

FOLDS: Final = 5
FEWEST_GROUPS: Final = 10
"""Groups that a class needs to be asked about; fewer give folds without it."""

MOST_ROWS: Final = 5_000
"""Rows that are asked about; of larger sets whole groups are drawn at random until so many are reached."""

FILE_SIZE: Final = "file size"
"""The column of bytes per image, which says less than it seems to."""

RESAMPLES: Final = 2_000
SMALLEST_P: Final = 0.01
SMALLEST_EFFECT: Final = 0.1
"""A shortcut is flagged below this p and above this share of the way from chance to certainty."""

_CATEGORIES: Final = 40
"""Values of a text column that are told apart; rarer ones are one."""

_AT_ONCE: Final = 500
_WIDENED: Final = (1 + FOLDS / (FOLDS - 1)) ** 0.5
"""Resamples hold the fitted models fixed; without this one null in 25 fell below p = 0.01."""

METHOD: Final = (
    f"{FOLDS}-fold cross-validation by group; standard error from {RESAMPLES} bootstrap resamples of the groups, times "
    "1.5 for the training sets that the folds share (Nadeau and Bengio, Machine Learning 52, 2003)"
)

Predict = Callable[[FloatArray, IntArray, FloatArray], IntArray]


@dataclass(frozen=True, slots=True)
class Shortcut:
    """How well `target` follows from `source`, as balanced accuracy on groups that were not trained on.

    `source`: "metadata" or "embedding"; `target`: "class", "site" or a label's name. `value` with `low`, `high` (95 %)
    and one-sided `p_value` against `chance` = 1 / number of classes, times the number of targets where there are
    several and this is the strongest. `column`, `column_value`: the one column that tells most by itself ("" for an
    embedding). `untested`: why nothing was computed; all numbers are then NaN.
    """

    source: str
    target: str
    value: float
    low: float
    high: float
    chance: float
    p_value: float
    column: str = ""
    column_value: float = float("nan")
    rows: int = 0
    groups: int = 0
    untested: str = ""

    @property
    def effect(self) -> float:
        """Share of the way from chance (0) to certainty (1)."""
        return (self.value - self.chance) / (1 - self.chance)

    @property
    def flagged(self) -> bool:
        """Whether it must be looked into: more than chance beyond doubt, and by an amount that matters."""
        return not self.untested and self.p_value < SMALLEST_P and self.effect >= SMALLEST_EFFECT

    @property
    def words(self) -> str:
        """One sentence for console and report."""
        if self.untested:
            return f"{self.target} from the {self.source}: not tested, {self.untested}"
        alone = f", {self.column} alone {self.column_value:.2f}" if self.column else ""
        significance = "< 0.001" if self.p_value < 0.001 else f"= {self.p_value:.2g}"
        numbers = (
            f"balanced accuracy {self.value:.2f} [{self.low:.2f}, {self.high:.2f}], chance {self.chance:.2f}, "
            f"p {significance}{alone}"
        )
        verdict = "can be predicted" if self.flagged else "is not told"
        doubt = (
            "; the size of a compressed file follows what it shows, too" if self.column == FILE_SIZE else ""
        )
        return (
            f"{self.target} {verdict} from the {self.source} alone: {numbers} "
            f"({self.rows} images, {self.groups} groups{doubt})"
        )


def metadata_shortcut(samples: Samples, table: Mapping[str, AnyArray], *, seed: int = 0) -> Shortcut:
    """Whether the class follows from the columns of `table` (name -> [N] numbers or text), such as size and format.

    A random forest of 50 small trees, for single columns one tree. A number is compared with its median, as two classes; of several labels each is
    asked about and the most predictable one returned. Columns of one value are left out.
    """
    columns = {name: values for name, values in table.items() if len(set(values.tolist())) > 1}
    if not columns:
        return _untested("metadata", "class", "all images share the same metadata")
    X = _encoded(columns)
    asked = [
        _ask(samples, codes, X, _forest, "metadata", target, seed) for target, codes in _targets(samples)
    ]
    tested = [answer for answer in asked if not answer[0].untested]
    if not tested:
        return asked[0][0] if asked else _untested("metadata", "class", "there are no labels")
    best, codes = max(tested, key=lambda answer: answer[0].effect)
    alone = [
        _ask(samples, codes, X[:, [k]], _tree, "metadata", best.target, seed, 1)[0].value
        for k in range(X.shape[1])
    ]
    strongest = int(np.argmax(alone))
    return _replaced(
        best,
        p_value=min(1.0, best.p_value * len(tested)),
        column=list(columns)[strongest],
        column_value=alone[strongest],
    )


def site_shortcut(samples: Samples, X: npt.NDArray[np.floating[Any]], *, seed: int = 0) -> Shortcut:
    """Whether `samples.site` follows from the embeddings `X`, [N, D]: ridge classification of standardised features.

    Rows without a site take no part.
    """
    names, codes = np.unique(samples.site, return_inverse=True)
    codes = np.where(names[codes] == "", -1, codes).astype(np.int64)
    return _ask(samples, codes, np.asarray(X), _ridge, "embedding", "site", seed)[0]


def _targets(samples: Samples) -> Iterator[tuple[str, IntArray]]:
    """(name, class of each row, -1 where missing)."""
    if samples.task == "multilabel":
        yield from zip(samples.label_names, samples.label.T, strict=True)
    elif samples.task == "continuous":
        known = samples.labelled
        if known.any():
            above = samples.label > np.median(samples.label[known])
            yield (
                f"{' '.join(samples.label_names)} above the median",
                np.where(known, above, -1).astype(np.int64),
            )
    elif samples.label_names:
        yield "class", samples.label


def _encoded(columns: Mapping[str, AnyArray]) -> FloatArray:
    """The columns as numbers, float64 [N, C]: NaN where not known, text by the rank of its frequency."""
    encoded = []
    for values in columns.values():
        numbers = _numbers(values)
        encoded.append(_codes(values) if numbers is None else numbers)
    return np.column_stack(encoded)


def _numbers(values: AnyArray) -> FloatArray | None:
    """The values as numbers, NaN for ""; None where any is text."""
    try:
        return np.array([float(v) if str(v) else np.nan for v in values.tolist()], dtype=np.float64)
    except ValueError:
        return None


def _codes(values: AnyArray) -> FloatArray:
    names, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.empty(len(names))
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(names))
    return np.asarray(np.minimum(rank, _CATEGORIES)[codes])


def _forest(X: FloatArray, y: IntArray, new: FloatArray) -> IntArray:
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(
        50, max_leaf_nodes=16, min_samples_leaf=3, class_weight="balanced_subsample", random_state=0, n_jobs=1
    )
    return np.asarray(model.fit(X, y).predict(new))


def _tree(X: FloatArray, y: IntArray, new: FloatArray) -> IntArray:
    from sklearn.tree import DecisionTreeClassifier

    model = DecisionTreeClassifier(
        max_leaf_nodes=16, min_samples_leaf=3, class_weight="balanced", random_state=0
    )
    return np.asarray(model.fit(X, y).predict(new))


def _ridge(X: FloatArray, y: IntArray, new: FloatArray) -> IntArray:
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=100.0, class_weight="balanced"))
    return np.asarray(model.fit(X, y).predict(new))


def _ask(
    samples: Samples,
    codes: IntArray,
    X: AnyArray,
    predict: Predict,
    source: str,
    target: str,
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[Shortcut, IntArray]:
    """The answer for one target, and its classes again."""
    from scipy.special import ndtr

    rng = np.random.default_rng(seed)
    rows = _rows(samples, codes, rng)
    classes, y = np.unique(codes[rows], return_inverse=True)
    if len(classes) < 2:
        return _untested(source, target, f"fewer than two of them have {FEWEST_GROUPS} groups"), codes
    _, group = np.unique(samples.units()[rows], return_inverse=True)
    fold = _folds(y, group, rng)
    guess = np.empty_like(y)
    for k in range(FOLDS):
        test = fold == k
        guess[test] = predict(X[rows[~test]], y[~test], X[rows[test]])
    value, drawn = _balanced_accuracies(y, guess, group, len(classes), resamples, rng)
    chance = 1 / len(classes)
    spread = _WIDENED * max(float(drawn.std()), 0.5 / len(rows))
    return (
        Shortcut(
            source=source,
            target=target,
            value=value,
            low=max(0.0, value - 1.96 * spread),
            high=min(1.0, value + 1.96 * spread),
            chance=chance,
            p_value=float(ndtr((chance - value) / spread)),
            rows=len(rows),
            groups=int(group.max()) + 1,
        ),
        codes,
    )


def _rows(samples: Samples, codes: IntArray, rng: np.random.Generator) -> IntArray:
    """Rows of classes with enough groups, whole groups up to MOST_ROWS, in the order of the ids."""
    order = np.argsort(samples.id, kind="stable")
    unit = samples.units()
    kept = [
        code
        for code in np.unique(codes[codes >= 0]).tolist()
        if len(np.unique(unit[codes == code])) >= FEWEST_GROUPS
    ]
    rows = order[np.isin(codes[order], kept)]
    if len(rows) <= MOST_ROWS:
        return rows
    _, first, sizes = np.unique(unit[rows], return_index=True, return_counts=True)
    shuffled = rng.permutation(len(first))
    chosen = shuffled[np.cumsum(sizes[shuffled]) <= MOST_ROWS]
    return rows[np.isin(unit[rows], unit[rows][first[chosen]])]


def _folds(y: IntArray, group: IntArray, rng: np.random.Generator) -> IntArray:
    """Fold of each row: the groups, shuffled, are dealt out under the class of their first row."""
    _, first = np.unique(group, return_index=True)
    order = np.lexsort((rng.random(len(first)), y[first]))
    dealt = np.empty(len(first), dtype=np.int64)
    dealt[order] = np.arange(len(first)) % FOLDS
    return dealt[group]


def _balanced_accuracies(
    y: IntArray, guess: IntArray, group: IntArray, n_classes: int, resamples: int, rng: np.random.Generator
) -> tuple[float, FloatArray]:
    """The balanced accuracy, and that of each resample of the groups, float64 [B]."""
    count = int(group.max()) + 1
    total, right = np.zeros((count, n_classes)), np.zeros((count, n_classes))
    np.add.at(total, (group, y), 1)
    np.add.at(right, (group, y), y == guess)
    value = float((right.sum(axis=0) / total.sum(axis=0)).mean())
    drawn = []
    for start in range(0, resamples, _AT_ONCE):
        many = min(_AT_ONCE, resamples - start)
        weight = rng.multinomial(count, np.full(count, 1 / count), size=many).astype(np.float64)
        with np.errstate(invalid="ignore"):  # a class without a group in this resample takes no part in it
            drawn.append(np.nanmean((weight @ right) / (weight @ total), axis=1))
    return value, np.concatenate(drawn)


def _untested(source: str, target: str, why: str) -> Shortcut:
    nan = float("nan")
    return Shortcut(source, target, nan, nan, nan, nan, nan, untested=why)


def _replaced(shortcut: Shortcut, **changes: Any) -> Shortcut:
    import dataclasses

    return dataclasses.replace(shortcut, **changes)
