"""The content of a weights file by what it is, not by what it is called; nothing in it is run.

What is no weights file (an error page, a pointer to a download, an archive) and what arrived in part is said to be so.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from featprobe.backbones.core.shards import is_index, joined
from featprobe.errors import BackboneError

_ZIP: Final = b"PK\x03\x04"
_HEAD: Final = 512
# A safetensors header lists the tensors; one of this size would list more than any model has.
_LONGEST_HEADER: Final = 100_000_000
# First bytes of files that are given for weights by mistake.
_FOREIGN: Final = (
    (b"\x89HDF\r\n\x1a\n", "it is an HDF5 or Keras file"),
    (b"\x93NUMPY", "it is a NumPy array"),
    (b"\x1f\x8b", "it is a gzip archive: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive: unpack it first"),
    (b"Rar!", "it is a rar archive: unpack it first"),
)
_PAGES: Final = (b"<!doctype html", b"<html", b"<?xml", b"<head", b'{"error')
_LFS: Final = b"version https://git-lfs.github.com/spec/"
_FAULTS: Final = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, AssertionError),
    *(ArithmeticError, MemoryError, RecursionError, struct.error, zipfile.BadZipFile, SafetensorError),
)
# What the weights-only reader says of objects that it would have to build by running code.
_CODE: Final = re.compile(
    r"unsupported (?:global|class)|reduce for unrecognized|can only (?:create|build)|is blocked"
    r"|must be imported|TorchScript",
    re.IGNORECASE,
)
_CULPRIT: Final = re.compile(r"(?:GLOBAL|function|class) <?(?:class |built-in function )?'?([\w.]+)")


class _Inert:
    """Stands for a harmless object that training scripts save beside the weights; it is built, and forgotten.

    Nothing of the named class is imported or called, and what the file says about it is thrown away, so that
    even a forged argument can do nothing.
    """

    __slots__ = ()

    def __new__(cls, *_: object) -> Self:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forget `state`."""


# Saved by nearly every script of MoCo, DINO and MAE: the command line, and an epoch or a loss as NumPy number.
# Classes that hold more (OmegaConf, models, optimizers) are refused: nobody knows what they need to be built.
_INERT: Final = (
    *("argparse.Namespace", "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("Path", "PosixPath", "WindowsPath")),
)
_ALLOWED: Final[list[Callable[..., Any] | tuple[Callable[..., Any], str]]] = [
    (_Inert, name) for name in _INERT
]


def read(path: Path) -> Any:
    """The content of `path`: tensors by name for safetensors, whatever a PyTorch file holds else.

    An index of shards is read with all of them, see `shards.joined`.
    BackboneError for a file that is truncated, damaged, no weights file, or that needs code to be read.
    """
    if is_index(path):
        return joined(path, read)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    _check_known(path, head)
    if head.startswith(_ZIP):
        _check_zip(path)
    elif _is_safetensors(head):
        return _read_safetensors(path)
    elif path.suffix.lower() == ".safetensors":
        raise _broken(path, "it doesn't begin as a safetensors file does")
    return _read_torch(path)


def _check_known(path: Path, head: bytes) -> None:
    text = head.lstrip().lower()
    if text.startswith(_LFS):
        size = re.search(rb"size (\d+)", head)
        raise BackboneError(
            f"the weights file {path.name} is a git-lfs pointer, not the weights"
            + (f" of {int(size[1]):,} bytes" if size else ""),
            f"it is a text of {path.stat().st_size:,} bytes that says where the weights lie",
            "type git lfs pull in its repository, or download the file itself",
        )
    if text.startswith(_PAGES):
        title = re.search(rb"<(?:title|message)>([^<]{1,80})", head, re.IGNORECASE)
        said = f", which says: {title[1].decode(errors='replace').strip()}" if title else ""
        raise BackboneError(
            f"the weights file {path.name} is a web page, not weights",
            f"the download ended at a page of {path.stat().st_size:,} bytes{said}",
            "open the address in a browser, accept what it asks for, and save the file itself",
        )
    foreign = next((what for magic, what in _FOREIGN if head.startswith(magic)), "")
    if head[257:262] == b"ustar":
        foreign = "it is a tar archive: unpack it first"
    if foreign:
        raise BackboneError(
            f"the weights file {path.name} is no PyTorch or safetensors file",
            foreign,
            "give a .safetensors file, or a PyTorch file with a state dict",
        )


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (*_FAULTS, UnicodeError) as error:
        raise _broken(
            path, "it begins as a PyTorch file (zip) and the record at its end is missing: half a download"
        ) from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise BackboneError(
            f"the weights file {path.name} is refused: it is a TorchScript archive, a program with weights",
            "running it would run code from the file",
            "where you trust it, save torch.jit.load(FILE).state_dict() with safetensors.torch.save_file",
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise BackboneError(
            f"the weights file {path.name} is a zip archive without a state dict",
            f"it holds {', '.join(names[:3]) or 'nothing'}",
            "unpack it and give the weights file inside",
        )


def _is_safetensors(head: bytes) -> bool:
    return (
        len(head) > 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < _LONGEST_HEADER
    )  # the length of a JSON text, then the text


def _read_safetensors(path: Path) -> Any:
    size, promised = path.stat().st_size, _promised(path)
    if size < promised:
        raise _broken(path, f"its header promises {promised:,} bytes: half a download")
    try:
        return load_file(path)
    except _FAULTS as error:
        raise _broken(path, f"the reader says: {_first_line(error)}") from error


def _promised(path: Path) -> int:
    """Bytes that the header of a safetensors file says the file has; of an unreadable header, where it ends."""
    with path.open("rb") as file:
        length = int(struct.unpack("<Q", file.read(8))[0])
        try:
            header = json.loads(file.read(length))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            ends = []
    return 8 + length + max(ends, default=0)


def _read_torch(path: Path) -> Any:
    try:
        # Given a path, torch would go by the suffix.
        with warnings.catch_warnings(), torch.serialization.safe_globals(_ALLOWED), path.open("rb") as file:
            # An old pickle protocol is worth a warning to developers, none to those who can only read the file.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, *_FAULTS) as error:
        if _CODE.search(str(error)) or _is_plain_pickle(path):
            raise _refused(path, error) from error
        raise _broken(path, f"the reader says: {_first_line(error)}") from error


def _is_plain_pickle(path: Path) -> bool:
    """Whether the file was written by pickle itself: torch's own files use protocol 2."""
    with path.open("rb") as file:
        start = file.read(2)
    return len(start) == 2 and start[0] == 0x80 and start[1] in {3, 4, 5}


def _refused(path: Path, error: Exception) -> BackboneError:
    culprit = _CULPRIT.search(str(error))
    what = f" (the first is {culprit[1]})" if culprit else ""
    return BackboneError(
        f"the weights file {path.name} is refused: it holds Python objects{what}, not only tensors",
        "unpickling them would run code from the file",
        "where its source is trusted, type in Python: content = torch.load(FILE, weights_only=False), then "
        "safetensors.torch.save_file(content.state_dict(), 'weights.safetensors') of a whole model, with "
        "content['state_dict'] or the like of a checkpoint, and give that file",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _broken(path: Path, why: str) -> BackboneError:
    size = path.stat().st_size
    return BackboneError(
        f"the weights file {path.name} can't be read: it is truncated, damaged or of another kind",
        f"it has {size:,} bytes, and {why}" if size else "it is empty",
        "compare its size and checksum with the source's, and copy it again",
    )
