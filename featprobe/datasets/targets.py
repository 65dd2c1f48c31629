"""From cells of text to a target: what is detected, what must be declared, and what a missing cell means.

Blank cells and the words with which pandas writes a missing value ("nan", "NaN", "NA", "<NA>", as they stand) are
missing. "none", "n/a" and "null" are not, for they name classes ("none": no tumour).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from featprobe.datasets.base import DatasetOptions, encode_labels, require_classes
from featprobe.errors import ConfigError, DataError, listed, nearest
from featprobe.records import TASKS

if TYPE_CHECKING:
    from featprobe.datasets.faults import Faults
    from featprobe.records import AnyArray

MISSING: Final = frozenset(("nan", "NaN", "NA", "<NA>"))
MANY_VALUES: Final = 30
FEW_IMAGES: Final = 5
"""Whole numbers are a quantity where there are more values than the former, each with fewer images on average."""

UNCERTAIN_RULES: Final = {"ignore": -1, "zero": 0, "one": 1}
"""What an uncertain cell counts as: U-Ignore, U-Zeros, U-Ones (Irvin et al., CheXpert, AAAI 2019)."""
BLANK_RULES: Final = {"ignore": -1, "zero": 0}

_UNCERTAIN, _BLANK = 2, 3
_MARKS: Final = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), 1),
    **dict.fromkeys(("0", "0.0", "false", "no"), 0),
    **dict.fromkeys(("-1", "-1.0", "u", "uncertain"), _UNCERTAIN),
    "": _BLANK,
}


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The label's column, or columns, as text. `where` and `remedy` are for errors: where it was read, what to type.

    `classes`: the cells are names of classes by definition (folders, a Hugging Face ClassLabel), so nothing is
    detected and "007" stays "007".
    """

    columns: Mapping[str, Sequence[str]]
    where: str
    remedy: str = "extract without labels: --label none"
    classes: bool = False

    @property
    def name(self) -> str:
        """The first column's."""
        return next(iter(self.columns))


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """`task`, `label` and `names` as `records.Samples` has them; `notes` for the console."""

    task: str
    label: AnyArray
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def unlabelled(count: int) -> Target:
    """The target of `count` images whose labels are not wanted."""
    import numpy as np

    return Target("classes", np.full(count, -1, dtype=np.int64), ())


def named_target(
    names: Sequence[str], where: str, ids: Sequence[str], options: DatasetOptions, remedy: str = ""
) -> Target:
    """The target of images whose classes have names by definition: `names` [N], "" where missing.

    `where`: what has the classes, such as a folder; `ids` [N] for errors.
    """
    from featprobe.datasets.faults import Faults

    if options.unlabelled:
        return unlabelled(len(names))
    faults = Faults(
        where, len(names), lambda position: ids[position], private=options.pseudonymize is not None
    )
    remedy = remedy or "use other data, or extract without labels: --label none"
    return read_target(Cells({"label": names}, where, remedy, classes=True), options, faults)


def read_target(cells: Cells, options: DatasetOptions, faults: Faults) -> Target:
    """The target that the cells hold, declared by `options.target` or detected.

    Detected: several columns are multi-label. Numbers that are not whole, or whole ones of more than 30 values
    with fewer than 5 images each on average, are continuous; all else is classes. 0, 1 and -1 together are two
    classes and uncertain cells. Numbers are compared as numbers (1, 1.0 and 01 are one class, "1").

    Raises DataError for rows that do not fit (with those already in `faults`) and for less than two values,
    ConfigError for options that do not fit the column.
    """
    _check_options(cells, options)
    missing = frozenset() if cells.classes else MISSING
    values = {
        name: ["" if cell in missing else cell for cell in column] for name, column in cells.columns.items()
    }
    column = values[cells.name]
    task = options.target
    if task == "multilabel" or (task is None and len(values) > 1):
        return _multilabel(values, cells, options, faults)
    if _has_uncertain(column, options):
        return _binary_marks(column, cells, options, faults)
    _refuse_rules(cells, options)
    if task is None and not cells.classes:
        _refuse_mixture(column, faults)
        faults.check()
        task = _detected(column)
    if task == "continuous":
        return _continuous(column, cells, options, faults)
    faults.check()
    names = column if cells.classes else _as_numbers(column)
    return _ordinal(names, cells, options) if task == "ordinal" else _classes(names, cells)


def number(text: str) -> float | None:
    """The finite number that `text` is, or None."""
    try:
        value = math.nan if "_" in text else float(text)  # Python alone takes 1_2 for 12
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _check_options(cells: Cells, options: DatasetOptions) -> None:
    choices = (
        ("--target", options.target, TASKS),
        ("--uncertain", options.uncertain, tuple(UNCERTAIN_RULES)),
        ("--blank", options.blank, tuple(BLANK_RULES)),
    )
    for flag, value, known in choices:
        if value is not None and value not in known:
            raise ConfigError(
                f"{flag} is {value!r}", nearest(value, known) or f"known: {', '.join(known)}", ""
            )
    if len(cells.columns) > 1 and options.target not in {None, "multilabel"}:
        raise ConfigError(
            f"--target {options.target} takes one label column, not {len(cells.columns)}",
            "several label columns are several labels at once",
            "name one --label-column, or leave --target out",
        )
    if options.class_order and options.target != "ordinal":
        raise ConfigError("--class-order is given", "only ordered classes have one", "add --target ordinal")


