"""What is judged of one question: its images or its cases, of one modality or of several."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from featprobe import cases
from featprobe.config_cases import CaseOptions
from featprobe.errors import ConfigError, SplitError
from featprobe.records import AnyArray, IntArray, Samples, TextArray
from featprobe.splitting import Fold
from featprobe.stages.evaluation import Question


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class View:
    """One way to look at the rows of a question.

    `level`: "image" or "case". `inputs`: "" for all images, else the modalities that the model sees ("A", "A+B").
    `fusion`: how a case's images become one row: "" for images, "mean" or "max" over all its images,
    "concat-mean" or "concat-max" for modalities side by side. `samples`: the rows that are judged. `folds` count
    these rows. `chosen`: rows of the question that are used; `of_case`: their cases (None for images).
    """

    level: str
    inputs: str
    fusion: str
    samples: Samples
    folds: tuple[Fold, ...]
    notes: tuple[str, ...]
    chosen: IntArray
    of_case: IntArray | None
    modalities: tuple[str, ...]

    def features(self, X: AnyArray, modality: TextArray) -> AnyArray:
        """Embeddings [N, D] of the question's rows as [M, D'] of this view's; NaN for a modality that is missing."""
        part = X[self.chosen]
        if self.of_case is None:
            return part
        how = self.fusion.removeprefix("concat-")
        count = len(self.samples)
        if self.fusion.startswith("concat-"):
            own = modality[self.chosen]
            return cases.fuse(part, self.of_case, own, count, modalities=self.modalities, how=how)
        return cases.pool(part, self.of_case, count, how)


STAND_IN: Final = "the training cases' mean embedding stands in"
"""What becomes of a modality that a case lacks, in probing."""


def views(subject: Question, config: CaseOptions, *, stand_in: str = STAND_IN) -> list[View]:
    """Every view that the flags ask for and the data allow, images before cases.

    `stand_in`: what is said to become of a modality that a case lacks.

    Raises ConfigError for `--fusion` without modalities, DataError where the images of a case contradict each
    other.
    """
    samples = subject.samples
    several = len(np.unique(samples.case)) < len(samples)
    modalities = tuple(name for name in np.unique(samples.modality).tolist() if name)
    mixed = len(modalities) > 1
    if config.fusion and not mixed:
        raise ConfigError(
            f"--fusion {' '.join(config.fusion)} needs several modalities",
            f"the modalities of data set {subject.name!r}: {modalities[0] if modalities else 'none is named'}",
            "add a column modality to the manifest, or leave --fusion out",
        )
    fusion = config.fusion or (("alone", "concat") if mixed else ("pool",))
    levels = config.level or (("image", "case") if several else ("image",))
    found: list[View] = []
    if "image" in levels:
        found += _image_views(subject, modalities if mixed and "alone" in fusion else (), fusion)
    if "case" in levels:
        found += _case_views(subject, config, modalities, fusion, stand_in)
    empty = [view.inputs or "all" for view in found if not view.folds]
    if empty:
        raise SplitError(
            f"data set {subject.name!r}: {empty[0]} images are on one side of the split alone",
            f"the scheme is {subject.plan.scheme}",
            "split so that each modality is trained on and tested, or judge cases with --level case",
        )
    return found


def _image_views(subject: Question, alone: tuple[str, ...], fusion: Sequence[str]) -> list[View]:
    rows = [(name, np.flatnonzero(subject.samples.modality == name)) for name in alone]
    if set(fusion) != {"alone"}:
        rows.append(("", np.arange(len(subject.samples))))
    return [
        View(
            level="image",
            inputs=name,
            fusion="",
            samples=subject.samples.take(chosen),
            folds=_restricted(subject.plan.folds, chosen),
            notes=(),
            chosen=chosen,
            of_case=None,
            modalities=(name,) if name else (),
        )
        for name, chosen in rows
    ]


