"""What a study needs before it can run: which data and weights are here, which are missing, how to get them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featprobe import backbones
from featprobe.datasets import split_spec
from featprobe.errors import FeatprobeError
from featprobe.stages.sources import WEIGHT_WORDS


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that a stage asks for. `missing`: why it can't be had now, "" where it is here; `get`: how to get it."""

    what: str
    missing: str = ""
    get: str = ""


def needs(configs: list[Any], get: Mapping[str, str]) -> list[Need]:
    """Every data set and every backbone's weights that extract and finetune sections ask for, each once.

    `get`: name of a data set or backbone -> how to get it, in the study's own words. Nothing is downloaded, and no
    image is read.
    """
    found: dict[str, Need] = {}
    for config in configs:
        if not hasattr(config, "weights"):
            continue
        for need in (*_data(config, get), *_weights(config, get)):
            found.setdefault(need.what, need)
    return list(found.values())


def _data(config: Any, get: Mapping[str, str]) -> Iterator[Need]:
    for spec in config.data:
        name, location = split_spec(spec)
        what = f"data {spec}"
        # Built-in images, a file looked for by name, a pattern of shards: opening it says what is wrong.
        told_later = location == "digits" or location.startswith("medmnist:") or "{" in location
        if told_later or Path(location).expanduser().exists():
            yield Need(what)
        else:
            how = get.get(name or "", "put it there, or change data in the study")
            yield Need(what, f"there is no {location}", how)


def _weights(config: Any, get: Mapping[str, str]) -> Iterator[Need]:
    for name in config.backbone:
        for value in _values(config, name):
            what = f"weights of {name} ({value})"
            if value == "random":
                backbones.resolve(name)
                yield Need(what)
            elif value in WEIGHT_WORDS:
                why, how = _pretrained(name, config)
                yield Need(what, why, get.get(name, how) if why else "")
            elif Path(value).is_file():
                yield Need(what)
            else:
                yield Need(what, f"there is no file {value}", get.get(name, f"put it there: {name}={value}"))


def _values(config: Any, name: str) -> list[str]:
    """The choices of weights of one backbone: its own, as NAME=VALUE, else the plain ones, else pretrained."""
    pairs = [value.partition("=") for value in config.weights]
    own = [rest for head, sign, rest in pairs if sign and head == name]
    plain = [value for value, (head, sign, _) in zip(config.weights, pairs, strict=True)
             if not (sign and head in config.backbone)]  # fmt: skip
    return own or plain or ["pretrained"]


def _pretrained(name: str, config: Any) -> tuple[str, str]:
    """(why they can't be had without a network, how to get them), ("", "") where they are on this machine."""
    from featprobe.backbones.core.places import locate_all

    try:
        locate_all(backbones.describe(name), offline=True, announce=print, weights_dir=config.weights_dir)
    except FeatprobeError as error:
        return error.wrong, error.next_step
    return "", ""


def told(found: list[Need]) -> list[str]:
    """What is printed of them."""
    missing = [need for need in found if need.missing]
    lines = [f"{'MISSING' if need.missing else 'here'}: {need.what}" for need in found]
    lines += [f"get {need.what}: {need.missing}; {need.get}" for need in missing]
    return lines
