"""Name -> factory for all that can be added with one file: backbones, datasets, probes, protocols, metrics.

A registry finds its members by importing every module of its folder, and, from other packages, the entry
points of the group `featprobe.<folder>` (such as `featprobe.metrics`). Nothing is imported before it is
asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from featprobe.errors import ConfigError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """The members of one kind, such as every metric, by name.

    `kind` is the word that errors use; `package` the folder that is searched and the entry-point group.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._members: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: `@METRICS.register("accuracy")` above a function or class."""

        def add(member: T) -> T:
            if name in self._members and self._members[name] is not member:
                raise ConfigError(
                    f"two {self.kind}s are called {name!r}",
                    f"one is {self._members[name]!r}",
                    "rename one of them",
                )
            self._members[name] = member
            return member

        return add

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._discover()
        return sorted(self._members)

    def get(self, name: str) -> T:
        """The member called `name`; ConfigError with the nearest names where there is none."""
        self._discover()
        if name not in self._members:
            hint = nearest(name, self._members) or f"known: {', '.join(self.names())}"
            raise ConfigError(f"unknown {self.kind} {name!r}", hint, "see featprobe --help")
        return self._members[name]

    def items(self) -> Iterator[tuple[str, T]]:
        """(name, member) in the order of the names."""
        for name in self.names():
            yield name, self._members[name]

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        for entry in entry_points(group=self.package):
            self.register(entry.name)(entry.load())


BACKBONES: Registry[Any] = Registry("backbone family", "featprobe.backbones")
DATASETS: Registry[Any] = Registry("data set kind", "featprobe.datasets")
PROBES: Registry[Any] = Registry("probe", "featprobe.probes")
METRICS: Registry[Any] = Registry("metric", "featprobe.metrics")
FUSIONS: Registry[Any] = Registry("fusion", "featprobe.fusion")
PROTOCOLS: Registry[Any] = Registry("protocol", "featprobe.protocols")