def _refuse_rules(cells: Cells, options: DatasetOptions) -> None:
    for flag, value in (("--uncertain", options.uncertain), ("--blank", options.blank)):
        if value != "ignore":
            raise ConfigError(
                f"{flag} {value} does not fit {cells.where}",
                "it is for cells of 0, 1, -1 and blanks",
                f"leave {flag} out",
            )


def _has_uncertain(column: Sequence[str], options: DatasetOptions) -> bool:
    """Whether one column is CheXpert's: detected by 0, 1 and -1 together, or declared by a rule for them."""
    if options.target not in {None, "classes"}:
        return False
    found = {_MARKS.get(_canonical(cell)) for cell in set(column) if cell}
    if not found or not found <= {0, 1, _UNCERTAIN}:
        return False
    if options.uncertain != "ignore" or options.blank != "ignore":
        return True
    numeric = all(number(cell) is not None for cell in set(column) if cell)
    return options.target is None and numeric and found == {0, 1, _UNCERTAIN}


def _binary_marks(column: Sequence[str], cells: Cells, options: DatasetOptions, faults: Faults) -> Target:
    faults.check()
    marks = [_MARKS[_canonical(cell)] for cell in column]
    rules = _rules(options)
    label = [rules.get(mark, mark) for mark in marks]
    names = tuple(str(value) for value in sorted(set(label) - {-1}))
    require_classes(names, cells.where, cells.remedy)
    notes = _rule_notes(Counter(marks), options, "")
    if _UNCERTAIN in marks:
        notes.append("-1 is read as uncertain: type --target classes if it is a class")
    return _target("classes", label, names, [*_missing_note(label.count(-1), len(label)), *notes])


def _rules(options: DatasetOptions) -> dict[int, int]:
    return {_UNCERTAIN: UNCERTAIN_RULES[options.uncertain], _BLANK: BLANK_RULES[options.blank]}


def _rule_notes(marks: Mapping[int, int], options: DatasetOptions, of: str) -> list[str]:
    words = {"ignore": "are missing", "zero": "count as 0", "one": "count as 1"}
    notes = []
    if count := marks.get(_UNCERTAIN, 0):
        notes.append(
            f"{count} uncertain cells{of} {words[options.uncertain]} (--uncertain {options.uncertain})"
        )
    if count := marks.get(_BLANK, 0):
        notes.append(f"{count} blank cells{of} {words[options.blank]} (--blank {options.blank})")
    return notes


def _refuse_mixture(column: Sequence[str], faults: Faults) -> None:
    kinds = {cell: number(cell) is not None for cell in set(column) if cell}
    counts = Counter(kinds[cell] for cell in column if cell)
    if len(counts) < 2:
        return
    few = counts[True] < counts[False]  # a tie lists the text
    faults.add(
        (position for position, cell in enumerate(column) if cell and kinds[cell] == few),
        "its label is a number, most are text" if few else "its label is text, most are numbers",
        lambda position: column[position],
        step="mend these rows, or type --target classes if numbers and text both name classes",
    )


def _detected(column: Sequence[str]) -> str:
    known = Counter(cell for cell in column if cell)
    numbers = {number(cell) for cell in known}
    if not numbers or None in numbers:
        return "classes"
    whole = all(value is not None and value.is_integer() for value in numbers)
    many = len(numbers) > MANY_VALUES and known.total() < FEW_IMAGES * len(numbers)
    return "continuous" if many or not whole else "classes"


def _canonical(cell: str) -> str:
    """A whole number without sign, zeros or ".0" that say nothing; other text in lower case."""
    if re.fullmatch(r"[+-]?\d{1,18}(\.0*)?", cell):
        return str(int(cell.partition(".")[0]))
    return cell.lower()


def _as_numbers(column: Sequence[str]) -> Sequence[str]:
    """The cells with equal numbers written alike, where all are numbers."""
    values = {cell: number(cell) for cell in set(column) if cell}
    if any(value is None for value in values.values()):
        return column
    written = {"": ""}
    for cell, value in values.items():
        short = _canonical(cell)
        written[cell] = short if re.fullmatch(r"-?\d+", short) else f"{value:.17g}"
    return [written[cell] for cell in column]


def _classes(column: Sequence[str], cells: Cells) -> Target:
    label, names = encode_labels(column)
    require_classes(names, cells.where, cells.remedy)
    notes = _missing_note(label.count(-1), len(label))
    if any("|" in name for name in names):
        notes.append("some labels hold '|': type --target multilabel if it stands between several labels")
    return _target("classes", label, names, notes)


