"""From the columns of a table to samples, alike for manifests, shards and Hugging Face folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from featprobe.datasets.base import (
    NO_GROUPS_OF,
    NONE,
    DatasetOptions,
    canonical_splits,
    complete_groups,
    groups_by_regex,
    repeated,
)
from featprobe.datasets.targets import Cells, Target, read_target, unlabelled
from featprobe.errors import ConfigError
from featprobe.records import Samples

if TYPE_CHECKING:
    from featprobe.datasets.rows import Rows
    from featprobe.datasets.tables import Table

GROUP_COLUMNS: Final = ("group", "patient", "patient_id", "subject", "subject_id", "lesion_id")
"""Names of the group's column; the first that is there is taken."""

HEADER_NOTE: Final = "groups are read from the DICOM header's patient id"


@dataclass(frozen=True, slots=True)
class Listing:
    """A table of F files or images and what its kind adds to the columns.

    `paths` [F]: what --group-regex is matched against and the samples are called; `ids` [F]: the ids where no column
    has them (the paths where None). `splits`, `groups`, `cases` [F]: what is known without a column. `labels`: the
    columns that may hold the label, the first that is there is taken. `classes`: the columns whose cells are names of
    classes by definition. `where`, `remedy`: see `targets.Cells`, where they are not a table's.
    """

    table: Table
    paths: Sequence[str]
    ids: Sequence[str] | None = None
    splits: Sequence[str] | None = None
    labels: tuple[str, ...] = ("label",)
    classes: tuple[str, ...] = ()
    where: str = ""
    remedy: str = ""


def samples_of(
    listing: Listing, options: DatasetOptions, opened: Callable[[], Rows]
) -> tuple[Samples, Rows, list[str]]:
    """(samples, their rows, notes for the console) of the images that the listing's files hold.

    `opened` gives the rows; it is called when every row of the table is known to be sound, for opening volumes takes
    long. A part of a file takes over what the table says of the file; its id and path are the file's with its
    suffix. Raises DataError that lists all rows that can't be used, ConfigError for options that do not fit together.
    """
    table = listing.table
    ids = _ids(listing, options)
    splits = _splits(listing, options)
    modality, site, declared = (_column(table, options, what) for what in ("modality", "site", "case"))
    cases = ids if declared is None else [case or name for case, name in zip(declared, ids, strict=True)]
    groups, notes = _groups(listing, options, cases)
    columns = {name: table.need(name, "--keep-column") for name in options.keep_column}
    if declared is not None and groups is not None:
        _add_torn_cases(table, cases, "group", groups)
    target = _target(listing, options)
    if declared is not None:
        _add_torn_cases(table, cases, "label", _answers(target))
        table.faults.check()
    rows = opened()
    if groups is None and options.group_column != NONE and any(rows.patient):
        groups, notes = _header_groups(rows, options, cases)
    elif groups is None:
        notes = [NO_GROUPS_OF["case" if declared is not None else "file" if rows.suffix else "image"]]
    if declared is None and options.case_column != NONE and any(rows.study):
        cases, more = _studies(rows, options, cases, groups, target)
        notes = [*notes, *more]
    if modality is None and options.modality_column != NONE and any(rows.modality):
        modality = list(rows.modality)
    samples = Samples.build(
        id=rows.named(ids),
        path=rows.named(listing.paths),
        label=target.label[rows.source] if rows.suffix else target.label,
        label_names=target.names,
        group=None if groups is None else rows.spread(groups),
        case=None if cases is ids and not rows.suffix else rows.spread(cases),
        split=None if splits is None else rows.spread(splits),
        site=None if site is None else rows.spread(site),
        modality=None if modality is None else rows.spread(modality),
        task=target.task,
        columns={name: rows.spread(column) for name, column in columns.items()},
    )
    return samples, rows, [*notes, *target.notes, *rows.notes]


def _column(table: Table, options: DatasetOptions, what: str) -> list[str] | None:
    """The column called `what`, or as the option says; None where there is none or it is switched off."""
    asked = getattr(options, f"{what}_column")
    return None if asked == NONE else table.find(asked, f"--{what}-column", (what,))[1]


def _ids(listing: Listing, options: DatasetOptions) -> Sequence[str]:
    """The column id, else the kind's own; an empty or repeated one is a fault."""
    table = listing.table
    own = _column(table, options, "id")
    ids = own if own is not None else listing.ids if listing.ids is not None else listing.paths
    what = "path" if own is None else "id"
    hint = (
        "make ids unique, or leave them out: --id-column none" if own is not None else "list each image once"
    )
    table.faults.add(
        (position for position, value in enumerate(ids) if not value), f"its {what} is empty", step=hint
    )
    doubled = set(repeated(ids))
    table.faults.add(
        (position for position, value in enumerate(ids) if value and value in doubled),
        f"its {what} is not unique",
        lambda position: ids[position],
        step=hint,
    )
    return ids


