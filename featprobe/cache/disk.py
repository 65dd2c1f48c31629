"""Room on the disk is taken before it is needed: HDF5 can't even close a file that it can't write."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from featprobe.errors import OutputError

_NOT_SUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def output_error(path: Path, problem: str, needed: int) -> OutputError:
    """The error for a file of `needed` bytes that can't be written."""
    free = ""
    with suppress(OSError):
        free = f", {shutil.disk_usage(path.parent).free / 1e6:.1f} MB are free"
    return OutputError(
        f"{path} can't be written: {problem}",
        f"{needed / 1e6:.1f} MB are needed{free}; what was already computed is kept",
        "free some space, or choose another folder with --cache, and type the same command again",
    )


def reserve(path: Path, size: int) -> None:
    """Make `path` at least `size` bytes long, with blocks of the disk behind each; OutputError if they lack.

    Where the file system can't promise blocks, the free space is looked at instead.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
    except (OSError, AttributeError) as error:
        if isinstance(error, AttributeError) or error.errno in _NOT_SUPPORTED:
            need_free(path, size)
            return
        raise output_error(path, error.strerror or str(error), size) from error


def need_free(path: Path, size: int) -> None:
    """OutputError unless `size` bytes are free where `path` is to lie."""
    if shutil.disk_usage(path.parent).free < size:
        raise output_error(path, "too little space on the disk", size)


def sync_folder(path: Path) -> None:
    """Bring a rename in the folder `path` to the disk itself, where the system can."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
