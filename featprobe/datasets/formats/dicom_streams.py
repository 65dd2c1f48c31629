"""The bytes around DICOM pixels: does it begin like DICOM, does it end too early, how large does it unpack?"""

from __future__ import annotations

import io
import zlib
from typing import Final

MAX_INFLATED: Final = 2**30
"""Bytes that a deflated file may unpack to (1 GiB)."""

_VALUE_REPRESENTATIONS: Final = frozenset(
    (b"AE", b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"LT", b"PN", b"SH", b"ST", b"TM", b"UI", b"UL")
)
"""The short ones that group 0008 begins with."""

_CHUNK: Final = 2**20
_SIZ: Final = b"\xff\x4f\xff\x51"
_NO_FRAME_HEADER: Final = frozenset((0xC4, 0xC8, 0xCC))


class Watched(io.BytesIO):
    """Bytes that remember whether a reader wanted more of them than there are."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._length = len(data)
        self.ended_early = False

    def read(self, size: int | None = -1, /) -> bytes:
        """As BytesIO; nothing at the end where 8 bytes are wanted is a reader that looks for one more element."""
        part = super().read(size)
        if size is not None and len(part) < size and (part or size != 8):
            self.ended_early = True
        return part

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """As BytesIO."""
        place = super().seek(offset, whence)
        self.ended_early |= place > self._length
        return place


def looks_bare(data: bytes) -> bool:
    """Whether `data` begins like a DICOM file without preamble: with its meta group, or with two elements of 0008."""
    if data[:8] == b"\x02\x00\x00\x00UL\x04\x00":
        return True
    first = _element(data, 0)
    if first is None or first[0] > 0x18:
        return False
    second = _element(data, first[1])
    return second is not None and second[0] > first[0]


def _element(data: bytes, start: int) -> tuple[int, int] | None:
    """(element number, start of the next element) of a short element of group 0008; None where there is none."""
    head = data[start : start + 8]
    if len(head) < 8 or head[:2] != b"\x08\x00":
        return None
    explicit = head[4:6] in _VALUE_REPRESENTATIONS
    length = int.from_bytes(head[6:8] if explicit else head[4:8], "little")
    return (int.from_bytes(head[2:4], "little"), start + 8 + length) if length <= 256 else None


def inflates_to(data: bytes) -> int:
    """How many bytes the deflated part of a DICOM file holds, counted no further than just above MAX_INFLATED.

    0 for bytes that are no deflate stream after a file meta group of the length that it states.
    """
    if data[128:132] != b"DICM" or data[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        return 0
    start = 144 + int.from_bytes(data[140:144], "little")
    unpacker, total, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data[start:]
    try:
        while rest and total <= MAX_INFLATED and not unpacker.eof:
            total += len(unpacker.decompress(rest, _CHUNK))
            rest = unpacker.unconsumed_tail
    except zlib.error:
        return total
    return total


def codestream_size(encoded: bytes) -> tuple[int, int]:
    """(width, height) that a JPEG, JPEG-LS or JPEG 2000 codestream announces; (0, 0) where none is found."""
    start = encoded[:4096].find(_SIZ)
    if start >= 0:  # SIZ (ISO/IEC 15444-1, A.5.1): grid size, then the image's offset in it
        words = [int.from_bytes(encoded[start + at : start + at + 4], "big") for at in (8, 12, 16, 20)]
        return words[0] - words[2], words[1] - words[3]
    at = 2 if encoded[:2] == b"\xff\xd8" else len(encoded)
    while at + 9 <= len(encoded):
        marker = encoded[at + 1]
        if encoded[at] != 0xFF or marker == 0xDA:
            break
        if (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADER) or marker == 0xF7:
            height, width = encoded[at + 5 : at + 7], encoded[at + 7 : at + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        at += 1 if marker == 0xFF else 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return 0, 0
