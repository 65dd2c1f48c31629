"""featprobe: which pretrained backbone should I trust on my own images, and is the difference real?

The stages of the command line are functions here (`extract`, `probe`, `finetune`, `compare`, `inspect`); each
takes its configuration record. Everything heavy is imported where it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from featprobe.config import CompareConfig, ExtractConfig, FinetuneConfig, InspectConfig, ProbeConfig
    from featprobe.errors import FeatprobeError
    from featprobe.stages.compare import compare
    from featprobe.stages.extract import extract
    from featprobe.stages.finetune import finetune
    from featprobe.stages.inspect import inspect
    from featprobe.stages.probe import probe

_HOMES = {
    "CompareConfig": "featprobe.config",
    "ExtractConfig": "featprobe.config",
    "FeatprobeError": "featprobe.errors",
    "FinetuneConfig": "featprobe.config",
    "InspectConfig": "featprobe.config",
    "ProbeConfig": "featprobe.config",
    "compare": "featprobe.stages.compare",
    "extract": "featprobe.stages.extract",
    "finetune": "featprobe.stages.finetune",
    "inspect": "featprobe.stages.inspect",
    "probe": "featprobe.stages.probe",
}

__all__ = [
    "CompareConfig",
    "ExtractConfig",
    "FeatprobeError",
    "FinetuneConfig",
    "InspectConfig",
    "ProbeConfig",
    "compare",
    "extract",
    "finetune",
    "inspect",
    "probe",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'featprobe' has no attribute {name!r}")
