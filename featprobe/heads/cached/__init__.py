"""Trains heads on embeddings that lie in the cache: published linear searches, MLPs, attentive pooling.

This file is light: torch is imported by `featprobe.heads.cached.fitting` (`fit_head`), which a caller imports
where it trains. What was trained predicts without torch.
"""

from __future__ import annotations

from featprobe.heads.cached.fitted import FittedCachedHead
from featprobe.heads.cached.recipes import RECIPES, EpochTraining, HeadRecipe, LinearSearch, find_recipe

__all__ = ["RECIPES", "EpochTraining", "FittedCachedHead", "HeadRecipe", "LinearSearch", "find_recipe"]
