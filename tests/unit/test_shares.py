"""Who passes which rows of a batch: each row once, evenly, whatever the portions."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from featprobe.heads.memory import Portions
from featprobe.heads.shares import Share, owners


@given(count=st.integers(1, 64), size=st.integers(1, 9), mirrored=st.booleans())
def test_rows_are_dealt_once_evenly_and_with_their_mirror_images(
    count: int, size: int, mirrored: bool
) -> None:
    dealt = owners(count, size, mirrored=mirrored)
    counts = np.bincount(dealt, minlength=size)
    assert len(dealt) == count
    assert len(counts) == size
    assert counts.max() - counts.min() <= (3 if mirrored else 1)
    if mirrored:
        even = count - count % 2
        assert (dealt[:even] == dealt[:even][::-1]).all()


@given(count=st.integers(1, 64), size=st.integers(1, 9), portion=st.integers(1, 70), mirrored=st.booleans())
def test_the_shares_of_all_portions_are_the_batch(
    count: int, size: int, portion: int, mirrored: bool
) -> None:
    dealt = owners(count, size, mirrored=mirrored)
    seen: list[int] = []
    for rank in range(size):
        own = np.flatnonzero(dealt == rank)
        held = own if len(own) else np.zeros(1, dtype=np.int64)
        values = torch.from_numpy(held)
        whole = Share(values, values, held, count, len(own) > 0)
        portions = Portions(portion)
        for part, (start, _) in zip(whole.portions(portions), portions.spans(count), strict=True):
            if part.live:
                assert (part.images.numpy() == part.rows + start).all()
                seen += part.images.tolist()
            assert len(part.images) == len(part.rows) >= 1
            assert part.rows.max() < part.count
    assert sorted(seen) == list(range(count))
