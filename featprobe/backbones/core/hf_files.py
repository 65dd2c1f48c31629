"""The files of a Hugging Face repository: where they lie, and what is refused of them before anything is built."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Final

from featprobe.backbones.core.hf_config import PREFIX, Json
from featprobe.backbones.core.info import PRETRAINED, RANDOM, BackboneInfo, LoadRequest, Place, WeightsFile
from featprobe.backbones.core.shards import INDEX
from featprobe.errors import BackboneError

REPOSITORY: Final = re.compile(r"(?P<where>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?")
FOLDER: Final = ("/", "./", "../", "~")
FILES: Final = tuple(
    f"{file}{several}" for file in ("model.safetensors", "pytorch_model.bin") for several in ("", INDEX)
)
_CONFIG: Final = ("config.json",)
_PROCESSOR: Final = ("preprocessor_config.json", "processor_config.json")
_LISTED: Final = 6


def shown_name(name: str) -> str:
    """`name` with the prefix, as users type it."""
    return f"{PREFIX}:{name}"


def hub_place(name: str, files: tuple[str, ...]) -> Place:
    """`files` of OWNER/NAME[@REVISION], tried in this order."""
    where, _, revision = name.partition("@")
    return Place(kind="hub", where=where, files=files, revision=revision or None)


def hub_files(name: str) -> tuple[WeightsFile, ...]:
    """The files of OWNER/NAME[@REVISION] that a backbone needs: weights, configuration, preprocessing."""
    return (
        WeightsFile(places=(hub_place(name, FILES),)),
        WeightsFile(places=(hub_place(name, _CONFIG),), part="config"),
        WeightsFile(places=(hub_place(name, _PROCESSOR),), part="preprocessor"),
    )


def located(name: str, request: LoadRequest) -> tuple[Path, Path]:
    """Where config.json and preprocessor_config.json of `name` lie."""
    from featprobe.backbones.core.places import locate

    if name.startswith(FOLDER):
        folder = Path(name).expanduser()
        return _inside(folder, _CONFIG, name), _inside(folder, _PROCESSOR, name)
    shown = shown_name(name)
    paths = []
    for file in hub_files(name)[1:]:
        try:
            found = locate(
                file,
                name=shown,
                offline=request.offline,
                announce=request.announce,
                weights_dir=request.weights_dir,
            )
        except BackboneError as error:
            if "not on this machine" not in error.wrong:
                raise
            files = " or ".join(file.places[0].files)
            raise BackboneError(
                f"{files} of {shown} is not on this machine",
                error.known,
                f"type featprobe backbones fetch {shown} --to DIR on a connected machine, copy DIR here and add "
                "--weights-dir DIR",
            ) from error
        paths.append(found.path)
    return paths[0], paths[1]


def _inside(folder: Path, files: tuple[str, ...], name: str) -> Path:
    for file in files:
        if (folder / file).is_file():
            return folder / file
    there = sorted(path.name for path in folder.iterdir())[:_LISTED] if folder.is_dir() else []
    raise BackboneError(
        f"{shown_name(name)} lacks {' or '.join(files)}" if folder.is_dir() else f"{folder} is no folder",
        f"it holds {', '.join(there) or 'nothing'}" if folder.is_dir() else "hf:FOLDER names one",
        "copy the whole repository, or type hf:OWNER/NAME",
    )


def own_weights(name: str, request: LoadRequest) -> Path | None:
    """The weights in the folder `name`, None where others were asked for or `name` is of the hub."""
    if not name.startswith(FOLDER) or request.weights != PRETRAINED:
        return None
    folder = Path(name).expanduser()
    return _inside(folder, FILES, name)


def own_code(config: Json, folder: Path, shown: str, request: LoadRequest) -> str:
    """SHA-256 of the code in `folder` that is about to run, after its files were announced."""
    named = sorted({str(value).partition(".")[0] for value in dict(config["auto_map"]).values()})
    elsewhere = [module for module in named if "--" in module]
    absent = [module for module in named if not elsewhere and not (folder / f"{module}.py").is_file()]
    if elsewhere or absent:
        raise BackboneError(
            f"the code that {shown} needs is not beside its config.json",
            f"it lies in the repository {elsewhere[0].partition('--')[0]}"
            if elsewhere
            else f"{absent[0]}.py is not in {folder}",
            f"type: hf download {shown.removeprefix('hf:').partition('@')[0]} --local-dir FOLDER, and use hf:FOLDER",
        )
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.py"))
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    request.announce(f"{shown}: runs code that came with it: {', '.join(str(file) for file in files)}")
    return digest.hexdigest()


def raw_tensors(info: BackboneInfo, request: LoadRequest) -> dict[str, Any]:
    """The file of the weights as it is."""
    from featprobe.backbones.core.places import locate
    from featprobe.backbones.core.reading import read

    if request.weights in {PRETRAINED, RANDOM}:
        path = locate(
            info.files[0],
            name=info.name,
            offline=request.offline,
            announce=request.announce,
            weights_dir=request.weights_dir,
        ).path
    else:
        path = Path(request.weights).expanduser()
    content = read(path)
    return content if isinstance(content, dict) else {}
