"""How a configuration field is declared, bounded, and filled from flags, TOML keys and Python alike."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from featprobe.errors import ConfigError, nearest

C = TypeVar("C")


def option(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    metavar: str = "",
    positional: bool = False,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """A configuration field with what the command line shows of it; `least` and `most` bound its numbers."""
    extra = {"help": text, "choices": choices, "metavar": metavar, "positional": positional}
    extra |= {"least": least, "most": most}
    return dataclasses.field(default=default, metadata=extra)


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """Refuses numbers outside their field's bounds, whichever door they came through (ConfigError)."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least, most = getattr(self, field.name), field.metadata["least"], field.metadata["most"]
            for number in value if isinstance(value, tuple) else (value,):
                # Not a number is within no bounds, whichever way they are asked for.
                low = least is not None and number is not None and not number >= least
                high = most is not None and number is not None and not number <= most
                if low or high:
                    flag = "--" + field.name.replace("_", "-")
                    default = field.default if field.default not in {None, ()} else least
                    shown = most if high else default[0] if isinstance(default, tuple) else default
                    bound = f"at least {least:g}" if low else f"at most {most:g}"
                    raise ConfigError(f"{flag} is {number}", f"it must be {bound}", f"type {flag} {shown}")


def fields_of(config: type[Any]) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    """Field name -> (resolved type, dataclass field), in declaration order."""
    hints = typing.get_type_hints(config)
    return {field.name: (hints[field.name], field) for field in dataclasses.fields(config)}


def item_type(hint: Any) -> tuple[type[Any], bool]:
    """(type of one value, whether the field takes many) of a field's type."""
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None)), False
    return hint, False


def need_its_own(config: type[Any], key: str) -> None:
    """ConfigError for an option of another stage that `config` says in its `refused` what it has none for."""
    name = key.replace("_", "-")
    why = getattr(config, "refused", {}).get(name)
    if why:
        stage = config.__name__.removesuffix("Config").lower()
        raise ConfigError(f"{stage} has no --{name}", why, "leave it out, or type featprobe extract with it")


def from_mapping(config: type[C], values: Mapping[str, Any], where: str) -> C:
    """A configuration from TOML keys (hyphens or underscores) or Python arguments.

    Raises ConfigError for an unknown key (nearest known one named) or a value of a wrong type or choice.
    """
    known = fields_of(config)
    filled: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            need_its_own(config, key)
            names = [field.replace("_", "-") for field in known]
            raise ConfigError(
                f"unknown key {key!r} in {where}",
                nearest(key.replace("_", "-"), names) or f"known: {', '.join(names)}",
            )
        hint, field = known[name]
        filled[name] = _checked(key, value, hint, field, where)
    return config(**filled)


def as_mapping(config: Any) -> dict[str, Any]:
    """The inverse of `from_mapping`: TOML key -> value, in TOML's types, of every field that is not its default."""
    return {
        name.replace("_", "-"): _plain(getattr(config, name))
        for name, (_, field) in fields_of(type(config)).items()
        if getattr(config, name) != field.default
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _checked(key: str, value: Any, hint: Any, field: dataclasses.Field[Any], where: str) -> Any:
    kind, many = item_type(hint)
    if many:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_one(key, item, kind, field, where) for item in items)
    if value is None and field.default is None:
        return None
    return _one(key, value, kind, field, where)


def _one(key: str, value: Any, kind: type[Any], field: dataclasses.Field[Any], where: str) -> Any:
    accepted: dict[type[Any], tuple[type[Any], ...]] = {
        Path: (str, Path),
        float: (int, float),
        int: (int,),
        str: (str,),
        bool: (bool,),
    }
    if not isinstance(value, accepted[kind]) or (kind is not bool and isinstance(value, bool)):
        one = "one value, " if isinstance(value, (list, tuple)) else ""
        raise ConfigError(
            f"{key!r} in {where} is {value!r}",
            f"it takes {one}{'text' if kind in {str, Path} else kind.__name__}",
        )
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise ConfigError(
            f"{key!r} in {where} is {value!r}", f"known: {', '.join(choices)}", nearest(str(value), choices)
        )
    return kind(value)
