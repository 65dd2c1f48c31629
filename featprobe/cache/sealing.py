"""The first 512 bytes of a finished file: a SHA-256 over the rest, and when the file was last of use.

HDF5 skips this user block, so it can carry what must not touch the HDF5 part: a flipped byte anywhere behind
it is found, dead space included, and the time is written in place without a risk to the embeddings. (The
file's modification time would not do: copying a cache would shuffle which file of several is the current one.)
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

USER_BLOCK: Final = 512
_TIME_AT: Final = 256
_TITLE: Final = "featprobe cache; SHA-256 of the bytes from 512 on: "


def seal(path: Path) -> None:
    """Write the user block of a file that is complete, and bring the file to the disk itself."""
    block = f"{_TITLE}{_rest_sha256(path)}\n".encode().ljust(_TIME_AT, b"\0") + _time_field(time.time())
    with path.open("r+b") as file:
        file.write(block.ljust(USER_BLOCK, b"\0"))
        file.flush()
        os.fsync(file.fileno())


def seal_problem(path: Path) -> str:
    """What is wrong with the seal, or "" where every byte is as it was written. OSError if unreadable."""
    with path.open("rb") as file:
        block = file.read(USER_BLOCK)
    head, moment = block[:_TIME_AT], block[_TIME_AT:]
    if not head.startswith(_TITLE.encode()):
        return "the seal (the first 512 bytes) is missing or damaged"
    if head != f"{_TITLE}{_rest_sha256(path)}\n".encode().ljust(_TIME_AT, b"\0"):
        return "bytes were changed since the file was written (SHA-256)"
    if _parse_time(moment) is None:
        return "the time of last use is damaged"
    return ""


def seen(path: Path) -> float:
    """When the file was last of use, in seconds since 1970 (0.0 where that can't be read)."""
    with path.open("rb") as file:
        file.seek(_TIME_AT)
        moment = _parse_time(file.read(USER_BLOCK - _TIME_AT))
    return 0.0 if moment is None else moment


def mark_seen(path: Path) -> None:
    """Note that the file was of use now; on a read-only medium nothing happens."""
    with suppress(OSError), path.open("r+b") as file:
        file.seek(_TIME_AT)
        file.write(_time_field(time.time()))


def _rest_sha256(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(USER_BLOCK)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _time_field(moment: float) -> bytes:
    text = f"last of use: {moment:.6f}".encode()
    return text + f" ({zlib.crc32(text):08x})\n".encode()


def _parse_time(field: bytes) -> float | None:
    text = field.rstrip(b"\0").partition(b" (")[0]
    number = text.removeprefix(b"last of use: ")
    with suppress(ValueError):
        moment = float(number)
        if field == _time_field(moment).ljust(len(field), b"\0"):
            return moment
    return None