def _ordinal(column: Sequence[str], cells: Cells, options: DatasetOptions) -> Target:
    present = encode_labels(column)[1]
    require_classes(present, cells.where, cells.remedy)
    order = tuple(_as_numbers(options.class_order) if not cells.classes else options.class_order)
    if not order and any(number(name) is None for name in present):
        raise ConfigError(
            f"the order of the classes of {cells.where} is not known",
            f"they are {listed(present)}",
            "type it: " + " ".join(f"--class-order {name!r}" for name in present[:3]) + " ...",
        )
    unknown = [name for name in present if order and name not in order]
    if unknown or len(set(order)) < len(order):
        raise ConfigError(
            f"--class-order leaves out {listed(unknown)}" if unknown else "--class-order names a class twice",
            f"the classes of {cells.where} are {listed(present)}",
            "name each class once, the lowest first",
        )
    names = order or present
    place = {name: position for position, name in enumerate(names)}
    label = [place.get(cell, -1) for cell in column]
    notes = [*_missing_note(label.count(-1), len(label)), f"ordered classes: {' < '.join(names)}"]
    absent = [name for name in names if name not in present]
    return _target(
        "ordinal", label, names, notes + ([f"no image is of class {listed(absent)}"] if absent else [])
    )


def _continuous(column: Sequence[str], cells: Cells, options: DatasetOptions, faults: Faults) -> Target:
    values = {cell: number(cell) for cell in set(column)}
    faults.add(
        (position for position, cell in enumerate(column) if cell and values[cell] is None),
        "its label is no number",
        lambda position: column[position],
        step="mend these rows, or choose another --target",
    )
    faults.check()
    label = [math.nan if (value := values[cell]) is None else value for cell in column]
    distinct = len({value for value in values.values() if value is not None})
    if distinct < 2:
        raise DataError(
            f"{cells.where} holds {distinct} different numbers", "a probe needs at least two", cells.remedy
        )
    notes = _missing_note(column.count(""), len(label)) if isinstance(column, list) else []
    if options.target is None:
        notes.append(
            f"{cells.name} is read as a number to predict (continuous, {distinct} different values): "
            "type --target classes if its values are classes"
        )
    return _target("continuous", label, (cells.name,), notes)


def _multilabel(
    columns: dict[str, list[str]], cells: Cells, options: DatasetOptions, faults: Faults
) -> Target:
    import numpy as np

    column = columns[cells.name]
    if len(columns) == 1 and any(_canonical(cell) not in _MARKS for cell in column):
        faults.check()
        marks, names = _listed_names(column)
    else:
        marks, names = _marks(columns, faults), tuple(columns)
        faults.check()
    counts = {
        int(mark): int(count) for mark, count in zip(*np.unique(marks, return_counts=True), strict=True)
    }
    label = marks.astype(np.int64)
    for mark, value in _rules(options).items():
        label[marks == mark] = value
    one_sided = [
        name
        for name, known in zip(names, label.T, strict=True)
        if not ((known == 1).any() and (known == 0).any())
    ]
    if one_sided:
        raise DataError(
            f"in {cells.where}, {listed(one_sided)} {'is' if len(one_sided) == 1 else 'are'} never 1 or never 0",
            "a probe needs images with and without each label"
            + (
                f"; {counts[_BLANK]} blank cells are missing"
                if counts.get(_BLANK) and options.blank == "ignore"
                else ""
            ),
            "leave such a label out, or let blanks count as 0: --blank zero",
        )
    missing = int((label < 0).all(axis=1).sum())
    notes = _rule_notes(counts, options, f" of {label.size}")
    return Target("multilabel", label, names, (*_missing_note(missing, len(label)), *notes))


def _marks(columns: Mapping[str, Sequence[str]], faults: Faults) -> AnyArray:
    """[N, L]: 0, 1, uncertain or blank."""
    import numpy as np

    marks = []
    for name, column in columns.items():
        known = {cell: _MARKS.get(_canonical(cell)) for cell in set(column)}
        faults.add(
            (position for position, cell in enumerate(column) if known[cell] is None),
            f"its {name} is neither 0, 1, -1 nor blank",
            lambda position, column=column: column[position],  # type: ignore[misc]
            known="true, false, yes, no, u and uncertain are read as well",
        )
        marks.append(np.array([-1 if known[cell] is None else known[cell] for cell in column], dtype=np.int8))
    return np.stack(marks, axis=1)


def _listed_names(column: Sequence[str]) -> tuple[AnyArray, tuple[str, ...]]:
    """([N, L] 0, 1 or blank; the sorted names) of cells that name the labels of an image with "|" between."""
    import numpy as np

    found = [[name.strip() for name in cell.split("|") if name.strip()] for cell in column]
    names = encode_labels([name for row in found for name in row])[1]
    place = {name: position for position, name in enumerate(names)}
    marks = np.zeros((len(column), len(names)), dtype=np.int8)
    for row, present in enumerate(found):
        marks[row, [place[name] for name in present]] = 1
        if not present:
            marks[row] = _BLANK
    return marks, names


def _missing_note(missing: int, count: int) -> list[str]:
    return [f"{missing} of {count} images have no label"] if missing else []


def _target(task: str, label: Sequence[float], names: Sequence[str], notes: Sequence[str]) -> Target:
    import numpy as np

    kind = np.float64 if task == "continuous" else np.int64
    return Target(task, np.array(label, dtype=kind), tuple(names), tuple(notes))
