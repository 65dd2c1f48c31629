"""A fitted probe in one file that nothing is unpickled from, with all that is needed to use it on new images.

The file is skops's zip. Of ours it holds `featprobe.json`, the header, which any tool can read, and records as
their fields by name, so that skops itself meets plain values, arrays and scikit-learn's estimators alone.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from featprobe import __version__
from featprobe.errors import FeatprobeError, OutputError, listed
from featprobe.probes import FittedProbe
from featprobe.records import AnyArray, FloatArray, canonical_json
from featprobe.stages.machine import versions

FORMAT: Final = 1
"""Raised when a file of before can't be read any more."""

HEADER: Final = "featprobe.json"
SUFFIX: Final = ".skops"
HOMES: Final = ("featprobe.probes.", "featprobe.protocols.", "featprobe.trust.")
"""Where records and estimators of our own may come from."""

TRUSTED: Final = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.frozen._frozen.FrozenEstimator",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
)
"""What a file may hold beside what skops itself trusts (plain values, numpy's arrays and dtypes, scikit-learn's public
estimators) and the estimators of HOMES."""

CHECK_ROWS: Final = 4
CHECK_TOLERANCE: Final = 1e-6
"""Predictions on CHECK_ROWS drawn rows lie in the file; a model that gives others under other versions is refused."""


class ModelError(FeatprobeError):
    """A saved model that can't be read, or must not be used here."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SavedModel:
    """A probe as it was saved, with its header (JSON types)."""

    path: Path
    header: Mapping[str, Any]
    fitted: FittedProbe


def write_model(path: Path, fitted: FittedProbe, header: Mapping[str, Any]) -> None:
    """Write `fitted` under `header`, which gets format and versions, whole or not at all.

    Raises ModelError for a probe that holds what can't be saved, OutputError where `path` can't be written.
    """
    about = {**header, "format": FORMAT, "featprobe": __version__, "versions": versions()}
    data = _bytes(fitted, about)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"can't write the model {path}", error.strerror or str(error), "choose another folder with --out"
        ) from error


def read_header(path: Path) -> dict[str, Any]:
    """The header of a model file of this format; nothing else is read. ModelError where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            header: dict[str, Any] = json.loads(archive.read(HEADER))
            number = header["format"]
    except FileNotFoundError:
        raise ModelError(
            f"there is no model {path}", "featprobe probe --models writes them to OUT/models", "mend the path"
        ) from None
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path} is no model that featprobe saved, or it is damaged",
            str(error).splitlines()[0] if str(error) else type(error).__name__,
            "type featprobe probe --models to fit it again",
        ) from error
    if number != FORMAT:
        other = header.get("featprobe", "?")
        raise ModelError(
            f"{path} was saved by featprobe {other} in format {number}",
            f"this is featprobe {__version__}, which reads format {FORMAT}",
            f"type: pip install featprobe=={other}, or fit it again with featprobe probe --models",
        )
    return header


def read_model(path: Path) -> SavedModel:
    """The model in `path`, proven to compute what it computed when it was saved.

    Raises ModelError for another format, for a type that is not trusted, for damage, and where the installed
    versions compute other predictions.
    """
    import skops.io

    header = read_header(path)
    try:
        data = path.read_bytes()
        strange = _untrusted(data)
        if not strange:
            document = skops.io.loads(data, trusted=_trusted(data))
    except Exception as error:  # skops and numpy raise many types for a damaged file
        raise _unreadable(path, header, error) from error
    if strange:
        raise ModelError(
            f"{path} holds types that are not trusted: {listed(strange, 3)}",
            "a model file holds arrays, featprobe's own records and scikit-learn's estimators",
            "use a file that featprobe probe --models wrote",
        )
    try:
        fitted = _restored(document["fitted"])
        same = document["header"] == canonical_json(header)
        wanted = np.asarray(document["check"])
    except (KeyError, TypeError, ValueError, AttributeError, ImportError) as error:
        raise _unreadable(path, header, error) from error
    if not same or not isinstance(fitted, FittedProbe):
        raise _unreadable(path, header, ValueError("its header and its content do not belong together"))
    _need_same_predictions(path, header, fitted, wanted)
    return SavedModel(path, header, fitted)


