"""Probes fitted on all labelled rows, saved to be used elsewhere; what is in such a file; ONNX."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
from tqdm import tqdm

from featprobe import probes
from featprobe.cache import Cache
from featprobe.config import ProbeConfig
from featprobe.config_models import ModelExportConfig
from featprobe.errors import ConfigError, ProbeError, SplitError
from featprobe.probes import FittedProbe
from featprobe.records import AnyArray
from featprobe.registry import PROBES
from featprobe.splitting import Fold
from featprobe.stages.evaluation import title
from featprobe.stages.fitting import Unit, Work, fitted_probe, work_of
from featprobe.stages.model_files import (
    SUFFIX,
    ModelError,
    SavedModel,
    read_header,
    read_model,
    write_model,
)
from featprobe.stages.sources import WEIGHT_WORDS
from featprobe.stages.summary import Summary
from featprobe.stages.systems import SHUFFLED
from featprobe.stages.tables import Table
from featprobe.stages.variants import MOVED, is_variant

ABOUT: Final = (
    "Fitted on all labelled images, the test images of every fold among them; C and everything else was chosen inside "
    "them, by group. No figure of a report is of this model: they are of the cross-validated procedure (or of the "
    "user's test set), which had fewer images to learn from."
)


NONE: Final = "a file holds one probe of single images' frozen embeddings by one backbone, fitted on all labels with the first seed"


def save_models(cache: Cache, config: ProbeConfig, units: Sequence[Unit]) -> list[Path]:
    """Fit each unit of frozen features at image level on all its labelled rows, and write it to OUT/models.

    Units of fewer labels, of other seeds than the first, of shuffled labels, of moved thresholds (which leave
    probabilities as they are), of cases and of pairs of data sets have no model; nor have heads that torch trains. A file that is there already for the same unit is kept. Units that
    can't be fitted on inner folds are named and left out. Raises OutputError, ModelError for a probe that holds what
    can't be saved.
    """
    chosen = [unit for unit in units if _deployable(unit, config.seed)]
    paths = _paths(config.out / "models", chosen)
    todo = [(unit, path) for unit, path in zip(chosen, paths, strict=True) if not _there(path, unit.hash)]
    # Tables are large: all that is asked of one is done before the next is read.
    order = {id(unit.table): number for number, (unit, _) in enumerate(todo)}
    todo.sort(key=lambda pair: order[id(pair[0].table)])
    for (unit, path), found in zip(todo, _fitted_all(cache, config, [unit for unit, _ in todo]), strict=True):
        if isinstance(found, str):
            print(f"{title(unit.key.to_dict())}: WARNING: no model saved: {found}")
            continue
        write_model(path, found, _header(unit, found))
    there = [path for path in paths if path.is_file()]
    print(f"models: {len(there)} in {config.out / 'models'}, {len(chosen) - len(todo)} of them there already")
    if len(chosen) < len(units):
        print(f"models: {len(units) - len(chosen)} others have none: {NONE}")
    return there


def show(model: Path) -> int:
    """Print the header of a model file, which any tool that opens zip files can read too."""
    print(json.dumps(read_header(model), indent=2, sort_keys=True))
    return 0


def export(config: ModelExportConfig) -> Summary:
    """Write the model of `config` as ONNX. Raises ModelError where it can't be expressed, MissingExtraError, OutputError."""
    from featprobe.stages.onnx_files import write_onnx

    if config.onnx is None:
        raise ConfigError("--onnx names no file", "", "type --onnx FILE.onnx")
    saved = need_model(config.model)
    words = write_onnx(saved, config)
    print(f"{words}  {config.onnx}")
    return Summary(computed=1, paths=(config.onnx,))


def need_model(path: Path | None) -> SavedModel:
    """The model that --model names."""
    if path is None:
        raise ConfigError(
            "--model names no file",
            "featprobe probe --models writes them to OUT/models",
            "type --model FILE.skops",
        )
    return read_model(path)


def _deployable(unit: Unit, seed: int) -> bool:
    key = unit.key
    whole = key.fraction == 1 and not key.shots and key.mode != SHUFFLED and not is_variant(key, MOVED)
    plain = key.level == "image" and len(unit.tables) == 1 and len(unit.table.entries) == 1
    return whole and plain and key.seed == seed and not unit.protocol.head


def _paths(folder: Path, units: Sequence[Unit]) -> list[Path]:
    """DATASET-BACKBONE-POOLING-PROBE, with more words only where these say less than what was asked for."""
    names = [_name(unit) for unit in units]
    twice = {name for name, count in Counter(names).items() if count > 1}
    return [
        folder / f"{name}-{unit.table.fingerprint[:12]}{SUFFIX}"
        if name in twice
        else folder / f"{name}{SUFFIX}"
        for name, unit in zip(names, units, strict=True)
    ]


