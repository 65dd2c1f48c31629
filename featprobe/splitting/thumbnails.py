"""What two thumbnails of one image share, whatever its encoding, size, brightness, contrast or handedness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

SIDE: Final = 32
PIXELS: Final = SIDE * SIDE

CONTENT: Final = 4.0
DETAIL: Final = 0.5
"""Grey levels (standard deviation) that a thumbnail needs overall, and after its smooth part is taken away."""

DARK, BRIGHT = 12, 249
"""Levels up to which and from which a pixel counts as clipped: it may hide what a copy shows."""

_SIGMA: Final = 2.0
_DAMPING: Final = 4.0
_FEW: Final = 128
_FEWEST: Final = 64

Thumbnails = npt.NDArray[np.uint8]
Planes = npt.NDArray[np.float32]


def _gaussian() -> Planes:
    """[SIDE, SIDE], rows sum to 1: blurring by `_SIGMA` pixels along one axis, mirrored at the edges."""
    position = np.arange(SIDE)
    distance = position[:, None] - np.concatenate(
        [-1 - position[::-1], position, 2 * SIDE - 1 - position[::-1]]
    )
    weight = np.exp(-0.5 * (distance / _SIGMA) ** 2)
    folded = weight[:, :SIDE][:, ::-1] + weight[:, SIDE : 2 * SIDE] + weight[:, 2 * SIDE :][:, ::-1]
    return np.asarray(folded / folded.sum(axis=1, keepdims=True), dtype=np.float32)


_BLUR: Final = _gaussian()


def _frequencies() -> npt.NDArray[np.int64]:
    """The 128 lowest (vertical, horizontal) frequencies but (0, 0), [128, 2], by radius."""
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), axis=-1).reshape(-1, 2)
    radius = (grid**2).sum(axis=1)
    return grid[np.lexsort((grid[:, 1], grid[:, 0], radius))][1:129]


_LOW: Final = _frequencies()


def _words(bits: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Packs bool [N, 64 k] into uint64 [N, k]."""
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(">u8").astype(np.uint64)


ODD_BITS: Final = _words((_LOW[:, 1] % 2 == 1)[None])
"""The bits of `Signs.detail` that mirroring flips: odd horizontal frequencies change their sign."""


@dataclass(frozen=True, slots=True, eq=False)
class Signs:
    """Hashes of N thumbnails.

    `phash`, `phash_mirrored`: uint64 [N], the perceptual hash that imagehash gives the image and its mirror image
    (bit = DCT coefficient above the median of the 64 lowest; https://www.hackerfactor.com/blog/index.php?/archives/432).
    A thumbnail is the 32 x 32 picture that this hash starts from, so both are exact. `detail`: uint64 [N, 2], the
    signs of the 128 lowest frequencies after local normalisation; see `ODD_BITS`.
    """

    phash: npt.NDArray[np.uint64]
    phash_mirrored: npt.NDArray[np.uint64]
    detail: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, thumbnail: Thumbnails) -> Signs:
        """The hashes of thumbnails, uint8 [N, PIXELS], a few thousand at a time."""
        phash, flipped = np.empty(len(thumbnail), np.uint64), np.empty(len(thumbnail), np.uint64)
        detail = np.empty((len(thumbnail), 2), np.uint64)
        for start in range(0, len(thumbnail), 4096):
            part = slice(start, start + 4096)
            phash[part], flipped[part] = _phash(thumbnail[part]), _phash(mirrored(thumbnail[part]))
            detail[part] = _detail(thumbnail[part])
        return cls(phash, flipped, detail)


def _phash(thumbnail: Thumbnails) -> npt.NDArray[np.uint64]:
    from scipy.fftpack import dct  # imagehash's own transform, which scales no frequency apart

    planes = thumbnail.reshape(-1, SIDE, SIDE).astype(np.float64)
    low = dct(dct(planes, axis=1), axis=2)[:, :8, :8].reshape(-1, 64)
    return _words(low > np.median(low, axis=1, keepdims=True))[:, 0]


