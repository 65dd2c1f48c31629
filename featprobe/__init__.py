"""featprobe: which pretrained backbone should I trust on my own images, and is the difference real?

The stages of the command line are functions here (`extract`, `probe`, `retrieve`, `finetune`, `compare`,
`inspect`, `ood`); each takes its configuration record. Everything heavy is imported where it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from featprobe.config import (
        CompareConfig,
        ExtractConfig,
        FinetuneConfig,
        InspectConfig,
        ProbeConfig,
        RetrieveConfig,
    )
    from featprobe.config_models import PredictConfig
    from featprobe.config_trust import OodConfig
    from featprobe.errors import FeatprobeError
    from featprobe.estimators import FeatureExtractor, LinearProbe, ProbeClassifier, ProbeRegressor
    from featprobe.probes.solvers.logistic_path import LogisticPath
    from featprobe.probes.solvers.svm_path import SVMPath
    from featprobe.stages.compare import compare
    from featprobe.stages.extract import extract
    from featprobe.stages.finetune import finetune
    from featprobe.stages.inspect import inspect
    from featprobe.stages.ood import ood
    from featprobe.stages.predict import predict
    from featprobe.stages.probe import probe
    from featprobe.stages.retrieve import retrieve

_HOMES = {
    "CompareConfig": "featprobe.config",
    "ExtractConfig": "featprobe.config",
    "FeatprobeError": "featprobe.errors",
    "FeatureExtractor": "featprobe.estimators",
    "FinetuneConfig": "featprobe.config",
    "InspectConfig": "featprobe.config",
    "LogisticPath": "featprobe.probes.solvers.logistic_path",
    "LinearProbe": "featprobe.estimators",
    "OodConfig": "featprobe.config_trust",
    "PredictConfig": "featprobe.config_models",
    "ProbeClassifier": "featprobe.estimators",
    "ProbeConfig": "featprobe.config",
    "ProbeRegressor": "featprobe.estimators",
    "RetrieveConfig": "featprobe.config",
    "SVMPath": "featprobe.probes.solvers.svm_path",
    "compare": "featprobe.stages.compare",
    "extract": "featprobe.stages.extract",
    "finetune": "featprobe.stages.finetune",
    "inspect": "featprobe.stages.inspect",
    "ood": "featprobe.stages.ood",
    "predict": "featprobe.stages.predict",
    "probe": "featprobe.stages.probe",
    "retrieve": "featprobe.stages.retrieve",
}

__all__ = [
    "CompareConfig",
    "ExtractConfig",
    "FeatprobeError",
    "FeatureExtractor",
    "FinetuneConfig",
    "InspectConfig",
    "LinearProbe",
    "LogisticPath",
    "OodConfig",
    "PredictConfig",
    "ProbeClassifier",
    "ProbeConfig",
    "ProbeRegressor",
    "RetrieveConfig",
    "SVMPath",
    "compare",
    "extract",
    "finetune",
    "inspect",
    "ood",
    "predict",
    "probe",
    "retrieve",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'featprobe' has no attribute {name!r}")
