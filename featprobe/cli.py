"""The thin door: parse the command line into one configuration record, call one stage, print."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from featprobe import __version__
from featprobe.config import (
    CompareConfig,
    ExportConfig,
    ExtractConfig,
    FinetuneConfig,
    InspectConfig,
    ProbeConfig,
    RetrieveConfig,
)
from featprobe.config_models import ModelExportConfig, PredictConfig
from featprobe.config_trust import OodConfig
from featprobe.errors import ConfigError, FeatprobeError, OutputError, nearest
from featprobe.options import fields_of, item_type, need_its_own
from featprobe.stages.launch import first_here, need_one_process, tell

STAGES: dict[str, tuple[type[Any], str]] = {
    "extract": (ExtractConfig, "featprobe.stages.extract:extract"),
    "probe": (ProbeConfig, "featprobe.stages.probe:probe"),
    "retrieve": (RetrieveConfig, "featprobe.stages.retrieve:retrieve"),
    "finetune": (FinetuneConfig, "featprobe.stages.finetune:finetune"),
    "compare": (CompareConfig, "featprobe.stages.compare:compare"),
    "inspect": (InspectConfig, "featprobe.stages.inspect:inspect"),
    "predict": (PredictConfig, "featprobe.stages.predict:predict"),
    "ood": (OodConfig, "featprobe.stages.ood:ood"),
}


class _Parser(argparse.ArgumentParser):
    """argparse with featprobe's errors: one line, the nearest known name, the next command."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, "", f"type: {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            name = action.option_strings[0] if action.option_strings else "command"
            hint = nearest(str(value), known)
            raise ConfigError(
                f"unknown {name} {value!r}", hint or f"known: {', '.join(known)}", f"type: {self.prog} --help"
            )

    def options(self) -> list[str]:
        """Every long flag of this parser."""
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]


def _add_field(parser: argparse.ArgumentParser, name: str, hint: Any, field: dataclasses.Field[Any]) -> None:
    kind, many = item_type(hint)
    meta = field.metadata
    flag = "--" + name.replace("_", "-")
    common: dict[str, Any] = {"help": meta["help"].replace("%", "%%"), "default": None}
    if kind is bool:
        action: Any = argparse.BooleanOptionalAction if field.default else "store_true"
        parser.add_argument(flag, dest=name, action=action, **common)
        return
    common |= {"type": kind, "metavar": meta["metavar"] or None}
    if meta["choices"]:
        common |= {"choices": meta["choices"], "metavar": "|".join(meta["choices"])}
    default: Any = field.default
    shown = " ".join(map(str, default)) if many else default
    if shown not in {None, ""}:
        common["help"] += f" [{shown}]"
    if meta["positional"]:
        parser.add_argument(name, nargs="*", **common)
    elif many:
        parser.add_argument(flag, dest=name, action="extend", nargs="+", **common)
    else:
        parser.add_argument(flag, dest=name, **common)


def _add_configured(commands: Any, name: str, config: type[Any], debug: _Parser) -> None:
    """The command `name` with every field of `config` as a flag."""
    text = (config.__doc__ or "").strip()
    command = commands.add_parser(name, help=text, description=text, parents=[debug], allow_abbrev=False)
    for field_name, (hint, field) in fields_of(config).items():
        _add_field(command, field_name, hint, field)


