"""Cases as a training's rows: which images belong to each, which of them a step sees, and how large a step then is."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from featprobe.config import FinetuneConfig
from featprobe.errors import ConfigError
from featprobe.heads import TrainingRecipe
from featprobe.records import IntArray, TextArray
from featprobe.splitting import Fold
from featprobe.stages.views import View

if TYPE_CHECKING:
    from torch import nn

    from featprobe.stages.case_images import CasePart
    from featprobe.stages.images import ImagePart
    from featprobe.stages.training import Subject, Unit

SEEN: Final = 8
"""Images of a case that a training step sees unless --case-images says otherwise."""

LEAST: Final = 8
"""Cases of a training step at least: with fewer labels its direction is mostly noise, at the same length."""

STAND_IN: Final = "it adds nothing to the scores there"
"""What becomes of a modality that a case lacks, in training: see `featprobe.heads.model.Head`."""

Members = Sequence[Sequence[IntArray]]


def need_possible(config: FinetuneConfig, found: Sequence[View]) -> None:
    """ConfigError for settings that can't be followed with cases as rows, before any image is decoded."""
    if any(view.of_case is not None for view in found) and (config.mixup or config.cutmix):
        raise ConfigError(
            f"{'--mixup' if config.mixup else '--cutmix'} mixes two images, and a case has several",
            "cases are trained on beside images where one has several",
            "type --level image, or leave it out",
        )


def blocks_of(view: View) -> int:
    """How many modalities stand side by side in an embedding of `view`."""
    return len(view.modalities) if view.fusion.startswith("concat-") else 1


def pooled(backbone: nn.Module, dim: int, view: View) -> tuple[nn.Module, int]:
    """(the module that embeds a row of `view`, its width): `backbone` itself for images."""
    if view.of_case is None:
        return backbone, dim
    from featprobe.heads.bags import Bagged

    return Bagged(backbone, dim, view.fusion.removeprefix("concat-")), dim * blocks_of(view)


def members(view: View, rows: IntArray, modality: TextArray) -> Members:
    """The images of each case of `view`, by block, in the data set's order: [M][K] arrays of rows of the data set.

    `rows`, `modality` [N]: of the question's samples.
    """
    assert view.of_case is not None
    blocks = blocks_of(view)
    own = modality[view.chosen]
    block = np.zeros(len(own), dtype=np.int64)
    for number, name in enumerate(view.modalities if blocks > 1 else ()):
        block[own == name] = number
    place = view.of_case * blocks + block
    order = np.argsort(place, kind="stable")
    edges = np.searchsorted(place[order], np.arange(len(view.samples) * blocks + 1))
    parts = [rows[view.chosen][order[a:b]] for a, b in itertools.pairwise(edges)]
    return [parts[case * blocks : (case + 1) * blocks] for case in range(len(view.samples))]


def seen(config: FinetuneConfig, view: View) -> int:
    """How many images of a case, and of each of its blocks, a training step sees at most; 0 for all."""
    asked = config.case_images
    if asked is None:
        # A maximum over some images is lower than over all, as a mean is not.
        asked = 0 if view.fusion.endswith("max") else SEEN
    return max(1, asked // blocks_of(view)) if asked else 0


def batches_of(
    recipe: TrainingRecipe, config: FinetuneConfig, view: View
) -> tuple[TrainingRecipe, tuple[str, ...]]:
    """`recipe` with batches counted in cases, and what must be said.

    About as many images pass at a time as of single ones, and LEAST cases make a step at the least. A head on fixed
    features takes cases as it takes images.
    """
    if view.of_case is None or not (recipe.augments or recipe.resolved().mode != "head"):
        return recipe, ()
    longest = int(np.bincount(view.of_case).max(initial=1))
    limit = seen(config, view) * blocks_of(view)
    images = min(longest, limit) if limit else longest
    passing = max(2, recipe.batch_size // images)
    cases = max(LEAST, passing)
    asked = None if recipe.micro_batch is None else max(1, recipe.micro_batch // images)
    micro = asked or (passing if passing < cases else None)
    drawn = ", drawn anew every epoch" if limit and longest > limit else ""
    note = f"a training step sees {cases} cases with up to {images} images each{drawn}"
    return dataclasses.replace(recipe, batch_size=cases, micro_batch=micro), (note,)


def parts_of(
    config: FinetuneConfig, subject: Subject, unit: Unit
) -> Callable[[IntArray], ImagePart | CasePart]:
    """From rows of the unit's view, int64 [N], to their images, or their cases, to train on or to judge."""
    from featprobe.stages.case_images import CasePart
    from featprobe.stages.images import ImagePart, Moves

    view, shelf, rule = unit.view, subject.shelf, unit.rule
    moves = Moves(config.flip, config.vertical_flip, config.rotate)
    labels, names = view.samples.label, view.samples.id
    if view.of_case is None:
        rows = subject.rows[view.chosen]
        return lambda own: ImagePart(shelf, rows[own], labels[own], rule, moves, names[own].tolist())
    images = members(view, subject.rows, subject.question.samples.modality)
    limit, augments = seen(config, view), unit.recipe.augments
    return lambda own: CasePart(
        shelf,
        [images[row] for row in own.tolist()],
        labels[own],
        rule,
        moves,
        names[own].tolist(),
        seen=limit,
        augments=augments,
    )


def title(unit: Unit, fold: Fold) -> str:
    """What is trained, before a line about it."""
    key = unit.key
    looked = ["by case"] if key.level == "case" else []
    looked += [word for word in (key.inputs, key.fusion) if word]
    return " ".join(
        [key.dataset, *looked, unit.run.backbone, f"({key.weights})", key.mode, "fold", fold.name]
    )
