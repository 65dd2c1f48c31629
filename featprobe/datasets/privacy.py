"""Pseudonyms: names that are equal for equal originals, and that nobody can turn back without the secret file."""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from featprobe.datasets.base import Dataset
from featprobe.datasets.decoding import UnsupportedImageError
from featprobe.errors import DataError, OutputError
from featprobe.records import Samples, texts

if TYPE_CHECKING:
    from featprobe.imaging import Raster
    from featprobe.records import TextArray

SECRET_BYTES: Final = 32
LEAST_BYTES: Final = 16
"""A shorter secret could be found by trying."""

LENGTH: Final = 16
"""Hexadecimal characters of a pseudonym: 64 bits, so that among a million names a collision has a chance of 3e-8."""

_PART: Final = re.compile(r"#(?:[a-z]|frame|page)[0-9]{3,}$")


def pseudonymized(dataset: Dataset, key_file: Path) -> Dataset:
    """The data set with pseudonyms for `id`, `path`, `group` and `case`; labels, splits, sites and kept columns stay.

    A pseudonym is the first 16 hexadecimal characters of HMAC-SHA256(secret, name) (RFC 2104); what names the part of
    a file, such as "#z017", stands behind it as it was. Equal names have equal pseudonyms, in every column and every
    data set with this secret. The secret is `key_file`; where there is none, it is made.

    Raises DataError for a secret that is none, OutputError where none can be made.
    """
    secret, created = _secret(key_file)
    names = _Pseudonyms(secret)
    samples = dataset.samples
    changed = {column: names.of(getattr(samples, column)) for column in ("id", "path", "group", "case")}
    names.check()
    notes = [
        f"ids, paths, groups and cases are pseudonyms, made with the secret in {key_file}"
        + (", which was made now: keep it, and keep it private" if created else "")
    ]
    if samples.columns:
        notes.append(f"kept columns are stored as they are: {', '.join(samples.columns)}")
    return PseudonymousDataset(dataset, samples.replace(**changed), (*dataset.notes, *notes))


@dataclass(frozen=True, slots=True, eq=False)
class PseudonymousDataset:
    """`inner` with other names in `samples`; what it raises is told with these names."""

    inner: Dataset
    samples: Samples
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The inner one's."""
        return self.inner.name

    @property
    def kind(self) -> str:
        """The inner one's."""
        return self.inner.kind

    def read(self, row: int) -> bytes:
        """The inner one's bytes. Errors hold neither the original id nor a path."""
        try:
            return self.inner.read(row)
        except UnsupportedImageError as caught:
            error: Exception = self._unless_named(caught, row)
        except DataError:
            error = self._fault(row)
        except OSError as caught:
            error = _nameless(caught)
        raise error from None  # not chained: a traceback would show the original

    def _unless_named(self, error: DataError, row: int) -> DataError:
        originals = (str(self.inner.samples.path[row]), str(self.inner.samples.id[row]))
        names = {Path(_PART.sub("", name)).name for name in originals}
        return self._fault(row) if any(name in str(error) for name in names) else error

    def _fault(self, row: int) -> DataError:
        return DataError(
            f"the image {self.samples.path[row]} of {self.name} can't be read any more",
            "its file has gone, has changed, or is of a kind that featprobe can't read",
            "open the data without --pseudonymize to see which file it is",
        )

    def decode(self, data: bytes) -> Raster:
        """See the inner one's."""
        return self.inner.decode(data)


def _nameless(error: OSError) -> OSError:
    """The error without the file that the system names; featprobe's own reasons are fixed sentences."""
    if error.errno is None and error.filename is None:
        return error
    return OSError(error.errno, error.strerror or "the file can't be read")


class _Pseudonyms:
    """name -> pseudonym, and whether two names share one."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._known: dict[str, str] = {"": ""}

    def of(self, names: Iterable[str]) -> TextArray:
        """The pseudonyms of `names`; "" stays ""."""
        return texts([self._one(str(name)) for name in names])

    def _one(self, name: str) -> str:
        match = _PART.search(name) if "#" in name else None
        part = match.group() if match else ""
        whole = name.removesuffix(part)
        if whole not in self._known:
            digest = hmac.digest(self._secret, whole.encode("utf-8", "surrogateescape"), "sha256")
            self._known[whole] = digest.hex()[:LENGTH]
        return self._known[whole] + part

    def check(self) -> None:
        """DataError where two names share a pseudonym."""
        if len(set(self._known.values())) < len(self._known):
            raise DataError(
                "two names have the same pseudonym",
                "by chance: 1 in 30 million for a million names",
                "delete the secret file, so that another is made",
            )


def _secret(file: Path) -> tuple[bytes, bool]:
    """(the secret in `file`, whether it was made now)."""
    file = file.expanduser()
    created = not file.exists()
    try:
        if created:
            _make(file)
        mode = file.stat().st_mode
        secret = file.read_bytes()
    except OSError as error:
        raise OutputError(
            f"the secret {file} can't be {'made' if created else 'read'}",
            error.strerror or str(error),
            "type another file: --pseudonymize FILE",
        ) from error
    if len(secret) < LEAST_BYTES:
        raise DataError(
            f"the secret {file} has {len(secret)} bytes",
            f"it needs at least {LEAST_BYTES}, or it can be guessed",
            "name a file that is not there yet: a secret is made in it",
        )
    if os.name == "posix" and mode & stat.S_IROTH:
        raise DataError(
            f"the secret {file} can be read by everybody on this machine",
            "who reads it can find out who is behind a pseudonym",
            f"type: chmod 600 {file}",
        )
    return secret, created


def _make(file: Path) -> None:
    """A new secret in `file`, whole or not at all; one that another process has just made there stays."""
    handle, part = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(SECRET_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            file.hardlink_to(part)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            Path(part).replace(file)
    finally:
        Path(part).unlink(missing_ok=True)