def _bytes(fitted: FittedProbe, header: Mapping[str, Any]) -> bytes:
    import skops.io

    document = {
        "header": canonical_json(header),
        "fitted": _plain(fitted, "the probe"),
        "check": fitted.predict(_check_rows(fitted)),
    }
    data = skops.io.dumps(document, compression=zipfile.ZIP_DEFLATED)
    strange = _untrusted(data)
    if strange:
        raise _unsavable(listed(strange, 3))
    sink = io.BytesIO(data)
    with zipfile.ZipFile(sink, "a", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(HEADER, json.dumps(header, indent=2, sort_keys=True) + "\n")
    return sink.getvalue()


def _check_rows(fitted: FittedProbe) -> FloatArray:
    """Drawn rows [CHECK_ROWS, D] of several lengths: what saturates at one does not at another."""
    drawn = np.random.default_rng(0).standard_normal((CHECK_ROWS, fitted.n_features))
    return np.asarray(drawn * np.logspace(-2, 1, CHECK_ROWS)[:, None])


def _need_same_predictions(
    path: Path, header: Mapping[str, Any], fitted: FittedProbe, wanted: AnyArray
) -> None:
    try:
        found = fitted.predict(_check_rows(fitted))
    except Exception as error:  # fields of other kinds than a fitted probe's fail in many ways
        raise _unreadable(path, header, error) from error
    if found.shape == wanted.shape and np.allclose(found, wanted, rtol=CHECK_TOLERANCE, atol=CHECK_TOLERANCE):
        return
    saved, now = header.get("versions", {}), versions()
    other = [f"{name} {saved.get(name, '?')} -> {now[name]}" for name in now if saved.get(name) != now[name]]
    raise ModelError(
        f"{path} gives other predictions here than where it was saved",
        f"other versions are: {', '.join(other) or 'none'}",
        "install those versions, or fit it again with featprobe probe --models",
    )


def _unreadable(path: Path, header: Mapping[str, Any], error: Exception) -> ModelError:
    words = " ".join(str(error).split())[:200] or type(error).__name__
    return ModelError(
        f"{path}, saved by featprobe {header.get('featprobe', '?')}, can't be read by featprobe {__version__}",
        words,
        "type featprobe probe --models to fit it again",
    )


def _unsavable(what: str) -> ModelError:
    return ModelError(
        f"the probe holds {what}, which can't be saved",
        "a model file holds arrays, records and scikit-learn's estimators",
        "leave --models out, or choose other probes with --probe",
    )


def _untrusted(data: bytes) -> list[str]:
    """Names of the types in a skops file that must not be built."""
    import skops.io

    return [name for name in skops.io.get_untrusted_types(data=data) if name not in _known(name)]


def _trusted(data: bytes) -> list[str]:
    import skops.io

    return [name for name in skops.io.get_untrusted_types(data=data) if name in _known(name)]


def _known(name: str) -> tuple[str, ...]:
    """TRUSTED, with `name` where it is an estimator of HOMES."""
    from sklearn.base import BaseEstimator

    module, _, kind = name.rpartition(".")
    own = _class(module, kind) if f"{module}.".startswith(HOMES) else None
    return (*TRUSTED, name) if own is not None and issubclass(own, BaseEstimator) else TRUSTED


def _class(module: str, kind: str) -> type[Any] | None:
    """The class that `module` (of HOMES) itself defines under this name; None where it does not."""
    try:
        found = getattr(importlib.import_module(module), kind, None)
    except ImportError:
        return None
    return found if isinstance(found, type) and found.__module__ == module else None


def _plain(value: Any, where: str) -> Any:
    """`value` as lists, dictionaries, arrays and estimators; ModelError for anything else in it."""
    from sklearn.base import BaseEstimator

    if value is None or type(value) in {bool, int, float, str}:
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind not in "OV":
        return value
    if isinstance(value, np.generic):
        return {"kind": "scalar", "value": np.asarray(value)}
    if isinstance(value, BaseEstimator):
        return {"kind": "estimator", "value": value}
    return _plain_container(value, where)


def _plain_container(value: Any, where: str) -> dict[str, Any]:
    kind = type(value)
    if kind in {list, tuple}:
        return {"kind": kind.__name__, "items": [_plain(item, where) for item in value]}
    if isinstance(value, Mapping):
        keys, items = ([_plain(item, where) for item in side] for side in (value.keys(), value.values()))
        return {"kind": "mapping", "keys": keys, "items": items}
    own = f"{kind.__module__}.".startswith(HOMES) and _class(kind.__module__, kind.__qualname__) is kind
    if own and (dataclasses.is_dataclass(kind) or hasattr(value, "__dict__")):
        names = (
            [f.name for f in dataclasses.fields(kind)]
            if dataclasses.is_dataclass(kind)
            else list(vars(value))
        )
        fields = {name: _plain(getattr(value, name), name) for name in names}
        return {"kind": "record", "of": f"{kind.__module__}:{kind.__qualname__}", "fields": fields}
    raise _unsavable(f"{kind.__module__}.{kind.__qualname__} as {where}")


def _restored(value: Any) -> Any:
    """The inverse of `_plain`."""
    if not isinstance(value, dict):
        return value
    kind = value["kind"]
    if kind == "scalar":
        return value["value"][()]
    if kind == "estimator":
        return value["value"]
    if kind in {"list", "tuple"}:
        items = [_restored(item) for item in value["items"]]
        return items if kind == "list" else tuple(items)
    if kind == "mapping":
        pairs = zip(value["keys"], value["items"], strict=True)
        return {_restored(key): _restored(item) for key, item in pairs}
    return _record(value["of"], {name: _restored(item) for name, item in value["fields"].items()})


def _record(of: str, fields: Mapping[str, Any]) -> Any:
    """The record as it was, without its constructor; a field of later versions takes its default."""
    module, _, kind = of.partition(":")
    cls = _class(module, kind) if f"{module}.".startswith(HOMES) else None
    if cls is None:
        raise ValueError(f"it holds a record {of}, which this version does not know")
    result = object.__new__(cls)
    if not dataclasses.is_dataclass(cls):
        vars(result).update(fields)
        return result
    known = {field.name: field for field in dataclasses.fields(cls)}
    if set(fields) - set(known):
        raise ValueError(
            f"{of} has fields that this version does not know: {', '.join(set(fields) - set(known))}"
        )
    for name, field in known.items():
        if name in fields:
            given = fields[name]
        elif field.default is not dataclasses.MISSING:
            given = field.default
        elif field.default_factory is not dataclasses.MISSING:
            given = field.default_factory()
        else:
            raise ValueError(f"{of} lacks {name}")
        object.__setattr__(result, name, given)
    return result
