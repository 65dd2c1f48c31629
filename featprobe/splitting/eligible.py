"""Which rows and classes take part in an evaluation, before anything is split."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from featprobe.errors import SplitError
from featprobe.records import Samples
from featprobe.splitting.strata import Aspects
from featprobe.splitting.units import Part


def labelled(part: Part, notes: list[str]) -> Part:
    """Without the rows of which no target is known."""
    known = part.samples.labelled
    if known.all():
        return part
    notes.append(f"{int((~known).sum())} images without a label are left out")
    return part.take(known)


def eligible(part: Part, min_groups: int | None, notes: list[str]) -> Part:
    """Without what can't be judged, each with a note; raises SplitError where nothing is left to tell apart.

    Classes that hold no image or fewer than `min_groups` groups go with their images. Labels that are present
    or absent in no image, or in fewer than `min_groups` groups, go, and the images of which nothing is then
    known. A number needs two values and knows no `min_groups`.
    """
    if part.samples.task == "continuous":
        return _number(part, min_groups, notes)
    aspects = Aspects.of(part.samples)
    counts = aspects.groups(part.units)
    enough = counts >= max(1, min_groups or 1)
    if aspects.labels:
        return _labels(part, aspects, min_groups, notes)
    samples = part.samples
    if not enough.all():
        images = np.bincount(samples.label, minlength=len(enough))
        lost = ", ".join(
            f"{samples.label_names[c]!r} ({counts[c]} groups, {images[c]} images)"
            for c in np.flatnonzero(~enough)
        )
        why = f"fewer than {min_groups} groups" if min_groups else "no image"
        notes.append(f"classes left out ({why}): {lost}")
        part = part.take(enough[samples.label])
        number = np.cumsum(enough) - 1
        part = Part(
            part.samples.replace(
                label=number[part.samples.label].astype(np.int64), label_names=_kept(samples, enough)
            ),
            part.units,
        )
    names = part.samples.label_names
    if len(names) < 2:
        only = f", {names[0]!r}" if names else ""
        raise SplitError(
            f"probing needs at least two classes, and there is {len(names)}{only}",
            "; ".join(notes) or f"{len(part)} images have that label",
            "name the right column with --label-column, or lower --min-groups",
        )
    return part


def _labels(part: Part, aspects: Aspects, min_groups: int | None, notes: list[str]) -> Part:
    samples = part.samples
    present, absent = aspects.groups(part.units).reshape(2, -1)
    enough = np.minimum(present, absent) >= max(1, min_groups or 1)
    if not enough.all():
        lost = ", ".join(
            f"{samples.label_names[c]!r} ({present[c]} positive and {absent[c]} negative groups)"
            for c in np.flatnonzero(~enough)
        )
        why = f"fewer than {min_groups} groups" if min_groups else "the same in every image"
        notes.append(f"labels left out ({why}): {lost}")
        part = without_labels(part, ~enough, notes)
    if not part.samples.label_names:
        raise SplitError(
            "probing needs a label that some images have and some have not, and there is none",
            "; ".join(notes),
            "name the right columns with --label-column, or lower --min-groups",
        )
    return part


def without_labels(part: Part, gone: npt.NDArray[np.bool_], notes: list[str]) -> Part:
    """Without the labels `gone` (bool [L]), and the rows of which nothing is then known."""
    samples = part.samples
    kept = samples.replace(label=samples.label[:, ~gone], label_names=_kept(samples, ~gone))
    return labelled(Part(kept, part.units), notes) if (~gone).any() else Part(kept, part.units)


def _kept(samples: Samples, keep: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, kept in zip(samples.label_names, keep, strict=True) if kept)


def _number(part: Part, min_groups: int | None, notes: list[str]) -> Part:
    if min_groups is not None:
        notes.append(f"--min-groups {min_groups} has no meaning for a number and is ignored")
    values = np.unique(part.samples.label)
    if len(values) < 2:
        only = f": {values[0]:g}" if len(values) else ""
        raise SplitError(
            f"the target has {len(values)} value in all images{only}"
            if len(values)
            else "no target is known",
            "; ".join(notes) or f"{len(part)} images have it",
            "name the right column with --label-column",
        )
    return part