def _name(unit: Unit) -> str:
    key = unit.key
    weights = "" if key.weights == "pretrained" else f"-{key.weights}"
    layer = f"{key.layer}-" if key.layer else ""
    inputs = f"-{key.inputs}" if key.inputs else ""
    # How the model was judged (folds, a holdout) is no part of the model; how it is fitted is.
    rule = "" if key.protocol.startswith("featprobe") else f"-{key.protocol}"
    variant = f"-{key.variant}" if key.variant else ""
    words = f"{key.dataset}-{key.backbone}{weights}-{layer}{key.pooling}{inputs}-{key.probe}{rule}{variant}"
    return "".join(letter if letter.isalnum() or letter in "._+=-" else "_" for letter in words)


def _there(path: Path, unit: str) -> bool:
    if not path.is_file():
        return False
    try:
        return bool(read_header(path).get("unit") == unit)
    except ModelError:
        return False


def _fitted_all(cache: Cache, config: ProbeConfig, units: Sequence[Unit]) -> Iterator[FittedProbe | str]:
    """Each unit's probe, or why there is none, in order; in parallel with one BLAS thread each."""
    if not units:
        return
    jobs = min(config.jobs or joblib.cpu_count(), len(units))
    with joblib.parallel_config(backend="loky", n_jobs=jobs, inner_max_num_threads=1):
        stream = joblib.Parallel(return_as="generator", pre_dispatch=2 * jobs)(
            joblib.delayed(fit_whole)(work) for work in _works(cache, units)
        )
        yield from tqdm(stream, total=len(units), unit="model", desc="models", disable=None)


def _works(cache: Cache, units: Sequence[Unit]) -> Iterator[Work | str]:
    """What each unit is fitted on, all its labelled rows; each table is read once."""

    @functools.lru_cache(maxsize=1)
    def read(table: Table) -> AnyArray:
        return table.read(cache)

    nothing = np.empty(0, dtype=np.int64)
    for unit in units:
        learn = np.flatnonzero(unit.view.samples.labelled).astype(np.int64)
        whole = dataclasses.replace(unit.view, folds=(Fold("all", learn, nothing, nothing),))
        try:
            yield work_of(dataclasses.replace(unit, view=whole), 0, read)
        except SplitError as error:
            yield str(error)


def fit_whole(work: Work | str) -> FittedProbe | str:
    """The probe fitted to all rows of `work`, or why there is none."""
    if isinstance(work, str):
        return work
    ((_, X),) = work.X.items()
    try:
        if work.protocol.trainer is not None:
            return _trained(work, X)
        return fitted_probe(work)
    except ProbeError as error:
        return str(error)


def _trained(work: Work, X: AnyArray) -> FittedProbe:
    """What a protocol's own trainer came to, as a probe."""
    assert work.protocol.trainer is not None
    classes, codes = np.unique(work.y, return_inverse=True)
    found = work.protocol.trainer(X, codes.astype(np.int64), work.selection[0], work.few, work.seed)
    return FittedProbe(
        name=work.fits,
        n_classes=len(work.label_names),
        n_features=X.shape[1],
        classes=classes.astype(np.int64),
        model=found.model,
        chosen=dict(found.chosen),
        scores={},
        notes=tuple(found.notes),
        task=work.task,
    )


def _header(unit: Unit, fitted: FittedProbe) -> dict[str, Any]:
    """What a user of the file must know, as JSON types."""
    key, entry, samples = unit.key, unit.table.entries[0], unit.view.samples
    learn = samples.take(samples.labelled)
    given = str(entry.environment.get("weights", "pretrained"))
    return {
        "about": ABOUT,
        "dataset": key.dataset,
        "probe": key.probe,
        "describe": probes.describe(key.probe) if key.probe in PROBES.names() else key.protocol,
        "protocol": key.protocol,
        "task": samples.task,
        "label_names": list(samples.label_names),
        "n_features": fitted.n_features,
        "n_train": len(learn),
        "n_groups": len(np.unique(learn.units())),
        "labels_sha256": learn.labels_sha256(),
        "inputs": key.inputs,
        "backbone": key.backbone,
        "key": unit.table.pooling,
        "weights": {
            "given": given if given in WEIGHT_WORDS else "file",
            "label": key.weights,
            "seed": int(entry.environment.get("seed", 0)),
            "sha256": unit.table.recipe.weights,
        },
        "recipe": unit.table.recipe.to_dict(),
        "fingerprint": unit.table.fingerprint,
        "chosen": {name: _plain(value) for name, value in fitted.chosen.items()},
        "notes": list(fitted.notes),
        "seed": key.seed,
        "holds_training_rows": holds_rows(fitted.model, len(learn)),
        "unit": unit.hash,
    }


def _plain(value: Any) -> Any:
    """A number of numpy as Python's, which JSON knows."""
    return value.item() if isinstance(value, np.generic) else value


def holds_rows(model: Any, count: int) -> bool:
    """Whether a table with a row for each of `count` training images lies in the model: embeddings of patients."""
    if isinstance(model, np.ndarray):
        return model.ndim == 2 and count in model.shape and min(model.shape) > 1
    if dataclasses.is_dataclass(model):
        return any(holds_rows(getattr(model, field.name), count) for field in dataclasses.fields(model))
    if isinstance(model, (list, tuple)):
        return any(holds_rows(item, count) for item in model)
    inside = getattr(model, "__dict__", None)
    return isinstance(inside, dict) and any(holds_rows(value, count) for value in inside.values())
