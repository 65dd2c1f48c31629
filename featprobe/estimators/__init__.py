"""featprobe's parts as scikit-learn estimators, so that they stand in anybody's pipeline and cross-validation.

    make_pipeline(FeatureExtractor("dinov2_vits14"), LinearProbe())

`FeatureExtractor` gives the embeddings that `featprobe extract` caches, the probes fit what `featprobe probe` fits.
Importing this package loads scikit-learn, not torch.
"""

from __future__ import annotations

from featprobe.estimators.classifiers import LINEAR, LinearProbe, ProbeClassifier
from featprobe.estimators.features import FeatureExtractor
from featprobe.estimators.regressors import ProbeRegressor

__all__ = ["LINEAR", "FeatureExtractor", "LinearProbe", "ProbeClassifier", "ProbeRegressor"]
