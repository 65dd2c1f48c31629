"""A report replaces the last one file by file, each whole or not at all."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping
from pathlib import Path

from featprobe.errors import OutputError


def write_all(out: Path, files: Mapping[str, bytes]) -> None:
    """Write every file (path relative to `out` -> content) beside its place, then rename it, in this order.

    Raises OutputError where `out` can't be written to; files that were there before are then untouched, or
    replaced whole.
    """
    drafts = {out / f"{name}.next": (out / name, data) for name, data in files.items()}
    try:
        for draft, (target, data) in drafts.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
        for draft, (target, _) in drafts.items():
            draft.replace(target)
    except OSError as error:
        _sweep(drafts)
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        raise OutputError(
            f"can't write the report to {out}",
            "the disk is full" if full else error.strerror or str(error),
            "free some space and type the same command again" if full else "choose another folder with --out",
        ) from error


def _sweep(drafts: Mapping[Path, object]) -> None:
    for draft in drafts:
        with contextlib.suppress(OSError):  # where the folder could not be made there is nothing to sweep
            draft.unlink()
