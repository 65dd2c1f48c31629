"""Draws the random permutation that published code draws, without the library that it was drawn with."""

from __future__ import annotations

import numpy as np

from featprobe.records import IntArray


def torch_order(count: int, seed: int) -> IntArray:
    """`torch.randperm(count)` on the CPU after `torch.manual_seed(seed)`, int64 [count]; for fewer than 2e8 rows.

    torch seeds a Mersenne twister as NumPy's RandomState does (Matsumoto and Nishimura 1998, init_genrand) and swaps
    place i with place i + draw mod (count - i), for i from 0 up; a test holds it against torch.
    """
    generator = np.random.RandomState(seed)
    draws = generator.randint(0, 2**32, size=max(count - 1, 0), dtype=np.uint32).astype(np.int64)
    order = list(range(count))
    for place, step in enumerate((draws % (count - np.arange(len(draws)))).tolist()):
        other = place + step
        order[place], order[other] = order[other], order[place]
    return np.array(order, dtype=np.int64)
