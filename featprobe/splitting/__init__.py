"""Who is trained on and who is tested: no group and no image ever stands on both sides.

Every function here is pure in (ids, groups, labels, bytes, seed) and does not depend on the order of rows.
"""

from __future__ import annotations

from featprobe.splitting.folds import holdout, inner_folds
from featprobe.splitting.gate import drop_leaks, gate
from featprobe.splitting.leaks import LEAK_KINDS, Leak, find_leaks
from featprobe.splitting.near import NEAR_DISTANCE, NearCopies, near_copies, with_twins
from featprobe.splitting.plans import Fold, SplitPlan, plan
from featprobe.splitting.subsets import smallest_fraction, subset
from featprobe.splitting.transfers import transfer

__all__ = [
    "LEAK_KINDS",
    "NEAR_DISTANCE",
    "Fold",
    "Leak",
    "NearCopies",
    "SplitPlan",
    "drop_leaks",
    "find_leaks",
    "gate",
    "holdout",
    "inner_folds",
    "near_copies",
    "plan",
    "smallest_fraction",
    "subset",
    "transfer",
    "with_twins",
]
