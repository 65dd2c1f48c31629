"""New images scored by a saved model, by the very recipe that it was fitted under or not at all."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from featprobe import backbones
from featprobe.config_models import ModelOptions, PredictConfig
from featprobe.datasets import open_dataset
from featprobe.datasets.base import NO_GROUPS_OF
from featprobe.errors import ConfigError, DataError, OutputError
from featprobe.records import Preprocessing, Recipe, canonical_json
from featprobe.results.tables import SCORE
from featprobe.stages.embedding import Embedded, embedded
from featprobe.stages.extract import recipe_for
from featprobe.stages.machine import keep_freed_memory, need_writable, offline, pick_device
from featprobe.stages.model_files import ModelError, SavedModel
from featprobe.stages.models import need_model
from featprobe.stages.rules import described
from featprobe.stages.sources import WEIGHT_WORDS, Source, dataset_options
from featprobe.stages.summary import Summary

if TYPE_CHECKING:
    from featprobe.backbones import Backbone

QUARANTINE: Final = ".quarantine.csv"
SHOWN: Final = 10
_INDIFFERENT: Final = ("prints",)
"""Numerics of a recipe that no embedding depends on."""


def predict(config: PredictConfig) -> Summary:
    """Score the images of `config.data` and write `config.out`: id, path, predicted, a score for each label.

    Scores are the model's own probabilities, for a number its value. What can't be read is listed, and written to
    OUT.quarantine.csv. Raises ModelError where the recipe can't be reproduced, saying what differs, DataError,
    BackboneError, OutputError.
    """
    saved = need_model(config.model)
    need_writable(config.out.parent)
    if config.out.is_dir():
        raise OutputError(f"can't write {config.out}", "it is a folder", "choose another file with --out")
    source = _source(config)
    backbone = resolved_backbone(saved, config)
    recipe = _same_recipe(saved, source, backbone)
    rows = _rows(saved, source)
    device = pick_device(config.device)
    keep_freed_memory(device)
    print(
        f"{source.name}: {len(rows)} images, {saved.header['probe']} on {saved.header['backbone']} "
        f"{saved.header['key']}: {described(recipe.preprocessing)}; {recipe.precision}"
    )
    found = embedded(
        source.dataset,
        rows,
        backbone,
        recipe,
        saved.header["key"],
        device=device,
        batch_size=config.batch_size,
        workers=config.workers,
        progress=source.name,
    )
    if not len(found.rows):
        raise DataError(
            f"none of the {len(rows)} images of {source.name} can be read",
            f"{source.samples.path[found.quarantined[0][0]]}: {found.quarantined[0][1]}",
            "see featprobe inspect --data SPEC",
        )
    scores = saved.fitted.predict(found.table)
    _write(config.out, score_frame(saved, source, found, scores))
    paths = (config.out, *_quarantined(config.out, source, found))
    print(f"predict: {len(found.rows)} images scored  {config.out}")
    return Summary(computed=1, paths=paths)


def resolved_backbone(saved: SavedModel, config: ModelOptions) -> Backbone:
    """The backbone with the weights that the model was fitted under; ModelError where they are others."""
    about, name = saved.header["weights"], str(saved.header["backbone"])
    weights = config.weights or about["given"]
    own = about["given"] in WEIGHT_WORDS
    if weights not in WEIGHT_WORDS and not Path(weights).is_file():
        asked = (
            "needs a file of weights"
            if config.weights is None
            else f"can't have --weights {weights}, which is no file"
        )
        called = f"its {about['label']} weights" if own else f"the file called {about['label']!r}"
        raise ModelError(
            f"{saved.path} {asked}",
            f"{name} was extracted with {called}, SHA-256 of the tensors {about['sha256'][:12]}",
            "leave --weights out" if own else "type --weights FILE with that file",
        )
    key = str(saved.header["key"])
    backbone = backbones.load(
        name,
        weights=weights,
        seed=int(about["seed"]),
        offline=offline(config.offline),
        poolings=() if "/" in key else (key,),
        weights_dir=config.weights_dir,
        remote_code=config.remote_code,
    )
    if backbone.weights_sha256 != about["sha256"]:
        raise ModelError(
            f"the weights {weights!r} of {name} are not those that {saved.path} was fitted under",
            f"SHA-256 of the tensors {backbone.weights_sha256[:12]} against {about['sha256'][:12]}",
            "leave --weights out"
            if own and config.weights
            else f"type --weights FILE with the weights that were called {about['label']!r} at the extraction",
        )
    return backbone


def _source(config: PredictConfig) -> Source:
    """The one data set that is scored, read without labels."""
    if len(config.data) != 1:
        raise ConfigError(
            f"--data names {len(config.data)} data sets", "one is scored at a time", "type a call for each"
        )
    options = dataclasses.replace(
        dataset_options(config), label_column=("none",), target=None, class_order=()
    )
    dataset = open_dataset(config.data[0], options)
    for note in dataset.notes:
        if not note.startswith(tuple(NO_GROUPS_OF.values())):  # nobody is split here
            print(f"{dataset.name}: {note}")
    return Source(dataset, dataset.samples, config.data[0], {})


def saved_recipe(saved: SavedModel) -> Recipe:
    """The recipe of the embeddings that the model was fitted on; ModelError for one of a later version."""
    try:
        return Recipe.from_json(canonical_json(saved.header["recipe"]))
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"{saved.path} has a recipe that this version does not know",
            str(error),
            f"it was saved by featprobe {saved.header['featprobe']}: install that version",
        ) from error


def _same_recipe(saved: SavedModel, source: Source, backbone: Backbone) -> Recipe:
    """The recipe under which `source` is embedded now; ModelError that names what differs from the model's."""
    wanted = saved_recipe(saved)
    rule: Preprocessing = wanted.preprocessing
    for view in rule.views:
        backbone.check_image_size(rule.one(view).image_size)
    now = recipe_for(source, backbone, rule, precision=wanted.precision, storage=wanted.storage)
    other = differences(wanted.to_dict(), now.to_dict())
    if other:
        raise ModelError(
            f"the recipe of {saved.path} can't be reproduced by this version",
            "; ".join(other),
            f"it was saved by featprobe {saved.header['featprobe']}: install that version, or extract and probe again",
        )
    return now


