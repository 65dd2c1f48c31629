"""One writer per cache file: a lock that the kernel releases when its holder dies."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from featprobe.errors import CacheError, OutputError


def lock_file(path: Path) -> Path:
    """The empty file whose flock guards `path`."""
    return path.with_name(path.name + ".lock")


def holder_file(path: Path) -> Path:
    """Says who holds the lock; only believed while the lock is held."""
    return path.with_name(path.name + ".holder")


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of `path`; CacheError naming the holder if another does, OutputError if it can't be made."""
    lock = FileLock(lock_file(path), thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise CacheError(
            f"{path} is being written by another process",
            _holder(path),
            "wait until it is done, or stop it, and type the same command again",
        ) from None
    except (OSError, NotImplementedError) as error:
        raise OutputError(
            f"the cache folder {path.parent} can't be written to",
            str(error),
            "choose another folder with --cache, or change its permissions",
        ) from error
    try:
        with suppress(OSError):
            holder_file(path).write_text(_myself(), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            holder_file(path).unlink()
        if not (path.exists() or path.with_name(path.name + ".part").exists()):
            # Nothing came of it, as where the data were refused: leave no trace. Unlinked while held, so that
            # a process that waits for this very file finds it gone and makes its own.
            with suppress(OSError):
                lock_file(path).unlink()
                path.parent.rmdir()
        lock.release()


def _myself() -> str:
    since = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})


def _holder(path: Path) -> str:
    try:
        who = json.loads(holder_file(path).read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']} has held it since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "who holds it is not known"
