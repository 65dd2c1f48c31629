"""Everything that can change an embedding, as one record whose hash names the cache file; and the embeddings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featprobe.errors import ConfigError
from featprobe.records.samples import Samples
from featprobe.records.values import canonical_json, sha256_json
from featprobe.records.views import CORNERS, PLAIN, parse_view

_LATER: Mapping[str, Any] = {"views": (PLAIN,), "depth": None}
"""Fields that older recipes lack, with what they stood for: written only where they say something else, so that
the files of older recipes keep their names."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a decoded image becomes a backbone's input, as resolved numbers.

    `image_size` (height, width) is what the backbone sees. `fit`: "crop" scales the shorter side to
    `resize` and crops the centre; "pad" scales the longer side to `image_size` and pads with `pad_value`
    (8-bit grey level); "squash" scales both sides, whatever the aspect. `mean` and `std` are per channel of
    [0, 1]-scaled values. `intensity`: the rule that brought the decoded values to 8 bits, see
    `featprobe.imaging.Intensity`; `channels`: how grey became three channels. `views`: what the backbone sees
    of each image, see `records.views`. `depth`: slices of a 3-D input, None for 2-D.
    """

    image_size: tuple[int, int]
    fit: str
    resize: int | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    antialias: bool = True
    pad_value: int = 0
    channels: str = "rgb, grey repeated, three windows as channels, alpha dropped"
    intensity: str = "auto"
    views: tuple[str, ...] = (PLAIN,)
    depth: int | None = None

    @property
    def label(self) -> str:
        """A short name for tables, such as `resize256-crop224-bicubic-plain+hflip` or `squash96x96x96-trilinear`."""
        sides = self.image_size if self.depth is None else (self.depth, *self.image_size)
        square = self.depth is None and len(set(sides)) == 1
        size = str(sides[0]) if square else "x".join(str(side) for side in sides)
        scaled = f"resize{self.resize}-" if self.fit == "crop" else ""
        rule = "" if self.intensity == "auto" else f"-{self.intensity}"
        views = "" if self.views == (PLAIN,) else f"-{'+'.join(self.views)}"
        return f"{scaled}{self.fit}{size}-{self.interpolation}{rule}{views}"

    def one(self, view: str) -> Preprocessing:
        """The same rule with `view` alone, in the numbers that it needs: what loading takes.

        "size:PIXELS" makes the shorter side of the input PIXELS and scales its other sides and `resize` in
        proportion, rounded. ConfigError for an unknown view, and for a corner where nothing is cut off.
        """
        name, pixels = parse_view(view)
        if name in CORNERS and (self.fit != "crop" or (self.resize or 0) <= max(self.image_size)):
            shown = "x".join(str(side) for side in self.image_size)
            raise ConfigError(
                f"the view {name} needs an image that is larger than the input",
                f"here the fit is {self.fit!r}"
                if self.fit != "crop"
                else f"here it is resized to {self.resize} pixels for an input of {shown}",
                "type --preprocessing common --fit crop, which resizes to 256 for 224, or leave the view out",
            )
        if not pixels:
            return dataclasses.replace(self, views=(name,))
        shorter = min(self.image_size)
        height, width = (max(round(pixels * side / shorter), 1) for side in self.image_size)
        return dataclasses.replace(
            self,
            image_size=(height, width),
            resize=None if self.resize is None else round(pixels * self.resize / shorter),
            depth=None if self.depth is None else max(round(pixels * self.depth / shorter), 1),
            views=(name,),
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON types; `views` and `depth` only where they are not the default."""
        values = dataclasses.asdict(self)
        for name, default in _LATER.items():
            if values[name] == default:
                del values[name]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`."""
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that can change an embedding; the SHA-256 of its canonical JSON names the cache file.

    `images`: `images_sha256` of the data set. `backbone`: its name; `architecture`: what was built.
    `weights`: SHA-256 of the loaded tensors. `precision`: arithmetic of the forward pass; `storage`: dtype
    on disk. `numerics`: an integer per family and decoder, raised when reference values change.
    Device, batch size, workers, labels, groups, splits and pooling are not in it.
    """

    images: str
    backbone: str
    architecture: str
    weights: str
    preprocessing: Preprocessing
    precision: str = "fp32"
    storage: str = "float32"
    numerics: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return canonical_json(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON types."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["preprocessing"] = self.preprocessing.to_dict()
        values["numerics"] = dict(self.numerics)
        return values

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The inverse of `to_json`."""
        values = json.loads(text)
        values["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
        return cls(**values)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def images_free(self) -> str:
        """SHA-256 of the recipe without `images`: equal where only the list of images differs."""
        values = self.to_dict()
        del values["images"]
        return sha256_json(values)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingTable:
    """The embeddings of one data set under one recipe and pooling.

    `embeddings`: float32 (or float16 where stored so) [N, D], row i belongs to `samples` row i.
    `weights_label` is "pretrained", "random" or a file's name, for tables; `layer` is "" for the last.
    """

    dataset: str
    samples: Samples
    embeddings: npt.NDArray[np.floating[Any]]
    pooling: str
    recipe: Recipe
    weights_label: str
    layer: str = ""

    @property
    def fingerprint(self) -> str:
        """The recipe's."""
        return self.recipe.fingerprint