def _case_views(
    subject: Question,
    config: CaseOptions,
    modalities: tuple[str, ...],
    fusion: Sequence[str],
    stand_in: str,
) -> list[View]:
    samples = subject.samples
    grouped = cases.cases_of(samples, sides=subject.plan.scheme == "user's split")
    used = grouped.of_image
    keep = np.arange(len(grouped.samples))
    notes: list[str] = []
    if len(keep) == len(samples):
        notes.append("every case has one image, so judging by case says what judging by image does")
    mixed = len(modalities) > 1
    nameless = int((samples.modality == "").sum())
    if mixed and nameless:
        notes.append(f"{nameless} images have no modality: they are in no modality alone and in no fusion")
    if mixed:
        whole = cases.complete(samples.modality, used, len(keep), modalities)
        lacking = int((~whole).sum())
        if lacking and config.missing == "drop":
            keep = np.flatnonzero(whole)
            notes.append(f"{lacking} of {len(whole)} cases lack a modality and are left out (--missing drop)")
        elif lacking:
            notes.append(f"{lacking} of {len(whole)} cases lack a modality: {stand_in}")
    number = np.full(len(grouped.samples), -1, dtype=np.int64)
    number[keep] = np.arange(len(keep))
    judged = grouped.samples.take(keep)
    asked: list[tuple[str, str, tuple[str, ...]]] = []
    for how in config.case_pooling:
        if mixed and "alone" in fusion:
            asked += [(name, f"concat-{how}", (name,)) for name in modalities]
        if "pool" in fusion or not mixed:
            asked.append(("+".join(modalities) if mixed else "", how, modalities))
        if mixed and "concat" in fusion:
            asked.append(("+".join(modalities), f"concat-{how}", modalities))
    result = []
    for inputs, how, members in asked:
        own = list(notes)
        if mixed and len(members) == 1:
            have = number[used][samples.modality == members[0]]
            without = len(keep) - len(np.unique(have[have >= 0]))
            if without:
                own.append(
                    f"{inputs} alone by case: {without} of {len(keep)} cases have none, and only the mean stands in"
                )
        wanted = np.isin(samples.modality, members) if mixed else np.ones(len(samples), dtype=bool)
        chosen = np.flatnonzero(wanted & (number[used] >= 0))
        result.append(
            View(
                level="case",
                inputs=inputs,
                # One modality beside nothing else is that modality, pooled.
                fusion=how.removeprefix("concat-") if len(members) == 1 else how,
                samples=judged,
                folds=_of_cases(subject.plan.folds, number[used]),
                notes=tuple(own),
                chosen=chosen,
                of_case=number[used][chosen],
                modalities=members,
            )
        )
    return result


def _restricted(folds: Sequence[Fold], chosen: IntArray) -> tuple[Fold, ...]:
    """The folds over the rows `chosen` (ascending)."""
    position = np.full(int(chosen.max(initial=-1)) + 1, -1, dtype=np.int64)
    position[chosen] = np.arange(len(chosen))

    def part(rows: IntArray) -> IntArray:
        inside = rows[rows < len(position)]
        found = position[inside]
        return np.asarray(found[found >= 0])

    restricted = (Fold(f.name, part(f.train), part(f.val), part(f.test)) for f in folds)
    # A modality that a fold's test part lacks can't be judged there.
    return tuple(fold for fold in restricted if len(fold.test) and len(fold.train))


def _of_cases(folds: Sequence[Fold], of_image: IntArray) -> tuple[Fold, ...]:
    """The folds over cases; `of_image`: the case of each image, -1 for one that is left out."""

    def part(rows: IntArray) -> IntArray:
        found = np.unique(of_image[rows])
        return np.asarray(found[found >= 0], dtype=np.int64)

    mapped = (Fold(f.name, part(f.train), part(f.val), part(f.test)) for f in folds)
    return tuple(fold for fold in mapped if len(fold.test) and len(fold.train))