def differences(wanted: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Each field that differs, as "numerics decoder: 2, here 3"; the list of images is nobody's."""
    found = []
    for name in sorted({*wanted, *now} - {"images", *_INDIFFERENT}):
        old, new = wanted.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{name} ")
        elif old != new:
            found.append(f"{prefix}{name}: {old}, here {new}")
    return found


def _rows(saved: SavedModel, source: Source) -> Any:
    """All rows, or those of the modality that the model was fitted on where the data tell modalities apart."""
    modality, wanted = source.samples.modality, saved.header.get("inputs", "")
    rows = np.arange(len(source.samples), dtype=np.int64)
    if not wanted:
        return rows
    if not (modality != "").any():
        print(
            f"{source.name}: WARNING: the model is of images of the modality {wanted}; these have none named"
        )
        return rows
    own = rows[modality == wanted]
    if not len(own):
        raise DataError(
            f"{source.name} has no image of the modality {wanted!r}, which the model is of",
            f"it has {', '.join(sorted(set(modality.tolist()) - {''}))}",
            "name the column with --modality-column",
        )
    if len(own) < len(rows):
        print(f"{source.name}: {len(rows) - len(own)} images of other modalities than {wanted} are left out")
    return own


def score_frame(saved: SavedModel, source: Source, found: Embedded, scores: Any) -> pd.DataFrame:
    """id, path, predicted, y_score_LABEL...; `scores` [M, K] of the rows that were found."""
    names = list(saved.header["label_names"])
    samples = source.samples.take(found.rows)
    columns: dict[str, Any] = {"id": samples.id, "path": samples.path}
    columns["predicted"] = _predicted(str(saved.header["task"]), names, scores)
    columns |= {SCORE + name: scores[:, k] for k, name in enumerate(names)}
    return pd.DataFrame(columns)


def _predicted(task: str, names: Sequence[str], scores: Any) -> list[Any]:
    if task == "continuous":
        values: list[Any] = scores[:, 0].tolist()
        return values
    if task == "multilabel":  # all labels that are more likely than not
        return [
            "|".join(name for name, p in zip(names, row, strict=True) if p >= 0.5) for row in scores.tolist()
        ]
    return [names[k] for k in scores.argmax(axis=1).tolist()]


def _quarantined(out: Path, source: Source, found: Embedded) -> tuple[Path, ...]:
    """The list of what could not be read, printed and written beside `out`; a list of before is removed."""
    path = out.with_name(out.stem + QUARANTINE)
    if not found.quarantined:
        path.unlink(missing_ok=True)
        return ()
    print(f"{source.name}: WARNING: {len(found.quarantined)} images could not be read and have no score:")
    for row, reason in found.quarantined[:SHOWN]:
        print(f"  {source.samples.path[row]}: {reason}")
    if len(found.quarantined) > SHOWN:
        print(f"  ... and {len(found.quarantined) - SHOWN} more, in {path}")
    lost = source.samples.take(np.array([row for row, _ in found.quarantined], dtype=np.int64))
    reasons = [reason for _, reason in found.quarantined]
    _write(path, pd.DataFrame({"id": lost.id, "path": lost.path, "reason": reasons}))
    return (path,)


def _write(path: Path, frame: pd.DataFrame) -> None:
    """Whole or not at all; floats with the fewest digits that give back the same float64."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(frame.to_csv(index=False, lineterminator="\n").encode())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"can't write {path}", error.strerror or str(error), "choose another file with --out"
        ) from error
