"""What every family of known names does alike, so that its own file says only what is special about it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable

from featprobe.backbones.core.info import BackboneInfo


class Curated(ABC):
    """A family whose names are known beforehand; it adds `names`, `info` and `build`, see `Family`.

    `prefix`, where there is one, may stand before a name: PREFIX:NAME.
    """

    numerics = 1
    prefix = ""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The registered names; where timm has the same, these win."""

    @abstractmethod
    def info(self, name: str) -> BackboneInfo:
        """What is known about the registered `name` without a dry run."""

    def accepts(self, name: str) -> bool:
        """Whether `name` is one of them."""
        return name in self.names()

    def candidates(self) -> Iterable[str]:
        """Every name that an error may suggest."""
        return self.names()

    def describe(self, name: str, *, deep: bool = False) -> BackboneInfo:
        """What is known about `name`; `deep` adds parameters, operations and dims, from a dry run."""
        info = self.info(name)
        if not deep:
            return info
        from featprobe.backbones.core.assemble import deepened

        return dataclasses.replace(info, **deepened(info))