def build_parser() -> _Parser:
    """The whole command line."""
    parser = _Parser(
        prog="featprobe",
        allow_abbrev=False,
        description="Which pretrained backbone should I trust on my own images, and is the difference real?",
        epilog="Start with: featprobe demo. Your own images: featprobe inspect --data FOLDER_OR_CSV.",
    )
    parser.add_argument("--version", action="version", version=f"featprobe {__version__}")
    # shtab is asked for by name, so that completion costs nothing at start.
    parser.add_argument(
        "--print-completion", choices=("bash", "zsh", "tcsh"), help="print a shell's completion script"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    debug = _Parser(add_help=False, allow_abbrev=False)
    debug.add_argument("--debug", action="store_true", help="show the traceback of an error")

    for name, (config, _) in STAGES.items():
        _add_configured(commands, name, config, debug)

    demo = commands.add_parser(
        "demo",
        help="Extract, probe, finetune and report on built-in images, offline.",
        parents=[debug],
        allow_abbrev=False,
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("results/demo"),
        metavar="DIR",
        help="folder of results and report [results/demo]",
    )
    demo.add_argument(
        "--cache",
        type=Path,
        default=Path("cache"),
        metavar="DIR",
        help="folder of the embedding files [cache]",
    )

    run = commands.add_parser(
        "run",
        help="Run a whole study; what is there already is not computed again.",
        parents=[debug],
        allow_abbrev=False,
    )
    run.add_argument(
        "study",
        type=Path,
        metavar="STUDY.toml",
        help="a study, such as pipelines/smoke.toml, or a results folder's run.json",
    )
    run.add_argument(
        "--out", type=Path, default=None, metavar="DIR", help="folder of results and report [results/STUDY]"
    )
    run.add_argument(
        "--cache", type=Path, default=None, metavar="DIR", help="folder of the embedding files [cache]"
    )

    run.add_argument("--dry-run", action="store_true", help="only print the stages and what they lack")

    _add_cache(commands, debug)
    _add_models(commands, debug)
    _add_backbones(commands, debug)
    return parser


def _several(parser: argparse.ArgumentParser, flag: str, metavar: str, text: str) -> None:
    """A flag that takes many values and may be repeated."""
    parser.add_argument(flag, nargs="+", action="extend", default=[], metavar=metavar, help=text)


def _add_cache(commands: Any, debug: _Parser) -> None:
    cache = commands.add_parser("cache", help="Look after the cache.", allow_abbrev=False)
    actions = cache.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    texts = {
        "ls": "list what the cache holds",
        "verify": "read every byte and report what is damaged",
        "recheck": "recompute a sample of rows and compare",
        "gc": "remove superseded and abandoned files",
    }
    for name, text in texts.items():
        action = actions.add_parser(name, help=text, description=text, parents=[debug], allow_abbrev=False)
        action.add_argument(
            "--cache",
            type=Path,
            default=Path("cache"),
            metavar="DIR",
            help="folder of the embedding files [cache]",
        )
        if name != "gc":
            _several(action, "--data", "NAME", "only these data sets")
            _several(action, "--backbone", "NAME", "only these backbones")
        if name == "recheck":
            _several(action, "--source", "[NAME=]SPEC", "where the images are now (default: where they were)")
            action.add_argument("--rows", type=int, default=16, metavar="N", help="rows to recompute [16]")
            _several(action, "--weights", "[NAME=]VALUE", "where the weights are now")
            _add_weights_dir(action, "folder made by featprobe backbones fetch, for pretrained weights")
        if name == "gc":
            action.add_argument("--dry-run", action="store_true", help="only say what would go")
    _add_configured(actions, "export", ExportConfig, debug)


def _add_models(commands: Any, debug: _Parser) -> None:
    models = commands.add_parser(
        "models", help="Look into saved models, write them as ONNX.", allow_abbrev=False
    )
    actions = models.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    show = actions.add_parser("show", help="all about one model", parents=[debug], allow_abbrev=False)
    show.add_argument("model", type=Path, metavar="FILE.skops", help="written by featprobe probe --models")
    _add_configured(actions, "export", ModelExportConfig, debug)


def _add_backbones(commands: Any, debug: _Parser) -> None:
    backbones = commands.add_parser(
        "backbones",
        help="What exists, its preprocessing, licence, where its weights are.",
        allow_abbrev=False,
    )
    actions = backbones.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    ls = actions.add_parser("ls", help="list backbones", parents=[debug], allow_abbrev=False)
    ls.add_argument(
        "pattern",
        nargs="?",
        default=None,
        metavar="PATTERN",
        help="also timm's models that match, such as '*dinov2*'",
    )
    show = actions.add_parser("show", help="all about one backbone", parents=[debug], allow_abbrev=False)
    show.add_argument("name", metavar="NAME", help="such as dinov2_vitb14")
    show.add_argument(
        "--image-size", type=int, default=None, metavar="PIXELS", help="side of the square input in pixels"
    )
    show.add_argument(
        "--fit", choices=("crop", "pad", "squash"), default=None, help="how an image is brought to that size"
    )
    show.add_argument(
        "--weights",
        default=None,
        metavar="FILE",
        help="also say of every tensor of this file what becomes of it",
    )
    _add_weights_dir(show, "folder made by featprobe backbones fetch")
    texts = {
        "fetch": "bring the weights of backbones into a folder, on a connected machine",
        "bundle": "write weights, licences and hashes into one archive",
    }
    for name, text in texts.items():
        action = actions.add_parser(name, help=text, description=text, parents=[debug], allow_abbrev=False)
        action.add_argument("names", nargs="*", default=[], metavar="NAME", help="such as dinov2_vitb14")
        kind = {"fetch": "DIR", "bundle": "FILE.tar"}[name]
        action.add_argument("--to", type=Path, required=True, metavar=kind, help="where they go")
        _several(
            action, "--weights", "NAME=FILE", "a file of your own that stands for NAME's pretrained weights"
        )
        action.add_argument("--offline", action="store_true", help="take only what lies on this machine")
        _add_weights_dir(action, "a folder to take them from first")
    unbundle = actions.add_parser(
        "unbundle", help="unpack such an archive", parents=[debug], allow_abbrev=False
    )
    unbundle.add_argument("archive", type=Path, metavar="FILE.tar", help="made by featprobe backbones bundle")
    unbundle.add_argument("--to", type=Path, required=True, metavar="DIR", help="where it goes")
    verify = actions.add_parser(
        "verify", help="prove every hash of a weights folder", parents=[debug], allow_abbrev=False
    )
    _add_weights_dir(verify, "folder [FEATPROBE_WEIGHTS_DIR]")


def _add_weights_dir(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--weights-dir", type=Path, default=None, metavar="DIR", help=text)


def _configuration(config: type[Any], parsed: argparse.Namespace) -> Any:
    given = {
        name: getattr(parsed, name) for name in fields_of(config) if getattr(parsed, name) not in (None, [])
    }
    return config(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    )


def _call(target: str, *arguments: Any) -> int:
    module, _, function = target.partition(":")
    status = getattr(import_module(module), function)(*arguments)
    return status if isinstance(status, int) else 0


def _dispatch(parser: _Parser, parsed: argparse.Namespace) -> int:
    if parsed.print_completion:
        import shtab

        print(shtab.complete(parser, shell=parsed.print_completion))
        return 0
    if parsed.command is None:
        parser.print_help()
        return 0
    return _dispatch_command(parsed)


def _dispatch_command(parsed: argparse.Namespace) -> int:
    if parsed.command in STAGES:
        config, target = STAGES[parsed.command]
        return _call(target, _configuration(config, parsed))
    if parsed.command == "demo":
        return _call("featprobe.study:demo", parsed.out, parsed.cache)
    if parsed.command == "run":
        return _call("featprobe.study:run", parsed.study, parsed.out, parsed.cache, parsed.dry_run)
    if (parsed.command, parsed.action) == ("cache", "export"):
        return _call("featprobe.stages.export:export", _configuration(ExportConfig, parsed))
    if (parsed.command, parsed.action) == ("models", "export"):
        return _call("featprobe.stages.models:export", _configuration(ModelExportConfig, parsed))
    care = parsed.action in {"fetch", "bundle", "unbundle"} or (parsed.command, parsed.action) == (
        "backbones",
        "verify",
    )
    rooms: dict[str, str] = {
        "cache": "featprobe.stages.cache_care",
        "models": "featprobe.stages.models",
        "backbones": f"featprobe.stages.{'weights_care' if care else 'backbone_shelf'}",
    }
    values = {
        name: value
        for name, value in vars(parsed).items()
        if name not in {"command", "action", "debug", "print_completion"}
    }
    function: Callable[..., int] = getattr(import_module(rooms[parsed.command]), parsed.action)
    return function(**values)


def _parse(parser: _Parser, arguments: Sequence[str]) -> argparse.Namespace:
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        commands = next(a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))  # noqa: SLF001 - argparse has no public way to list its flags
        chosen: Any = commands[parsed.command] if parsed.command else parser
        if getattr(parsed, "action", None):
            nested = next(a.choices for a in chosen._actions if isinstance(a, argparse._SubParsersAction))  # noqa: SLF001 - see above
            chosen = nested[parsed.action]
        flag = unknown[0].split("=")[0]
        if parsed.command in STAGES:
            need_its_own(STAGES[parsed.command][0], flag.removeprefix("--"))
        if parsed.command == "finetune" and parsed.image_size and flag.isdecimal():
            raise ConfigError(
                f"--image-size {parsed.image_size} {flag}: fine-tuning takes one image size",
                "extract takes several",
                f"type featprobe finetune --image-size {flag} in a call of its own",
            )
        raise ConfigError(
            f"unknown argument {flag!r}", nearest(flag, chosen.options()), f"type: {chosen.prog} --help"
        )
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0 done, 1 a check failed, 2 bad input, 130 interrupted)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser = build_parser()
        parsed = _parse(parser, given)
        if parsed.command is not None:
            need_one_process(parsed.command, given)
        return _dispatch(parser, parsed)
    except FeatprobeError as error:
        if "--debug" in given:
            raise
        tell(error)
        return error.exit_status
    except KeyboardInterrupt:
        if first_here():
            print(
                "featprobe: interrupted; what was finished is kept, the same command goes on from there",
                file=sys.stderr,
            )
        return 130
    except BrokenPipeError:
        # `featprobe backbones ls | head` closes our output early: that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if "--debug" in given:
            raise
        tell(OutputError(str(error), "", "check the path and the space left on the disk"))
        return 2


if __name__ == "__main__":
    sys.exit(main())