def _splits(listing: Listing, options: DatasetOptions) -> Sequence[str] | None:
    if options.split_column == NONE:
        return None
    column, values = listing.table.find(options.split_column, "--split-column", ("split",))
    if values is None:
        return listing.splits
    splits, unknown = canonical_splits(values)
    found = values
    listing.table.faults.add(
        unknown,
        f"an unknown {column}",
        lambda position: found[position],
        known="splits are train (training), val (valid, validation), test (testing) and extra",
        step="mend these rows, or let featprobe split: --split-column none here, --resplit when probing",
    )
    return splits


def _groups(
    listing: Listing, options: DatasetOptions, cases: Sequence[str]
) -> tuple[list[str] | None, list[str]]:
    """(group of each file, or None where none is declared; notes)."""
    if options.group_regex and options.group_column not in {None, NONE}:
        raise ConfigError(
            "--group-regex and --group-column are both given",
            "a group comes from the path or from a column",
            "leave one of them out",
        )
    if options.group_regex:
        return complete_groups(groups_by_regex(options.group_regex, listing.paths, options), cases)
    if options.group_column == NONE:
        return complete_groups(None, cases)
    column, values = listing.table.find(options.group_column, "--group-column", GROUP_COLUMNS)
    groups, notes = complete_groups(values, cases)
    if groups is not None and column not in {"group", options.group_column}:
        notes = [f"groups are read from the column {column}", *notes]
    return groups, notes


def _header_groups(
    rows: Rows, options: DatasetOptions, cases: Sequence[str]
) -> tuple[list[str] | None, list[str]]:
    """The same from the patient ids of DICOM headers."""
    groups, notes = complete_groups(neutral(rows.patient, "patient", options), cases)
    patients = len(set(rows.patient) - {""})
    return groups, [f"{HEADER_NOTE} ({patients} patient{'s' if patients > 1 else ''})", *notes]


def neutral(values: Sequence[str], word: str, options: DatasetOptions) -> list[str]:
    """Names that reveal nothing, numbered by first appearance: "patient-0001"; "" stays "".

    With --pseudonymize the values themselves, which become pseudonyms at once, equal in every data set.
    """
    if options.pseudonymize:
        return list(values)
    known = {value: number for number, value in enumerate(dict.fromkeys(v for v in values if v), start=1)}
    return [f"{word}-{known[value]:04d}" if value else "" for value in values]


def _studies(
    rows: Rows, options: DatasetOptions, own: Sequence[str], groups: Sequence[str] | None, target: Target
) -> tuple[Sequence[str], list[str]]:
    """(the DICOM header's study as each file's case, notes); the file where a study has not one answer and group."""
    studies = neutral(rows.study, "study", options)
    cases = [study or name for study, name in zip(studies, own, strict=True)]
    for values in (_answers(target), groups):
        if values is not None and _torn(cases, values):
            note = (
                "images of one DICOM study have different labels or groups: every file counts as its own case"
            )
            return own, [note]
    return cases, ["cases are read from the DICOM header's study"]


def _target(listing: Listing, options: DatasetOptions) -> Target:
    table = listing.table
    if options.unlabelled:
        table.faults.check()
        return unlabelled(table.count)
    names = options.label_column or (
        next((n for n in listing.labels if n in table.columns), listing.labels[0]),
    )
    if NONE in names:
        raise ConfigError(
            "--label-column none is given beside other label columns", "none means no label", "leave one out"
        )
    others = ", or extract without labels: --label none"
    columns = {name: table.need(name, "--label-column", others) for name in names}
    where = (
        f"the column {names[0]} of {table.file}" if len(names) == 1 else f"the label columns of {table.file}"
    )
    remedy = "name another with --label-column, or extract without labels: --label none"
    explicit = set(names) <= set(listing.classes)
    cells = Cells(columns, listing.where or where, listing.remedy or remedy, explicit)
    return read_target(cells, options, table.faults)


def _answers(target: Target) -> Sequence[object]:
    """Each file's target as something that can be compared; equal for two that are missing."""
    if target.task == "multilabel":
        return [bytes(row.astype("int8")) for row in target.label]
    return (
        [repr(value) for value in target.label.tolist()]
        if target.task == "continuous"
        else target.label.tolist()
    )


def _torn(cases: Sequence[str], values: Sequence[object]) -> list[tuple[int, int]]:
    """(row, first row of the same case) of the rows that say something else than their case's first row."""
    first: dict[str, int] = {}
    return [
        (position, start)
        for position, case in enumerate(cases)
        if values[start := first.setdefault(case, position)] != values[position]
    ]


def _add_torn_cases(table: Table, cases: Sequence[str], what: str, values: Sequence[object]) -> None:
    starts = dict(_torn(cases, values))
    table.faults.add(
        starts,
        f"its case has another {what} above",
        lambda position: f"{cases[position]}, {table.faults.name(starts[position])}",
        known="a case is one examination of one group, with one answer",
        step="mend these rows, or leave the column out: --case-column none",
    )
