"""The images of cases as batches: a bag for each case, of all its images or of some that are drawn anew."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Final

import numpy as np
import torch

from featprobe.records import AnyArray, IntArray, Preprocessing
from featprobe.stages.bags import Members
from featprobe.stages.images import ImageShelf, Moves

IMAGES_AT_ONCE: Final = 128
"""Images of whole cases that are held at a time for predictions."""


class CasePart:
    """One part of a fold as batches of cases: what `heads.train_fold` learns from, see `featprobe.heads.bags.Bagged`.

    `members`: [N][K] rows of the shelf's data set, as `members` gives them; `labels`: int64 [N] or [N, L], float64 [N];
    `names`: N ids. `seen`: images of a block that a step of training sees, 0 for all. `augments`: whether they are
    augmented.
    """

    def __init__(
        self,
        shelf: ImageShelf,
        members: Members,
        labels: AnyArray,
        rule: Preprocessing,
        moves: Moves,
        names: Sequence[str],
        *,
        seen: int,
        augments: bool,
    ) -> None:
        self._shelf, self._members, self._rule, self._moves = shelf, members, rule, moves
        self._labels, self.names = labels, names
        self._seen, self._augments = seen, augments
        longest = max((len(block) for case in members for block in case), default=1)
        self.draws = 0 < seen < longest
        self.at_once = max(1, IMAGES_AT_ONCE // max(1, longest * max(map(len, members), default=1)))

    @property
    def labels(self) -> AnyArray:
        """int64 [N] or [N, L], float64 [N]."""
        return self._labels

    def batches(
        self, order: IntArray, batch_size: int, *, augment_seed: int | None
    ) -> Iterator[torch.Tensor]:
        """float32 [B, K, S, 3, H, W] ([B, K, S, 1, D, H, W]) per slice of `order`, NaN where a case has no image.

        Without a seed every image of a case is in it.
        """
        ahead: deque[Any] = deque()
        for start in range(0, len(order), batch_size):
            ahead.append(self._submitted(order[start : start + batch_size].tolist(), augment_seed))
            if len(ahead) > 1:
                yield self._bag(*ahead.popleft())
        while ahead:
            yield self._bag(*ahead.popleft())

    def _submitted(
        self, positions: Sequence[int], seed: int | None
    ) -> tuple[list[tuple[int, int, int]], list[Future[torch.Tensor]], tuple[int, int, int]]:
        """(place of each image in the bag, the images being made, the bag's sides)."""
        taken = [self._taken(position, seed) for position in positions]
        slots = max((len(block) for case in taken for block in case), default=0) or 1
        places = [
            (b, k, s)
            for b, case in enumerate(taken)
            for k, block in enumerate(case)
            for s in range(len(block))
        ]
        rows = [row for case in taken for block in case for row in block.tolist()]
        futures = self._shelf.submit(rows, self._rule, seed if self._augments else None, self._moves)
        return places, futures, (len(taken), len(taken[0]), slots)

    def _taken(self, position: int, seed: int | None) -> list[IntArray]:
        """The images of a case that are in its bag, by block."""
        case = self._members[position]
        if seed is None or not self._seen:
            return list(case)
        return [drawn(block, self._seen, [seed, position, number]) for number, block in enumerate(case)]

    def _bag(
        self,
        places: Sequence[tuple[int, int, int]],
        futures: Sequence[Future[torch.Tensor]],
        sides: tuple[int, int, int],
    ) -> torch.Tensor:
        rule = self._rule
        shape = (3, *rule.image_size) if rule.depth is None else (1, rule.depth, *rule.image_size)
        bag = torch.full((*sides, *shape), torch.nan)
        for place, future in zip(places, futures, strict=True):
            bag[place] = future.result()
        return bag


def drawn(rows: IntArray, count: int, seed: Sequence[int]) -> IntArray:
    """`count` of `rows` at equal distances from a random start, all where there are not more.

    Systematic sampling (Madow and Madow 1944): each row is as likely as any other, none comes twice, and those of a
    volume, whose neighbours are alike, are spread over all of it.
    """
    if len(rows) <= count:
        return rows
    start = np.random.default_rng(list(seed)).random()
    places = np.floor((np.arange(count) + start) * len(rows) / count).astype(np.int64)
    return rows[np.minimum(places, len(rows) - 1)]