def _detail(thumbnail: Thumbnails) -> npt.NDArray[np.uint64]:
    from scipy.fft import dctn

    planes = _planes(thumbnail)
    everywhere = np.ones_like(planes)
    coefficients = dctn(_normalised(planes, everywhere, everywhere), axes=(1, 2))
    return _words(coefficients[:, _LOW[:, 0], _LOW[:, 1]] > 0)


def mirrored(thumbnail: Thumbnails) -> Thumbnails:
    """Left and right exchanged, uint8 [N, PIXELS]: the thumbnail of the mirrored image."""
    return thumbnail.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(-1, PIXELS)


def has_content(thumbnail: Thumbnails) -> npt.NDArray[np.bool_]:
    """Whether each thumbnail shows enough to be told from others, bool [N]."""
    planes = _planes(thumbnail)
    rest = planes - _blurred(planes)
    return np.asarray((planes.std(axis=(1, 2)) >= CONTENT) & (rest.std(axis=(1, 2)) >= DETAIL))


def correlation(a: Thumbnails, b: Thumbnails) -> npt.NDArray[np.float64]:
    """Pearson correlation of locally normalised thumbnails, float64 [N] in [-1, 1], over pixels clipped in neither.

    From each pixel the blurred surroundings are subtracted, the rest is divided by its local standard deviation
    (Jarrett et al., ICCV 2009, section 3.1), both taken over unclipped pixels alone; so shading, brightness, contrast
    and the edge of a black frame, which strangers share, count little. 0 where too few pixels are left.
    """
    first, second = _planes(a), _planes(b)
    valid = _unclipped(first) & _unclipped(second)
    inner = _eroded(valid)
    few = inner.sum(axis=(1, 2)) < _FEW
    mask = np.where(few[:, None, None], valid, inner).astype(np.float32)
    share = np.maximum(_blurred(mask), 1e-3)
    count = mask.sum(axis=(1, 2))
    x, y = (_centred(_normalised(planes, mask, share), mask, count) for planes in (first, second))
    covariance = np.einsum("nij,nij->n", x, y, dtype=np.float64)
    spread = np.einsum("nij,nij->n", x, x, dtype=np.float64) * np.einsum("nij,nij->n", y, y, dtype=np.float64)
    usable = (count >= _FEWEST) & (spread > 0)
    return np.where(usable, covariance / np.sqrt(np.where(usable, spread, 1)), 0.0)


def _planes(thumbnail: Thumbnails) -> Planes:
    return thumbnail.reshape(-1, SIDE, SIDE).astype(np.float32)


def _blurred(planes: Planes) -> Planes:
    return np.asarray((_BLUR @ planes) @ _BLUR.T, dtype=np.float32)


def _normalised(planes: Planes, mask: Planes, share: Planes) -> Planes:
    """`share` is the blurred mask."""
    rest = (planes - _blurred(planes * mask) / share) * mask
    return np.asarray(rest / np.sqrt(_blurred(rest * rest) / share + _DAMPING**2), dtype=np.float32)


def _centred(planes: Planes, mask: Planes, count: Planes) -> Planes:
    mean = planes.sum(axis=(1, 2)) / np.maximum(count, 1)
    return np.asarray((planes - mean[:, None, None]) * mask, dtype=np.float32)


def _unclipped(planes: Planes) -> npt.NDArray[np.bool_]:
    return np.asarray((planes > DARK) & (planes < BRIGHT))


def _eroded(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Without the pixels that have one outside the mask among their eight neighbours."""
    rows = mask.copy()
    rows[:, 1:] &= mask[:, :-1]
    rows[:, :-1] &= mask[:, 1:]
    result = rows.copy()
    result[:, :, 1:] &= rows[:, :, :-1]
    result[:, :, :-1] &= rows[:, :, 1:]
    return result
