"""Every configuration is filled alike by flags, TOML keys and Python, and refuses what it does not know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from featprobe.cli import STAGES, _configuration, build_parser
from featprobe.config import LEAKS
from featprobe.errors import ConfigError
from featprobe.options import fields_of, from_mapping, item_type
from featprobe.splitting import LEAK_KINDS

CASES = [(name, config, field) for name, (config, _) in STAGES.items() for field in fields_of(config)]


def example(kind, field):
    """A value that differs from the default."""
    choices = field.metadata["choices"]
    if choices:
        return next(choice for choice in choices if field.default not in {choice, (choice,)})
    return {str: "x", int: 77, float: 0.25, Path: Path("elsewhere"), bool: not field.default}[kind]


@pytest.mark.parametrize(("stage", "config", "name"), CASES)
def test_flag_toml_key_and_argument_fill_the_same_field(stage, config, name):
    hint, field = fields_of(config)[name]
    kind, many = item_type(hint)
    value = example(kind, field)
    flag = "--" + name.replace("_", "-")
    if kind is bool:
        words = [flag if value else flag.replace("--", "--no-", 1)]
    else:
        words = [str(value)] if field.metadata["positional"] else [flag, str(value)]
    parsed = _configuration(config, build_parser().parse_args([stage, *words]))
    written = from_mapping(config, {name.replace("_", "-"): str(value) if kind is Path else value}, "a test")
    direct = config(**{name: (value,) if many else value})
    assert parsed == written == direct
    assert parsed != config()
    assert field.metadata["help"]


@pytest.mark.parametrize(("stage", "config"), [(name, config) for name, (config, _) in STAGES.items()])
def test_an_unknown_key_names_the_nearest(stage, config):
    with pytest.raises(ConfigError, match=r"did you mean out|did you mean cache|known:"):
        from_mapping(config, {"ouut": "x"}, f"[{stage}]")


@pytest.mark.parametrize(
    ("key", "value"), [("folds", "five"), ("folds", True), ("resplit", 1), ("out", 3), ("probe", [1])]
)
def test_a_value_of_another_type_is_refused(key, value):
    with pytest.raises(ConfigError, match=key):
        from_mapping(STAGES["probe"][0], {key: value}, "[probe]")


@pytest.mark.parametrize(
    ("stage", "config", "name"),
    [case for case in CASES if fields_of(case[1])[case[2]][1].metadata["least"] is not None],
)
def test_a_number_below_its_least_is_refused_at_every_door(stage, config, name):
    low = fields_of(config)[name][1].metadata["least"] - 1
    with pytest.raises(ConfigError, match="at least"):
        config(**{name: low})
    with pytest.raises(ConfigError, match="at least"):
        from_mapping(config, {name: low}, f"[{stage}]")
    with pytest.raises(ConfigError, match="at least"):
        _configuration(config, build_parser().parse_args([stage, f"--{name.replace('_', '-')}={low}"]))


@pytest.mark.parametrize(
    ("stage", "flags", "words"),
    [
        ("probe", ("--shots", "0"), "--shots is 0; it must be at least 1"),
        ("probe", ("--fraction", "0.1", "2"), "--fraction is 2.0; it must be at most 1"),
        ("finetune", ("--holdout", "0.95"), "--holdout is 0.95; it must be at most 0.9"),
    ],
)
def test_numbers_outside_their_bounds_are_refused(stage, flags, words):
    config, _ = STAGES[stage]
    with pytest.raises(ConfigError, match=re.escape(words)):
        _configuration(config, build_parser().parse_args([stage, *flags]))


def test_the_kinds_of_leaks_are_the_gates():
    assert LEAKS == LEAK_KINDS
