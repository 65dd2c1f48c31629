"""Who passes which rows of a batch, and the batches as one process sees them.

The rule knows neither the size of a portion nor the epoch, so that a batch which must be passed in smaller portions
need not be dealt anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from featprobe.heads.inference import paired
from featprobe.heads.memory import Portions
from featprobe.heads.sources import BatchSource
from featprobe.heads.team import Team
from featprobe.records import IntArray


def owners(count: int, size: int, *, mirrored: bool) -> IntArray:
    """The process (0 <= process < size) of each row of a batch of `count`, int64 [count]: dealt like cards.

    `mirrored`: a row and its mirror image, with which mixup and CutMix mix it, fall to the same process; of an odd
    number the last row, which is mixed with none, falls to the next in turn.
    """
    rows = np.arange(count, dtype=np.int64)
    if mirrored:
        even = count - count % 2
        rows = np.minimum(rows, np.where(rows < even, even - 1 - rows, even // 2))
    return rows % size


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """One process's part of a batch, or of a portion of it.

    `images`: float32 [n, ...], n >= 1; `rows`: int64 [n], where they stand among the `count` rows of the whole;
    `truth`: [n, ...]. `live` False: the process has no row of its own here and holds one that counts nothing, so that
    it takes part in what all do.
    """

    images: Tensor
    truth: Tensor
    rows: IntArray
    count: int
    live: bool = True

    def portions(self, portions: Portions) -> Iterator[Share]:
        """This process's part of every portion of the whole batch."""
        for start, stop in portions.spans(self.count):
            low, high = (int(at) for at in np.searchsorted(self.rows, (start, stop)))
            if self.live and low < high:
                yield Share(
                    self.images[low:high], self.truth[low:high], self.rows[low:high] - start, stop - start
                )
            else:
                nothing = np.zeros(1, dtype=np.int64)
                yield Share(self.images[:1], self.truth[:1], nothing, stop - start, live=False)


def shared(
    source: BatchSource,
    order: IntArray,
    batch_size: int,
    *,
    augment_seed: int | None,
    team: Team,
    mirrored: bool,
) -> Iterator[tuple[Tensor, IntArray, IntArray, bool]]:
    """(this process's images, the whole batch's positions, the images' rows in it, whether they count) per batch.

    Only these images are loaded. ProbeError as in `paired`.
    """
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    mine = [team.owned(len(batch), mirrored=mirrored) for batch in batches]
    held = [rows if len(rows) else np.zeros(1, dtype=np.int64) for rows in mine]
    if not batches:
        return
    # All batches but the last have the same number of rows, and so have the shares of each process.
    own = np.concatenate([batch[rows] for batch, rows in zip(batches, held, strict=True)])
    loaded = paired(source, own, len(held[0]), augment_seed=augment_seed)
    for (images, _), batch, rows, counted in zip(loaded, batches, held, mine, strict=True):
        yield images, batch, rows, len(counted) > 0
